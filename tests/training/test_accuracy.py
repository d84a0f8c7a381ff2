import pytest
import torch
from torch import Tensor, nn

from scionet.errors import CalibrationError
from scionet.files.safetensors_files import hash_tensors
from scionet.network.calling import state_of
from scionet.training.accuracy import Accuracy, accuracy


@pytest.fixture
def classifier() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))


def examples(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 6, generator=generator), torch.randint(3, (count,), generator=generator)


def test_accuracy_counts_examples_and_not_batches(classifier: nn.Sequential) -> None:
    images, labels = examples(103)
    batches = list(zip(images.split(25), labels.split(25), strict=True))
    assert len(batches[-1][0]) == 3
    measured = accuracy(classifier.train(), batches)
    classifier.eval()
    right = [int(classifier(image[None]).argmax()) == int(label) for image, label in zip(images, labels, strict=True)]
    assert measured == Accuracy(sum(right), 103)
    assert measured.rate == sum(right) / 103
    assert 0 < measured.correct < 103


def test_accuracy_leaves_no_trace(classifier: nn.Sequential) -> None:
    classifier.train()
    classifier[3].eval()
    before = hash_tensors(state_of(classifier)), [m.training for m in classifier.modules()], torch.get_rng_state()
    accuracy(classifier, [examples(8)])
    after = hash_tensors(state_of(classifier)), [m.training for m in classifier.modules()], torch.get_rng_state()
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])
    assert all(parameter.grad is None for parameter in classifier.parameters())


def test_accuracy_takes_images_of_another_type(classifier: nn.Sequential) -> None:
    images, labels = examples(20)
    expected = accuracy(classifier, [(images, labels)])
    assert accuracy(classifier.double(), [(images, labels)]) == expected


@pytest.mark.parametrize(("bf16", "dtype"), [(False, torch.float32), (True, torch.bfloat16)])
def test_accuracy_in_bfloat16_only_if_asked(classifier: nn.Sequential, bf16: bool, dtype: torch.dtype) -> None:
    seen: list[torch.dtype] = []
    classifier.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    accuracy(classifier, [examples(4)], bf16=bf16)
    assert seen == [dtype]


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "no example"),
        ([(torch.zeros(4, 6), torch.zeros(3).long())], r"labels \(batch,\); given \(4, 3\) and \(3,\)"),
        ([(torch.zeros(4, 6), torch.zeros(4, 3))], r"given \(4, 3\) and \(4, 3\)"),
        ([(torch.full((4, 6), torch.nan), torch.zeros(4).long())], "NaN or infinite"),
    ],
    ids=["none", "labels too few", "labels one-hot", "nan"],
)
def test_accuracy_refuses_what_has_none(classifier: nn.Sequential, batches: list, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        accuracy(classifier, batches)
