import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from scionet.data.augmentation import Augmentation
from scionet.data.images import Preprocessing
from scionet.errors import InvalidSetting
from scionet.models.factory import import_torchvision

SEEDS = st.integers(0, 2**32)
SIDES = st.integers(9, 60)


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8))


@given(seed=SEEDS, side=SIDES, padding=st.integers(1, 8))
def test_shift_is_that_of_torchvision(seed: int, side: int, padding: int) -> None:
    transforms = import_torchvision().transforms
    theirs = transforms.Compose([transforms.RandomCrop(side, padding), transforms.RandomHorizontalFlip()])
    image = picture(side, side)
    ours = Augmentation("shift", padding).transform(Preprocessing())
    torch.manual_seed(seed)
    expected = np.asarray(theirs(image))
    torch.manual_seed(seed)
    assert np.array_equal(ours(image), expected)


@given(seed=SEEDS, width=SIDES, height=SIDES, smallest=st.floats(0.05, 1), bicubic=st.booleans())
def test_zoom_is_that_of_torchvision(seed: int, width: int, height: int, smallest: float, bicubic: bool) -> None:
    transforms = import_torchvision().transforms
    kind = transforms.InterpolationMode.BICUBIC if bicubic else transforms.InterpolationMode.BILINEAR
    crop = transforms.RandomResizedCrop(12, (smallest, 1.0), interpolation=kind)
    theirs = transforms.Compose([crop, transforms.RandomHorizontalFlip()])
    image = picture(width, height)
    prepared = Preprocessing(16, 12, interpolation="bicubic" if bicubic else "bilinear")
    torch.manual_seed(seed)
    expected = np.asarray(theirs(image))
    torch.manual_seed(seed)
    assert np.array_equal(Augmentation("zoom", smallest_crop=smallest).transform(prepared)(image), expected)


def test_shift_starts_with_the_preprocessing() -> None:
    image = picture(30, 20)
    prepared = Preprocessing(16, 12)
    framed = np.asarray(prepared.framed(image))
    found = {Augmentation("shift", 0).transform(prepared)(image).tobytes() for _ in range(20)}
    assert found == {framed.tobytes(), framed[:, ::-1].tobytes()}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "shfit"}, r"unknown augmentation 'shfit'.*Did you mean 'shift'"),
        ({"kind": "shift", "padding": -1}, "padding must be at least 0"),
        ({"kind": "zoom", "smallest_crop": 0.0}, r"smallest_crop in \(0, 1\]"),
    ],
)
def test_nonsense_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        Augmentation(**settings)


def test_zoom_needs_a_side() -> None:
    with pytest.raises(InvalidSetting, match="'zoom' needs a crop size; set crop"):
        Augmentation("zoom").transform(Preprocessing(size=20))
