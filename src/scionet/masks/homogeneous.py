"""Run a network as if it were positively homogeneous: f(c x) = c f(x) for c > 0.

BatchNorm multiplies by γ / sqrt(var + ε). Smooth activations, clamps and other normalisations become the identity.
Attention becomes the mean of the values, which it computes if all keys are equal. Queries and keys do not take part in
the flow.
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
"""Names of functions that are replaced by the identity."""


class Homogeneous(TorchFunctionMode):
    """Replaces functions that are not positively homogeneous, whether modules call them or the code does."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call or replace one function."""
        name, options = getattr(func, "__name__", ""), dict(kwargs or {})
        if name in IDENTITIES:
            return args[0] if args else options["input"]
        return REPLACED.get(name, func)(*args, **options)


def _batch_norm_scale(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, *rest: Any, **options: Any
) -> Tensor:
    """BatchNorm without shifts; takes the arguments of torch.nn.functional.batch_norm."""
    weight = rest[0] if rest else options.get("weight")
    eps = rest[4] if len(rest) > 4 else options.get("eps", 1e-5)
    factor = torch.ones(input.shape[1], dtype=input.dtype, device=input.device) if weight is None else weight
    if running_var is not None:
        factor = factor / (running_var + eps).sqrt()
    return input * factor.view(1, -1, *[1] * (input.ndim - 2))


def _uniform_softmax(input: Tensor, dim: int | None = None, *rest: Any, **options: Any) -> Tensor:
    """Replacement of softmax: equal shares for attention, the identity for logits ``(batch, classes)``."""
    if input.ndim <= 2:
        return input
    return torch.full_like(input, 1 / input.shape[-1 if dim is None else dim])


def _mean_value(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> Tensor:
    """Mean of the values; takes the arguments of torch.nn.functional.scaled_dot_product_attention."""
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
    """Mean of the projected values; takes the arguments of torch.nn.functional.multi_head_attention_forward."""
    value_weight = options.get("v_proj_weight") if in_proj_weight is None else in_proj_weight.chunk(3)[2]
    assert value_weight is not None, "torch passes one of the two"
    mean = functional.linear(value, value_weight).mean(0, keepdim=True).expand(query.shape[0], *value.shape[1:-1], -1)
    return functional.linear(mean, out_proj_weight), None


REPLACED: Mapping[str, Callable[..., Any]] = {
    "batch_norm": _batch_norm_scale,
    "softmax": _uniform_softmax,
    "scaled_dot_product_attention": _mean_value,
    "multi_head_attention_forward": _projected_mean,
}
"""Replacements of functions by name."""
