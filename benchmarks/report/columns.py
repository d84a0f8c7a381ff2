"""Tables in Markdown, of what is no run record."""

from collections.abc import Collection, Iterable, Sequence


def table(heads: Sequence[str], rows: Iterable[Iterable[object]], texts: int | Collection[int] = 1) -> str:
    """A Markdown table; the first `texts` columns, or those of these places, are aligned to the left."""
    left = range(texts) if isinstance(texts, int) else texts
    aligned = [":--" if place in left else "--:" for place in range(len(heads))]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (heads, aligned, *rows))
