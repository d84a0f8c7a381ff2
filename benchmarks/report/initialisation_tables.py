"""The table of masks chosen before training, made from the records of benchmarks/configs/initialisation."""

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.report.columns import table
from scionet.bench.records.ledger import total
from scionet.bench.records.record import RunRecord
from scionet.bench.report.summary import DENSE, Row, Spread, summarise

ARM = "pruned at initialisation"
CONTROLS = (f"{ARM}, new weights", f"{ARM}, shuffled")
HEADS = ("weights kept", "score", "accuracy, %", "new weights, %", "shuffled masks, %", "empty layers", "selection, s")


def to_markdown(records: Sequence[RunRecord]) -> str:
    """For each network, the accuracy of every score and of its controls, from the widest budget to the narrowest."""
    rows = summarise(records)
    return "\n\n".join(_network([row for row in rows if row.network == name]) for name in _names(rows))


def _names(rows: Sequence[Row]) -> list[str]:
    return [*dict.fromkeys(row.network for row in rows)]


def _network(rows: Sequence[Row]) -> str:
    dense = next(row for row in rows if row.method == DENSE)
    head = f"**{dense.network}** on {dense.dataset}, dense: {dense.accuracy.text(dense.digits)} %"
    return f"{head}\n\n{table(HEADS, _lines(rows), texts=2)}"


def _lines(rows: Sequence[Row]) -> Iterator[Sequence[str]]:
    found = {(row.budget, row.method): row for row in rows}
    for row in rows:
        if row.method.endswith(f" + {ARM}"):
            score = row.method.removesuffix(f" + {ARM}")
            controls = [_accuracy(found, row.budget, f"{score} + {control}") for control in CONTROLS]
            empty = "" if row.emptied is None else row.emptied.text(1)
            seconds = Spread.of([total(record.ledger, "selection")[2] for record in row.records]).mean
            kept = row.budget.removeprefix("weights<=")
            yield kept, score, row.accuracy.text(row.digits), *controls, empty, f"{seconds:.2g}"


def _accuracy(found: Mapping[tuple[str, str], Row], budget: str, method: str) -> str:
    row = found.get((budget, method))
    return "–" if row is None else row.accuracy.text(row.digits)
