"""Labelled images in a directory or a zip file."""

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
    """Labelled images in a directory or a zip file, laid out as ``[split/]class/name.jpg``.

    A zip file is not extracted; images are read from it directly.

    Attributes:
        root: The directory or zip file.
        split: Folder above the class folders, such as ``"train"``; None if these are at the top.
        classes: Names of the class folders, sorted. The position of a name is its label.
        paths: Paths of all images below `root`, sorted by class and name.
        labels: Label of each image.
    """

    root: str | Path
    split: str | None = None
    classes: tuple[str, ...] = field(init=False, repr=False)
    paths: tuple[str, ...] = field(init=False, repr=False)
    labels: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """List the images.

        Raises:
            InvalidSetting: If the directory, zip file or split does not exist, or has no images in class folders.
        """
        found = sorted(_image_paths(Path(self.root)))
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
        """Number of images."""
        return len(self.paths)

    def chosen(self, indices: Sequence[int] | NDArray[np.int64] | None) -> tuple[int, ...]:
        """Check indices of images; None takes all.

        Raises:
            InvalidSetting: If `indices` is empty, or an index is out of range.
        """
        chosen = tuple(range(len(self))) if indices is None else tuple(int(i) for i in indices)
        if not chosen:
            raise InvalidSetting(f"no image of {self.root} is selected; give at least one index")
        if min(chosen) < 0 or max(chosen) >= len(self):
            raise InvalidSetting(
                f"indices must lie in 0..{len(self) - 1}, since there are {len(self)} images; given "
                f"{min(chosen)}..{max(chosen)}"
            )
        return chosen

    @contextmanager
    def reader(self) -> Iterator[Callable[[int], bytes]]:
        """A thread-safe function from an image's index to its file's bytes."""
        root = Path(self.root)
        if root.is_dir():
            yield lambda index: (root / self.paths[index]).read_bytes()
        else:
            with zipfile.ZipFile(root) as archive:
                yield lambda index: archive.read(self.paths[index])


def read_image(
    folder: ImageFolder, prepare: Callable[[bytes], Pixels], read: Callable[[int], bytes], index: int
) -> Pixels:
    """Read, decode, resize and crop one image.

    Args:
        folder: The image folder.
        prepare: Converts a file's bytes to pixels.
        read: A reader of the folder.
        index: Index of the image.

    Raises:
        CalibrationError: If the image cannot be read, decoded or cropped; the message names the file.
    """
    try:
        return prepare(read(index))
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        name = f"{folder.paths[index]} in {folder.root}"
        raise CalibrationError(f"cannot use the image {name}: {error}; repair or remove it") from error


def _image_paths(root: Path) -> Iterator[tuple[str, ...]]:
    """Relative paths of all images below a directory or in a zip file, split at slashes.

    Raises:
        InvalidSetting: If `root` is neither.
    """
    if root.is_dir():
        names = (path.relative_to(root).as_posix() for path in root.rglob("*"))
    elif root.is_file() and zipfile.is_zipfile(root):
        with zipfile.ZipFile(root) as archive:
            names = archive.namelist()
    else:
        problem = "is neither a directory nor a zip file" if root.exists() else "does not exist"
        raise InvalidSetting(f"{root} {problem}; give a directory or a zip file laid out as [split/]class/name.jpg")
    split = (tuple(name.split("/")) for name in names if name.lower().endswith(SUFFIXES))
    return (parts for parts in split if not parts[-1].startswith("."))


def _nothing_found(root: str | Path, split: str | None, found: list[tuple[str, ...]]) -> str:
    """Error message for a wrong split or folder."""
    given = f"{root} has no images at {'class' if split is None else split + '/class'}/name.jpg"
    if not found:
        return f"{given}, nor elsewhere; supported types are {', '.join(SUFFIXES)}"
    splits = sorted({parts[0] for parts in found if len(parts) == 3})
    advice = f"give the split {' or '.join(splits[:4])}" if splits else "give a folder with one folder per class"
    return f"{given}, but has, for example, {'/'.join(found[0])}; {advice}"
