"""The code in the pages of docs."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def code_of(page: str, number: int = 0, of: int = 1) -> str:
    """Python block `number` of a page that has `of` of them."""
    codes = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL)
    assert len(codes) == of
    return codes[number]
