import re
from pathlib import Path

import pytest
import torch

from scionet.cli import main


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "scionet:resnet21"], r"unknown model of scionet 'resnet21'.* Did you mean .*'resnet20'"),
        (["--model", "resnet20"], "a model must be given as timm:NAME"),
        (["--model", "no_such_package:f"], "No module named 'no_such_package'"),
        (["--model-args", "classes"], "NAME=VALUE"),
        (["--model-args", "colours=3"], "does not accept the arguments"),
        (["--model-args", "classes=7"], "weights.pt does not fit CifarResNet"),
        (["--weights", "missing.pt"], "cannot read weights from missing.pt"),
        (["--weights", "prune.toml"], "cannot read weights from prune.toml"),
        (["--method", "l3"], r"unknown method 'l3'.* Did you mean 'l2' or 'l1'"),
        (["--method", "l1", "--objective", "task_loss"], "--objective would do nothing without --method forward.*l1"),
        (["--method", "l1", "--stochastic.epsilon", "0.2"], "--stochastic.epsilon would do nothing without --method f"),
        (["--stochastic.epsilon", "0.2"], "give --candidates stochastic, or leave --stochastic.epsilon out"),
        (["--task-loss.tolerance", "1"], "--task-loss.tolerance would do nothing without --objective task_loss: give"),
        (["--widths", "uniform", "--sensitivity.search", "4"], "give --widths sensitivity, or leave --sensitivity.se"),
        (["--widths", "uniforme"], "unknown widths 'uniforme'; allowed: FILE.json, .* Did you mean 'uniform'"),
        (["--widths", "missing.json"], "cannot read the widths missing.json: No such file"),
        (["--widths", "half.json"], "half.json has no widths: The parameter 'units' of Widths must be a mapping"),
        (["--widths", "widths.json"], "give one of three: --budget.*; --widths FILE.json"),
        (["--widths", "widths.json", "--budget", "None"], "site 'layer1.0.conv1' has 16 units and cannot keep 17"),
        (["--depth", "layer1"], r"unknown residual branch 'layer1'; allowed: layer1.0, .* Did you mean 'layer2.1'"),
        (["--depth", "branch_damage", "layer1.0"], "names of branches, or branch_damage alone; given branch_damage la"),
        (["--branch-damage.count", "2"], "--branch-damage.count would do nothing without --depth branch_damage"),
        (["--widths", "whole"], "say which branches go, such as depth='branch_damage'"),
        (["--repair", "recalibrate", "--refit.no-shortcuts"], "give --repair refit recalibrate, or leave --refit.sh"),
        (["--reconstruct.steps", "3"], "--reconstruct.steps would do nothing without --repair refit reconstruct"),
        (["--round-to", "0"], "The parameter 'round_to' of Limits must be an int of 1 or more; given 0"),
        (["--passes", "0"], "The parameter 'passes' of Forward must be an int of 1 or more; given 0"),
        (["--repair", "recalibrate", "refit"], "repair takes each step once, and Refit first"),
        (["--method", "json:dumps", "--passes", "2"], "--passes is no option of json:dumps"),
        (["--method", "taylor", "--passes", "2"], "set passes=1"),
        (["--ignored-layers", "layer9"], "unknown ignored layer 'layer9'"),
        (["--budget", "macs<=0%"], "must be above 0%"),
        (["--budget", "half"], "half"),
        (["--budget", "latency<=5"], "a unit of time is missing"),
        (["--latency-table", "x.json"], "need a limit on latency"),
        (["--latency-batch", "8"], "need a limit on latency"),
        (["--budget", "latency<=60%", "--latency-table", "prune.toml"], "prune.toml is damaged or no latency table"),
        (["--budget", "latency<=60%", "--latency-table", "x.txt"], "ends in .json"),
        (["--budget", "latency<=60%", "--latency-batch", "17"], "from 1 to the 16 calibration pictures"),
        (["--budget", "macs<=0.001%"], "(?i)smallest"),
        (["--budget", "None"], "give one of three: --budget, such as"),
        (["--budget", "None", "--data", "nowhere"], "give one of three: --budget"),
        (["--objective", "task_loss", "--task-loss.tolerance", "1"], "give one of three: --budget"),
        (["--data", "nowhere"], "nowhere does not exist"),
        (["--split", "valid"], "give the split test or train"),
        (["--calibration-images", "41"], "41 images requested; give 1 to 40, the size of pictures"),
        (["--size", "8", "--crop", "9"], "crop 9 is larger than size 8"),
        (["--evaluate-split", "train"], "split 'train' is seen before"),
        (["--evaluate-split", "test", "--evaluate-rest"], "not both"),
        (["--evaluate-images", "5"], "needs --evaluate-split or --evaluate-rest"),
        (
            ["--evaluate-split", "test", "--evaluate-images", "21"],
            "21 pictures to evaluate on requested; give 1 to",
        ),
        (["--calibration-images", "40", "--evaluate-rest"], "all 40 pictures were sampled"),
        (["--out", "pictures"], "ends in .safetensors"),
        (["--out", "missing/x.safetensors"], "in an existing, writable folder"),
        (["--out", "/proc/x.safetensors"], "in an existing, writable folder"),
        (["--config", "missing.toml"], "cannot read missing.toml"),
    ],
)
@pytest.mark.usefixtures("untouched")
def test_prune_explains_what_is_wrong(
    flags: list[str], message: str, at_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prune", "--config", "prune.toml", "--out", "x.safetensors", "--quiet", *flags]) == 1
    shown = capsys.readouterr()
    assert re.search(message, shown.err), shown.err
    assert shown.err.count("\n") == 1
    assert shown.err.startswith("error: ")
    assert shown.out == ""


def test_pictures_are_not_prepared_by_guess(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model", "scionet:resnet20", "--data", "pictures", "--split", "test"]
    assert main(["evaluate", *flags]) == 1
    assert "Give --preprocessing imagenet or efficientnet_lite or cifar" in capsys.readouterr().err


@pytest.mark.parametrize("bad", ["truncated", "changed", "text", "missing"])
@pytest.mark.usefixtures("pruned")
def test_a_damaged_file_is_refused(bad: str, at_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, path = bytearray((at_home / "half.safetensors").read_bytes()), tmp_path / "bad.safetensors"
    if bad == "changed":
        content[-100] ^= 1
    if bad != "missing":
        path.write_bytes({"truncated": content[:-999], "changed": content, "text": b"no network" * 99}[bad])
    assert main(["evaluate", "--pruned", str(path), "--data", "pictures", "--split", "test"]) == 1
    assert main(["export", "--pruned", str(path), "--to", str(tmp_path / "x.onnx")]) == 1
    errors = capsys.readouterr().err
    assert errors.count("error: ") == 2
    assert errors.count(str(path)) >= 2
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["evaluate", "--pruned", "half.safetensors", "--weights", "weights.pt"], "leave out --weights"),
        (["evaluate", "--preprocessing", "cifar"], "which network"),
        (["evaluate", "--pruned", "half.safetensors", "--model", "scionet:resnet56"], "another architecture"),
        (["evaluate", "--pruned", "half.safetensors", "--json", "prune.toml"], "ends in .json"),
        (["evaluate", "--pruned", "half.safetensors", "--images", "0"], "0 pictures to evaluate on"),
        (["export", "--pruned", "half.safetensors", "--to", "half.txt"], "ends in .onnx or .pt2"),
        (["export", "--pruned", "half.safetensors", "--to", "a.onnx", "--input-shape", "3", "0"], "such as 3 224 224"),
    ],
)
@pytest.mark.usefixtures("pruned", "untouched")
def test_other_commands_explain_what_is_wrong(
    command: list[str], message: str, at_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", "pictures", "--split", "test"] if command[0] == "evaluate" else []
    assert main([*command, *data]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", ["prune", "evaluate", "export"])
def test_existing_files_are_refused_at_once(
    command: str, at_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suffix = {"prune": ".safetensors", "evaluate": ".json", "export": ".onnx"}[command]
    path = tmp_path / f"x{suffix}"
    path.write_text("precious")
    nowhere = ["--model", "none:none", "--data", "nowhere"]  # would fail, but later
    flags = {
        "prune": [*nowhere, "--out", str(path)],
        "evaluate": [*nowhere, "--json", str(path)],
        "export": ["--pruned", "nowhere", "--to", str(path)],
    }
    assert main([command, *flags[command]]) == 1
    assert f"{path} exists; give another name, or --overwrite" in capsys.readouterr().err
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["prone"],
        ["prune", "--model", "scionet:resnet20"],
        ["analyze"],
        ["analyze", "gradient-flow", "--model", "a", "--data", "b", "--plot", "x.svg"],
        ["export", "--pruned", "a", "--to", "b.onnx", "--sed", "1"],
        ["export", "--pruned", "a", "--to", "b.onnx", "--seed", "x"],
        ["export", "--pruned", "a", "--to", "b.onnx", "--seed", "-1"],
        ["export", "--pruned", "a", "--to", "b.onnx", "--threads", "0"],
        ["prune", "--model", "a", "--data", "b", "--out", "c", "--refit.shrinkage", "-1"],
        ["prune", "--model", "a", "--data", "b", "--out", "c", "--refit.shrinkage", "heldout"],
        ["prune", "--model", "a", "--data", "b", "--out", "c", "--objective", "loss"],
        ["prune", "--model", "a", "--data", "b", "--out", "c", "--candidates", "some"],
    ],
)
def test_usage_errors_exit_with_two(args: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(args)
    assert end.value.code == 2


def test_a_value_out_of_range_is_refused_in_plain_words(capsys: pytest.CaptureFixture[str]) -> None:
    for flags, text in (
        (
            ["--refit.shrinkage", "-1"],
            "'shrinkage' of Refit must be a float in [0, 1], 'held_out' or None; given -1.0.",
        ),
        (["--sensitivity.examples", "0"], "'examples' of Sensitivity must be an int of 1 or more; given 0."),
        (["--memory-gib", "-1"], "'memory_gib' of Resources must be a float of 0 or more; given -1.0."),
    ):
        with pytest.raises(SystemExit):
            main(["prune", "--model", "a", "--data", "b", "--out", "c", *flags])
        assert capsys.readouterr().err == f"error: The parameter {text}\n"


def test_debug_shows_where_an_error_comes_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["export", "--pruned", "missing", "--to", str(tmp_path / "x.onnx")]
    assert main(flags) == main([*flags, "--debug"]) == 1
    assert capsys.readouterr().err.count("Traceback") == 1


def test_random_weights_are_announced(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--data", "pictures", "--split", "test", "--preprocessing", "cifar", "--quiet", "--images", "2"]
    assert main(["evaluate", "--model", "scionet:resnet20", *flags]) == 0
    assert "warning: scionet:resnet20 has RANDOM weights" in capsys.readouterr().err


def test_demo_is_run_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scionet import demo

    told: list[object] = []

    def run(out: Path, seed: int, quiet: bool) -> Path:
        told.extend((out, seed, quiet))
        return out / "page.html"

    monkeypatch.setattr(demo, "run", run)
    monkeypatch.setattr("webbrowser.open", told.append)
    assert main(["demo", "--out", str(tmp_path), "--seed", "7", "--open-browser", "--quiet"]) == 0
    assert told == [tmp_path, 7, True, (tmp_path / "page.html").as_uri()]
    assert main(["demo", "--out", str(tmp_path)]) == 0
    assert told[4:] == [tmp_path, 0, False]


def test_trouble_with_a_file_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from scionet import demo

    def run(out: Path, seed: int, quiet: bool) -> Path:
        raise OSError(28, "No space left on device", str(out))

    monkeypatch.setattr(demo, "run", run)
    assert main(["demo", "--out", str(tmp_path)]) == 1
    assert "No space left on device" in capsys.readouterr().err


def test_threads_are_set(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        main(["export", "--pruned", "missing", "--to", str(tmp_path / "x.onnx"), "--threads", "3"])
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
