"""GReg's phases: the published numbers of updates, and the early end when weights have separated."""

import pytest

from scionet.sparse_training.growing_decay import GrowingDecay


def phases(decay: GrowingDecay, ratio: float = 1.0) -> dict[str, int]:
    """Updates spent in each phase."""
    spent: dict[str, int] = {}
    while decay.phase != "done":
        spent[str(decay.phase)] = spent.get(str(decay.phase), 0) + 1
        decay.update(ratio)
    return spent


def test_greg1_grows_in_ten_thousand_updates_and_holds() -> None:
    decay = GrowingDecay(1e-4, 1.0, 500)
    assert phases(decay) == {"grow": 10_000, "hold": 500}
    assert decay.decay == pytest.approx(1.0)


def test_greg2_picks_after_a_thousand_updates_and_goes_on_from_there() -> None:
    decay = GrowingDecay(1e-4, 1.0, 5, 1e-5, 1e-2)
    assert phases(decay) == {"pick": 1000, "grow": 9900, "hold": 5}


def test_separated_weights_end_the_growth() -> None:
    decay = GrowingDecay(1e-4, 1.0, 1)
    assert phases(decay, ratio=1e6)["grow"] == 1  # the average is .9 + .1 x 1e6 after one update
    assert phases(GrowingDecay(1e-4, 1.0, 1), ratio=999)["grow"] == 10_000


def test_a_phase_goes_on_where_it_was() -> None:
    whole, first = GrowingDecay(0.1, 1.0, 3), GrowingDecay(0.1, 1.0, 3)
    for _ in range(4):
        whole.update(2.0)
        first.update(2.0)
    again = GrowingDecay(0.1, 1.0, 3, decay=first.decay, ratio=first.ratio, held=first.held, phase=first.phase)
    assert phases(again, 2.0) == phases(whole, 2.0)
