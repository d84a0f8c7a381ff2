"""Labelled pictures in a directory or a zip file."""

import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scionet.data.images import Pixels
from scionet.errors import CalibrationError, InvalidSetting

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@dataclass(frozen=True)
class ImageFolder:
    """Labelled pictures in a directory or a zip file, laid out as ``[split/]class/name.jpg``.

    Nothing is extracted: pictures are read from the zip file where they stand.

    Attributes:
        root: The directory or zip file.
        split: Folder above the classes, such as ``"train"``; None where the classes stand at the top.
        classes: Names of the class folders, sorted; the position of a name is its label.
        paths: Every picture below `root`, sorted by class and name.
        labels: The label of every picture.
    """

    root: str | Path
    split: str | None = None
    classes: tuple[str, ...] = field(init=False, repr=False)
    paths: tuple[str, ...] = field(init=False, repr=False)
    labels: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """List the pictures.

        Raises:
            InvalidSetting: If there is no such directory or zip file, no such split, or no picture in a class folder.
        """
        found = sorted(_pictures(Path(self.root)))
        above = () if self.split is None else (self.split,)
        paths = [parts for parts in found if len(parts) == len(above) + 2 and parts[:-2] == above]
        if not paths:
            raise InvalidSetting(_nothing_found(self.root, self.split, found))
        classes = sorted({parts[-2] for parts in paths})
        label_of = {name: label for label, name in enumerate(classes)}
        object.__setattr__(self, "classes", tuple(classes))
        object.__setattr__(self, "paths", tuple(map("/".join, paths)))
        object.__setattr__(self, "labels", tuple(label_of[parts[-2]] for parts in paths))

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.paths)

    def chosen(self, indices: Sequence[int] | NDArray[np.int64] | None) -> tuple[int, ...]:
        """Indices of pictures, checked; None takes all.

        Raises:
            InvalidSetting: If there is none, or one is out of range.
        """
        chosen = tuple(range(len(self))) if indices is None else tuple(int(i) for i in indices)
        if not chosen:
            raise InvalidSetting(f"no picture of {self.root} is chosen; give at least one index")
        if min(chosen) < 0 or max(chosen) >= len(self):
            raise InvalidSetting(f"indices {min(chosen)}..{max(chosen)} are outside of the {len(self)} pictures")
        return chosen

    @contextmanager
    def reader(self) -> Iterator[Callable[[int], bytes]]:
        """A function from the index of a picture to its file's bytes; safe to call from several threads."""
        root = Path(self.root)
        if root.is_dir():
            yield lambda index: (root / self.paths[index]).read_bytes()
        else:
            with zipfile.ZipFile(root) as archive:
                yield lambda index: archive.read(self.paths[index])


def read_picture(
    folder: ImageFolder, prepare: Callable[[bytes], Pixels], read: Callable[[int], bytes], index: int
) -> Pixels:
    """One picture, ready but for the normalisation.

    Args:
        folder: Where it is.
        prepare: Makes pixels of a file's bytes.
        read: A reader of the folder.
        index: Which one.

    Raises:
        CalibrationError: If it cannot be read, decoded or cropped; the text names the file.
    """
    try:
        return prepare(read(index))
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        name = f"{folder.paths[index]} in {folder.root}"
        raise CalibrationError(f"cannot use the picture {name}: {error}; repair or remove it") from error


def _pictures(root: Path) -> Iterator[tuple[str, ...]]:
    """Paths of all pictures below a directory or in a zip file, relative to it and split at the slashes.

    Raises:
        InvalidSetting: If it is neither.
    """
    if root.is_dir():
        names = (path.relative_to(root).as_posix() for path in root.rglob("*"))
    elif root.is_file() and zipfile.is_zipfile(root):
        with zipfile.ZipFile(root) as archive:
            names = archive.namelist()
    else:
        state = "is neither" if root.exists() else "does not exist"
        raise InvalidSetting(f"{root} {state}; give a directory or a zip file laid out as [split/]class/name.jpg")
    split = (tuple(name.split("/")) for name in names if name.lower().endswith(SUFFIXES))
    return (parts for parts in split if not parts[-1].startswith("."))


def _nothing_found(root: str | Path, split: str | None, found: list[tuple[str, ...]]) -> str:
    """Why there are no pictures, for a person who gave the wrong split or the wrong folder."""
    given = f"{root} has no pictures at {'class' if split is None else split + '/class'}/name.jpg"
    if not found:
        return f"{given}, nor elsewhere; allowed are the types {', '.join(SUFFIXES)}"
    splits = sorted({parts[0] for parts in found if len(parts) == 3})
    advice = f"give the split {' or '.join(splits[:4])}" if splits else "give a folder with one folder per class"
    return f"{given}, but for example {'/'.join(found[0])}; {advice}"
