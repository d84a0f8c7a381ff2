"""The operations that a masked network needs, if zeros are skipped."""

from collections.abc import Mapping

from torch import Tensor, nn

from scionet.errors import CalibrationError
from scionet.network.calling import Batch, example_count
from scionet.network.guard import guarded
from scionet.network.network import Network
from scionet.network.operations import macs_by_place, run_operations


@guarded
def masked_macs(model: nn.Module, masks: Mapping[str, Tensor], example_inputs: Batch) -> float:
    """Count the multiply-accumulates of one forward pass in which masked weights take part in none, per example.

    Every entry of a weight takes part in as many of them as every other. Dense kernels do all of them anyway.

    Args:
        model: The network; not modified.
        masks: Booleans by parameter name, true where a weight is kept. Parameters without a mask are whole.
        example_inputs: Inputs of the network.

    Raises:
        CalibrationError: If the inputs hold no example.
    """
    examples = example_count(example_inputs)
    if not examples:
        raise CalibrationError("the example inputs have batch size 0; give at least one example")
    kept = {name: int(mask.count_nonzero()) / mask.numel() for name, mask in masks.items()}
    counted = macs_by_place(run_operations(Network(model), example_inputs))
    return sum(macs * kept.get(place, 1.0) for place, macs in counted.items()) / examples
