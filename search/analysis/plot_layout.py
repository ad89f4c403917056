"""Layout shared by the figure and the page of a front: points, axes, colours and labels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Literal, Protocol

from search.core.objectives import MIOU_AND_SIZE, Objective
from search.core.pareto import pareto_front
from search.core.record import Record
from trainables.config import TrialConfig
from trainables.core.metrics import Metrics
from trainables.quantization.bits import FULL_PRECISION, SAFE_BITS
from trainables.training.cost import mean_bits

COLORS = {
    2: "#882255",
    3: "#d55e00",
    4: "#e69f00",
    5: "#009e73",
    6: "#56b4e9",
    7: "#0072b2",
    8: "#332288",
    FULL_PRECISION: "#3f4a54",
}
"""Colours by weight bits, from the colour-blind-safe palettes of Okabe & Ito and of Tol."""

INK, MUTED, GRID, LINE, SHADE = "#1f2933", "#66727f", "#e6e9ed", "#8a97a6", "#f3f5f8"
X_TITLE, Y_TITLE, LEGEND_TITLE = "model size (KB of 1000 bytes)", "mIoU (%)", "weight bits"
NOTHING = "No trial has finished yet"
MISSES_CLASSES = "class never predicted"
"""What a ring around a point means."""
MISSES_COLOR = "#d00000"
PUBLISHED = "published"
"""What the marker of a baseline means."""
LOG_SCALE_RATIO = 8
"""Sizes whose largest exceeds the smallest by more than this factor are drawn to a log scale."""

Pair = tuple[float, float]


class Placed(Protocol):
    """What is drawn at a size `x` in KB and a mean IoU `y` in percent, with a name."""

    @property
    def x(self) -> float: ...
    @property
    def y(self) -> float: ...
    @property
    def label(self) -> str: ...


@dataclass(frozen=True)
class Point:
    """A finished trial: a trained student, with the measurements of its model file."""

    trial_id: str
    config: TrialConfig
    metrics: Metrics
    size_bytes: int
    on_front: bool

    @property
    def is_named(self) -> bool:
        """Whether it is on the front, or what others are compared with."""
        return self.on_front or self.config.recipe.is_reference

    @property
    def label(self) -> str:
        """Its name in plots."""
        return self.config.recipe.name if self.config.recipe.is_reference else self.trial_id

    @property
    def color(self) -> str:
        """Its colour, paler where dominated; opaque, so that overlapping points stay pale."""
        return COLORS[self.weight_bits] if self.is_named else paler(COLORS[self.weight_bits])

    @property
    def x(self) -> float:
        """Size in KB."""
        return self.size_bytes / 1000

    @property
    def y(self) -> float:
        """Mean IoU in percent."""
        return 100 * self.metrics.miou

    @cached_property
    def mean_bits(self) -> tuple[float, float] | None:
        """The mean bits of weights and activations, where each layer has its own."""
        quantizer, classes = self.config.quantizer, self.metrics.class_iou
        if quantizer is None or not quantizer.layers or classes is None:
            return None
        return mean_bits(self.config, len(classes))

    @property
    def weight_bits(self) -> int:
        """Bits of weights; where each layer has its own, their mean, rounded."""
        if self.mean_bits:
            return min(SAFE_BITS, round(self.mean_bits[0]))
        return self.config.quantizer.weight_bits if self.config.quantizer else FULL_PRECISION

    @property
    def bits(self) -> str:
        """Bits of weights and activations, such as 4/8, or means of layers, such as 2.5/6.1.

        Only the means count the first and the last layer, which otherwise have 8 bits anyway.
        """
        if self.mean_bits:
            return "/".join(f"{mean:.1f}" for mean in self.mean_bits)
        quantizer = self.config.quantizer
        return f"{self.weight_bits}/{quantizer.activation_bits if quantizer else FULL_PRECISION}"

    @property
    def misses_classes(self) -> bool:
        """Whether a class that labels hold is never predicted."""
        return bool(self.metrics.classes_never_predicted)


def paler(color: str) -> str:
    """A third of a colour such as #0072b2, in white."""
    parts = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{255 - (255 - part) // 3:02x}" for part in parts)


def plot_points(
    records: Sequence[Record], objectives: Sequence[Objective] = MIOU_AND_SIZE
) -> list[Point]:
    """The finished trials, smallest first."""
    members = {record.trial_id for record in pareto_front(records, objectives)}
    points = []
    for record in records:
        if record.state == "COMPLETE":
            config, metrics = record.config, record.metrics
            assert config is not None
            assert metrics is not None
            assert metrics.size_bytes is not None
            on_front = record.trial_id in members
            points.append(Point(record.trial_id, config, metrics, metrics.size_bytes, on_front))
    return sorted(points, key=lambda point: point.size_bytes)


def count_trials(records: Sequence[Record], points: Sequence[Point]) -> str:
    on_front = sum(point.on_front for point in points)
    trials = "1 trial" if len(records) == 1 else f"{len(records)} trials"
    return f"{trials}, {len(points)} finished, {on_front} on the front"


@dataclass(frozen=True)
class View:
    """The axis limits of the figure and of the page: size (KB) and mIoU (%)."""

    x: Pair
    y: Pair
    log: bool

    def fraction(self, point: Placed) -> Pair:
        """Where `point` lies in the window, from (0, 0) at the lower left to (1, 1)."""
        left, right = (self.along(limit) for limit in self.x)
        bottom, top = self.y
        return (self.along(point.x) - left) / (right - left), (point.y - bottom) / (top - bottom)

    def along(self, size: float) -> float:
        return math.log10(size) if self.log else size

    @property
    def ticks(self) -> list[float]:
        """One, two and five times the powers of ten in a logarithmic window."""
        low, high = self.x
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
        ticks = (step * 10.0**power for power in powers for step in (1, 2, 5))
        return [tick for tick in ticks if low <= tick <= high]

    @property
    def x_title(self) -> str:
        return f"{X_TITLE}, log scale" if self.log else X_TITLE


def view_of(points: Sequence[Placed]) -> View:
    """The axis limits around all points, with room for labels at the left and on top."""
    smallest, largest = min(p.x for p in points), max(p.x for p in points)
    worst, best = at_least(2.0, [p.y for p in points])
    tall = best - worst
    y = max(worst - 0.08 * tall, -0.02 * tall), best + 0.12 * tall
    if largest > LOG_SCALE_RATIO * smallest:
        factor = largest / smallest
        return View((smallest * factor**-0.08, largest * factor**0.06), y, log=True)
    smallest, largest = at_least(0.2 * largest, [p.x for p in points])
    wide = largest - smallest
    return View((max(smallest - 0.08 * wide, 0.0), largest + 0.06 * wide), y, log=False)


def at_least(span: float, values: Sequence[float]) -> Pair:
    """From the least to the greatest value, widened on both sides where they lie closer."""
    low, high = min(values), max(values)
    missing = max(0.0, span - (high - low)) / 2
    return low - missing, high + missing


def staircase(points: Sequence[Point], view: View) -> tuple[list[float], list[float]]:
    """Corners of the best mIoU at every size, from the window's bottom to its right side."""
    best = accumulate((point.y for point in points), max)
    front = [(p.x, p.y) for p, y in zip(points, best, strict=True) if p.on_front and p.y == y]
    corners = [(front[0][0], view.y[0]), front[0]]
    for (_, before), (x, y) in pairwise(front):
        corners += [(x, before), (x, y)]
    corners.append((view.x[1], front[-1][1]))
    return [x for x, _ in corners], [y for _, y in corners]


@dataclass(frozen=True)
class Box:
    """A rectangle."""

    left: float
    bottom: float
    right: float
    top: float

    def inside(self, extent: Pair) -> bool:
        within = self.right <= extent[0] and self.top <= extent[1]
        return self.left >= 0 and self.bottom >= 0 and within

    def overlaps(self, other: "Box") -> bool:
        apart_across = self.right <= other.left or other.right <= self.left
        apart_up = self.top <= other.bottom or other.top <= self.bottom
        return not (apart_across or apart_up)


@dataclass(frozen=True)
class Label:
    """A point's name, with a lower corner `shift` away from the point.

    The corner is the right one, or the left one where the label is right of the point.
    """

    point: Placed
    shift: Pair
    moved: bool

    @property
    def anchor(self) -> Literal["left", "right"]:
        """The side of the corner."""
        return "left" if self.shift[0] > 0 else "right"


def place_labels(
    points: Sequence[Point],
    view: View,
    extent: Pair,
    font: float,
    baselines: Sequence[Placed] = (),
) -> list[Label]:
    """Labels of named points, at the upper left of each, which no point covers; none overlap.

    `extent` is the window's width and height, in the unit of `font`, the letters' height. A point
    without free space near it gets no label. Both ends are labelled first, `baselines` last, which
    may also have their labels at their right.
    """
    labels: list[Label] = []
    taken: list[Box] = []
    front = [point for point in points if point.is_named]
    ordered = sorted(front, key=lambda p: p not in (front[0], front[-1]))
    for point in (*ordered, *baselines):
        across, up = view.fraction(point)
        spot = across * extent[0], up * extent[1]
        size = 0.66 * font * len(point.label), 1.1 * font
        places = shifts(font, size[0])
        if point in baselines:
            places += [(-across, up) for across, up in places]
        for shift in places:
            moved = math.hypot(*shift) > font
            boxes = [label_box(spot, shift, size), *(leader(spot, shift) if moved else ())]
            if boxes[0].inside(extent) and not any(a.overlaps(b) for a in boxes for b in taken):
                taken += boxes
                labels.append(Label(point, shift, moved))
                break
    return labels


def label_box(spot: Pair, shift: Pair, size: Pair) -> Box:
    corner, bottom = spot[0] + shift[0], spot[1] + shift[1]
    left = corner if shift[0] > 0 else corner - size[0]
    return Box(left, bottom, left + size[0], bottom + size[1])


def leader(spot: Pair, shift: Pair) -> list[Box]:
    """The line from a point to its label, as boxes of a point's size."""
    steps = [(spot[0] + shift[0] * i / 12, spot[1] + shift[1] * i / 12) for i in range(2, 12)]
    return [Box(x, y, x, y) for x, y in steps]


def shifts(font: float, width: float) -> list[Pair]:
    """Offsets to try for a label, nearest first."""
    left, up = -0.5 * font, 0.4 * font
    places = [(left - i * 0.6 * width, up + j * 1.2 * font) for i in range(3) for j in range(4)]
    return sorted(places, key=lambda place: math.hypot(*place))


def bits_name(bits: int) -> str:
    return "32 (full precision)" if bits == FULL_PRECISION else str(bits)


def group_by_bits(points: Sequence[Point]) -> list[tuple[int, list[Point]]]:
    """Points with the same marker, with their weight bits; dominated points come first."""
    kinds = sorted({(point.on_front, point.weight_bits) for point in points})
    return [
        (bits, [p for p in points if (p.on_front, p.weight_bits) == (on_front, bits)])
        for on_front, bits in kinds
    ]
