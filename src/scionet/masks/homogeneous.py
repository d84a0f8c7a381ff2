"""A network run as if it were positively homogeneous: f(c x) = c f(x) for c above 0.

BatchNorm multiplies by γ / sqrt(var + ε). Smooth activations, clamps and other normalisations give back what they are
given. Attention is the mean of the values, which is what it computes where no key stands out: queries and keys have no
part in the flow.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

IDENTITIES = frozenset(
    "gelu silu mish elu selu celu softplus sigmoid tanh hardswish hardsigmoid hardtanh relu6 logsigmoid softsign "
    "sigmoid_ tanh_ elu_ selu_ celu_ hardtanh_ log_softmax layer_norm group_norm instance_norm rms_norm "
    "local_response_norm".split()
)
"""Functions that give back what they are given, by name."""


class Homogeneous(TorchFunctionMode):
    """Replaces calls of functions that are not positively homogeneous, of modules and by name alike."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call or replace one function."""
        name, options = getattr(func, "__name__", ""), dict(kwargs or {})
        if name in IDENTITIES:
            return args[0] if args else options["input"]
        return REPLACED.get(name, func)(*args, **options)


def _scaled(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, *rest: Any, **options: Any
) -> Tensor:
    """BatchNorm without its shifts; arguments as torch.nn.functional.batch_norm takes them."""
    weight = rest[0] if rest else options.get("weight")
    eps = rest[4] if len(rest) > 4 else options.get("eps", 1e-5)
    factor = torch.ones(input.shape[1], dtype=input.dtype, device=input.device) if weight is None else weight
    if running_var is not None:
        factor = factor / (running_var + eps).sqrt()
    return input * factor.view(1, -1, *[1] * (input.ndim - 2))


def _indifferent(input: Tensor, dim: int | None = None, *rest: Any, **options: Any) -> Tensor:
    """Softmax: of attention equal shares, of logits (batch, classes) the logits."""
    if input.ndim <= 2:
        return input
    return torch.full_like(input, 1 / input.shape[-1 if dim is None else dim])


def _mean_value(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> Tensor:
    """Attention as torch.nn.functional.scaled_dot_product_attention takes it."""
    return value.mean(-2, keepdim=True).expand(*value.shape[:-2], query.shape[-2], value.shape[-1])


def _projected_mean(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    *rest: Any,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention as torch.nn.functional.multi_head_attention_forward takes it, the sequence in front."""
    into = options.get("v_proj_weight") if in_proj_weight is None else in_proj_weight.chunk(3)[2]
    assert into is not None, "torch gives one of the two"
    mean = functional.linear(value, into).mean(0, keepdim=True).expand(query.shape[0], *value.shape[1:-1], -1)
    return functional.linear(mean, out_proj_weight), None


REPLACED: Mapping[str, Callable[..., Any]] = {
    "batch_norm": _scaled,
    "softmax": _indifferent,
    "scaled_dot_product_attention": _mean_value,
    "multi_head_attention_forward": _projected_mean,
}
"""What stands in for functions, by name."""
