"""Names and texts of others in what we print and write. One function per output; figures and pages take `printable`.

HTML is escaped by the template of the page, which passes everything through `printable` first.
"""

import re
from unicodedata import category

_LINE_ENDS = ("Zl", "Zp")
_MARKUP = re.compile(r"[\\`*\[\]|~$]|<(?=[A-Za-z/!?])|&(?=#?\w+;)|(?<!\w)_|_(?!\w)|:(?=//)|(?<=www)\.|@", re.IGNORECASE)
_FORMULA = ("=", "+", "-", "@")


def printable(text: str) -> str:
    r"""The text in one line, with what cannot be seen (control, direction and unpaired characters) as ``\x1b``."""
    return text if text.isprintable() else "".join(map(_shown, text))


def beginning(text: str, letters: int = 100) -> str:
    """The text as `printable`, cut off after some letters."""
    return printable(text if len(text) <= letters else f"{text[:letters]}...")


def markdown(text: str) -> str:
    """The text as the content of a Markdown cell that shows exactly this text: no tag, link, emphasis or formula."""
    return _MARKUP.sub(r"\\\g<0>", printable(text))


def spreadsheet(text: str) -> str:
    """The text as a CSV cell in one line. An apostrophe stands before what a spreadsheet would take for a formula."""
    shown = printable(text)
    return f"'{shown}" if shown.lstrip().startswith(_FORMULA) else shown


def _shown(character: str) -> str:
    kind = category(character)
    return character.encode("unicode_escape").decode() if kind[0] == "C" or kind in _LINE_ENDS else character
