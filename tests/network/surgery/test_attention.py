"""Attention with fewer heads: the module that replaces torch's, and the sizes that other modules record."""

from typing import Any

import pytest
import torch
from support.masking import plan_of
from torch import Tensor, nn

from scionet.errors import UnsupportedModel
from scionet.models.factory import build
from scionet.network.discovery.discover import discover
from scionet.network.plan import Choice, Plan
from scionet.network.surgery.attention import SelfAttention, record_heads
from scionet.network.surgery.cut import cut

LENGTH, WIDTH, HEADS = 5, 12, 3
CAUSAL = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
LAST_IS_PADDING = torch.zeros(2, LENGTH, dtype=torch.bool).index_fill_(1, torch.tensor([LENGTH - 1]), True)

MASKS: dict[str, dict[str, Any]] = {
    "none": {},
    "causal": {"attn_mask": CAUSAL},
    "causal with a hint": {"attn_mask": CAUSAL, "is_causal": True},
    "numbers": {"attn_mask": torch.linspace(-1, 1, 25, dtype=torch.float64).view(5, 5)},
    "padding": {"key_padding_mask": LAST_IS_PADDING},
    "both": {"key_padding_mask": LAST_IS_PADDING, "attn_mask": CAUSAL},
}


def attention(**settings: Any) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    made = nn.MultiheadAttention(WIDTH, HEADS, dtype=torch.float64, **settings).eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made


def ours(theirs: nn.MultiheadAttention) -> nn.MultiheadAttention:
    """The same parameters in our module, with all heads."""
    theirs.__class__ = SelfAttention
    return theirs


@pytest.mark.parametrize("settings", [{}, {"batch_first": True}, {"bias": False}, {"dropout": 0.5}])
@pytest.mark.parametrize("masks", MASKS)
def test_with_all_heads_it_is_the_attention_of_torch(settings: dict[str, Any], masks: str) -> None:
    x = torch.randn(2, LENGTH, WIDTH, dtype=torch.float64)
    x = x if "batch_first" in settings else x.transpose(0, 1)
    expected, _ = attention(**settings)(x, x, x, need_weights=False, **MASKS[masks])
    found, weights = ours(attention(**settings))(x, x, x, need_weights=False, **MASKS[masks])
    assert weights is None
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("padding", [None, LAST_IS_PADDING[0]])
def test_one_sequence_without_a_batch(padding: Tensor | None) -> None:
    x = torch.randn(LENGTH, WIDTH, dtype=torch.float64)
    expected, _ = attention()(x, x, x, padding, need_weights=False)
    found, _ = ours(attention())(x, x, x, padding, need_weights=False)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_what_is_more_than_self_attention_is_refused() -> None:
    x = torch.randn(LENGTH, 2, WIDTH, dtype=torch.float64)
    with pytest.raises(UnsupportedModel, match="need_weights=False"):
        ours(attention())(x, x, x)
    with pytest.raises(UnsupportedModel, match=r"attention\(x, x, x"):
        ours(attention())(x, x.clone(), x, need_weights=False)


def test_gradients_and_dropout_in_training() -> None:
    model, x = ours(attention(dropout=0.5)).train(), torch.randn(LENGTH, 2, WIDTH, dtype=torch.float64)
    first, second = (model(x, x, x, need_weights=False)[0] for _ in range(2))
    assert not torch.equal(first, second)
    first.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_layer_of_torch_runs_alike_with_and_without_gradients() -> None:
    """Without gradients, torch would run a fused kernel that assumes the original number of heads."""
    model = nn.TransformerEncoderLayer(WIDTH, 4, 16, batch_first=True, dtype=torch.float64).eval()
    x = torch.randn(2, LENGTH, WIDTH, dtype=torch.float64)
    pruned = cut(model, plan_of(sites := discover(model, x), {"self_attn": [0, 3]}), sites)
    assert isinstance(model.self_attn, nn.MultiheadAttention)
    assert not isinstance(model.self_attn, SelfAttention)
    expected = pruned(x)
    with torch.no_grad():
        torch.testing.assert_close(pruned(x), expected, rtol=1e-12, atol=1e-12)


def test_modules_count_their_heads() -> None:
    settings: dict[str, Any] = {"img_size": 32, "depth": 2, "embed_dim": 16, "num_heads": 4}
    model = build("timm:vit_tiny_patch16_224", **settings)
    sites = discover(model, torch.zeros(1, 3, 32, 32))
    pruned = cut(model, plan_of(sites, {"blocks.0.attn.qkv": [1], "blocks.1.attn.qkv": [0, 1, 2, 3]}), sites)
    first, second = (pruned.get_submodule(f"blocks.{i}.attn") for i in range(2))
    assert (first.num_heads, first.attn_dim, first.head_dim) == (1, 4, 4)
    assert (second.num_heads, second.attn_dim, second.head_dim) == (4, 16, 4)


def test_query_heads_that_share_a_key_are_counted_together() -> None:
    """The innermost module with as many heads as the site has units is updated."""
    outer, inner, query = nn.Module(), nn.Module(), nn.Linear(4, 4)
    inner.num_heads, inner.num_kv_heads, inner.kv_dim, inner.scale = 6, 3, 12, 0.5  # type: ignore[assignment]
    outer.num_heads, outer.inner, inner.query = 3, inner, query  # type: ignore[assignment]
    record_heads(outer, Plan((Choice("inner.query", 3, (0, 2), (1.0, 1.0)),)))
    assert (inner.num_heads, inner.num_kv_heads, inner.kv_dim, inner.scale) == (4, 2, 8, 0.5)
    assert outer.num_heads == 3
    record_heads(outer, Plan((Choice("inner.query", 5, (0,), (1.0,)),)))
    assert inner.num_heads == 4


@pytest.mark.parametrize("settings", [{"kdim": 3}, {"add_bias_kv": True}, {"add_zero_attn": True}])
def test_modules_that_do_more_keep_their_heads(settings: dict[str, Any]) -> None:
    plan = Plan((Choice("", HEADS, (0,), (1.0,)),))
    with pytest.raises(UnsupportedModel, match="kdim"):
        record_heads(attention(**settings), plan)
