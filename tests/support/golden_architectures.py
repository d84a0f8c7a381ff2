"""The configurations that the official code of transformable architecture search ships, and their MACs."""

from scionet.search.architecture import Architecture

_WIDTHS = {
    "C010-ResNet20": """6 4 4 4 4 4  32 32 12 19 32 28  64 64 64 64 64 44""",
    "C010-ResNet32": """6 4 12 4 4 16 9 9 6 14  32 32 9 19 28 9 32 19 32 9  64 64 64 64 64 64 64 32 38 32""",
    "C010-ResNet56": """16 16 14 11 9 16 12 16 6 16 4 8 4 14 6 4 4 4
        32 32 32 32 32 32 22 28 32 32 19 9 19 16 9 25 16 9
        64 64 64 64 64 64 64 64 64 51 19 19 32 19 19 32 19 25""",
    "C010-ResNet110": """14 16 14 16 16 16 16 16 14 16 16 16 12 16 16 16 9 16 8 16 4 16 4 4
        4 16 4 4 4 4 6 6 4 6 11 4
        32 32 32 32 32 32 32 32 28 32 32 28 22 22 22 32 32 25 28 9 9 28 12 9
        12 32 9 9 22 12 16 9 12 9 9 9
        64 64 64 64 64 64 64 64 64 64 64 64 64 64 64 38 64 25 19 19 19 19 19 25
        32 19 19 25 25 19 19 38 38 19 19 51""",
    "C100-ResNet20": """4 4 4 4 6 4  32 32 9 19 32 28  64 64 64 64 64 64""",
}
_BLOCKS = {
    "C010-ResNet20": (3, 3, 3),
    "C010-ResNet32": (5, 5, 5),
    "C010-ResNet56": (5, 5, 5),
    "C010-ResNet110": (11, 11, 9),
    "C100-ResNet20": (3, 3, 3),
}
GOLDEN = {name: Architecture((3, 16, *map(int, text.split())), _BLOCKS[name]) for name, text in _WIDTHS.items()}
ESTIMATED = {
    "C010-ResNet20": 22_444_472,
    "C010-ResNet32": 34_945_344,
    "C010-ResNet56": 57_933_050,
    "C010-ResNet110": 117_498_238,
    "C100-ResNet20": 22_433_792,
}
DERIVED = {**ESTIMATED, "C010-ResNet56": 59_858_430, "C010-ResNet110": 119_259_258}
