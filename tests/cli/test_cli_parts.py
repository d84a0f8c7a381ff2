import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.commandline import CLASSES, TEST

from scionet.choices.depth import BranchDamage, BranchScores, DropBranches
from scionet.cli import parse
from scionet.commands.chosen import chosen_depth
from scionet.commands.networks import keywords, random_weights, without_weights
from scionet.commands.options import Evaluate, Finetune, Pictures, Prune
from scionet.commands.pictures import PRESETS, ImageSample, preprocessing, remaining
from scionet.data import sampling
from scionet.data.folders import ImageFolder
from scionet.data.images import Preprocessing
from scionet.errors import InvalidSetting, PruneError


@given(count=st.integers(1, CLASSES * TEST - 1), seed=st.integers(0, 2**32), data=st.data())
def test_a_sample_and_what_remains(home: Path, count: int, seed: int, data: st.DataObject) -> None:
    folder = ImageFolder(home / "pictures", "test")
    sample, sampled = ImageSample.of(folder, count, seed)
    rest = remaining(folder, sampled)
    assert sorted([*sampled, *rest]) == list(range(len(folder)))
    assert len(sampled) == count
    assert ImageSample(**json.loads(json.dumps(vars(sample)))).again(folder).tolist() == sampled.tolist()
    few = sampling.sampled(rest, data.draw(st.integers(1, len(rest))), np.random.default_rng(seed), "pictures")
    assert len(set(few)) == len(few)
    assert set(few) <= set(rest)


def test_a_sample_is_found_again_only_in_the_same_folder(home: Path) -> None:
    sample, _ = ImageSample.of(ImageFolder(home / "pictures", "test"), 5, 0)
    with pytest.raises(InvalidSetting, match="is not what"):
        sample.again(ImageFolder(home / "pictures", "train"))
    with pytest.raises(InvalidSetting, match="numpy"):
        replace(sample, seed=1).again(ImageFolder(home / "pictures", "test"))


def test_single_flags_change_the_recorded_or_named_preparation() -> None:
    recorded = Preprocessing(size=40, crop=32)
    plain = Pictures(data=Path())
    assert preprocessing(plain, recorded) == recorded
    assert preprocessing(replace(plain, crop=30), recorded) == Preprocessing(size=40, crop=30)
    assert preprocessing(replace(plain, preprocessing="imagenet", size=232), recorded) == replace(
        PRESETS["imagenet"], size=232
    )
    assert preprocessing(replace(plain, std=(1, 1, 1))) == Preprocessing(std=(1, 1, 1))


def test_every_preset_has_a_name_on_the_command_line() -> None:
    for name in PRESETS:
        command = parse(["evaluate", "--data", "d", "--preprocessing", name])
        assert isinstance(command, Evaluate)
        assert preprocessing(command.pictures) == PRESETS[name]


PRUNE = ["prune", "--model", "scionet:resnet20", "--data", "d", "--budget", "macs<=50%", "--out", "o.safetensors"]


@pytest.mark.parametrize(
    ("flags", "table", "expected"),
    [
        ([], "", None),
        (["--depth", "layer1.0"], "depth = 'layer1.0'", DropBranches(("layer1.0",))),
        (["--depth", "layer1.0", "b"], "depth = ['layer1.0', 'b']", DropBranches(("layer1.0", "b"))),
        (["--depth", "branch_scores"], "depth = 'branch_scores'", BranchScores()),
        (
            ["--depth", "branch_damage", "--branch-damage.count", "2", "--branch-damage.no-constants"],
            "depth = 'branch_damage'\n[branch_damage]\ncount = 2\nconstants = false",
            BranchDamage(2, constants=False),
        ),
    ],
)
def test_branches_to_drop_on_the_command_line_and_in_a_file(
    flags: list[str], table: str, expected: object, tmp_path: Path
) -> None:
    file = tmp_path / "prune.toml"
    file.write_text(table)
    for words in (flags, ["--config", str(file)]):
        command = parse([*PRUNE, *words])
        assert isinstance(command, Prune)
        assert chosen_depth(command) == expected


def test_hyperparameters_of_an_optimiser_are_names_and_json(tmp_path: Path) -> None:
    file = tmp_path / "tune.toml"
    file.write_text(
        "[settings]\noptimiser = 'adam'\n[settings.optimiser_settings]\nbetas = [0.8, 0.9]\namsgrad = true\n"
    )
    base = ["finetune", "--pruned", "a.safetensors", "--out", "b.safetensors", "--data", "d"]
    flags = ["--optimiser", "adam", "--optimiser-settings", "betas=[0.8,0.9]", "amsgrad=true"]
    by_file, by_flags = parse([*base, "--config", str(file)]), parse([*base, *flags])
    assert isinstance(by_file, Finetune)
    assert isinstance(by_flags, Finetune)
    assert by_file.settings == by_flags.settings
    assert by_flags.settings.optimiser_settings == {"betas": (0.8, 0.9), "amsgrad": True}
    assert parse(base).settings.optimiser_settings == {}  # type: ignore[attr-defined]
    assert parse([*base, "--config", str(file), "--optimiser-settings", "eps=1e-6"]).settings.optimiser_settings == {
        "eps": 1e-6
    }  # type: ignore[attr-defined]
    file.write_text("[settings.optimiser_settings]\n-x = 1\n")
    with pytest.raises(InvalidSetting, match=r"optimiser_settings in .* would be an option"):
        parse([*base, "--config", str(file)])


@pytest.mark.parametrize("text", ["0.9", "=0.9", "b-etas=0.9"])
def test_hyperparameters_without_a_name_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["finetune", "--pruned", "a", "--out", "b", "--data", "d", "--optimiser-settings", text])
    assert f"a value by name is written NAME=VALUE, such as eps=1e-6; given '{text}'" in capsys.readouterr().err


def test_arguments_of_a_factory_are_json_or_text() -> None:
    assert keywords(["n=10", "p=true", "w=DEFAULT", "s=a=b", "f=0.5"]) == {
        "n": 10,
        "p": True,
        "w": "DEFAULT",
        "s": "a=b",
        "f": 0.5,
    }
    with pytest.raises(PruneError, match="NAME=VALUE"):
        keywords(["=3"])


@pytest.mark.parametrize(
    ("factory", "kwargs", "expected"),
    [
        ("scionet:resnet20", {}, True),
        ("scionet:efficientnet_lite0", {}, False),
        ("scionet:efficientnet_lite0", {"pretrained": False}, True),
        ("timm:resnet50d", {}, True),
        ("timm:resnet50d", {"pretrained": True}, False),
        ("torchvision:resnet18", {}, True),
        ("torchvision:resnet18", {"weights": "DEFAULT"}, False),
        ("my.package:network", {}, False),
    ],
)
def test_random_weights_are_known(factory: str, kwargs: dict[str, object], expected: bool) -> None:
    assert random_weights(factory, kwargs) is expected


def test_a_pruned_file_asks_for_no_download() -> None:
    given_ = {"pretrained": True, "weights": "DEFAULT", "num_classes": 10}
    assert without_weights("torchvision:resnet18", given_) == without_weights("timm:x", given_) == {"num_classes": 10}
    assert without_weights("my.package:network", given_) == given_
