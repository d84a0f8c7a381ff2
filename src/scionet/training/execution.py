"""Settings of how a training is computed. Imported without torch, so that the command line starts fast."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from scionet.choices.checking import refuse
from scionet.errors import InvalidSetting
from scionet.extras import extra

if TYPE_CHECKING:
    from accelerate import Accelerator

Precision = Literal["no", "bf16", "fp16"]


@dataclass(frozen=True)
class Execution:
    """How a training is computed. Results differ by rounding, and by the order in which random numbers are used."""

    workers: int = 0
    """Processes that read data; 0 reads in the training process."""
    parts: int = 1
    """Parts into which each process splits its share of a batch, to save memory (gradient accumulation)."""
    precision: Precision | None = None
    """Mixed precision; None takes the one that Accelerate is configured for."""
    channels_last: bool = False
    """Use the channels-last memory format for images and convolutions, which is faster on most hardware."""
    compile: bool = False
    """Compile the network with torch.compile."""
    save_steps: int = 500
    """Steps between two saved states; the state is also saved after every epoch."""
    trackers: tuple[str, ...] = ()
    """Trackers that log losses and accuracies, by their names in Accelerate, such as tensorboard."""
    tracking_folder: Path | None = None
    """Folder for trackers that write files."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            InvalidSetting: If a value is out of range; all problems are listed.
        """
        counts = (self.parts, self.save_steps)
        checks = {
            "workers is a whole number of 0 or more": isinstance(self.workers, int) and self.workers >= 0,
            "parts and save_steps are whole numbers of 1 or more": all(isinstance(n, int) and n >= 1 for n in counts),
            "precision is 'no', 'bf16', 'fp16' or None": self.precision in ("no", "bf16", "fp16", None),
        }
        refuse(self, checks)


def accelerator_for(execution: Execution) -> "Accelerator":
    """The Accelerator for an execution, as Accelerate is launched and configured.

    Raises:
        InvalidSetting: If the precision or a tracker is not available here, or Accelerate does not see all processes.
        MissingExtra: If Accelerate is not installed.
    """
    with extra("train"):
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
        from accelerate.tracking import get_available_trackers
        from accelerate.utils import LoggerType

    from scionet.network.multiprocess import world

    wanted = execution.precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != wanted:
        AcceleratorState._reset_state()  # otherwise a process keeps its first precision
    known, installed = LoggerType.list(), {str(kind) for kind in get_available_trackers()}
    if absent := sorted(set(execution.trackers) & set(known) - installed - {str(LoggerType.ALL)}):
        raise InvalidSetting(f"the packages of the trackers {', '.join(absent)} are not installed")
    folder = None if execution.tracking_folder is None else str(execution.tracking_folder)
    try:
        accelerator = Accelerator(mixed_precision=wanted, log_with=list(execution.trackers) or None, project_dir=folder)
    except (ValueError, ImportError) as error:
        raise InvalidSetting(f"Accelerate refuses {execution}: {error}") from error
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":  # Accelerate falls back to float32
        raise InvalidSetting("precision 'fp16' needs a GPU; give 'bf16' or 'no'")
    if accelerator.num_processes != world()[1]:
        raise InvalidSetting(
            f"torch.distributed has {world()[1]} processes, of which Accelerate sees {accelerator.num_processes}; "
            "start them by `accelerate launch` or torchrun, or set RANK, WORLD_SIZE and LOCAL_RANK"
        )
    return accelerator
