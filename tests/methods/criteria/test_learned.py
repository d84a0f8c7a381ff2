"""Units in the order of a taught selector: the lessons, the statistics, and whole prunes."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from support.pages import code_of
from support.subjects import SUBJECTS

import scionet
from scionet.choices.methods import Forward, TaskLoss
from scionet.choices.repair import Refit
from scionet.choices.settings import Settings
from scionet.differentiable.channel_selector import ChannelSelector
from scionet.errors import InvalidSetting
from scionet.files.safetensors_files import hash_tensors
from scionet.methods.contract import SiteView
from scionet.methods.criteria.learned import STATISTICS, LearnedRanker, learned, lessons, statistics
from scionet.methods.pipeline import Pipeline
from scionet.methods.refit.survey import survey, surveying
from scionet.methods.registry import SCORES
from scionet.network.calling import state_of
from scionet.selection.greedy import greedy
from scionet.selection.quadratic import LeastSquaresObjective


@cache
def views(name: str, fitted: bool = False) -> dict[str, SiteView]:
    """Views of all sites, on all examples or on those that `prune` does not hold out."""
    subject = SUBJECTS[name]
    settings = Settings(repair=(Refit(),))
    run = surveying(subject.network(), subject.batches(), subject.example(), SCORES["energy"], settings, 0)
    if fitted:
        run = replace(run, problem=Pipeline(run.ranker, settings).prepared(run.problem, 0))
    return {view.site.name: view for view, _ in survey(run, run.surveyed, run.sites)}


@cache
def taught() -> ChannelSelector:
    subject = SUBJECTS["branched"]
    selector = ChannelSelector(STATISTICS)
    given = [*lessons(subject.network(), subject.batches(), subject.example())]
    selector.fit([lesson.statistics for lesson in given], [lesson.order for lesson in given], steps=20)
    return selector


@pytest.mark.parametrize("name", ["residual", "branched"])
def test_lessons_are_the_greedy_paths_of_the_dense_network(name) -> None:
    subject = SUBJECTS[name]
    given = {lesson.site: lesson for lesson in lessons(subject.network(), subject.batches(), subject.example())}
    assert given.keys() == views(name).keys()
    for site, view in views(name).items():
        assert given[site].order == greedy(LeastSquaresObjective(view.terms), view.site.width).order
        np.testing.assert_array_equal(given[site].statistics, statistics(view))


def test_a_teacher_by_line_search_names_every_unit_once() -> None:
    subject = SUBJECTS["residual"]
    teacher = Forward("line_search")
    for lesson in lessons(subject.network(), subject.batches(), subject.example(), teacher=teacher):
        assert sorted(lesson.order) == list(range(len(lesson.statistics)))


@pytest.mark.parametrize("name", ["residual", "branched", "tokens"])
def test_statistics_by_their_definitions(name) -> None:
    for view in views(name).values():
        found = dict(zip(STATISTICS, statistics(view).T, strict=True))
        size = view.site.width
        gram, cross, alone = np.zeros((size, size)), np.zeros(size), np.zeros(size)
        for term in view.terms:
            maps = [term.weight[:, columns] for columns in term.columns]
            for i, own in enumerate(term.columns):
                for j, other in enumerate(term.columns):
                    gram[i, j] += np.trace(maps[i] @ term.xx[np.ix_(own, other)] @ maps[j].T) / term.yy
                cross[i] += np.trace(maps[i] @ term.xy[own]) / term.yy
                # the target less what is there anyway
                cross[i] -= (
                    np.trace(maps[i] @ term.xx[np.ix_(own, term.fixed)] @ term.weight[:, term.fixed].T) / term.yy
                )
            empty = LeastSquaresObjective([term])
            alone += empty.gains(empty.start(), np.arange(size))
        own = np.diag(gram)
        size_of = np.where(own > 0, np.sqrt(own), 1.0)  # a silent unit is correlated with none
        correlation = np.abs(gram / np.outer(size_of, size_of))
        np.fill_diagonal(correlation, 0)
        np.testing.assert_allclose(found["energy"], np.log(own / own.mean() + 1e-3), rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(found["alone"], np.log(alone / alone.mean() + 1e-3), rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(found["agreement"], cross / np.abs(cross).mean(), rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(found["mean correlation"], correlation.mean(1), rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(found["largest correlation"], correlation.max(1), rtol=1e-6, atol=1e-9)


def test_a_silent_unit_has_finite_statistics() -> None:
    subject = SUBJECTS["mlp"]
    model = subject.network()
    with torch.no_grad():
        model[0].weight[3], model[0].bias[3] = 0, -1
    for lesson in lessons(model, subject.batches(), subject.example()):
        assert np.isfinite(lesson.statistics).all()


@pytest.mark.parametrize("name", ["residual", "branched", "tokens"])
@pytest.mark.parametrize("settings", [{}, {"widths": "uniform"}, {"repair": []}], ids=str)
def test_prune_takes_units_in_the_selectors_order(name, settings) -> None:
    subject = SUBJECTS[name]
    model = subject.network()
    before = hash_tensors(state_of(model))
    given = {"example_inputs": subject.example(), "method": learned(taught()), **settings}
    result = scionet.prune(model, subject.batches(), "macs<=60%", **given)
    assert hash_tensors(state_of(model)) == before
    assert result.report.pruned.macs <= 0.6 * result.report.dense.macs
    assert result.report.difference <= 1e-10
    assert result.plan.method == "learned"
    for choice in result.plan.choices:
        site = views(name)[choice.site].site
        if len(site.consumers) > 1 and "repair" not in settings:  # decided in the dense network, on such moments
            order = taught().rank(statistics(views(name, fitted=True)[choice.site]))
            assert list(choice.order) == order[: len(choice.kept)]
        assert sorted(choice.order) == list(choice.kept)


def test_the_lines_of_the_page_work_as_they_stand(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    subject = SUBJECTS["residual"]
    names = {"teacher": SUBJECTS["residual"].network(1), "model": subject.network(), "batches": subject.batches()}
    names["example_inputs"] = subject.example()
    exec(code_of("methods/learned.md"), names)
    assert names["result"].report.pruned.macs <= 0.5 * names["result"].report.dense.macs
    assert (tmp_path / "selector.safetensors").is_file()


def test_a_saved_selector_prunes_as_before(tmp_path) -> None:
    subject = SUBJECTS["residual"]
    path = taught().save(tmp_path / "selector.safetensors")
    plans = [
        scionet.prune(
            subject.network(),
            subject.batches(),
            "macs<=60%",
            example_inputs=subject.example(),
            method=learned(selector),
        ).plan
        for selector in (taught(), ChannelSelector.load(path))
    ]
    assert plans[0].identity == plans[1].identity


def test_wrong_input() -> None:
    subject = SUBJECTS["residual"]
    with pytest.raises(InvalidSetting, match="made for size"):
        LearnedRanker(ChannelSelector(("size",)))
    with pytest.raises(InvalidSetting, match="must not need labels"):
        next(lessons(subject.network(), subject.batches(), subject.example(), teacher=Forward(TaskLoss())))
    with pytest.raises(InvalidSetting, match="unknown method"):
        scionet.prune(subject.network(), (), "macs<=60%", example_inputs=subject.example(), method="learned")
