"""Attention with fewer heads than its module was made for: the sizes that such modules keep beside their tensors."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from scionet.errors import UnsupportedModel
from scionet.network.plan import Choice, Plan

_COUNTS = ("num_heads", "num_kv_heads", "num_attention_heads", "n_heads", "heads")
"""Attributes by which modules count their heads."""

_WIDTHS = ("attn_dim", "kv_dim", "key_attn_dim", "val_attn_dim", "all_head_size")
"""Attributes by which modules count the channels of all their heads."""


def record_heads(model: nn.Module, plan: Plan) -> None:
    """Set the sizes that attention modules record to what a plan leaves of their heads.

    Raises:
        UnsupportedModel: If such a module cannot do with fewer heads.
    """
    for choice in plan.choices:
        module = _around(model, choice)
        if module is None or len(choice.kept) == choice.width:
            continue
        for name in (*_COUNTS, *_WIDTHS):
            size = getattr(module, name, None)
            if isinstance(size, int):
                setattr(module, name, size * len(choice.kept) // choice.width)
        if type(module) is nn.MultiheadAttention:
            _replace(module)


def _around(model: nn.Module, choice: Choice) -> nn.Module | None:
    """The innermost module around a site that counts as many heads as the site has units."""
    modules, path = dict(model.named_modules()), choice.site.partition(":")[0].split(".")
    around = (modules.get(".".join(path[:length])) for length in range(len(path), -1, -1))
    return next((m for m in around if any(getattr(m, name, None) == choice.width for name in _COUNTS)), None)


def _replace(module: nn.MultiheadAttention) -> None:
    """Make torch's attention, in place, one of ours: parameters, their names and hooks stay.

    Raises:
        UnsupportedModel: If it does more than ours can.
    """
    if module.in_proj_weight is None or module.bias_k is not None or module.add_zero_attn:
        raise UnsupportedModel("heads of nn.MultiheadAttention with kdim, vdim, add_bias_kv or add_zero_attn stay")
    module.__class__ = SelfAttention
    module._qkv_same_embed_dim = False  # else nn.TransformerEncoderLayer has a fused kernel of its own run


class SelfAttention(nn.MultiheadAttention):
    """torch's multi-head attention on one sequence, with any number of heads.

    The original divides the width of the sequence by the number of heads; here a head keeps its size when others go.
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
        """What `nn.MultiheadAttention` computes for ``attention(x, x, x, need_weights=False)``, masks as there.

        As there, `is_causal` is but a hint that the mask is causal; masks are taken as they are.

        Raises:
            UnsupportedModel: If query, key and value are not one tensor, attention weights are asked for, or a causal
                mask is said to be there and is not.
        """
        if need_weights or query is not key or key is not value or (is_causal and attn_mask is None):
            raise UnsupportedModel(
                "attention with pruned heads is called as attention(x, x, x, need_weights=False), and with attn_mask "
                "where is_causal is set"
            )
        turned = query.ndim == 3 and not self.batch_first
        joint = functional.linear(query.transpose(0, 1) if turned else query, self.in_proj_weight, self.in_proj_bias)
        heads = [part.unflatten(-1, (self.num_heads, -1)).transpose(-3, -2) for part in joint.chunk(3, -1)]
        mask, dropout = _mask(attn_mask, key_padding_mask, joint), self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(*heads, attn_mask=mask, dropout_p=dropout)
        out = self.out_proj(mixed.transpose(-3, -2).flatten(-2))
        return (out.transpose(0, 1) if turned else out), None


def _mask(attention: Tensor | None, padding: Tensor | None, like: Tensor) -> Tensor | None:
    """What is added to the scores ``(batch, head, query, key)``: minus infinity where a mask of truth values is set."""
    total = None
    for mask in (attention, None if padding is None else padding[..., None, None, :]):
        if mask is not None:
            added = mask if mask.is_floating_point() else like.new_zeros(mask.shape).masked_fill(mask, -torch.inf)
            total = added if total is None else total + added
    return total
