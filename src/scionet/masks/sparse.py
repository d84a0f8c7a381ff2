"""Masked weights as sparse torch tensors: state dicts that load back, and 2:4 weights for NVIDIA GPUs."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from scionet.errors import InvalidSetting, UnsupportedModel
from scionet.masks.weight_masks import WeightMasks
from scionet.modes import at_work

SparseLayout = Literal["coo", "csr"]


@at_work()
def sparse_state(model: nn.Module, masks: WeightMasks, layout: SparseLayout = "coo") -> dict[str, Tensor]:
    """A network's state dict with masked weights as sparse tensors; `load_sparse_` is the inverse.

    Exactly the kept weights are stored, including those that are 0.

    Args:
        model: The network; not modified. Its masked weights need not be 0.
        masks: Which weights are kept.
        layout: ``"coo"`` with the weights' shapes, or ``"csr"`` with one row per output, ``(out, everything else)``.

    Raises:
        InvalidSetting: If masks do not fit the network, or the layout is unknown.
    """
    if layout not in ("coo", "csr"):
        raise InvalidSetting(f"layout must be 'coo' or 'csr'; given {layout!r}")
    masks.refuse_misfit(model)
    parameters = dict(model.named_parameters())
    mask_of = {id(parameters[name]): mask for name, mask in masks.items()}
    to_sparse = coo if layout == "coo" else csr
    return {
        name: to_sparse(tensor.detach(), mask_of[id(tensor)]) if id(tensor) in mask_of else tensor.detach().clone()
        for name, tensor in model.state_dict(keep_vars=True).items()
    }


@at_work()
def load_sparse_(model: nn.Module, state: Mapping[str, Tensor]) -> WeightMasks:
    """Load a state of `sparse_state` into a network, in place. Masked weights become 0.

    Args:
        model: A network of the same architecture; not modified if the state does not fit.
        state: The state.

    Returns:
        The masks.

    Raises:
        InvalidSetting: If the state belongs to another network.
    """
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if wrong := sorted(n for n in shapes.keys() | state.keys() if not _fits(state.get(n), shapes.get(n))):
        raise InvalidSetting(
            f"the sparse state belongs to another network: {len(wrong)} tensors differ, such as {wrong[0]!r}; load it "
            "into a network of the same architecture"
        )
    model.load_state_dict({n: (t if _plain(t) else _dense(t)).view(shapes[n]) for n, t in state.items()})
    parameters = dict(model.named_parameters())
    kept = {n: _pattern(t).view(shapes[n]) for n, t in state.items() if not _plain(t) and n in parameters}
    return WeightMasks(kept)


@at_work()
def semi_structured(model: nn.Module, masks: WeightMasks) -> nn.Module:
    """Copy a network and convert masked linear maps to 2:4 sparse weights, for inference on NVIDIA GPUs.

    Args:
        model: The network, on the GPU, in half precision; see `torch.sparse.to_sparse_semi_structured`.
        masks: Masks from ``mask_weights(pattern="2:4")``. Masked convolutions, for which torch has no 2:4 kernels, and
            weights that the pattern leaves whole get plain zeros.

    Raises:
        InvalidSetting: If masks do not fit the network.
        UnsupportedModel: If no linear map has a 2:4 mask, or device, dtype or shape do not allow it.
    """
    pruned = masks.applied(model)
    linears = {f"{name}.weight": module for name, module in pruned.named_modules() if isinstance(module, nn.Linear)}
    linear = [name for name, mask in masks.items() if name in linears and is_two_of_four(mask)]
    if not linear:
        raise UnsupportedModel(
            "no linear map is masked 2:4; make masks with mask_weights(model, pattern='2:4') for a network with "
            "nn.Linear layers whose number of inputs is a multiple of 4"
        )
    for name in linear:
        try:
            weight = torch.sparse.to_sparse_semi_structured(linears[name].weight.detach())
        except (RuntimeError, NotImplementedError, ValueError) as error:
            raise UnsupportedModel(
                f"{name!r} has no 2:4 kernel here: {error}; move the network to an NVIDIA GPU of compute capability "
                "8.0 or more in float16 or bfloat16, or use sparse_state"
            ) from error
        linears[name].weight = nn.Parameter(weight, requires_grad=False)
    return pruned


def is_two_of_four(mask: Tensor) -> bool:
    """Whether a mask ``(outputs, inputs)`` keeps exactly two of every four consecutive inputs."""
    return mask.ndim == 2 and mask.shape[1] % 4 == 0 and bool((mask.view(-1, 4).sum(1) == 2).all())


def coo(weight: Tensor, mask: Tensor) -> Tensor:
    """The kept entries of a weight as a COO tensor."""
    kept = mask.to(weight.device)
    return torch.sparse_coo_tensor(
        kept.nonzero().T, weight[kept], weight.shape, is_coalesced=True, check_invariants=True
    )


def csr(weight: Tensor, mask: Tensor) -> Tensor:
    """The kept entries of a weight as a CSR tensor with one row per output, ``(out, everything else)``."""
    rows, kept = weight.flatten(1), mask.to(weight.device).flatten(1)
    starts = nn.functional.pad(kept.sum(1).cumsum(0), (1, 0))
    with no_beta_warning():
        return torch.sparse_csr_tensor(starts, kept.nonzero()[:, 1], rows[kept], rows.shape, check_invariants=True)


def _fits(tensor: Tensor | None, shape: torch.Size | None) -> bool:
    if tensor is None or shape is None:
        return False
    rows = shape if tensor.layout != torch.sparse_csr else torch.Size((shape[0], shape[1:].numel()))
    return tensor.shape == rows


def _plain(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided


def _dense(tensor: Tensor) -> Tensor:
    with no_beta_warning():
        return tensor.to_dense()


def _pattern(tensor: Tensor) -> Tensor:
    """True where an entry is stored."""
    stored = tensor.coalesce() if tensor.layout == torch.sparse_coo else tensor
    pattern = stored.clone()
    pattern.values().fill_(1)
    return _dense(pattern) != 0


@contextmanager
def no_beta_warning() -> Iterator[None]:
    """Suppress torch's warning that CSR tensors are in beta."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        yield
