"""Zip files and pictures that no honest program makes, and mutations of honest files."""

import struct
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from support.albums import noise

NAME = "class/picture.png"

Patch = Callable[[bytearray], None]


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """The data with some bytes replaced, a part removed, repeated or moved."""
    changed = bytearray(data)
    start, length = int(rng.integers(len(data))), int(rng.integers(1, 40))
    match rng.integers(4):
        case 0:
            for place in rng.integers(0, len(data), int(rng.integers(1, 6))):
                changed[place] = int(rng.integers(256))
        case 1:
            del changed[start : start + length]
        case 2:
            changed[start:start] = changed[start : start + length] * int(rng.integers(1, 4))
        case 3:
            del changed[start:]
    return bytes(changed)


def encoded(kind: str, width: int = 24, height: int = 20) -> bytes:
    stream = BytesIO()
    noise(width, height, 0).save(stream, kind)
    return stream.getvalue()


def flat(width: int, height: int, kind: str = "PNG") -> bytes:
    """A picture of one colour, which compresses to nearly nothing."""
    stream = BytesIO()
    Image.new("1", (width, height)).save(stream, kind)
    return stream.getvalue()


def png_claiming(width: int, height: int) -> bytes:
    """A small PNG whose header claims another size."""
    header = b"IHDR" + struct.pack(">II", width, height) + bytes((8, 2, 0, 0, 0))
    data = encoded("PNG")
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 20\n%%EndComments\n(x) show\nshowpage\n%%EOF\n"

PICTURES: dict[str, bytes] = {
    "EPS": EPS,
    "GIF": encoded("GIF"),
    "TIFF": encoded("TIFF"),
    "PPM": encoded("PPM"),
    "ICNS": encoded("ICNS", 32, 32),
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "pickle": b"cos\nsystem\n(S'true'\ntR.",
    "nothing": b"",
    "long strip": flat(1, 60_000),
    "wide strip": flat(60_000, 1),
    "10,000 x 10,000 pixels": flat(10_000, 10_000),
    "20,000 x 20,000 pixels claimed": png_claiming(20_000, 20_000),
    "2 billion pixels claimed": png_claiming(2**31 - 1, 2**31 - 1),
    "no pixels": png_claiming(0, 20),
    "bitmap of claimed size": encoded("BMP")[:18] + struct.pack("<ii", 30_000, 30_000) + encoded("BMP")[26:],
    "half a PNG": encoded("PNG")[:200],
    "half a JPEG": encoded("JPEG")[:200],
    "half a WEBP": encoded("WEBP")[:100],
}
"""Contents of a file called .png or .jpg, none of which is a usable picture."""


def archive(
    folder: Path,
    name: str = NAME,
    content: bytes | None = None,
    compression: int = zipfile.ZIP_DEFLATED,
    mode: int = 0o100644,
    repeats: int = 1,
    patch: Patch | None = None,
) -> Path:
    """A zip file of one picture, and what is odd in it."""
    path = folder / "hostile.zip"
    with zipfile.ZipFile(path, "w") as file:
        for _ in range(repeats):
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, compression
            file.writestr(info, encoded("PNG") if content is None else content)
    if patch is not None:
        data = bytearray(path.read_bytes())
        patch(data)
        path.write_bytes(data)
    return path


def _set(offset_local: int, offset_central: int, layout: str, value: int) -> Patch:
    """Change one field of the entry, in both of its headers."""

    def patch(data: bytearray) -> None:
        central = data.index(b"PK\x01\x02")
        struct.pack_into(layout, data, offset_local, value)
        struct.pack_into(layout, data, central + offset_central, value)

    return patch


def _truncate(data: bytearray) -> None:
    del data[-10:]


def _damage_content(data: bytearray) -> None:
    data[60:80] = bytes(20)


def _damage_directory(data: bytearray) -> None:
    central = data.index(b"PK\x01\x02")
    data[central : central + 4] = b"PK\xff\xff"


def _nested() -> bytes:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w") as inner:
        inner.writestr(NAME, encoded("PNG"))
    return stream.getvalue()


Make = Callable[[Path], Path]

ARCHIVES: dict[str, Make] = {
    "encrypted": lambda folder: archive(folder, patch=_set(6, 8, "<H", 1)),
    "strongly encrypted": lambda folder: archive(folder, patch=_set(6, 8, "<H", 0x41)),
    "patch data": lambda folder: archive(folder, patch=_set(6, 8, "<H", 0x20)),
    "wrong checksum": lambda folder: archive(folder, patch=_set(14, 16, "<I", 7)),
    "wrong size": lambda folder: archive(folder, patch=_set(22, 24, "<I", 500)),
    "larger size": lambda folder: archive(folder, patch=_set(22, 24, "<I", 10**6)),
    "huge size": lambda folder: archive(folder, patch=_set(22, 24, "<I", 2**32 - 2)),
    "smaller packed size": lambda folder: archive(folder, patch=_set(18, 20, "<I", 300)),
    "new version": lambda folder: archive(folder, patch=_set(4, 6, "<H", 99)),
    "unknown compression": lambda folder: archive(folder, patch=_set(8, 10, "<H", 97)),
    "bzip2": lambda folder: archive(folder, compression=zipfile.ZIP_BZIP2),
    "lzma": lambda folder: archive(folder, compression=zipfile.ZIP_LZMA),
    "damaged content": lambda folder: archive(folder, patch=_damage_content),
    "damaged directory": lambda folder: archive(folder, patch=_damage_directory),
    "truncated": lambda folder: archive(folder, patch=_truncate),
    "absolute name": lambda folder: archive(folder, "/class/picture.png"),
    "drive": lambda folder: archive(folder, "C:/class/picture.png"),
    "name with ..": lambda folder: archive(folder, "../class/picture.png"),
    "class ..": lambda folder: archive(folder, "../picture.png"),
    "name with backslashes": lambda folder: archive(folder, "..\\class\\picture.png"),
    "empty class": lambda folder: archive(folder, "class//picture.png"),
    "link": lambda folder: archive(folder, content=b"/etc/passwd", mode=0o120777),
    "pipe": lambda folder: archive(folder, mode=0o010644),
    "nested": lambda folder: archive(folder, content=_nested()),
    "only a nested zip": lambda folder: archive(folder, "class/pictures.zip", _nested()),
    "bomb": lambda folder: archive(folder, content=bytes(2**27 + 1)),
    "bomb of a small claimed size": lambda folder: archive(
        folder, content=bytes(2**27), patch=_set(22, 24, "<I", 2000)
    ),
}
"""Zip files, none of which holds a usable picture."""
