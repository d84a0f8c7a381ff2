"""Tables in Markdown, of what is no run record."""

from collections.abc import Sequence


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """A Markdown table; the first `texts` columns are aligned to the left."""
    aligned = [":--" if place < texts else "--:" for place in range(len(heads))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, aligned, *rows))
