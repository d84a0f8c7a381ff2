"""Select calibration examples from unlabelled data by the network's features."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scionet.errors import CalibrationError, InvalidSetting, UnsupportedModel
from scionet.network.calling import Batch, call, inputs_like, to_model, undisturbed
from scionet.network.guard import guarded
from scionet.selection.greedy import greedy
from scionet.selection.policies import EXACT, Lazy
from scionet.selection.quadratic import AverageObjective
from scionet.selection.setfunctions import FacilityLocation
from scionet.selection.terms import Contributions
from scionet.torch_internals import ConvolutionBase
from scionet.typing import FloatArray

CriterionName = Literal["facility_location", "moments"]


@guarded
def select_examples(
    model: nn.Module,
    data: Iterable[Any],
    n_examples: int,
    *,
    example_inputs: Batch,
    criterion: CriterionName = "facility_location",
    describe: Callable[[Batch], Tensor] | None = None,
) -> NDArray[np.int64]:
    """Select examples that represent the whole data set.

    One forward pass describes each example by a vector; greedy selection picks examples by these vectors. It needs no
    labels and is deterministic. Memory is a few times 8 n² bytes for n examples, so take a random subset of a few
    thousand if there are more.

    Args:
        model: The trained network; not modified.
        data: Batches like `example_inputs`, in a fixed order. Anything else in them, such as labels, is ignored.
        n_examples: Number of examples to select.
        example_inputs: Inputs of the model.
        criterion: ``"facility_location"``: every example is close to a selected one (greedy k-medoids, by lazy
            selection); ``"moments"``: selected examples match the mean and second moments of all (herding).
        describe: Function from a batch to one vector per example, ``(batch, d)``. The default is the input of the
            network's last layer, averaged over positions.

    Returns:
        Positions in `data` in the order in which they were selected, shape ``(n_examples,)``.

    Raises:
        InvalidSetting: If the criterion is unknown, or there are fewer examples than requested.
        CalibrationError: If a batch does not match `example_inputs`, or descriptions are not finite vectors.
        UnsupportedModel: If the network has no linear layer or convolution to describe examples by.
    """
    if criterion not in get_args(CriterionName):
        raise InvalidSetting(f"criterion must be one of {', '.join(get_args(CriterionName))}; given {criterion!r}")
    inputs = (to_model(inputs_like(example_inputs, batch)[0], model) for batch in data)
    with undisturbed(model), nullcontext(describe) if describe else into_last_layer(model) as described:
        vectors = [_vectors(described(batch)) for batch in inputs]
    count = sum(map(len, vectors))
    if not 1 <= n_examples <= count:
        raise InvalidSetting(f"{n_examples} examples requested; give 1 to {count}, the size of the data")
    points = np.concatenate(vectors)
    if criterion == "moments":
        return np.array(greedy(AverageObjective(_moments(points)), n_examples, policy=EXACT).order)
    return np.array(greedy(FacilityLocation(_similarity(points)), n_examples, policy=Lazy()).order)


def _similarity(points: FloatArray) -> FloatArray:
    """The largest distance between two points minus that of each pair, shape ``(n, n)``."""
    squares = np.square(points).sum(axis=1)
    distances = squares[:, None] + squares - 2 * (points @ points.T)
    np.sqrt(np.maximum(distances, 0.0, out=distances), out=distances)
    return distances.max() - distances


def _moments(points: FloatArray) -> Contributions:
    """Inner products of the points' first and second moments, after scaling the mean squared norm of points to 1."""
    gram = points @ points.T / max(float(np.square(points).sum(axis=1).mean()), np.finfo(np.float64).tiny)
    gram += gram**2
    whole = gram.sum(axis=1)
    scale = max(float(whole.sum()), np.finfo(np.float64).tiny)
    return Contributions(gram / scale, whole / scale, float(whole.sum()) / scale)


def _vectors(described: Tensor) -> FloatArray:
    """Check and convert the descriptions of a batch.

    Raises:
        CalibrationError: If they are not one finite vector per example.
    """
    found = described.detach().to("cpu", torch.float64).numpy()
    if found.ndim != 2 or not np.isfinite(found).all():
        raise CalibrationError(
            f"descriptions must be one finite vector per example, (batch, d); given shape {found.shape} with "
            f"{np.count_nonzero(~np.isfinite(found))} NaN or infinite values; check the data, or pass describe"
        )
    return found


@contextmanager
def into_last_layer(model: nn.Module) -> Iterator[Callable[[Batch], Tensor]]:
    """A function that runs the model and returns the input of its last linear map or convolution.

    The input is averaged over positions.

    Raises:
        UnsupportedModel: If the model has no such layer.
    """
    latest: list[Tensor] = []

    def record(layer: nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0]
        by_channel = x if isinstance(layer, nn.Linear) else x.movedim(1, -1)
        latest[:] = [by_channel.flatten(1, -2).mean(1) if x.ndim > 2 else x]

    layers = [m for m in model.modules() if isinstance(m, nn.Linear | ConvolutionBase)]
    if not layers:
        raise UnsupportedModel("the network has no linear layer or convolution to describe examples by; pass describe")
    hooks = [layer.register_forward_pre_hook(record) for layer in layers]

    def run(batch: Batch) -> Tensor:
        call(model, batch)
        return latest[0]

    try:
        yield run
    finally:
        for hook in hooks:
            hook.remove()
