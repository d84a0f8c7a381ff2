"""Global imitation against finite differences, the divergence, and local imitation where both are the same."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from subjects import SUBJECTS, Subject
from test_loss import with_gates
from torch import nn

from scionet.errors import CalibrationError, UnsupportedModel
from scionet.methods.contract import SiteView
from scionet.methods.fitting import Fitting
from scionet.methods.output import output_term
from scionet.methods.survey import survey
from scionet.network.discover import discover
from scionet.selection.terms import Contributions
from scionet.settings import ForwardSettings


def view_of(subject: Subject, site: str, batches: list) -> SiteView:
    model = subject.network()
    sites = discover(model, subject.example())
    return SiteView(sites[site], sites, model, (), {}, {}, batches)


def outputs(view: SiteView, gate: np.ndarray, decided: dict) -> torch.Tensor:
    network = with_gates(view.model, view.sites, {**decided, view.site.name: gate})
    with torch.no_grad():
        return torch.cat([network(batch) for batch in view.batches])


@pytest.mark.parametrize(
    ("name", "site"), [("residual", "stem"), ("branched", "side"), ("flattened", "2"), ("heads", "layers.0.self_attn")]
)
def test_the_gram_matrix_is_that_of_central_differences(name, site):
    subject = SUBJECTS[name]
    view = view_of(subject, site, [*subject.batches(2, 6), subject.batches(1, 3)[0]])
    other = next(s for s in view.sites if s != site)
    half = np.where(np.arange(view.sites[other].width) % 2, 1.5, 0.0)
    step, size = 1e-5, view.site.width
    ones, decided = np.ones(size), {other: half}
    up = torch.stack([outputs(view, ones + step * unit, decided) for unit in np.eye(size)])
    down = torch.stack([outputs(view, ones - step * unit, decided) for unit in np.eye(size)])
    effects = ((up - down) / (2 * step)).numpy()
    found = output_term(replace(view, gates={other: torch.from_numpy(half)}), "squared")
    expected = np.einsum("ibk,jbk->ij", effects, effects) / effects.shape[1]
    np.testing.assert_allclose(found.xx, expected, rtol=1e-5, atol=1e-6 * expected.max())
    assert found.yy == pytest.approx(((effects.sum(0)) ** 2).sum() / effects.shape[1], rel=1e-5)


def test_in_front_of_the_output_global_and_local_imitation_are_the_same():
    subject = Subject(lambda: nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 3)), (4,))
    batches = subject.batches(2, 7)
    view = view_of(subject, "0", batches)
    fitting = Fitting(view.model, view.sites, ForwardSettings(refit=False))
    draw = lambda *_: np.random.default_rng(0)  # noqa: E731
    ((local, _),) = survey(fitting, batches, ["0"], draw, lambda *_: None)
    ours, theirs = Contributions.of([output_term(view, "squared")]), Contributions.of(local.terms)
    np.testing.assert_allclose(ours.gram, theirs.gram, rtol=1e-10)
    np.testing.assert_allclose(ours.cross, theirs.cross, rtol=1e-10)
    assert ours.square == pytest.approx(theirs.square, rel=1e-10)


def test_the_metric_kl_is_the_second_order_term_of_the_divergence():
    view = view_of(SUBJECTS["residual"], "stem", SUBJECTS["residual"].batches(2, 6))
    gram = output_term(view, "kl").xx
    rng = np.random.default_rng(0)
    ones = np.ones(view.site.width)
    dense = outputs(view, ones, {}).log_softmax(1)
    for direction in rng.normal(size=(4, view.site.width)):
        step = 1e-3
        moved = [outputs(view, ones + sign * step * direction, {}).log_softmax(1) for sign in (-1, 1)]
        divergence = np.mean([float((dense.exp() * (dense - log)).sum(1).mean()) for log in moved])
        assert divergence == pytest.approx(0.5 * step**2 * direction @ gram @ direction, rel=1e-3)


def test_errors():
    subject = SUBJECTS["residual"]
    with pytest.raises(CalibrationError, match="empty"):
        output_term(view_of(subject, "stem", []), "squared")
    flat = Subject(lambda: nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 1), nn.Flatten(0)), (4,))
    with pytest.raises(UnsupportedModel, match="choose metric 'squared'"):
        output_term(view_of(flat, "0", flat.batches(1, 4)), "kl")
    with pytest.raises(CalibrationError, match="NaN"):
        output_term(view_of(subject, "stem", [torch.full((2, 2, 5, 5), torch.nan)]), "squared")
