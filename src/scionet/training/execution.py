"""How the work of a training is done. Without torch, so that the command line can be made from it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from scionet.errors import InvalidSetting
from scionet.extras import extra
from scionet.settings import refuse

if TYPE_CHECKING:
    from accelerate import Accelerator

Precision = Literal["no", "bf16", "fp16"]


@dataclass(frozen=True)
class Execution:
    """How the work is done. What comes out differs by rounding, and by where in a tensor the random numbers fall."""

    workers: int = 0
    """Processes that read data; 0 reads in the one that trains."""
    parts: int = 1
    """Parts in which each process takes its share of a batch, to save memory (gradient accumulation)."""
    precision: Precision | None = None
    """Mixed precision; None is what Accelerate is configured to."""
    channels_last: bool = False
    """Keep pictures and convolutions in the memory format that is faster on most hardware."""
    compile: bool = False
    """Compile the network by torch.compile."""
    save_steps: int = 500
    """Save the state after so many steps, besides after every epoch."""
    trackers: tuple[str, ...] = ()
    """Where losses and accuracies are logged: names that Accelerate knows, such as tensorboard."""
    tracking_folder: Path | None = None
    """Folder of the trackers that write files."""

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
    """What places, distributes and scales, as Accelerate is launched and configured.

    Raises:
        InvalidSetting: If the precision or a tracker is not available here, or the processes were not launched in a way
            that Accelerate sees.
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
        AcceleratorState._reset_state()  # the first precision of a process would be its last
    known, installed = LoggerType.list(), {str(kind) for kind in get_available_trackers()}
    if absent := sorted(set(execution.trackers) & set(known) - installed - {str(LoggerType.ALL)}):
        raise InvalidSetting(f"the packages of the trackers {', '.join(absent)} are not installed")
    folder = None if execution.tracking_folder is None else str(execution.tracking_folder)
    try:
        made = Accelerator(mixed_precision=wanted, log_with=list(execution.trackers) or None, project_dir=folder)
    except (ValueError, ImportError) as error:
        raise InvalidSetting(f"Accelerate refuses {execution}: {error}") from error
    if made.mixed_precision == "fp16" and made.device.type == "cpu":  # Accelerate would train in float32 without a word
        raise InvalidSetting("precision 'fp16' needs a GPU; give 'bf16' or 'no'")
    if made.num_processes != world()[1]:
        raise InvalidSetting(
            f"torch.distributed has {world()[1]} processes, of which Accelerate sees {made.num_processes}; start them "
            "by `accelerate launch` or torchrun, or set RANK, WORLD_SIZE and LOCAL_RANK"
        )
    return made
