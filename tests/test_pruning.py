"""prune: the whole way through in one call, what may be given, and what is refused."""

import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from support import selecting
from support.subjects import SUBJECTS
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from scionet import Budget, PruneError, PruneResult, prune, prune_each
from scionet.budget.costs import measure
from scionet.choices.limits import Limits
from scionet.choices.methods import Forward, Score, Stochastic, TaskLoss
from scionet.choices.outputs import Outputs
from scionet.choices.repair import Refit
from scionet.choices.resources import Resources
from scionet.choices.widths import Sensitivity, Uniform
from scionet.errors import CalibrationError, InvalidSetting, UnreachableBudget, UnsupportedModel
from scionet.files.safetensors_files import hash_tensors
from scionet.methods.registry import SCORES
from scionet.network.calling import call, state_of
from scionet.network.discovery.discover import discover

RESIDUAL = SUBJECTS["residual"]


def _plain(value: Any) -> str:
    """A test id without addresses, which differ between processes."""
    return re.sub(r" at 0x\w+", "", str(value))


class Paired(nn.Module):
    """Two inputs, one of them optional: called with a tuple or by keywords."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 12), nn.Linear(3, 12)
        self.hidden, self.last = nn.Linear(12, 10), nn.Linear(10, 2)

    def forward(self, left: Tensor, right: Tensor | None = None, double: bool = False) -> Tensor:
        x = self.left(left) if right is None else self.left(left) + self.right(right)
        x = self.last(torch.relu(self.hidden(torch.relu(x))))
        return 2 * x if double else x


def pruned(model: nn.Module | None = None, data: Any = None, budget: Any = "macs<=60%", **options: Any) -> PruneResult:
    """The residual network pruned, unless something else is given."""
    model = RESIDUAL.network() if model is None else model
    data = RESIDUAL.batches(2, 8) if data is None else data
    options = {"example_inputs": RESIDUAL.example()} | options
    return prune(model, data, budget, **options)


def uses_up(result: PruneResult, fraction: float) -> bool:
    """Whether MACs are within the budget, and at most 1 % below or the status says so."""
    kept = result.report.pruned.macs / result.report.dense.macs
    return kept <= fraction and (kept >= fraction - 0.01) != (f"is met with macs {kept:.2%}: " in result.report.status)


@pytest.mark.parametrize("choices", [{}, {"method": "l1"}, {"method": "random", "repair": []}], ids=str)
def test_pruned_network_runs_within_the_budget(choices) -> None:
    result = pruned(**choices)
    dense, found = (measure(model, RESIDUAL.example()) for model in (RESIDUAL.network(), result.model))
    assert uses_up(result, 0.6)
    assert (result.report.dense, result.report.pruned) == (dense, found)
    assert result.report.difference <= 1e-10
    assert type(result.model) is type(RESIDUAL.network())
    assert result.plan.widths == {name: after for name, (_, after) in result.report.widths.items()}


@pytest.mark.parametrize("form", ["tuple", "dict", "tensor"])
def test_inputs_of_any_form(form) -> None:
    torch.manual_seed(0)
    model = Paired()
    left, right = torch.randn(32, 4), torch.randn(32, 3)
    batch = {"tuple": (left, right), "dict": {"left": left, "right": right, "double": True}, "tensor": left}[form]
    result = prune(model, [batch], "params<=60%", example_inputs=batch, method="forward")
    assert call(result.model, batch).shape == (32, 2)
    assert result.report.pruned.params <= 0.6 * result.report.dense.params


@pytest.mark.parametrize("form", ["dict with labels", "pairs", "triples"])
def test_labels_and_what_else_a_batch_holds_are_put_aside(form) -> None:
    x = RESIDUAL.batches(1, 16)[0]
    labels = torch.arange(16) % 4
    if form == "dict with labels":
        left, right = torch.randn(16, 4), torch.randn(16, 3)
        example = {"left": left[:2], "right": right[:2]}
        batch = {"right": right, "left": left, "labels": labels % 2, "name": ["a"] * 16}
        results = [
            prune(Paired(), [batch], "params<=60%", example_inputs=example, method=Forward(objective), repair=[])
            for objective in ("average", "task_loss")
        ]
        assert all(result.report.pruned.params <= 0.6 * result.report.dense.params for result in results)
        return
    with_labels = pruned(data=[(x, labels)] if form == "pairs" else [(x, labels, labels)])
    assert with_labels.plan.identity == pruned(data=[x]).plan.identity


@pytest.mark.parametrize("objective", ["average", "task_loss"])
def test_data_loader_with_labels(objective) -> None:
    data = TensorDataset(RESIDUAL.batches(1, 20)[0], torch.arange(20) % 4)
    loader = DataLoader(data, batch_size=8, shuffle=True)
    model = RESIDUAL.network()
    before = torch.get_rng_state()
    result = pruned(model, loader, method=Forward(objective), repair=[])
    assert torch.equal(torch.get_rng_state(), before)
    assert result.report.pruned.macs <= 0.6 * result.report.dense.macs


@pytest.mark.parametrize("widths", ["uniform", "error_curves", "sensitivity"])
def test_generator_that_can_be_read_once(widths) -> None:
    def once() -> Iterator[Tensor]:
        yield from RESIDUAL.batches(2, 8)

    assert pruned(data=once(), widths=widths).plan.identity == pruned(widths=widths).plan.identity


def test_generator_that_reuses_its_tensors() -> None:
    batches = RESIDUAL.pairs(5, 8)

    def reusing() -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = torch.empty_like(batches[0][0]), torch.empty_like(batches[0][1])
        for given in batches:
            images.copy_(given[0])
            labels.copy_(given[1])
            yield images, labels

    assert pruned(data=reusing(), method="taylor").plan.identity == pruned(data=batches, method="taylor").plan.identity


def test_a_score_of_weights_needs_no_data() -> None:
    result = pruned(data=(), method="l1")
    assert result.plan.identity == pruned(data=(), method="l1", widths="uniform", repair=[]).plan.identity
    assert not result.plan.tensors


@pytest.mark.parametrize("method", ["l1", "forward"])
def test_with_data_every_method_is_refitted_and_takes_widths_by_sensitivity(method) -> None:
    plain, spelled_out = pruned(method=method), pruned(method=method, widths=Sensitivity(), repair=[Refit()])
    assert plain.plan.identity == spelled_out.plan.identity
    assert plain.plan.identity != pruned(method=method, widths="uniform").plan.identity
    assert plain.plan.tensors
    assert not pruned(method=method, repair=[]).plan.tensors


@pytest.mark.parametrize("state", ["frozen", "train", "train frozen"])
def test_frozen_networks_and_networks_in_training_are_pruned_and_left_alone(state) -> None:
    model = RESIDUAL.network()
    model.requires_grad_("frozen" not in state).train("train" in state)
    before = hash_tensors(state_of(model))
    result = pruned(model)
    assert hash_tensors(state_of(model)) == before
    assert result.plan.identity == pruned().plan.identity
    assert {m.training for m in (*model.modules(), *result.model.modules())} == {"train" in state}
    assert {p.requires_grad for p in (*model.parameters(), *result.model.parameters())} == {"frozen" not in state}


@pytest.mark.parametrize("choices", [{}, {"method": Forward("task_loss"), "repair": []}, {"method": "l1"}], ids=str)
def test_network_in_half_precision(choices) -> None:
    model = RESIDUAL.network().bfloat16()
    data = [(x.float(), y) for x, y in RESIDUAL.pairs(2, 8)]
    result = pruned(model, data, **choices)
    assert {p.dtype for p in result.model.parameters()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in result.plan.tensors.values()} <= {torch.bfloat16}
    assert result.report.pruned.macs <= 0.6 * result.report.dense.macs


def test_half_precision_chooses_almost_as_double_precision_does() -> None:
    kept, expected = (pruned(model).plan.kept for model in (RESIDUAL.network().bfloat16(), RESIDUAL.network()))
    common = sum(len({*kept[site]} & {*expected[site]}) for site in expected)
    assert common >= 0.75 * sum(map(len, expected.values()))


@pytest.mark.parametrize("method", ["l1", "forward"])
def test_pruning_under_autocast(method) -> None:
    model, data = RESIDUAL.network().float(), [batch.float() for batch in RESIDUAL.batches(2, 8)]
    plain = pruned(model, data, method=method, example_inputs=data[0][:2])
    with torch.autocast("cpu", torch.bfloat16):
        result = pruned(model, data, method=method, example_inputs=data[0][:2])
    assert result.sites.keys() == plain.sites.keys()
    for one, other in zip(result.plan.choices, plain.plan.choices, strict=True):
        assert len({*one.kept} & {*other.kept}) >= 0.7 * len(one.kept)
    assert {tensor.dtype for tensor in result.model.state_dict().values()} <= {torch.float32, torch.int64}


def test_tolerance_takes_the_place_of_a_budget() -> None:
    x = RESIDUAL.batches(1, 24)[0]
    labels = RESIDUAL.network()(x).argmax(1)
    loss = {"method": Forward(TaskLoss(tolerance=0.5)), "repair": []}
    result = pruned(data=[(x, labels)], budget=None, **loss)
    assert "stop rule" in result.report.status
    assert result.report.pruned.macs < result.report.dense.macs
    for budget, choices in ((None, {}), ("macs<=50%", loss)):
        with pytest.raises(InvalidSetting, match="a budget, such as"):
            pruned(data=[(x, labels)], budget=budget, **choices)


def test_budget_of_everything_gives_back_the_same_function() -> None:
    model, x = RESIDUAL.network(), RESIDUAL.batches(1, 4, seed=9)[0]
    result = pruned(model, budget="macs<=100%")
    assert torch.equal(result.model(x), model(x))


def test_budget_may_be_a_budget_a_mapping_or_several_limits() -> None:
    plans = [
        pruned(budget=budget).plan.identity
        for budget in ("macs<=60%, params<=90%", Budget("params<=90%", "macs<=60%"), {"macs": "60%", "params": "90%"})
    ]
    assert len(set(plans)) == 1


def test_a_choice_may_be_a_name_or_an_object() -> None:
    named = pruned(method="l1", widths="uniform", repair=["refit"], outputs="squared")
    objects = pruned(method=Score("l1"), widths=Uniform(), repair=(Refit(),), outputs=Outputs("squared"))
    assert (
        named.plan.identity
        == objects.plan.identity
        == pruned(method=SCORES["l1"], widths="uniform", repair=iter(["refit"]), outputs="squared").plan.identity
    )


def test_a_method_of_ones_own_decides_the_rest_by_itself() -> None:
    method = selecting.method_with("l1", widths="uniform", repair=["refit"])
    assert pruned(method=method).plan.identity == pruned(method="l1", widths="uniform").plan.identity


@pytest.mark.parametrize("ignored", [["block1"], [nn.Linear, "block1.*"], ["*1.conv?"]], ids=str)
def test_ignored_layers_stay_whole(ignored) -> None:
    result = pruned(limits=Limits(ignored_layers=ignored), budget="macs<=85%")
    assert "block1.conv1" not in result.plan.widths
    assert result.model.get_parameter("block1.conv1.weight").shape[0] == 12


def test_report_is_for_a_person_to_read() -> None:
    result = pruned(limits=Limits(ignored_layers=["block1"]), budget="macs<=85%")
    text = str(result.report)
    kept, width = sum(result.plan.widths.values()), sum(site.width for site in result.sites.values())
    assert f"({result.report.pruned.macs / result.report.dense.macs:.1%} kept)" in text
    assert f"({result.report.pruned.params / result.report.dense.params:.1%} kept)" in text
    assert f"{kept / width:.1%} kept at {len(result.sites)} sites; {len(result.report.refused)} left whole" in text
    assert "requested number of units was selected" in text
    assert result.report.seconds.keys() >= {"discover", "select", "cut", "verify"}


# -- what is refused -------------------------------------------------------------------------------------------------


class Kept:
    """No method."""


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        (Forward, {"objective": "leastsquares"}, r"'objective' of Forward must be .*Did you mean 'least_squares'"),
        (Forward, {"objective": "los"}, r"given 'los'"),
        (Forward, {"candidates": "stochastik"}, r"'candidates' of Forward .*Did you mean 'stochastic'"),
        (Forward, {"passes": 0}, r"'passes' of Forward must be an int of 1 or more; given 0"),
        (Forward, {"passes": "two"}, r"'passes' of Forward must be an int of 1 or more; given 'two'"),
        (Stochastic, {"epsilon": 1.0}, r"'epsilon' of Stochastic must be a float in \(0, 1\); given 1.0"),
        (Stochastic, {"epsilon": "much"}, r"'epsilon' of Stochastic"),
        (TaskLoss, {"scoring": "taylr"}, r"'scoring' of TaskLoss must be 'exact' or 'taylor'.*mean 'taylor'"),
        (Refit, {"shrinkage": "much"}, r"a float in \[0, 1\], 'held_out' or None; given 'much'\.$"),
        (Refit, {"shrinkage": "heldout"}, r"'shrinkage' of Refit .*given 'heldout'\. Did you mean 'held_out'\?"),
        (Refit, {"shrinkage": -1}, r"'shrinkage' of Refit must be a float in \[0, 1\].*given -1"),
        (Refit, {"shrinkage": float("nan")}, r"'shrinkage' of Refit .*given nan"),
        (Refit, {"asymmetric": "no"}, r"'asymmetric' of Refit must be True or False; given 'no'"),
        (Refit, {"asymmetric": 0}, r"'asymmetric' of Refit must be True or False; given 0"),
        (Limits, {"round_to": 0}, r"^The parameter 'round_to' of Limits must be an int of 1 or more; given 0\.$"),
        (Limits, {"round_to": 0, "min_units": 1.5}, r"'round_to' of Limits .*'min_units' of Limits .*given 1.5"),
        (Sensitivity, {"examples": "many"}, r"'examples' of Sensitivity must be an int of 1 or more; given 'many'"),
        (Sensitivity, {"search": -1}, r"'search' of Sensitivity must be an int of 0 or more; given -1"),
        (Resources, {"positions": True}, r"'positions' of Resources must be an int of 1 or more; given True"),
        (Resources, {"backend": "loki"}, r"'backend' of Resources .*Did you mean 'loky'"),
        (Outputs, {"metric": "klein"}, r"'metric' of Outputs must be 'kl', 'squared' or None"),
    ],
)
def test_choices_that_are_not_allowed(kind, parameters, message) -> None:
    with pytest.raises(InvalidSetting, match=message):
        kind(**parameters)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "foward"}, "unknown method 'foward'; allowed: .*Did you mean 'forward'"),
        ({"method": "greedy"}, "unknown method 'greedy'; allowed: "),
        ({"method": Score("l11")}, "unknown method 'l11'; allowed: .*Did you mean 'l1'"),
        ({"method": Kept()}, r"method must be a name, .*Forward\(...\), Score\(...\), a function.*given <"),
        ({"method": Kept}, "method must be a name, .*given <class"),
        ({"method": 7}, "method must be a name, .*given 7"),
        ({"method": None}, "method must be a name, .*given None"),
        ({"method": Uniform()}, r"method must be a name, .*given Uniform\(\)"),
        ({"method": Score("l1", passes=2)}, "passes=2 would repeat the first: .*which 'l1' does not; set passes=1"),
        ({"method": Score("taylor", passes=2)}, "method 'taylor' is measured once, in the dense network"),
        ({"method": Forward(passes=2), "repair": []}, "passes=2 would repeat the first: a further pass needs a refit"),
        (
            {"method": selecting.method_with("l1"), "widths": "uniform", "repair": []},
            "'l1' is a Method and decides by itself; leave out widths, repair",
        ),
        ({"widths": "even"}, "unknown widths 'even'; allowed: error_curves, global, isomorphic, sensitivity, uniform"),
        ({"widths": "sensitivty"}, "Did you mean 'sensitivity'"),
        ({"widths": Refit()}, r"widths must be one of uniform, .*given Refit\(\)"),
        ({"widths": Uniform}, "widths must be one of uniform, .*given <class"),
        (
            {"method": Forward(), "widths": "isomorphic"},
            "widths 'isomorphic' and 'global' .*which method 'forward' does not have",
        ),
        ({"repair": "refit"}, r"repair must be a list of steps, such as \['refit', 'recalibrate'\]; given 'refit'"),
        ({"repair": Refit()}, r"repair must be a list of steps.*given Refit\(\)"),
        ({"repair": True}, "repair must be a list of steps.*given True"),
        ({"repair": ["refitt"]}, "unknown repair step 'refitt'; allowed: .*Did you mean 'refit'"),
        ({"repair": ["recalibrate", "refit"]}, r"Refit first.*given \[Recalibrate\(\), Refit\(\)\]"),
        ({"repair": ["refit", Refit(shortcuts=False)]}, "repair takes each step once"),
        ({"outputs": "kll"}, "'metric' of Outputs .*given 'kll'. Did you mean 'kl'"),
        ({"outputs": 3}, r"outputs must be 'kl', 'squared' or Outputs\(...\); given 3"),
        (
            {"limits": Limits(ignored_layers=["block3"])},
            "unknown ignored layer 'block3'; allowed: .*Did you mean .*'block",
        ),
        ({"seed": -1}, "seed .*given -1"),
        ({"seed": 0.5}, "seed .*given 0.5"),
        ({"seed": True}, "seed .*given True"),
        ({"seed": "1"}, "seed .*given '1'"),
        ({"budget": "macs<=0%"}, "above 0%"),
        ({"budget": "macs<=-10%"}, "above 0%"),
        ({"budget": "macs<=110%"}, "at most 100%"),
        ({"budget": "flops<=50%"}, "unknown quantity of a budget 'flops'"),
        ({"budget": "half"}, "is not a limit"),
        ({"budget": ""}, "budget"),
        ({"budget": 0.5}, 'must say what is limited; given 0.5; did you mean "macs<=50%"\\?'),
        ({"budget": "50%"}, """must say what is limited; given '50%'; did you mean "macs<=50%"\\?"""),
        ({"budget": ".125"}, 'did you mean "macs<=12.5%"\\?'),
        ({"budget": 50}, "a budget is a text or a mapping; given 50"),
    ],
    ids=_plain,
)
def test_settings_that_are_not_allowed(options, message) -> None:
    with pytest.raises(InvalidSetting, match=message):
        pruned(**options)


@pytest.mark.parametrize(
    ("option", "value"), [("shrinkage", 0.1), ("refit", True), ("objective", "average"), ("round_to", 8)]
)
def test_a_parameter_of_a_choice_is_no_parameter_of_prune(option, value) -> None:
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{option}'"):
        pruned(**{option: value})


@pytest.mark.parametrize("shape", [(2, 5, 5), [2, 5, 5], (1, 2, 5, 5), torch.Size([1, 2, 5, 5])], ids=str)
def test_a_shape_in_place_of_example_inputs_is_answered_with_what_to_write(shape) -> None:
    with pytest.raises(CalibrationError, match=r"looks like a shape; write torch\.randn\(1, 2, 5, 5\)"):
        pruned(example_inputs=shape)


@pytest.mark.parametrize("inputs", [(), ("image",), 3, None], ids=str)
def test_example_inputs_without_a_tensor_are_refused(inputs) -> None:
    with pytest.raises(
        CalibrationError, match=r"must be a tensor, a tuple of arguments or a dict.*given (tuple|int|None)"
    ):
        pruned(example_inputs=inputs)


@pytest.mark.parametrize("choices", [{}, {"method": "l1"}, {"limits": Limits(min_units=9)}], ids=str)
def test_budget_out_of_reach_names_what_can_be_reached(choices) -> None:
    with pytest.raises(UnreachableBudget, match=r"smallest network .*M MACs.*macs [\d.]+%"):
        pruned(budget="macs<=30%" if "limits" in choices else "macs<=1%", **choices)


class Seen:
    """Something that is no batch."""


IMAGES = RESIDUAL.batches(1, 8)[0]


@pytest.mark.parametrize(
    "choices", [{}, {"method": "l1", "repair": ["refit"]}, {"method": Forward("task_loss")}], ids=str
)
@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "empty"),
        ([IMAGES[:0]], "no examples"),
        ([IMAGES[0]], r"floats \(batch, 5, 5\) does not fit .* floats \(batch, 2, 5, 5\)"),
        ([IMAGES, IMAGES[:, :1]], r"floats \(batch, 1, 5, 5\) does not fit .* \(batch, 2, 5, 5\): .*channels"),
        ([IMAGES.flatten(1)], r"floats \(batch, 50\) does not fit .* \(batch, 2, 5, 5\)"),
        ([IMAGES.long()], r"torch.int64 \(batch, 2, 5, 5\) does not fit"),
        ([Seen()], "like example_inputs .*tensor.*given Seen"),
        ([{"x": IMAGES}], "like example_inputs .*tensor.*given dict of x"),
        (IMAGES, "an iterable of batches.*given a Tensor.*in a list"),
        ({"x": IMAGES}, "an iterable of batches.*given a dict"),
        (None, "an iterable of batches.*given a NoneType"),
        (7, "an iterable of batches.*given a int"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_calibration_data_that_do_not_fit(choices, data, message) -> None:
    def labelled(batch: Any) -> Any:
        return (batch, torch.zeros(len(batch), dtype=torch.long)) if isinstance(batch, Tensor) else batch

    if isinstance(choices.get("method"), Forward) and isinstance(data, list):
        data = [labelled(batch) for batch in data]
        message = message.replace(".*tensor.*given Seen", "|labels")
    threads = threading.active_count()
    with pytest.raises(CalibrationError, match=message):
        prune(RESIDUAL.network(), data, "macs<=60%", example_inputs=RESIDUAL.example(), **choices)
    assert threading.active_count() == threads


def test_pictures_of_another_size_are_welcome_where_the_network_takes_them() -> None:
    larger = torch.randn(4, 2, 7, 6)
    assert pruned(data=[larger, IMAGES]).report.difference <= 1e-10


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize(
    "choices",
    [
        {"widths": "uniform"},
        {"method": "random", "widths": "error_curves"},
        {"method": Forward("task_loss"), "repair": []},
    ],
    ids=_plain,
)
def test_nan_in_the_data_names_a_layer(value, choices) -> None:
    x, y = RESIDUAL.pairs(1, 8)[0]
    x[3, 1, 2, 2] = value
    with pytest.raises(CalibrationError, match=r"'(block1\.conv1\.weight|stem|norm)'.*NaN or infinite"):
        pruned(data=[(x, y)], **choices)


def test_network_with_broken_weights_is_refused_by_name() -> None:
    model = RESIDUAL.network()
    with torch.no_grad():
        model.get_parameter("block2.conv1.weight")[3, 0, 0, 0] = torch.nan
    with pytest.raises(UnsupportedModel, match=r"'block2\.conv1\.weight' holds NaN"):
        pruned(model)


def test_network_without_memory_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match=r"'stem\.weight' is on the device 'meta'"):
        pruned(RESIDUAL.network().to("meta"))


def dead_channel(model: nn.Module) -> None:
    norm = model.get_submodule("block1.bn1")
    norm.weight.data[2], norm.bias.data[2] = 0, -1  # type: ignore[union-attr, index]


def dead_site(model: nn.Module) -> None:
    norm = model.get_submodule("block1.bn1")
    norm.weight.data.zero_(), norm.bias.data.fill_(-1)  # type: ignore[union-attr]


def constant_site(model: nn.Module) -> None:
    model.get_submodule("block1.bn1").weight.data.zero_()  # type: ignore[union-attr]


@pytest.mark.parametrize("objective", ["least_squares", "line_search", "average"])
@pytest.mark.parametrize("repair", [["refit"], []], ids=str)
@pytest.mark.parametrize("spoil", [dead_channel, dead_site, constant_site])
def test_sites_without_variance_are_pruned(spoil: Callable[[nn.Module], None], repair, objective) -> None:
    model = RESIDUAL.network()
    spoil(model)
    result = pruned(model, budget="macs<=40%", method=Forward(objective), repair=repair)
    assert bool(torch.isfinite(result.model(IMAGES)).all())
    assert uses_up(result, 0.4)
    if spoil is dead_channel and objective == "least_squares" and len(result.plan.kept["block1.conv1"]) < 12:
        assert 2 not in result.plan.kept["block1.conv1"]


@pytest.mark.parametrize("model", [nn.Linear(4, 3), nn.ReLU(), nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8))])
def test_network_without_prunable_layers(model) -> None:
    with pytest.raises(UnsupportedModel, match="no prunable layer"):
        prune(model, [torch.randn(5, 4)], "macs<=50%", example_inputs=torch.randn(2, 4))


def test_all_refusals_are_of_one_family() -> None:
    wrong: list[dict[str, Any]] = [{"data": []}, {"method": "x"}, {"budget": "macs<=1%"}, {"model": nn.Linear(5, 3)}]
    for options in wrong:
        with pytest.raises(PruneError):
            pruned(**options)


def test_a_pruned_network_can_be_pruned_again() -> None:
    batches, example = RESIDUAL.batches(2, 8), RESIDUAL.example()
    first = prune(RESIDUAL.network(), batches, "macs<=70%", example_inputs=example)
    second = prune(first.model, batches, "macs<=78.9%", example_inputs=example)
    assert second.report.dense == first.report.pruned
    assert uses_up(first, 0.7)
    assert uses_up(second, 0.789)
    for name, site in second.sites.items():
        assert site.width == len(first.plan.kept[name]) >= len(second.plan.kept[name])


@pytest.mark.parametrize(
    "choices", [{"widths": Sensitivity(examples=4)}, {"method": "random", "repair": [], "widths": "uniform"}], ids=str
)
def test_each_of_several_budgets_gets_what_it_would_get_alone(choices) -> None:
    data, example = RESIDUAL.batches(2, 8), RESIDUAL.example()
    budgets = ["macs<=70%", {"macs": "40%"}]
    together = prune_each(RESIDUAL.network(), data, budgets, example_inputs=example, **choices)
    alone = [pruned(data=data, budget=budget, **choices) for budget in budgets]
    assert [result.plan.identity for result in together] == [result.plan.identity for result in alone]
    assert together[0].report.pruned.macs > together[1].report.pruned.macs


def test_curves_are_measured_once_for_all_budgets() -> None:
    stages: list[str] = []
    sites = discover(RESIDUAL.network(), RESIDUAL.example())
    tell = lambda stage, done, total: stages.append(stage)  # noqa: E731
    budgets = [Budget("macs<=70%"), Budget("macs<=50%"), Budget("macs<=30%")]
    selecting.select_each("forward", RESIDUAL.network(), RESIDUAL.batches(2, 8), sites, budgets, 0, tell)
    consumers = len(sites.consumers)
    assert (stages.count("survey"), stages.count("select")) == (consumers, 3 * consumers)
