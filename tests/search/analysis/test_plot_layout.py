"""Points, axes and labels of a front's plots."""

from itertools import combinations

import pytest
from front_factories import CLASSES, quantized, record, staircase_of
from torch import nn

from search.analysis.plot_layout import (
    COLORS,
    Box,
    View,
    label_box,
    place_labels,
    plot_points,
    staircase,
    view_of,
)
from search.core.record import Record
from trainables.models.configs import UNetConfig
from trainables.quantization.bits import LayerBits


class TestDrawing:
    def test_full_precision_quantizer_counts_as_full_precision(self) -> None:
        (point,) = plot_points([record("0000", 0.5, 1000, quantized(32, 32))])
        assert point.bits == "32/32"
        assert point.weight_bits in COLORS

    def test_bits_of_layers_are_shown_by_their_means(self) -> None:
        config = UNetConfig(width=8)
        convolutions = [
            (name, layer.weight.numel())
            for name, layer in config.build(len(CLASSES)).named_modules()
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
        ]
        bits = {name: 2 + 2 * (row % 2) for row, (name, _) in enumerate(convolutions)}
        layers = {
            name: LayerBits(weight_bits=own, activation_bits=own + 3) for name, own in bits.items()
        }
        recipe = quantized(2)
        mixed = recipe.replace(quantizer=recipe.quantizer.replace(layers=layers))
        (point,) = plot_points([record("0000", 0.5, 1000, mixed)])
        total = sum(number for _, number in convolutions)
        mean = sum(bits[name] * number for name, number in convolutions) / total
        inputs = sum(bits.values()) / len(bits) + 3
        assert point.bits == f"{mean:.1f}/{inputs:.1f}"
        assert point.weight_bits == round(mean)


class TestView:
    @pytest.mark.parametrize(("largest", "log"), [(8000, False), (8001, True)])
    def test_scale(self, largest: int, log: bool) -> None:
        view = view_of(plot_points([record("0", 0.4, 1000), record("1", 0.5, largest)]))
        assert view.log is log
        assert 0 <= view.x[0] < 1
        assert view.x[1] > largest / 1000

    def test_shows_every_point(self, records: list[Record]) -> None:
        points = plot_points(records)
        view = view_of(points)
        for point in points:
            assert all(0 < fraction < 1 for fraction in view.fraction(point))

    def test_single_failed_student(self) -> None:
        (point,) = plot_points([record("0000", 0.0, 500)])
        assert all(0 < fraction < 1 for fraction in view_of([point]).fraction(point))

    def test_ticks(self) -> None:
        assert View((9.0, 210.0), (0, 1), log=True).ticks == [10, 20, 50, 100, 200]
        assert View((0.15, 1.1), (0, 1), log=True).ticks == pytest.approx([0.2, 0.5, 1])

    def test_staircase(self) -> None:
        points = plot_points(
            [record("0", 0.4, 1000), record("1", 0.5, 3000), record("2", 0.3, 2000)]
        )
        xs, ys = staircase(points, View((0.5, 4.0), (20.0, 60.0), log=False))
        assert xs == [1, 1, 3, 3, 4]
        assert ys == pytest.approx([20, 40, 40, 50, 50])


class TestLabels:
    @pytest.mark.parametrize("count", [1, 2, 12, 100])
    def test_neither_overlap_nor_leave_the_window(self, count: int) -> None:
        points, extent, font = plot_points(staircase_of(count)), (500.0, 300.0), 9.0
        view = view_of(points)
        labels = place_labels(points, view, extent, font)
        named = {label.point.trial_id for label in labels}
        assert {points[0].trial_id, points[-1].trial_id} <= named
        boxes = []
        for label in labels:
            across, up = view.fraction(label.point)
            size = 0.66 * font * len(label.point.trial_id), 1.1 * font
            boxes.append(label_box((across * 500, up * 300), label.shift, size))
        assert all(box.inside(extent) for box in boxes)
        assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))

    def test_boxes(self) -> None:
        box = Box(0, 0, 2, 2)
        assert box.overlaps(Box(1, 1, 3, 3))
        assert not box.overlaps(Box(2, 0, 3, 2))
        assert box.inside((2, 2))
        assert not box.inside((2, 1))
