"""Budgets on latency for `scionet prune`: the file of the latency table, and a batch of the right size."""

from torch import Tensor

from scionet.budget.budget import Budget
from scionet.budget.latency.table import LatencyTable
from scionet.commands.options import Prune
from scionet.commands.output_files import check_writable
from scionet.commands.scoring import first
from scionet.commands.show import line
from scionet.data.batches import ImageBatches
from scionet.errors import InvalidSetting


def limits(budget: Budget | None) -> bool:
    """Whether a budget limits latency."""
    return budget is not None and "latency" in budget.quantities


def read(command: Prune, budget: Budget | None) -> LatencyTable | None:
    """Read the latency table, if its file exists.

    Raises:
        InvalidSetting: If the flags do not fit the budget, or the file can be neither read nor written.
    """
    path = command.latency.latency_table
    if not limits(budget) and (path is not None or command.latency.latency_batch != 1):
        raise InvalidSetting('--latency-table and --latency-batch need a limit on latency, such as "latency<=60%"')
    if path is None:
        return None
    if path.exists():
        return LatencyTable.load(path)
    check_writable(path, False, (".json",))
    return None


def write(command: Prune, table: LatencyTable | None) -> None:
    """Write the latency table, unless it was read from the file."""
    if command.latency.latency_table is not None and table is not None and not command.latency.latency_table.exists():
        table.save(command.latency.latency_table)
        line(f"latency table written to {command.latency.latency_table}")


def example(command: Prune, budget: Budget | None, calibration: ImageBatches) -> Tensor:
    """Return example pictures for the network; with a limit on latency, a batch of `--latency-batch`.

    Raises:
        InvalidSetting: If there are not enough pictures.
    """
    if not limits(budget):
        return first(calibration)
    if not 1 <= command.latency.latency_batch <= len(calibration.indices):
        most = len(calibration.indices)
        raise InvalidSetting(f"--latency-batch is a number from 1 to the {most} calibration pictures")
    return first(calibration, command.latency.latency_batch)
