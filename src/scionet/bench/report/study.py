"""A study: one network with all methods and budgets, which is one chapter of a page."""

from collections.abc import Sequence
from dataclasses import dataclass

from scionet.bench.records.record import RunRecord
from scionet.bench.records.record_files import RecordError
from scionet.bench.report.summary import DENSE, Row, summarise


@dataclass(frozen=True)
class Study:
    """All rows of one network on one dataset.

    Attributes:
        dense: The row of the network before pruning.
        rows: All other rows, from the widest budget to the narrowest, best first.
        headline: The method that the figures emphasise.
    """

    dense: Row
    rows: tuple[Row, ...]
    headline: str

    @property
    def budgets(self) -> tuple[str, ...]:
        """All budgets, from the widest to the narrowest."""
        return tuple(dict.fromkeys(row.budget for row in self.rows))

    @property
    def focus(self) -> str:
        """The middle budget of the headline method; the narrower one of two."""
        path = self.path(self.headline)
        return path[len(path) // 2].budget

    @property
    def methods(self) -> tuple[str, ...]:
        """All methods: the headline, then the others by mean loss of accuracy."""
        return tuple(sorted({r.method for r in self.rows}, key=lambda m: (m != self.headline, _loss(self.path(m)), m)))

    def path(self, method: str) -> tuple[Row, ...]:
        """The rows of one method, from the widest budget to the narrowest."""
        return tuple(row for row in self.rows if row.method == method)

    def at(self, budget: str) -> tuple[Row, ...]:
        """The rows of one budget, best first."""
        return tuple(row for row in self.rows if row.budget == budget)

    @property
    def threshold(self) -> float:
        """Percentage points below which the axis is linear: one test example, but at least 0.1."""
        return max(0.1, 100 / min(record.pruned.seen for record in self.dense.records))

    @property
    def best(self) -> Row:
        """The row of the headline method at the budget in focus."""
        return next(row for row in self.path(self.headline) if row.budget == self.focus)

    @property
    def rival(self) -> Row | None:
        """The most accurate row of another family of methods at the budget in focus."""
        family = base(self.headline).partition(" ")[0]
        return next((row for row in self.at(self.focus) if base(row.method).partition(" ")[0] != family), None)


def studies(records: Sequence[RunRecord], headline: str | None = None) -> tuple[Study, ...]:
    """One study per network.

    Args:
        records: The runs.
        headline: The method to emphasise, by its name in the rows. The default is the method named ``forward...`` that
            loses least over all budgets; without such a method, the one that loses least.

    Raises:
        RecordError: If there are no records, a run is given twice, or no run has the headline method.
    """
    dense: list[Row] = []
    members: list[list[Row]] = []
    for row in summarise(records):
        if row.method == DENSE:
            dense.append(row)
            members.append([])
        else:
            members[-1].append(row)
    return tuple(Study(d, tuple(rows), _headline(rows, headline)) for d, rows in zip(dense, members, strict=True))


def base(method: str) -> str:
    """The name of a method without its additions: ``"l1"`` of ``"l1 + refit"``."""
    return method.split(" + ")[0]


def spoken(budget: str) -> str:
    """A budget in readable form: ``"MACs ≤ 50 %"`` for ``"macs<=50%"``."""
    words = budget.replace("macs", "MACs").replace("params", "parameters")
    return words.replace("<=", " ≤ ").replace("%", "\N{NO-BREAK SPACE}%").replace("  ", " ")


def _headline(rows: Sequence[Row], asked: str | None) -> str:
    names = sorted({row.method for row in rows})
    if asked is not None and asked not in names:
        raise RecordError(f"no run of {rows[0].network} has the method {asked!r}; there are: {', '.join(names)}")
    greedy = [name for name in names if name.startswith("forward")]
    return asked or min(greedy or names, key=lambda name: _loss([row for row in rows if row.method == name]))


def _loss(path: Sequence[Row]) -> float:
    return sum(row.drop.mean for row in path if row.drop) / len(path)
