"""Which examples to calibrate on: a few of many unlabelled ones, by what the network makes of them."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scionet.errors import CalibrationError, InvalidSetting, UnsupportedModel
from scionet.network.calling import Batch, call, inputs_like, to_model, undisturbed
from scionet.selection.greedy import greedy
from scionet.selection.objective import FloatArray
from scionet.selection.policies import EXACT, Lazy
from scionet.selection.quadratic import Average
from scionet.selection.setfunctions import FacilityLocation
from scionet.selection.terms import Contributions
from scionet.torch_internals import ConvolutionBase

CriterionName = Literal["facility_location", "moments"]


def select_examples(
    model: nn.Module,
    data: Iterable[Any],
    n_examples: int,
    *,
    example_inputs: Batch,
    criterion: CriterionName = "facility_location",
    describe: Callable[[Batch], Tensor] | None = None,
) -> NDArray[np.int64]:
    """Choose examples that stand for all of them.

    One forward pass describes each example; greedy selection then chooses. Needs no labels and is not random. Memory is
    a few times 8 n² bytes for n examples: draw a few thousand candidates at random where there are more.

    Args:
        model: The trained network; it is left as it was.
        data: Batches like `example_inputs`, in a fixed order; what they hold beyond that is ignored.
        n_examples: How many to choose.
        example_inputs: What the model is called on.
        criterion: ``"facility_location"``: every example is to be near a chosen one (greedy k-medoids, by lazy
            selection); ``"moments"``: the chosen ones are to have the mean and the second moments of all (herding).
        describe: Makes of a batch one vector per example, ``(batch, d)``; by default what goes into the network's last
            layer, averaged over positions.

    Returns:
        Positions in `data` in the order in which they were chosen, shape ``(n_examples,)``.

    Raises:
        InvalidSetting: If there is no such criterion, or there are fewer examples than asked for.
        CalibrationError: If a batch does not fit, or a description is no finite vector per example.
        UnsupportedModel: If the network has no layer to take descriptions from.
    """
    if criterion not in get_args(CriterionName):
        raise InvalidSetting(f"criterion must be one of {', '.join(get_args(CriterionName))}; given {criterion!r}")
    inputs = (to_model(inputs_like(example_inputs, batch)[0], model) for batch in data)
    with undisturbed(model), nullcontext(describe) if describe else into_last_layer(model) as described:
        vectors = [_vectors(described(batch)) for batch in inputs]
    count = sum(map(len, vectors))
    if not 1 <= n_examples <= count:
        raise InvalidSetting(f"{n_examples} examples asked for; the data hold {count} to choose from")
    points = np.concatenate(vectors)
    if criterion == "moments":
        return np.array(greedy(Average(_moments(points)), n_examples, policy=EXACT).order)
    return np.array(greedy(FacilityLocation(_nearness(points)), n_examples, policy=Lazy()).order)


def _nearness(points: FloatArray) -> FloatArray:
    """The largest distance between two points less that of each pair, shape ``(n, n)``."""
    squares = np.square(points).sum(axis=1)
    distances = squares[:, None] + squares - 2 * (points @ points.T)
    np.sqrt(np.maximum(distances, 0.0, out=distances), out=distances)
    return distances.max() - distances


def _moments(points: FloatArray) -> Contributions:
    """Inner products of the points' first and second moments, at equal mean sizes of the points."""
    gram = points @ points.T / max(float(np.square(points).sum(axis=1).mean()), np.finfo(np.float64).tiny)
    gram += gram**2
    whole = gram.sum(axis=1)
    scale = max(float(whole.sum()), np.finfo(np.float64).tiny)
    return Contributions(gram / scale, whole / scale, float(whole.sum()) / scale)


def _vectors(described: Tensor) -> FloatArray:
    """One vector for each example of a batch.

    Raises:
        CalibrationError: If they are none.
    """
    found = described.detach().to("cpu", torch.float64).numpy()
    if found.ndim != 2 or not np.isfinite(found).all():
        raise CalibrationError(
            f"descriptions must be one finite vector per example, (batch, d); given shape {found.shape} with "
            f"{np.count_nonzero(~np.isfinite(found))} NaN or infinite values; check the data, or give describe"
        )
    return found


@contextmanager
def into_last_layer(model: nn.Module) -> Iterator[Callable[[Batch], Tensor]]:
    """Runs the model and gives what goes into its last linear map or convolution, averaged over positions.

    Raises:
        UnsupportedModel: If it has none.
    """
    seen: list[Tensor] = []

    def note(layer: nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0]
        by_channel = x if isinstance(layer, nn.Linear) else x.movedim(1, -1)
        seen[:] = [by_channel.flatten(1, -2).mean(1) if x.ndim > 2 else x]

    layers = [m for m in model.modules() if isinstance(m, nn.Linear | ConvolutionBase)]
    if not layers:
        raise UnsupportedModel(
            "the network has no linear layer or convolution to take descriptions from; give describe"
        )
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]

    def run(batch: Batch) -> Tensor:
        call(model, batch)
        return seen[0]

    try:
        yield run
    finally:
        for hook in hooks:
            hook.remove()
