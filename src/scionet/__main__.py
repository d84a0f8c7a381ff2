"""`python -m scionet`, the same as the command `scionet`."""

import sys

from scionet.cli import main

if __name__ == "__main__":
    sys.exit(main())
