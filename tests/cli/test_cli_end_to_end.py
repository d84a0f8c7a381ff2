import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from support.commandline import CLASSES, TEST, scionet

from scionet.budget.costs import measure
from scionet.budget.latency.table import LatencyTable
from scionet.cli import main
from scionet.models.resnets import resnet20
from scionet.network.checkpoints.checkpoint import describe, load_pruned, read_plan

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def numbers(table: str, row: str) -> list[float]:
    return [float(n) for n in re.findall(r"[-+]?\d+\.\d+", next(x for x in table.splitlines() if f"│ {row}" in x))]


def right_answers(model: torch.nn.Module, home: Path, split: str = "test") -> int:
    correct = 0
    for path in (home / "pictures" / split).glob("*/*.png"):
        pixels = (np.asarray(Image.open(path)) / 255 - MEAN) / STD
        with torch.no_grad():
            logits = model.eval()(torch.from_numpy(pixels.transpose(2, 0, 1)[None]).float())
        correct += int(logits.argmax()) == int(path.parent.name.removeprefix("class"))
    return correct


def dense(home: Path) -> torch.nn.Module:
    model = resnet20()
    model.load_state_dict(torch.load(home / "weights.pt"))
    return model


@pytest.fixture(scope="module")
def said(home: Path) -> subprocess.CompletedProcess[str]:
    """What a real process of `scionet prune` says; the file is home/real.safetensors."""
    flags = ("--budget", "macs<=60%", "--out", "real.safetensors", "--evaluate-split", "test", "--seed", 3)
    return scionet("prune", "--config", "prune.toml", *flags, cwd=home)


def test_prune_saves_a_network_that_keeps_the_budget(home: Path, said: subprocess.CompletedProcess[str]) -> None:
    assert said.returncode == 0, said.stderr
    example = torch.zeros(1, 3, 32, 32)
    costs = [measure(model, example) for model in (dense(home), load_pruned(home / "real.safetensors"))]
    ratio = costs[1].macs / costs[0].macs
    assert 0.59 <= ratio <= 0.6
    shown = numbers(said.stdout, "MACs")
    assert shown == pytest.approx([costs[0].macs / 1e6, costs[1].macs / 1e6, 100 * ratio], abs=0.006)


def test_prune_shows_both_accuracies(home: Path, said: subprocess.CompletedProcess[str]) -> None:
    models = dense(home), load_pruned(home / "real.safetensors")
    expected = [100 * right_answers(model, home) / (CLASSES * TEST) for model in models]
    assert numbers(said.stdout, "accuracy")[:2] == pytest.approx(expected, abs=0.006)
    assert f"accuracy ({CLASSES * TEST} pictures)" in said.stdout


def test_prune_says_what_was_left_whole_and_how_to_go_on(said: subprocess.CompletedProcess[str]) -> None:
    assert "saved to real.safetensors" in said.stdout
    assert "scionet evaluate --pruned real.safetensors --data pictures --split test" in said.stderr
    assert "scionet export --pruned real.safetensors --to real.onnx" in said.stderr
    assert "left whole: linear" in said.stderr
    assert "RANDOM" not in said.stderr


def test_prune_records_what_it_was_told(home: Path, said: subprocess.CompletedProcess[str]) -> None:
    told, plan = describe(home / "real.safetensors"), read_plan(home / "real.safetensors")
    assert told["factory"] == "scionet:resnet20"
    assert [sample["count"] for sample in told["extra"]["pictures"]["samples"]] == [16]
    assert (plan.seed, plan.method, plan.settings["resources"]["positions"]) == (3, "forward", 8)
    assert not any(choice.site.startswith("layer3.") and choice.density < 1 for choice in plan.choices)


@pytest.mark.slow
def test_evaluate_writes_what_a_slow_loop_finds(home: Path, pruned: object) -> None:
    flags = ("--split", "test", "--json", "results.json", "--latency", "--quiet", "--threads", 1)
    done = scionet("evaluate", "--pruned", "half.safetensors", "--data", "pictures", *flags, cwd=home)
    assert (done.returncode, done.stderr) == (0, "")
    results = json.loads((home / "results.json").read_text())
    model = load_pruned(home / "half.safetensors")
    cost = measure(model, torch.zeros(1, 3, 32, 32))
    correct = right_answers(model, home)
    assert (results["correct"], results["seen"]) == (correct, CLASSES * TEST)
    assert (results["macs"], results["params"]) == (cost.macs, cost.params)
    assert results["latency"]["median_ms"] > 0
    assert results["latency"]["batch_size"] == 1
    assert f"({correct} of {CLASSES * TEST})" in done.stdout


def test_evaluate_leaves_calibration_pictures_out(
    at_home: Path, pruned: object, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = ["--data", "pictures", "--split", "train", "--preprocessing", "cifar", "--quiet"]
    exclude = ["--exclude-calibration-of", "half.safetensors"]
    assert main(["evaluate", "--pruned", "half.safetensors", *pictures]) == 0
    assert "warning: 16 of these 40 pictures were seen in calibration" in capsys.readouterr().err
    assert main(["evaluate", "--pruned", "half.safetensors", *pictures, *exclude]) == 0
    shown = capsys.readouterr()
    assert "of 24)" in shown.out
    assert shown.err == ""
    model = ["--model", "scionet:resnet20", "--weights", "weights.pt"]
    assert main(["evaluate", *model, *pictures, *exclude, "--images", "20"]) == 0
    assert "of 20)" in capsys.readouterr().out
    assert main(["evaluate", *model, *pictures, *exclude, "--split", "test"]) == 1
    assert "is not what the calibration pictures were sampled from" in capsys.readouterr().err


@pytest.mark.slow
def test_prune_evaluates_on_the_rest(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--method", "l1", "--out", "rest.safetensors", "--evaluate-rest", "--quiet"]
    assert main(["prune", "--config", "prune.toml", *flags]) == 0
    shown = capsys.readouterr()
    assert "accuracy (24 pictures)" in shown.out
    assert shown.err == ""
    assert main(["prune", "--config", "prune.toml", *flags, "--overwrite", "--evaluate-images", "5"]) == 0
    assert "accuracy (5 pictures)" in capsys.readouterr().out


def test_dropped_branches_are_shown_and_recorded(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--method", "l1", "--widths", "uniform", "--repair", "--depth", "layer1.1", "layer2.2", "--quiet"]
    assert main(["prune", "--config", "prune.toml", "--out", "shallow.safetensors", *flags]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"residual branches │ +6 │ +4 │ +2 dropped", shown)
    assert "2 of 6 residual branches dropped: layer1.1, layer2.2" in shown
    plan = read_plan(at_home / "shallow.safetensors")
    assert plan.settings["depth"] == {"name": "drop_branches", "branches": ["layer1.1", "layer2.2"], "constants": True}
    assert {name: constant.shape for name, constant in plan.dropped.items()} == {"layer1.1": (16,), "layer2.2": (32,)}
    assert not [*load_pruned(at_home / "shallow.safetensors").get_submodule("layer1.1.conv1").parameters()]
    assert describe(at_home / "shallow.safetensors")["dropped"] == ["layer1.1", "layer2.2"]


def test_labels_are_used_by_the_loss_objective(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--objective", "task_loss", "--task-loss.tolerance", "10", "--repair", "--budget", "None", "--quiet"]
    whole = ["--ignored-layers", "conv1", "layer1.*", "layer2.*", "layer3.0*", "layer3.1*"]
    more = ["--calibration-images", "4", "--out", "loss.safetensors"]
    assert main(["prune", "--config", "prune.toml", *flags, *whole, *more]) == 0
    assert read_plan(at_home / "loss.safetensors").settings["method"]["objective"]["name"] == "task_loss"
    assert "saved to loss.safetensors" in capsys.readouterr().out


@pytest.mark.slow
def test_a_budget_on_latency_is_met_by_prediction_and_its_table_is_kept(
    at_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, budget = tmp_path / "table.json", "macs<=95%, latency<=95%"
    flags = ["--budget", budget, "--latency-table", str(table), "--latency-batch", "4", "--method", "l1", "--quiet"]
    for name in ("first", "second"):
        out = str(tmp_path / f"{name}.safetensors")
        assert main(["prune", "--config", "prune.toml", *flags, "--out", out]) == 0
        shown = capsys.readouterr().out
        assert numbers(shown, "latency, predicted")[2] <= 95
        assert "latency, measured" in shown
        assert ("latency table written to" in shown) == (name == "first")
    assert LatencyTable.load(table).origin.inputs == "float32 4x3x32x32"
    plans = [read_plan(tmp_path / f"{name}.safetensors") for name in ("first", "second")]
    assert plans[0].identity == plans[1].identity


def test_a_function_named_in_a_file_runs_only_when_trusted(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model", "scionet.models.resnets:resnet20", "--method", "l1", "--out", "own.safetensors", "--quiet"]
    assert main(["prune", "--config", "prune.toml", *flags]) == 0
    evaluate = ["evaluate", "--pruned", "own.safetensors", "--data", "pictures", "--split", "test", "--quiet"]
    assert main(evaluate) == 1
    assert "can run any code" in capsys.readouterr().err
    for trusted in (["--trust-factory"], ["--model", "scionet:resnet20"]):
        assert main([*evaluate, *trusted]) == 0
        assert f"of {CLASSES * TEST})" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".pt2", pytest.param(".onnx", marks=pytest.mark.slow)])
def test_export_writes_a_file_that_computes_the_same(
    suffix: str, at_home: Path, pruned: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "--pruned", "half.safetensors", "--to", f"half{suffix}", "--quiet"]) == 0
    assert "agree to" in capsys.readouterr().out
    inputs = torch.randn(5, 3, 32, 32)
    if suffix == ".onnx":
        session = onnxruntime.InferenceSession(f"half{suffix}", providers=["CPUExecutionProvider"])
        found = torch.as_tensor(session.run(None, {session.get_inputs()[0].name: inputs.numpy()})[0])
    else:
        found = torch.export.load(f"half{suffix}").module()(inputs)
    with torch.no_grad():
        expected = load_pruned("half.safetensors").eval()(inputs)
    torch.testing.assert_close(found.detach(), expected, rtol=1e-4, atol=1e-4)


def test_ctrl_c_ends_cleanly_and_leaves_nothing(home: Path, tmp_path: Path) -> None:
    slow = ["--objective", "task_loss", "--repair", "--calibration-images", "32", "--ignored-layers"]
    command = [sys.executable, "-m", "scionet", "prune", "--config", "prune.toml", *slow]
    command += ["--out", str(tmp_path / "x.safetensors"), "--weights", "None"]
    with subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        assert "RANDOM weights" in process.stderr.readline()  # the long work begins
        time.sleep(1.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted; no file is left half written" in err
    assert "Traceback" not in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []
