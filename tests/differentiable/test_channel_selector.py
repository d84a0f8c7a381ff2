"""A channel selector: training on given sets, saving and loading."""

import json
from functools import cache

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from scionet.differentiable.channel_selector import ChannelSelector
from scionet.errors import CheckpointError, InvalidSetting

NAMES = ("size", "colour", "weight")


def sites(count: int, seed: int) -> tuple[list[np.ndarray], list[list[int]]]:
    """Sites of different widths, whose channels the teacher ranks by a hidden combination of their statistics."""
    rng = np.random.default_rng(seed)
    found = [rng.normal(size=(rng.integers(8, 20), 3)) * (1, 5, 0.1) + (0, 10, 0) for _ in range(count)]
    return found, [np.argsort(-(x[:, 0] + 10 * x[:, 2])).tolist() for x in found]


@cache
def taught() -> ChannelSelector:
    selector = ChannelSelector(NAMES)
    selector.fit(*sites(16, 0), densities=[0.5], steps=50)
    return selector


def shared_half(selector: ChannelSelector) -> float:
    """Share of the teacher's top half that is found at new sites."""
    return float(
        np.mean(
            [
                len(set(selector.rank(x)[: len(x) // 2]) & set(order[: len(x) // 2])) / (len(x) // 2)
                for x, order in zip(*sites(20, 1), strict=True)
            ]
        )
    )


def test_the_teachers_choice_is_found_at_new_sites() -> None:
    assert shared_half(ChannelSelector(NAMES)) < 0.7
    assert shared_half(taught()) > 0.9


def test_learning_lowers_the_loss_and_is_reproducible() -> None:
    first, second = ChannelSelector(NAMES), ChannelSelector(NAMES)
    losses = first.fit(*sites(6, 0), steps=10)
    assert losses == second.fit(*sites(6, 0), steps=10)
    assert losses[-1] < losses[0]
    assert ChannelSelector(NAMES, seed=1).rank(sites(1, 1)[0][0]) != ChannelSelector(NAMES).rank(sites(1, 1)[0][0])


def test_making_a_selector_uses_no_global_random_numbers() -> None:
    state = torch.get_rng_state()
    ChannelSelector(NAMES, seed=3)
    assert torch.equal(torch.get_rng_state(), state)


def test_permuting_the_channels_permutes_the_order() -> None:
    selector, (site, *_) = taught(), sites(1, 2)[0]
    shuffle = np.random.default_rng(0).permutation(len(site))
    assert shuffle[selector.rank(site[shuffle])].tolist() == selector.rank(site)
    assert sorted(selector.rank(site)) == list(range(len(site)))


def test_statistics_are_standardised_as_in_the_lessons() -> None:
    instances, orders = sites(6, 0)
    plain, scaled = ChannelSelector(NAMES), ChannelSelector(NAMES)
    plain.fit(instances, orders, steps=5)
    scaled.fit([1000 * x + 7 for x in instances], orders, steps=5)
    (site, *_) = sites(1, 2)[0]
    assert scaled.rank(1000 * site + 7) == plain.rank(site)
    constant = ChannelSelector(NAMES)
    constant.fit([np.ones((4, 3))], [[0, 1, 2, 3]], steps=1)
    assert constant.rank(np.ones((4, 3))) == [0, 1, 2, 3]


def test_a_saved_selector_ranks_as_before(tmp_path) -> None:
    selector = ChannelSelector(NAMES, n_hidden=5, n_features=7)
    selector.fit(*sites(6, 0), steps=5)
    path = selector.save(tmp_path / "selector.safetensors")
    loaded = ChannelSelector.load(path)
    assert loaded.statistics == NAMES
    for site in sites(5, 3)[0]:
        assert loaded.rank(site) == selector.rank(site)
    with pytest.raises(CheckpointError, match="exists"):
        selector.save(path)
    selector.save(path, overwrite=True)
    with pytest.raises(InvalidSetting, match="safetensors"):
        selector.save(tmp_path / "selector.pt")


def test_files_that_are_not_selectors_are_refused(tmp_path) -> None:
    path = tmp_path / "selector.safetensors"
    with pytest.raises(CheckpointError, match="missing"):
        ChannelSelector.load(path)
    for content in (b"", b"garbage" * 100):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged"):
            ChannelSelector.load(path)
    save_file({"layer.theta": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="not a channel selector"):
        ChannelSelector.load(path)
    good = ChannelSelector(NAMES).state_dict()
    for metadata, text in (
        ({"format": "2", "statistics": json.dumps(NAMES)}, "format 2, but this version reads 1"),
        ({"format": "1", "statistics": json.dumps(NAMES[:2])}, "names 2 statistics for 3 columns"),
        ({"format": "1", "statistics": "{"}, "not a channel selector"),
    ):
        save_file(good, path, metadata)
        with pytest.raises(CheckpointError, match=text):
            ChannelSelector.load(path)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda s: s.rank(np.zeros((4, 2))), r"finite numbers \(channels, 3\)"),
        (lambda s: s.rank(np.full((4, 3), np.nan)), "finite numbers"),
        (lambda s: s.rank(np.zeros((0, 3))), "finite numbers"),
        (lambda s: s.fit([np.zeros((4, 3))], []), "one order per site"),
        (lambda s: s.fit([], []), "one order per site"),
        (lambda s: s.fit([np.zeros((4, 3))], [[0, 1]]), "at least 3 of 4 channels for density 0.75"),
        (lambda s: s.fit([np.zeros((4, 3))], [[0, 1]], densities=[0.0]), "densities must lie in"),
        (lambda s: s.fit([np.zeros((4, 3))], [[0, 9]], densities=[0.5]), "outside 0..3"),
    ],
)
def test_wrong_input(call, text) -> None:
    with pytest.raises(InvalidSetting, match=text):
        call(ChannelSelector(NAMES))
