"""The choices of a user: values are checked with one message, shown as calls, and survive JSON."""

import copy
import json
import math
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, FrozenInstanceError, dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scionet.choices.checking import Checked, Count, Range, chosen, described, from_description, name_of, refuse
from scionet.choices.depth import DEPTH, DropBranches
from scionet.choices.limits import Limits
from scionet.choices.methods import (
    CANDIDATES,
    OBJECTIVES,
    Average,
    Exact,
    Forward,
    LeastSquares,
    OutputImitation,
    Score,
    Stochastic,
    TaskLoss,
)
from scionet.choices.outputs import Output, Outputs
from scionet.choices.repair import REPAIR, Reconstruct, Refit
from scionet.choices.resources import Resources
from scionet.choices.search import ArchitectureSearch
from scionet.choices.settings import Settings, keywords_from, outputs_from, repair_from, widths_from
from scionet.choices.shrinking import SHRINKING
from scionet.choices.widths import WIDTHS, ErrorCurves, Sensitivity, Uniform, Widths
from scionet.errors import InvalidSetting
from scionet.methods.registry import describe, method_from


def kinds(base: type) -> list[type]:
    """All classes of choices below one."""
    below = [kind for kind in base.__subclasses__() if kind.__module__.startswith("scionet.choices")]
    return [*below, *(lower for kind in below for lower in kinds(kind))]


KINDS = kinds(Checked)
NAMES_OF_PARTS = ["l1", "taylor", "conv*", "layer1.0"]
REQUIRED = {Score: "name", Output: "key", DropBranches: "branches"}
NAMES = {kind.__name__: kind for kind in KINDS}
POSSIBLE = {ArchitectureSearch: lambda found: found.get("warmest", 5.0) >= found.get("coldest", 0.1)}
"""Values that must fit one another."""


def values(annotation: Any) -> st.SearchStrategy[Any]:
    """Values that an annotation allows."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (UnionType, Union):
        return st.one_of([values(member) for member in args])
    if origin is Literal:
        return st.sampled_from(args)
    if origin in (tuple, Sequence):
        return st.lists(values(args[0]), max_size=3).map(tuple)
    if origin is Mapping:
        return st.dictionaries(st.sampled_from(["head", "conv1", "name"]), values(args[1]), max_size=3)
    if origin is Annotated:
        return numbers(*args)
    if is_dataclass(annotation):
        return choices(annotation)
    return {
        bool: st.booleans(),
        NoneType: st.none(),
        str: st.sampled_from(NAMES_OF_PARTS),
        Any: st.sampled_from(NAMES_OF_PARTS),
    }[annotation]


def numbers(kind: type, allowed: Range) -> st.SearchStrategy[Any]:
    """Numbers of a range."""
    if kind is int:
        return st.integers(int(allowed.low), int(min(allowed.high, 10**6)))
    high = min(allowed.high, 1e9)
    return st.floats(allowed.low, high, exclude_min=allowed.inside, exclude_max=allowed.inside and high < 1e9)


def choices(kind: Any) -> st.SearchStrategy[Any]:
    """Instances of a class of choices, with any of their parameters left at the default."""
    hints = get_type_hints(kind, include_extras=True)
    required = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
    given = {name: values(hint) for name, hint in hints.items()}
    return (
        st.fixed_dictionaries(
            {name: given[name] for name in given if name in required},
            optional={name: given[name] for name in given if name not in required},
        )
        .filter(POSSIBLE.get(kind, lambda found: True))
        .map(lambda found: kind(**found))
    )


ANY = st.sampled_from(KINDS).flatmap(choices)


def test_every_choice_is_among_the_classes_that_are_tested() -> None:
    families = (OBJECTIVES, CANDIDATES, WIDTHS, DEPTH, REPAIR, SHRINKING)
    registered = {kind for family in families for kind in family.values()}
    assert {*registered, Forward, Score, Limits, Output, Outputs, Resources, ArchitectureSearch} == set(KINDS)


@given(choice=ANY)
def test_the_repr_makes_the_same_choice_again(choice) -> None:
    assert eval(repr(choice), dict(NAMES)) == choice


@given(choice=ANY)
def test_the_repr_shows_only_what_differs_from_the_defaults(choice) -> None:
    for field in fields(choice):
        value = getattr(choice, field.name)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        assert (f"{field.name}={value!r}" in repr(choice)) == (value != default)


def test_reprs_written_out() -> None:
    assert repr(Forward()) == "Forward()"
    assert repr(Refit(shrinkage="held_out")) == "Refit(shrinkage='held_out')"
    assert repr(Forward(TaskLoss(tolerance=0.5), "exact")) == "Forward(objective=TaskLoss(tolerance=0.5))"
    assert repr(Score("l1")) == "Score(name='l1')"
    assert repr(Limits(ignored_layers=["head"])) == "Limits(ignored_layers=('head',))"  # type: ignore[arg-type]


@given(choice=ANY)
def test_a_choice_survives_its_description_in_json(choice) -> None:
    description = json.loads(json.dumps(described(choice)))
    assert {field.name for field in fields(choice)} <= description.keys()
    if isinstance(choice, Forward | Score):
        assert method_from(json.loads(json.dumps(describe(choice)))) == choice
    else:
        assert description["name"] == name_of(choice)
        assert from_description(description, {name_of(choice): type(choice)}, "choice") == choice


@given(choice=ANY)
def test_choices_are_values(choice) -> None:
    copy = type(choice)(**{field.name: getattr(choice, field.name) for field in fields(choice)})
    assert copy == choice
    assert hash(copy) == hash(choice)
    with pytest.raises(FrozenInstanceError):
        setattr(choice, "passes", 2)  # noqa: B010


@pytest.mark.parametrize("given", ["widths", {"name": "widths"}])
def test_a_name_is_not_enough_where_a_parameter_has_no_default(given: object) -> None:
    with pytest.raises(InvalidSetting, match=r"Widths needs units; give Widths\(units=...\)"):
        from_description(given, WIDTHS, "widths")


def test_names_are_those_of_the_classes() -> None:
    assert name_of(ErrorCurves) == name_of(ErrorCurves()) == "error_curves"
    assert name_of(Refit) == "refit"
    assert WIDTHS["error_curves"] is ErrorCurves


@pytest.mark.parametrize(
    ("kind", "given", "text"),
    [
        (
            Refit,
            {"shrinkage": "heldout"},
            "The parameter 'shrinkage' of Refit must be a float in [0, 1], 'held_out' or None; given 'heldout'. "
            "Did you mean 'held_out'?",
        ),
        (Refit, {"shrinkage": 2.0}, "'shrinkage' of Refit must be a float in [0, 1], 'held_out' or None; given 2.0."),
        (
            Refit,
            {"shrinkage": math.nan},
            "'shrinkage' of Refit must be a float in [0, 1], 'held_out' or None; given nan.",
        ),
        (Refit, {"asymmetric": "no"}, "The parameter 'asymmetric' of Refit must be True or False; given 'no'."),
        (Refit, {"asymmetric": 0}, "The parameter 'asymmetric' of Refit must be True or False; given 0."),
        (Limits, {"round_to": 0}, "The parameter 'round_to' of Limits must be an int of 1 or more; given 0."),
        (Limits, {"round_to": 8.0}, "The parameter 'round_to' of Limits must be an int of 1 or more; given 8.0."),
        (Limits, {"ignored_layers": "head"}, "'ignored_layers' of Limits must be a list of Any; given 'head'."),
        (Reconstruct, {"steps": True}, "The parameter 'steps' of Reconstruct must be an int of 1 or more; given True."),
        (Reconstruct, {"steps": 0}, "The parameter 'steps' of Reconstruct must be an int of 1 or more; given 0."),
        (Reconstruct, {"steps": 1.5}, "The parameter 'steps' of Reconstruct must be an int of 1 or more; given 1.5."),
        (Reconstruct, {"learning_rate": 0.0}, "'learning_rate' of Reconstruct must be a float above 0; given 0.0."),
        (Reconstruct, {"learning_rate": True}, "'learning_rate' of Reconstruct must be a float above 0; given True."),
        (Reconstruct, {"learning_rate": np.True_}, "'learning_rate' of Reconstruct must be a float above 0; given"),
        (
            Reconstruct,
            {"learning_rate": math.inf},
            "'learning_rate' of Reconstruct must be a float above 0; given inf.",
        ),
        (
            Reconstruct,
            {"learning_rate": "fast"},
            "'learning_rate' of Reconstruct must be a float above 0; given 'fast'.",
        ),
        (Stochastic, {"epsilon": 1.0}, "'epsilon' of Stochastic must be a float in (0, 1); given 1.0."),
        (Stochastic, {"sample_size": 0}, "'sample_size' of Stochastic must be an int of 1 or more or None; given 0."),
        (Sensitivity, {"examples": "many"}, "'examples' of Sensitivity must be an int of 1 or more; given 'many'."),
        (Sensitivity, {"search": -1}, "'search' of Sensitivity must be an int of 0 or more; given -1."),
        (Sensitivity, {"examples": None}, "'examples' of Sensitivity must be an int of 1 or more; given None."),
        (Outputs, {"metric": "mse"}, "The parameter 'metric' of Outputs must be 'kl', 'squared' or None; given 'mse'."),
        (
            LeastSquares,
            {"target": "outputs"},
            "'consumer', 'output' or 'better'; given 'outputs'. Did you mean 'output'?",
        ),
        (Forward, {"objective": "leastsquares"}, "; given 'leastsquares'. Did you mean 'least_squares'?"),
        (Forward, {"objective": Refit()}, "'average', 'task_loss', 'output_imitation', LeastSquares(...), "),
        (
            Forward,
            {"candidates": Stochastic},
            "must be 'exact', 'stochastic', Exact(...) or Stochastic(...); given <class",
        ),
        (Score, {"name": 3}, "The parameter 'name' of Score must be a text; given 3."),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(value)[:40],
)
def test_one_message_names_the_parameter_whose_it_is_what_is_allowed_and_what_was_given(kind, given, text) -> None:
    with pytest.raises(InvalidSetting) as refused:
        kind(**given)
    assert text in str(refused.value)
    assert str(refused.value).startswith(f"The parameter {next(iter(given))!r} of {kind.__name__} must be ")
    assert str(refused.value).endswith((".", "?"))


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, field.name) for kind in KINDS for field in fields(kind)], ids=lambda value: str(value)
)
def test_every_parameter_of_every_choice_refuses_what_it_does_not_know(kind, name) -> None:
    required = {REQUIRED[kind]: "l1"} if kind in REQUIRED else {}
    with pytest.raises(InvalidSetting, match=rf"The parameter {name!r} of {kind.__name__} must be .+; given <object"):
        kind(**{**required, name: object()})


def test_all_problems_are_listed_and_long_values_are_shortened() -> None:
    with pytest.raises(InvalidSetting) as refused:
        Resources(memory_gib=-1, workers=0, backend="loki" * 100)  # type: ignore[arg-type]
    text = str(refused.value)
    assert [text.count(f"The parameter {name!r} of Resources") for name in ("memory_gib", "workers", "backend")] == [
        1
    ] * 3
    assert "'batch_size'" not in text
    assert len(text) < 600


def test_numbers_of_numpy_become_those_of_python() -> None:
    found = Sensitivity(examples=np.int32(5), search=np.int64(0))  # type: ignore[arg-type]
    assert type(found.examples) is type(found.search) is int
    assert found == Sensitivity(examples=5)
    assert type(Refit(shrinkage=np.float32(0.5)).shrinkage) is float
    assert type(Resources(memory_gib=np.int64(2)).memory_gib) is type(Resources(memory_gib=2).memory_gib) is float
    assert json.dumps(described(found))


def test_lists_become_tuples() -> None:
    found = Limits(ignored_layers=["head", "conv*"])  # type: ignore[arg-type]
    assert found.ignored_layers == ("head", "conv*")
    assert hash(found) == hash(Limits(ignored_layers=("head", "conv*")))


def test_unions_ranges_and_nested_choices_of_ones_own() -> None:
    @dataclass(frozen=True, repr=False)
    class Own(Checked):
        share: Annotated[float, Range(0, 1, inside=True)] | None = None
        sizes: tuple[Count, ...] = ()
        refit: Refit | Literal["none"] = "none"

    assert Own(0.5, [1, np.int64(2)], Refit()) == Own(0.5, (1, 2), Refit())  # type: ignore[arg-type]
    assert repr(Own(sizes=(1,))) == "Own(sizes=(1,))"
    for wrong, text in (
        ({"sizes": [0]}, r"must be a list of an int of 1 or more; given \[0\]"),
        ({"sizes": [True]}, r"must be a list of an int of 1 or more; given \[True\]"),
        ({"share": 1}, r"must be a float in \(0, 1\) or None; given 1"),
        ({"refit": "non"}, r"must be Refit\(\.\.\.\) or 'none'; given 'non'. Did you mean 'none'\?"),
    ):
        with pytest.raises(InvalidSetting, match=text):
            Own(**wrong)


def test_a_name_or_a_table_with_some_parameters_makes_a_choice() -> None:
    assert widths_from("uniform") == widths_from({"name": "uniform"}) == widths_from(Uniform()) == Uniform()
    assert widths_from({"name": "sensitivity", "search": 3}) == Sensitivity(search=3)
    assert repair_from(["refit", {"name": "reconstruct", "steps": 5}]) == (Refit(), Reconstruct(steps=5))
    assert outputs_from("kl") == outputs_from(Outputs("kl"))
    assert outputs_from(None) == Outputs()
    listed = {"of": ["logits", {"key": "boxes", "metric": "squared"}, {"name": "output", "key": "2"}], "classes": -1}
    chosen_outputs = Outputs(None, -1, ("logits", Output("boxes", "squared"), Output("2")))
    assert keywords_from({"outputs": listed}) == {"outputs": chosen_outputs}
    assert outputs_from(described(chosen_outputs)) == chosen_outputs
    table = {"name": "forward", "objective": {"name": "average", "repetition": True}, "candidates": "stochastic"}
    assert method_from(table) == Forward(Average(repetition=True), "stochastic")
    nested = {"name": "forward", "candidates": {"name": "exact"}, "objective": {"name": "output_imitation"}}
    assert method_from(nested) == Forward(OutputImitation(), Exact())
    assert keywords_from({"limits": {"round_to": 8}, "widths": "uniform", "repair": []}) == {
        "limits": Limits(round_to=8),
        "widths": Uniform(),
        "repair": (),
    }


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: widths_from("sensitive"), r"unknown widths 'sensitive'; allowed: .*Did you mean 'sensitivity'\?"),
        (lambda: widths_from({"search": 3}), "unknown widths 'None'"),
        (
            lambda: widths_from({"name": "sensitivity", "tries": 3}),
            "unknown parameter of Sensitivity 'tries'; allowed:",
        ),
        (lambda: widths_from({"name": "sensitivity", "search": 0.5}), "The parameter 'search' of Sensitivity must be"),
        (lambda: widths_from(Refit()), r"widths must be one of uniform, .* or Uniform\(\), .*; given Refit\(\)"),
        (lambda: widths_from(3), r"widths must be one of uniform, .*; given 3"),
        (
            lambda: repair_from("refit"),
            r"repair must be a list of steps, such as \['refit', 'recalibrate'\]; given 'refit'",
        ),
        (lambda: repair_from(Refit()), r"repair must be a list of steps, .*; given Refit\(\)"),
        (lambda: repair_from(["refits"]), r"unknown repair step 'refits'; .*Did you mean 'refit'"),
        (lambda: outputs_from("mse"), "The parameter 'metric' of Outputs must be 'kl', 'squared' or None"),
        (lambda: outputs_from({"off": ["a"]}), r"unknown parameter of Outputs 'off'; .*Did you mean 'of'"),
        (lambda: outputs_from({"of": [{"keys": "a"}]}), r"unknown parameter of Output 'keys'; .*Did you mean 'key'"),
        (lambda: outputs_from({"of": [{"metric": "kl"}]}), "Output needs key"),
        (lambda: outputs_from({"of": "logits"}), "must be a list of a text or Output"),
        (lambda: outputs_from({"of": [3]}), r"must be a list of a text or Output\(\.\.\.\); given"),
        (lambda: outputs_from({"classes": 9}), r"'classes' of Outputs must be an int in \[-8, 8\]"),
        (lambda: keywords_from({"width": "uniform"}), r"unknown setting 'width'; .*Did you mean 'widths'"),
        (lambda: keywords_from({"limits": {"round": 8}}), r"unknown parameter of Limits 'round'; .*'round_to'"),
        (lambda: method_from({"name": "l1", "pass": 2}), r"unknown parameter of Score 'pass'; .*'passes'"),
        (
            lambda: Settings(repair=(Reconstruct(), Refit())),
            r"Refit first, since it is part of the walk; given \[Recon",
        ),
        (lambda: Settings(repair=(Refit(), Refit())), "repair takes each step once"),
    ],
)
def test_names_and_tables_that_make_no_choice_are_refused(make, text) -> None:
    with pytest.raises(InvalidSetting, match=text):
        make()


def test_what_is_chosen_is_handed_on_as_it_is() -> None:
    given = Sensitivity(search=2)
    assert chosen(given, WIDTHS, "widths") is given


def test_choices_with_mappings_are_copied_and_sent_to_other_processes() -> None:
    widths = Widths({"a": 3, "b": 1})
    assert copy.deepcopy(widths) == pickle.loads(pickle.dumps(widths)) == widths
    with pytest.raises(TypeError, match="a choice cannot be changed"):
        copy.deepcopy(widths).units["a"] = 4  # type: ignore[index]


def test_a_refusal_lists_every_check_that_failed() -> None:
    refuse("settings", {"a is positive": True})
    with pytest.raises(InvalidSetting, match=r"^a is positive; b is even\. Given: settings$"):
        refuse("settings", {"a is positive": False, "c": True, "b is even": False})
