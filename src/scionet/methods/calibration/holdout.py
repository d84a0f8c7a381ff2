"""Examples that nothing is fitted on, by which choices and results are judged."""

import torch

from scionet.methods.calibration.calibration import ALL, HELD_OUT, Calibration
from scionet.network.multiprocess import everywhere
from scionet.seeds import Generators


def divided(
    calibration: Calibration, most: int, generators: Generators, device: torch.device
) -> tuple[Calibration, Calibration] | None:
    """Hold out one calibration example in eight.

    All processes must call this together. Of several processes, some may hold out none of theirs.

    Args:
        calibration: All examples.
        most: The most examples to hold out.
        generators: Source of randomness.
        device: Where sums over processes are computed.

    Returns:
        The examples to fit on, and the held-out ones; None if there are too few to hold any out.
    """
    count = min(most, calibration.total(device) // HELD_OUT)
    if not count:
        return None
    held_out, fitted = calibration.parts((count, ALL), lambda *axes: generators("held out", *axes), device)
    return (fitted, held_out) if held_out.total(device) and everywhere(fitted.count > 0, device) else None
