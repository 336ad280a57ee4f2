"""The drawing of fend/datasets/handwritten_digits.png: python -m benchmarks.draw_digits [FILE]

Twenty invented writers each write the ten digits once. A digit starts from one of the skeletons
below, drawn by hand as pen paths on a grid 100 high; its writer decides slant, proportions, pen,
pressure and steadiness, and every single digit is bent a little differently. The finished ink is
treated as MNIST's was: scaled to fit 20x20, then placed in 28x28 by its centre of mass.
No picture was left out or changed because of what a model says about it.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WRITERS = 20
SIDE_PX = 28
_BOX_PX = 20  # of the longer side of the ink
_OVERSAMPLING = 6
_SEED = 20
_DEFAULT_FILE = Path(__file__).parents[1] / "fend/datasets/handwritten_digits.png"

# "x,y" are points of a smooth curve, "/" is a corner at the point before it, "|" lifts the pen.
_SKELETONS = {
    0: (
        "45,5 20,18 8,50 22,85 48,95 75,80 85,48 72,15 45,5 36,9",
        "42,3 25,25 20,55 30,90 48,96 62,75 66,40 58,12 40,5 34,12",
        "56,8 35,4 14,30 10,62 28,94 58,92 80,62 78,30 66,16",
        "60,9 35,5 12,35 15,75 45,96 78,75 82,35 60,8 42,13 50,25",
        "60,4 30,20 10,60 20,92 45,94 72,65 80,25 62,5 50,6",
        "50,5 18,12 10,45 14,84 50,94 82,84 86,45 78,12 45,5",
    ),
    1: (
        "50,4 49,50 50,96",
        "62,4 49,50 38,96",
        "32,24 55,5 / 54,50 53,96",
        "32,24 54,5 / 54,50 54,94 | 30,95 55,94 80,95",
        "56,4 50,40 50,70 56,96",
        "24,40 44,22 60,4 / 56,50 52,97",
    ),
    2: (
        "18,25 35,6 65,8 74,30 50,62 15,93 / 50,92 85,92",
        "20,22 42,5 70,16 68,42 42,76 20,93 10,84 22,75 48,86 70,95 90,86",
        "16,12 45,8 75,10 / 45,50 14,92 / 50,91 86,93",
        "15,35 25,12 50,4 72,20 66,45 40,72 12,94 / 35,84 60,92 88,84",
        "22,30 28,10 55,4 75,22 60,52 22,90 / 55,91 88,88",
        "12,20 35,4 64,12 66,38 44,66 24,88 13,92 14,81 32,82 60,94 82,92",
    ),
    3: (
        "18,14 45,4 70,18 62,40 38,48 / 66,54 78,76 55,95 15,88",
        "15,8 45,7 75,8 / 42,42 / 72,52 78,78 50,96 14,86",
        "16,16 45,4 70,20 60,42 38,50 34,44 46,44 72,58 74,82 45,97 12,84",
        "20,12 50,3 72,20 57,41 42,47 62,54 78,74 58,95 20,92",
        "25,18 48,6 64,20 52,40 35,46 / 68,48 85,72 58,97 22,94 10,80",
        "18,10 60,6 / 62,28 36,44 / 74,60 68,88 16,94",
    ),
    4: (
        "25,6 18,50 / 48,52 80,52 | 66,8 64,96",
        "60,96 60,5 / 12,64 / 50,63 88,62",
        "30,5 15,35 22,56 55,54 78,48 | 72,10 62,60 58,97",
        "62,6 36,34 10,62 / 50,61 85,60 | 61,8 56,50 52,97",
        "18,10 16,40 35,54 72,46 | 76,6 70,50 64,97",
        "35,4 10,60 / 45,58 82,56 | 58,34 50,97",
        "20,8 16,44 30,56 56,48 72,8 / 68,50 60,97",
    ),
    5: (
        "28,8 24,46 / 45,38 74,50 74,78 48,96 14,88 | 28,8 52,8 78,6",
        "78,6 52,8 28,8 / 22,46 / 50,38 78,58 66,90 14,92",
        "75,8 40,8 26,24 40,42 68,54 72,80 44,96 14,86",
        "30,14 24,48 / 55,40 76,66 55,94 16,90 | 32,9 56,9 80,13",
        "76,6 50,7 26,6 / 24,46 48,44 / 72,52 76,70 64,92 14,94",
        "72,10 50,9 34,10 / 22,50 / 48,46 62,66 46,92 10,90",
    ),
    6: (
        "66,6 34,24 16,60 26,92 55,95 72,74 54,54 22,66",
        "62,4 28,46 16,78 38,97 68,86 66,62 40,56 20,74",
        "52,4 22,40 16,78 48,97 82,78 66,50 30,54 20,72",
        "72,8 44,14 22,48 18,82 38,96 56,84 50,68 30,70 20,82",
        "26,3 20,45 22,84 48,97 74,80 62,56 34,58 22,74",
        "78,16 58,4 28,26 14,66 30,95 60,94 70,72 48,58 24,72",
    ),
    7: (
        "14,10 48,9 78,8 / 56,52 36,96",
        "14,12 48,9 80,8 / 56,52 36,96 | 28,53 70,48",
        "12,14 50,10 80,8 / 54,46 42,97",
        "16,26 18,8 / 50,9 80,8 / 62,46 40,96",
        "12,18 30,6 55,14 82,6 / 55,48 40,96 | 30,50 74,46",
        "14,16 40,6 72,9 75,24 54,60 44,97",
        "17,24 18,9 / 50,10 80,9 / 58,50 48,96 | 34,55 72,52",
    ),
    8: (
        "70,16 46,4 24,18 32,38 60,54 76,78 50,97 20,82 28,58 60,38 72,18 66,9",
        "50,4 28,22 48,46 71,24 50,4 | 48,46 20,72 48,97 78,72 48,46",
        "62,6 34,12 36,32 58,56 62,82 40,97 22,82 34,56 60,32 66,12 56,5",
        "48,48 24,24 50,4 73,22 46,50 20,77 48,97 78,76 48,48",
        "74,12 42,5 24,22 46,46 72,70 56,96 26,88 24,66 52,40 78,20",
        "64,7 32,8 32,26 64,72 64,92 30,94 30,74 64,28 66,8",
    ),
    9: (
        "72,20 48,5 22,24 34,50 62,44 72,20 / 68,60 64,97",
        "70,22 46,4 20,26 36,50 62,42 72,18 76,55 60,92 24,92",
        "68,14 40,8 24,32 46,48 66,30 68,10 / 67,55 68,97",
        "74,12 40,6 20,34 44,52 68,34 75,10 / 69,55 60,97",
        "66,24 44,6 22,24 38,46 66,30 70,10 76,50 66,90 40,97 18,82",
        "63,16 42,4 24,24 44,43 63,16 / 62,60 54,97",
        "74,22 50,4 24,20 34,44 60,42 76,16 / 60,55 40,96",
    ),
}  # fmt: skip

Array = NDArray[np.float64]


class _Dice:
    """Random numbers from a generator's raw bits, which numpy keeps fixed over versions."""

    def __init__(self, *seed: int) -> None:
        self._bits = np.random.PCG64([_SEED, *seed])

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float((self._bits.random_raw() >> 11) * 2.0**-53)

    def spread(self, size: float, shape: tuple[int, ...]) -> Array:
        """Bell-shaped numbers around 0 with about this standard deviation."""
        uniform = [self.between(-1, 1) for _ in range(3 * math.prod(shape))]
        return size * np.array(uniform).reshape(*shape, 3).sum(axis=-1)


@dataclass(frozen=True)
class _Writer:
    """The habits of one hand; lengths are in the units of the skeletons."""

    slant: float
    width: float
    pen: float
    pressure: float
    ink: float
    unsteadiness: float

    @classmethod
    def invent(cls, number: int) -> "_Writer":
        dice = _Dice(number)
        return cls(
            slant=dice.between(-0.12, 0.38),
            width=dice.between(0.75, 1.15),
            pen=dice.between(7.5, 16),
            pressure=dice.between(0.05, 0.3),
            ink=dice.between(0.8, 1),
            unsteadiness=dice.between(1, 2.6),
        )


def draw(digit: int, writer: int) -> NDArray[np.uint8]:
    """The digit as this writer writes it: (28, 28), light on dark."""
    skeletons = _SKELETONS[digit]
    skeleton = skeletons[(writer + digit) % len(skeletons)]
    hand, dice = _Writer.invent(writer), _Dice(writer, digit)
    bend = _Bend(hand, dice)
    strokes = []
    for text in skeleton.split("|"):
        points: list[Array] = []
        for curve in text.split("/"):
            corners = np.array([[float(n) for n in p.split(",")] for p in curve.split()])
            corners += dice.spread(hand.unsteadiness, corners.shape)
            joined = np.vstack([points[-1][-1:], corners]) if points else corners
            points.append(_smooth(joined))
        path = bend(np.vstack(points))
        radius, ink = _press(len(path), hand, dice)
        strokes.append(np.column_stack([path, radius, ink]))
    return _expose(np.vstack(strokes))


class _Bend:
    """Slant, proportions, a small turn, and slow waves over the whole digit."""

    def __init__(self, hand: _Writer, dice: _Dice) -> None:
        turn = math.radians(dice.between(-6, 6))
        rotate = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        slant = hand.slant + dice.between(-0.06, 0.06)
        width = hand.width * dice.between(0.92, 1.08)
        self._matrix = rotate @ np.array([[width, -slant], [0, 1]])
        self._waves = dice.spread(0.012, (3, 2))
        self._phases = dice.spread(2, (3, 2))
        self._size = dice.spread(1.6, (3, 2))

    def __call__(self, path: Array) -> Array:
        for wave, phase, size in zip(self._waves, self._phases, self._size, strict=True):
            path = path + size * np.sin(path @ wave[:, None] * 2 * math.pi + phase)
        return path @ self._matrix.T


def _smooth(points: Array) -> Array:
    """A Catmull-Rom curve through the points, about one unit between its own: (N, 2)."""
    padded = np.vstack([2 * points[0] - points[1], points, 2 * points[-1] - points[-2]])
    pieces = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        t = np.linspace(0, 1, 2 + int(np.abs(c - b).sum()))[:, None]
        bent = (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
        pieces.append(b + (c - a) * t / 2 + bent / 2)
    return np.vstack(pieces)


def _press(length: int, hand: _Writer, dice: _Dice) -> tuple[Array, Array]:
    """Radius and darkness of the pen along one stroke: slow waves, and thinner where it lifts."""
    along = np.linspace(0, 1, length)
    wave = np.sin(2 * math.pi * (dice.between(0.5, 1.5) * along + dice.between(0, 1)))
    lift = 1 - hand.pressure * np.clip((along - 0.85) / 0.15, 0, 1)
    radius = hand.pen / 2 * dice.between(0.92, 1.08) * (1 + 0.6 * hand.pressure * wave) * lift
    return radius, hand.ink + (1 - hand.ink) * wave


def _expose(pen: Array) -> NDArray[np.uint8]:
    """Ink where the pen was, (N, 4) of x, y, radius and darkness, as MNIST frames its digits."""
    low = (pen[:, :2] - pen[:, 2:3]).min(axis=0)
    high = (pen[:, :2] + pen[:, 2:3]).max(axis=0)
    scale = _BOX_PX * _OVERSAMPLING / float((high - low).max())
    side = SIDE_PX * _OVERSAMPLING
    pen = np.column_stack([(pen[:, :3] - np.array([*low, 0])) * scale, pen[:, 3]])
    ink = _ink(pen, side)
    rows, columns = np.indices(ink.shape)
    middle = (side - 1) / 2
    shift = [middle - float((axis * ink).sum() / ink.sum()) for axis in (columns, rows)]
    pixels = [round(value / _OVERSAMPLING) * _OVERSAMPLING for value in shift]
    ink = np.roll(ink, (pixels[1], pixels[0]), axis=(0, 1))
    small = ink.reshape(SIDE_PX, _OVERSAMPLING, SIDE_PX, _OVERSAMPLING).mean(axis=(1, 3))
    return np.round(255 * np.minimum(small, 1)).astype(np.uint8)


def _ink(pen: Array, side: int) -> Array:
    """The darkest stamp of a round pen at each place: (side, side) in [0, 1]."""
    ink = np.zeros((side, side))
    for x, y, radius, dark in pen:
        left, top = max(0, int(x - radius) - 1), max(0, int(y - radius) - 1)
        window = ink[top : int(y + radius) + 3, left : int(x + radius) + 3]
        rows, columns = np.indices(window.shape)
        distance = np.hypot(columns + left - x, rows + top - y)
        np.maximum(window, dark * np.clip(radius + 0.5 - distance, 0, 1), out=window)
    return ink


def sheet() -> NDArray[np.uint8]:
    """All digits, a row for each digit and a column for each writer: (280, 560)."""
    rows = [np.hstack([draw(digit, writer) for writer in range(WRITERS)]) for digit in range(10)]
    return np.vstack(rows)


if __name__ == "__main__":
    chosen = Path(sys.argv[1]) if len(sys.argv) > 1 else _DEFAULT_FILE
    Image.fromarray(sheet()).save(chosen, optimize=True)
