"""Attention with fewer heads than the module was built with: module attributes that record numbers of heads."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from scionet.errors import UnsupportedModel
from scionet.network.plan import Choice, Plan

_COUNTS = ("num_heads", "num_kv_heads", "num_attention_heads", "n_heads", "heads")
"""Attributes in which modules store their number of heads."""

_WIDTHS = ("attn_dim", "kv_dim", "key_attn_dim", "val_attn_dim", "all_head_size")
"""Attributes in which modules store the number of channels of all heads together."""


def record_heads(model: nn.Module, plan: Plan) -> None:
    """Update the attributes of attention modules to the heads that a plan keeps.

    Args:
        model: The cut network, changed in place.
        plan: The plan that it was cut to.

    Raises:
        UnsupportedModel: If a module cannot compute with fewer heads.
    """
    modules = dict(model.named_modules())
    for choice in plan.choices:
        module = _attention_module(modules, choice)
        if module is None or len(choice.kept) == choice.width:
            continue
        for name in (*_COUNTS, *_WIDTHS):
            size = getattr(module, name, None)
            if isinstance(size, int):
                setattr(module, name, size * len(choice.kept) // choice.width)
        if type(module) is nn.MultiheadAttention:
            _convert(module)


def _attention_module(modules: Mapping[str, nn.Module], choice: Choice) -> nn.Module | None:
    """The innermost module that contains a site and has as many heads as the site has units."""
    path = choice.site.partition(":")[0].split(".")
    parents = (modules.get(".".join(path[:length])) for length in range(len(path), -1, -1))
    return next((m for m in parents if any(getattr(m, name, None) == choice.width for name in _COUNTS)), None)


def _convert(module: nn.MultiheadAttention) -> None:
    """Convert torch's attention to `SelfAttention` in place, which keeps its parameters, their names and its hooks.

    Raises:
        UnsupportedModel: If it has features that `SelfAttention` does not support.
    """
    if module.in_proj_weight is None or module.bias_k is not None or module.add_zero_attn:
        raise UnsupportedModel(
            "heads of nn.MultiheadAttention with kdim, vdim, add_bias_kv or add_zero_attn cannot be removed; leave the "
            "module whole with ignored_layers"
        )
    module.__class__ = SelfAttention
    # Otherwise nn.TransformerEncoderLayer would run a fused kernel that assumes the original number of heads.
    module._qkv_same_embed_dim = False


class SelfAttention(nn.MultiheadAttention):
    """torch's multi-head attention as self-attention, with any number of heads.

    The original computes the size of a head as the width of the sequence divided by the number of heads. Here a head
    keeps its size when others are removed.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        """The same as `nn.MultiheadAttention` for ``attention(x, x, x, need_weights=False)``, with the same masks.

        As in torch, `is_causal` is only a hint that `attn_mask` is causal; the mask itself is applied.

        Raises:
            UnsupportedModel: If query, key and value are not the same tensor, attention weights are requested, or
                `is_causal` is set without a mask.
        """
        if need_weights or query is not key or key is not value or (is_causal and attn_mask is None):
            raise UnsupportedModel(
                "attention with pruned heads must be called as attention(x, x, x, need_weights=False), with "
                "attn_mask if is_causal is set"
            )
        sequence_first = query.ndim == 3 and not self.batch_first
        joint = functional.linear(
            query.transpose(0, 1) if sequence_first else query, self.in_proj_weight, self.in_proj_bias
        )
        heads = [part.unflatten(-1, (self.num_heads, -1)).transpose(-3, -2) for part in joint.chunk(3, -1)]
        mask, dropout = _mask(attn_mask, key_padding_mask, joint), self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(*heads, attn_mask=mask, dropout_p=dropout)
        out = self.out_proj(mixed.transpose(-3, -2).flatten(-2))
        return (out.transpose(0, 1) if sequence_first else out), None


def _mask(attention: Tensor | None, padding: Tensor | None, like: Tensor) -> Tensor | None:
    """The sum to add to the scores ``(batch, head, query, key)``; where a Boolean mask is set, minus infinity.

    Args:
        attention: The mask of query-key pairs, Boolean or floating-point.
        padding: The mask of keys ``(batch, key)``, Boolean or floating-point.
        like: A tensor of the device and type of the result.
    """
    total = None
    for mask in (attention, None if padding is None else padding[..., None, None, :]):
        if mask is not None:
            added = mask if mask.is_floating_point() else like.new_zeros(mask.shape).masked_fill(mask, -torch.inf)
            total = added if total is None else total + added
    return total
