"""Markdown tables with arbitrary columns."""

from collections.abc import Collection, Iterable, Sequence


def table(heads: Sequence[str], rows: Iterable[Iterable[object]], texts: int | Collection[int] = 1) -> str:
    """A Markdown table. The first `texts` columns, or the columns with these indices, are left-aligned."""
    left = range(texts) if isinstance(texts, int) else texts
    aligned = [":--" if place in left else "--:" for place in range(len(heads))]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (heads, aligned, *rows))
