"""Global imitation against finite differences, the divergence, and local imitation where both are the same."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support import selecting
from support.gated import with_gates
from support.naive import after
from support.subjects import SUBJECTS, Subject
from torch import nn

from scionet.choices.methods import Average, Forward
from scionet.choices.outputs import Outputs
from scionet.choices.settings import Settings, repair_from
from scionet.errors import CalibrationError, UnsupportedModel
from scionet.methods.contract import SiteView
from scionet.methods.greedy.forward import ForwardRanker
from scionet.methods.greedy.network_objective import Scoring
from scionet.methods.greedy.output_imitation import OutputObjective, output_term
from scionet.methods.refit.survey import survey, surveying
from scionet.network.discovery.discover import discover
from scionet.selection.terms import Contributions


def view_of(subject: Subject, site: str, batches: list) -> SiteView:
    model = subject.network()
    return selecting.view_of(model, discover(model, subject.example()), site, batches, batch_size=6)


def outputs(view: SiteView, gate: np.ndarray, decided: dict) -> torch.Tensor:
    network = with_gates(view.network.model, view.sites, {**decided, view.site.name: gate})
    with torch.no_grad():
        return torch.cat([network(batch) for batch in view.calibration.inputs])


@pytest.mark.parametrize(
    ("name", "site"), [("residual", "stem"), ("branched", "side"), ("flattened", "2"), ("heads", "layers.0.self_attn")]
)
def test_the_gram_matrix_is_that_of_central_differences(name, site) -> None:
    subject = SUBJECTS[name]
    view = view_of(subject, site, [*subject.batches(2, 6), subject.batches(1, 3)[0]])
    other = next(s for s in view.sites if s != site)
    half = np.where(np.arange(view.sites[other].width) % 2, 1.5, 0.0)
    step, size = 1e-5, view.site.width
    ones, decided = np.ones(size), {other: half}
    up = torch.stack([outputs(view, ones + step * unit, decided) for unit in np.eye(size)])
    down = torch.stack([outputs(view, ones - step * unit, decided) for unit in np.eye(size)])
    slopes = ((up - down) / (2 * step)).numpy()
    found = output_term(replace(view, gates={other: torch.from_numpy(half)}), Outputs("squared"))
    slopes = slopes / variance(outputs(view, ones, {})) ** 0.5
    expected = np.einsum("ibk,jbk->ij", slopes, slopes) / slopes.shape[1]
    np.testing.assert_allclose(found.xx, expected, rtol=1e-5, atol=1e-6 * expected.max())
    assert found.yy == pytest.approx(((slopes.sum(0)) ** 2).sum() / slopes.shape[1], rel=1e-5)


def test_in_front_of_the_output_global_and_local_imitation_are_the_same() -> None:
    subject = Subject(lambda: nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 3)), (4,))
    batches = subject.batches(2, 7)
    view = view_of(subject, "0", batches)
    settings = Settings()
    ranker = ForwardRanker(Forward(), settings)
    run = surveying(view.network.model, batches, subject.example(), ranker, settings, 0)
    ((local, _),) = survey(run, run.calibration, ["0"])
    ours, theirs = (
        Contributions.from_terms([output_term(view, Outputs("squared"))]),
        Contributions.from_terms(local.terms),
    )
    np.testing.assert_allclose(ours.gram, theirs.gram, rtol=1e-10)
    np.testing.assert_allclose(ours.cross, theirs.cross, rtol=1e-10)
    assert ours.square == pytest.approx(theirs.square, rel=1e-10)


def test_the_metric_kl_is_the_second_order_term_of_the_divergence() -> None:
    view = view_of(SUBJECTS["residual"], "stem", SUBJECTS["residual"].batches(2, 6))
    gram = output_term(view, Outputs("kl")).xx
    rng = np.random.default_rng(0)
    ones = np.ones(view.site.width)
    dense = outputs(view, ones, {}).log_softmax(1)
    for direction in rng.normal(size=(4, view.site.width)):
        step = 1e-3
        moved = [outputs(view, ones + sign * step * direction, {}).log_softmax(1) for sign in (-1, 1)]
        divergence = np.mean([float((dense.exp() * (dense - log)).sum(1).mean()) for log in moved])
        assert divergence == pytest.approx(step**2 * direction @ gram @ direction, rel=1e-3)


def variance(dense: torch.Tensor) -> float:
    """The squared difference of an example's output from the mean over examples."""
    return float(((dense - dense.mean(0)) ** 2).sum() / len(dense))


def naive_distance(metric: str, dense: torch.Tensor, changed: torch.Tensor) -> float:
    """Mean divergence, or squared error relative to the variance of the dense outputs."""
    if metric == "squared":
        return float(((changed - dense) ** 2).sum() / len(dense) / variance(dense))
    before, after = dense.log_softmax(1), changed.log_softmax(1)
    return float((before.exp() * (before - after)).sum(1).mean())


@pytest.mark.parametrize("metric", ["kl", "squared"])
@pytest.mark.parametrize(("name", "site"), [("residual", "stem"), ("branched", "side")])
def test_exact_gains_are_those_of_one_forward_pass_per_candidate(metric, name, site) -> None:
    subject = SUBJECTS[name]
    view = view_of(subject, site, [*subject.batches(2, 6), subject.batches(1, 3)[0]])
    other = next(s for s in view.sites if s != site)
    decided, size = {other: np.where(np.arange(view.sites[other].width) % 2, 1.5, 0.0)}, view.site.width
    dense = outputs(view, np.ones(size), {})
    objective = OutputObjective(replace(view, gates={other: torch.from_numpy(decided[other])}), Outputs(metric))

    def naive(counts: np.ndarray) -> float:
        return -naive_distance(metric, dense, outputs(view, size * counts / max(counts.sum(), 1), decided))

    state, counts, everyone = objective.start(), np.zeros(size), np.arange(size)
    for _ in range(3):
        assert objective.value(state) == pytest.approx(naive(counts), rel=1e-10)
        expected = np.array([naive(counts + unit) for unit in np.eye(size)]) - naive(counts)
        gains = objective.gains(state, everyone)
        assert gains.argmax() == expected.argmax()
        assert gains.max() == pytest.approx(expected.max(), rel=1e-9)
        assert (gains >= expected - 1e-9 * abs(expected).max()).all()
        state, counts = objective.commit(state, int(gains.argmax())), counts + np.eye(size)[gains.argmax()]


@pytest.mark.parametrize("memory_bytes", [2.0**31, 0.0])
def test_taylor_gains_are_the_slope_along_each_pick(memory_bytes) -> None:
    subject = SUBJECTS["branched"]
    view = view_of(subject, "expand", subject.batches(2, 6))
    size = view.site.width
    dense = outputs(view, np.ones(size), {})
    objective = OutputObjective(view, Outputs("kl"), Scoring(taylor=True, memory_bytes=memory_bytes))
    state, counts = objective.start(), np.zeros(size)
    for unit in (3, 0, 3):
        state, counts = objective.commit(state, unit), counts + np.eye(size)[unit]
    step, gates = 1e-6, size * counts / 3
    for unit, gain in enumerate(objective.gains(state, np.arange(size))):
        direction = (size * np.eye(size)[unit] - gates) / 4
        up, down = (outputs(view, gates + sign * step * direction, {}) for sign in (1, -1))
        slope = (naive_distance("kl", dense, down) - naive_distance("kl", dense, up)) / (2 * step)
        assert gain == pytest.approx(slope, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("repair", [[], ["refit"]], ids=str)
def test_of_local_and_global_imitation_the_better_one_is_kept(repair) -> None:
    settings = Settings(repair=repair_from(repair))
    rankers = [ForwardRanker(Forward(Average(target)), settings) for target in ("better", "consumer", "output")]
    taken = set()
    for name in ("residual", "branched"):
        subject = SUBJECTS[name]
        model, batches = subject.network(), subject.batches(2, 12)
        run = surveying(model, batches, subject.example(), rankers[0], settings, 0)
        for view, _ in survey(run, run.calibration, run.sites):
            chosen, local, through = (
                ranker.rank(view, view.site.width // 3, np.random.default_rng(0)) for ranker in rankers
            )
            dense = outputs(view, np.ones(view.site.width), {})
            moved = []
            for selection in (local, through):
                with torch.no_grad():
                    pruned = torch.cat([after(model, dict(view.repaired(selection)))(batch) for batch in batches])
                moved.append(naive_distance("kl", dense, pruned))
            assert chosen == (local if moved[0] <= moved[1] else through)
            taken |= {"same"} if local == through else {"local" if moved[0] <= moved[1] else "global"}
    assert taken >= {"local", "global"}


def test_errors() -> None:
    subject = SUBJECTS["residual"]
    with pytest.raises(CalibrationError, match="empty"):
        output_term(view_of(subject, "stem", []), Outputs("squared"))
    with pytest.raises(CalibrationError, match="empty"):
        OutputObjective(view_of(subject, "stem", []), Outputs("squared"))
    flat = Subject(lambda: nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 1), nn.Flatten(0)), (4,))
    for kl in (lambda view: output_term(view, Outputs("kl")), lambda view: OutputObjective(view, Outputs("kl"))):
        with pytest.raises(UnsupportedModel, match="choose outputs='squared'"):
            kl(view_of(flat, "0", flat.batches(1, 4)))
    with pytest.raises(CalibrationError, match="NaN"):
        output_term(view_of(subject, "stem", [torch.full((2, 2, 5, 5), torch.nan)]), Outputs("squared"))
