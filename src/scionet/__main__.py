"""`python -m scionet`, the same as the command `scionet`."""

import sys

from scionet.cli import main

sys.exit(main())
