"""Labelled images in a directory or a zip file."""

import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scionet.data.archives import is_archive, open_archive, read_entry, refuse_odd
from scionet.data.images import MAX_FILE_BYTES, Pixels
from scionet.errors import CalibrationError, InvalidSetting

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@dataclass(frozen=True)
class ImageFolder:
    """Labelled images in a directory or a zip file, laid out as ``[split/]class/name.jpg``.

    A zip file is not extracted; images are read from it directly. What is unusual in it (an encrypted entry, a link, a
    name with ``..``, a name that occurs twice, a file beyond `scionet.data.images.MAX_FILE_BYTES`) is an error.

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
            InvalidSetting: If the directory, zip file or split does not exist, has no images in class folders, or the
                zip file is damaged or unusual.
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
            yield lambda index: read_file(root / self.paths[index])
        else:
            with open_archive(root) as archive:
                yield lambda index: read_entry(archive, self.paths[index])


def read_file(path: Path) -> bytes:
    """Read a picture's file.

    Raises:
        CalibrationError: If it is no regular file (opening a pipe would wait for ever), or too large.
        OSError: If it cannot be read.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise CalibrationError("it is no regular file")
    if found.st_size > MAX_FILE_BYTES:
        raise CalibrationError(f"it has {found.st_size:,} bytes, more than {MAX_FILE_BYTES:,}")
    with path.open("rb") as file:
        return file.read(MAX_FILE_BYTES)


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
    except (OSError, ValueError) as error:
        name = f"{folder.paths[index]} in {folder.root}"
        raise CalibrationError(f"cannot use the image {name}: {error}; repair or remove it") from error


def _image_paths(root: Path) -> Iterator[tuple[str, ...]]:
    """Relative paths of all images below a directory or in a zip file, split at slashes.

    Raises:
        InvalidSetting: If `root` is neither, or a zip file that is damaged or unusual.
    """
    if root.is_dir():
        names = [path.relative_to(root).as_posix() for path in root.rglob("*")]
        return (tuple(name.split("/")) for name in names if _is_image(name))
    if not is_archive(root):
        problem = "is neither a directory nor a zip file" if root.exists() else "does not exist"
        raise InvalidSetting(f"{root} {problem}; give a directory or a zip file laid out as [split/]class/name.jpg")
    with open_archive(root) as archive:
        entries = [entry for entry in archive.infolist() if _is_image(entry.filename)]
    refuse_odd(root, entries)
    return (tuple(entry.filename.split("/")) for entry in entries)


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.rpartition("/")[2].startswith(".")


def _nothing_found(root: str | Path, split: str | None, found: list[tuple[str, ...]]) -> str:
    """Error message for a wrong split or folder."""
    given = f"{root} has no images at {'class' if split is None else split + '/class'}/name.jpg"
    if not found:
        return f"{given}, nor elsewhere; supported types are {', '.join(SUFFIXES)}"
    splits = sorted({parts[0] for parts in found if len(parts) == 3})
    advice = f"give the split {' or '.join(splits[:4])}" if splits else "give a folder with one folder per class"
    return f"{given}, but has, for example, {'/'.join(found[0])}; {advice}"
