"""Hostile pictures and archives: every outcome is pixels or an error of ours, in bounded memory, without a process."""

import gzip
import os
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.albums import SQUARE
from support.hostile_files import ARCHIVES, NAME, PICTURES, Make, archive, encoded, flat, mutated

from scionet.data.batches import batches
from scionet.data.examples import ImageExamples
from scionet.data.folders import ImageFolder
from scionet.data.images import FORMATS, MAX_FILE_BYTES, MAX_RESIZED_PIXELS, Preprocessing, decode
from scionet.data.sources import read_source
from scionet.errors import CalibrationError, InvalidSetting

REFUSALS = (CalibrationError, InvalidSetting)
IMAGENET = Preprocessing(256, 224)


def read(root: Path) -> None:
    """Read all pictures in both ways."""
    folder = ImageFolder(root)
    list(batches(folder, SQUARE, 4))
    examples = ImageExamples(folder, SQUARE)
    assert [examples[number][1] for number in range(len(examples))] == [0]


@pytest.mark.parametrize("make", ARCHIVES.values(), ids=ARCHIVES)
def test_hostile_archives_are_refused(tmp_path: Path, make: Make) -> None:
    with pytest.raises(REFUSALS, match=r"picture|class/name\.jpg|damaged zip"):
        read(make(tmp_path))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("content", PICTURES.values(), ids=PICTURES)
def test_hostile_pictures_are_refused_by_name(tmp_path: Path, content: bytes, zipped: bool) -> None:
    root = archive(tmp_path, content=content) if zipped else tmp_path
    if not zipped:
        (tmp_path / "class").mkdir()
        (tmp_path / NAME).write_bytes(content)
    with pytest.raises(CalibrationError, match=NAME):
        list(batches(ImageFolder(root), IMAGENET, 4))


def test_a_name_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns while it writes it
        path = archive(tmp_path, repeats=2)
    with pytest.raises(InvalidSetting, match="occurs more than once"):
        ImageFolder(path)


def test_honest_archives_are_read(tmp_path: Path) -> None:
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        read(archive(tmp_path, compression=compression))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
@pytest.mark.parametrize("kind", ["pipe", "device", "directory", "large", "dangling"])
def test_what_is_no_small_regular_file_is_not_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / NAME
    path.parent.mkdir()
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "directory":
            path.mkdir()
        case "large":
            path.touch()
            os.truncate(path, MAX_FILE_BYTES + 1)
        case "dangling":
            path.symlink_to("nowhere")
    with pytest.raises(CalibrationError, match=NAME):
        read(tmp_path)


def test_no_format_of_pillow_starts_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    for content in PICTURES.values():
        with pytest.raises(CalibrationError):
            Preprocessing(256).pixels(content)


def test_the_resized_picture_is_bounded_however_it_is_resized() -> None:
    side = int(MAX_RESIZED_PIXELS**0.5) + 1
    for preprocessing in (Preprocessing(), Preprocessing(crop=10), Preprocessing(side, side), Preprocessing(2**20)):
        with pytest.raises(CalibrationError, match="after the resize"):
            preprocessing.pixels(flat(side, side))


def outcomes(data: bytes, use: Callable[[bytes], object], count: int, seed: int) -> int:
    """Mutate; the number of mutations that were accepted. Whatever is raised is an error of ours."""
    rng, accepted = np.random.default_rng(seed), 0
    for _ in range(count):
        changed = mutated(data, rng)
        try:
            use(changed)
            accepted += 1
        except REFUSALS:
            pass
    return accepted


@pytest.mark.filterwarnings("ignore")  # Pillow's own, of what is damaged
@pytest.mark.parametrize("kind", FORMATS)
def test_mutated_pictures_are_decoded_or_refused(kind: str, fuzz_cases: int) -> None:
    assert outcomes(encoded(kind), SQUARE.pixels, fuzz_cases, 1) < fuzz_cases


@pytest.mark.filterwarnings("ignore")
def test_mutated_archives_are_read_or_refused(tmp_path: Path, fuzz_cases: int) -> None:
    path = archive(tmp_path, content=encoded("PNG", 12, 12))

    def use(data: bytes) -> None:
        path.write_bytes(data)
        _ = ImageExamples(ImageFolder(path), SQUARE)[0]

    assert outcomes(path.read_bytes(), use, fuzz_cases, 2) < fuzz_cases


MEASURE = """
import sys
from pathlib import Path
from scionet.data.examples import ImageExamples
from scionet.data.folders import ImageFolder
from scionet.data.images import Preprocessing
from scionet.data.sources import read_source
from scionet.errors import PruneError

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 2**10

before = peak()
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        if path.is_dir():
            read_source(f"idx:{path}", Preprocessing(), Path())
        else:
            ImageExamples(ImageFolder(path), Preprocessing(256, 224))[0]
    except PruneError:
        continue
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_no_file_takes_a_gigabyte(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    all_of = {name: make for name, make in ARCHIVES.items() if "size" in name or "bomb" in name}
    all_of |= {name: (lambda folder, c=content: archive(folder, content=c)) for name, content in PICTURES.items()}
    all_of["the largest allowed"] = lambda folder: archive(folder, content=flat(7_870, 7_870))
    for number, make in enumerate(all_of.values()):
        make(tmp_path).rename(tmp_path / "made" / f"{number}.zip")
    bomb = tmp_path / "made" / "idx"
    bomb.mkdir()
    write_idx_bomb(bomb)
    found = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "made")], capture_output=True, text=True, check=True, timeout=100
    )
    assert float(found.stdout) < 700


def write_idx_bomb(folder: Path) -> None:
    """MNIST's files, of which one unpacks to 800 MB."""
    block = gzip.compress(bytes(2**23), 9)
    with (folder / "train-images-idx3-ubyte.gz").open("wb") as file:
        file.write(gzip.compress(bytes((0, 0, 8, 3)) + b"".join(n.to_bytes(4, "big") for n in (100 * 2**13, 32, 32))))
        file.writelines([block] * 100)


@pytest.mark.parametrize("dimensions", [(2**31, 28, 28), (2**32 - 1, 1, 1), (0, 0, 0), (7, 5, 5), (1, 5, 4)])
def test_idx_headers_that_do_not_fit_are_refused(tmp_path: Path, dimensions: tuple[int, ...]) -> None:
    content = bytes((0, 0, 8, 3)) + b"".join(n.to_bytes(4, "big") for n in dimensions) + bytes(7 * 5 * 4)
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(content)
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(bytes((0, 0, 8, 1, 0, 0, 0, 7)) + bytes(7))
    with pytest.raises(InvalidSetting, match="train-images-idx3-ubyte is damaged"):
        read_source(f"idx:{tmp_path}", Preprocessing(), Path())


NAMES = ("a\x1b[31mred", "two\nlines", "bell\x07", "right\u202eleft", "line\u2028end", "\x9bcsi")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("zipped", [True, False])
def test_names_with_control_characters_are_escaped_in_messages(tmp_path: Path, name: str, zipped: bool) -> None:
    root, path = tmp_path, f"class/{name}.png"
    if zipped:
        root = archive(tmp_path, path, b"no picture")
    else:
        (tmp_path / "class").mkdir()
        (tmp_path / path).write_bytes(b"no picture")
    with pytest.raises(CalibrationError) as caught:
        read(root)
    assert str(caught.value).isprintable()
    assert name.encode("unicode_escape").decode() in str(caught.value)


def test_decode_is_given_no_name() -> None:
    """Pillow chooses by content alone, so the suffix of a file decides nothing."""
    assert decode(encoded("WEBP")).mode == "RGB"
