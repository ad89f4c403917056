"""Procedural segmentation scenes: textured geometric shapes on textured backgrounds.

A sample needs no files. Three to five overlapping shapes are painted over a background, and the
class of a pixel is the kind of shape that is visible there. Each class has a favourite hue, as
sheep tend to be white, but hues spread so widely about it that colour alone does not give the
class away; textures are independent of the class. As in Pascal VOC, a thin line around each
object carries the label 255, which losses and metrics leave out.

Geometry is held in units of the image side (x to the right, y down, both in [0, 1]), so a
seed and an index give the same scene at every image size, up to its sensor noise.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from trainables.data.labels import IGNORE

CLASS_NAMES: tuple[str, ...] = (
    "background",
    "disc",
    "square",
    "triangle",
    "ring",
    "cross",
    "star",
)

FloatArray: TypeAlias = NDArray[np.float32]

_MIN_IMAGE_SIZE = 16
_IGNORE_HALF_WIDTH = 0.75  # pixels on each side of an outline
_OBJECTS_RANGE = (3, 5)
_SIZE_RANGE = (0.24, 0.46)  # square root of an object's area before it is squeezed, in image sides
_ASPECT_RANGE = (0.7, 1.0)
_CIRCLE_CORNERS = 20

_BACKGROUND_SATURATION = (0.0, 0.35)
_BACKGROUND_VALUE = (0.0, 0.4)
_OBJECT_SATURATION = (0.6, 1.0)
_OBJECT_VALUE = (0.8, 1.0)
_HUE_SPREAD = 0.12  # standard deviation; the favourite hues of two classes are 1/6 apart
_COLOUR_VARIATION = 0.15  # between the two colours of a texture
_PERIOD_RANGE = (0.08, 0.25)  # of a texture, in image sides
_RELIEF_HEIGHT = 0.3  # by how much the outline is darker and the middle brighter
_RELIEF_DEPTH = 0.15  # distance from the outline at which brightness saturates, in image sides
_NOISE_RANGE = (0.0, 0.03)


def draw_sample(
    image_size: int, seed: int, index: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one scene, as a pure function of the arguments.

    Args:
        image_size: Height and width H = W in pixels, at least 16.
        seed: Names the data set, not negative.
        index: Position of the sample in the data set, not negative.

    Returns:
        The RGB image, (H, W, 3) uint8, and its mask, (H, W) uint8, with values that are
        indices into `CLASS_NAMES` or 255 (ignore).

    Raises:
        ValueError: If an argument is too small.
    """
    _require_at_least("image_size", image_size, _MIN_IMAGE_SIZE)
    _require_at_least("seed", seed, 0)
    _require_at_least("index", index, 0)
    rng = np.random.default_rng((seed, index))
    x, y = _pixel_centres(image_size)
    image = _random_texture(rng, _background_colours(rng))(x, y)
    mask = np.zeros((image_size, image_size), dtype=np.uint8)
    for _ in range(rng.integers(*_OBJECTS_RANGE, endpoint=True)):
        _add_object(rng, image, mask)
    image *= _random_lighting(rng, x, y)
    image += rng.uniform(*_NOISE_RANGE) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.rint(255 * image.clip(0, 1)).astype(np.uint8), mask


def _require_at_least(name: str, value: int, minimum: int) -> None:
    """Raise ValueError unless `value >= minimum`."""
    if value < minimum:
        raise ValueError(f"`{name} >= {minimum}` must hold, but got {name}={value}")


def _pixel_centres(image_size: int) -> tuple[FloatArray, FloatArray]:
    """Return the pixel centres x, (1, W), and y, (H, 1), in (0, 1)."""
    centres = ((np.arange(image_size) + 0.5) / image_size).astype(np.float32)
    return centres[None, :], centres[:, None]


# --- Objects ------------------------------------------------------------------------------


def _add_object(rng: np.random.Generator, image: FloatArray, mask: NDArray[np.uint8]) -> None:
    """Paint one random object over `image`, (H, W, 3), and `mask`, (H, W), in place."""
    label = int(rng.integers(1, len(CLASS_NAMES)))
    edges = _place(rng, _OUTLINES[label - 1])
    texture = _random_texture(rng, _object_colours(rng, label))

    image_size = len(mask)
    x, y = _pixel_centres(image_size)
    columns, rows = _window(edges[..., 0], image_size), _window(edges[..., 1], image_size)
    x, y = x[:, columns], y[rows]
    distance = _signed_distance(edges, x, y)
    pixels = image_size * distance
    opacity = (0.5 - pixels).clip(0, 1)[..., None]
    patch, labels = image[rows, columns], mask[rows, columns]
    patch += opacity * (texture(x, y) * _relief(distance) - patch)
    labels[pixels < _IGNORE_HALF_WIDTH] = IGNORE
    labels[pixels < -_IGNORE_HALF_WIDTH] = label


def _window(ends: FloatArray, image_size: int) -> slice:
    """Return the pixels of one axis that an outline and its ignore border can touch."""
    first = int(ends.min() * image_size) - 2
    last = int(ends.max() * image_size) + 2
    return slice(max(first, 0), max(last + 1, 0))


def _place(rng: np.random.Generator, edges: FloatArray) -> FloatArray:
    """Scale, squeeze, rotate and shift the edges of an outline, (E, 2, 2), at random."""
    size, aspect = rng.uniform(*_SIZE_RANGE), rng.uniform(*_ASPECT_RANGE)
    angle, centre = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.9, size=2)
    cos, sin = np.cos(angle), np.sin(angle)
    rotation = np.array([[cos, sin], [-sin, cos]])
    placed: NDArray[np.float64] = edges * (size, size * aspect) @ rotation + centre
    return placed.astype(np.float32)


def _signed_distance(edges: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
    """Return the distance of pixels to the closed outlines of `edges`, negative inside.

    Args:
        edges: (E, 2, 2), the (x, y) of the two ends of each edge; inside is even-odd.
        x: (1, W).
        y: (H, 1).

    Returns:
        (H, W), in the unit of the coordinates.
    """
    (start_x, start_y), (end_x, end_y) = edges.transpose(1, 2, 0)[..., None, None]
    edge_x, edge_y = end_x - start_x, end_y - start_y
    from_x, from_y = x - start_x, y - start_y  # (E, 1, W) and (E, H, 1)
    squared_length = edge_x**2 + edge_y**2
    along = from_x * (edge_x / squared_length) + from_y * (edge_y / squared_length)
    along = along.clip(0, 1)
    squared = (from_x - along * edge_x) ** 2 + (from_y - along * edge_y) ** 2
    distance = np.sqrt(squared.min(axis=0))

    spans_row = (start_y <= y) != (end_y <= y)
    slope = edge_x / np.where(edge_y == 0, 1, edge_y)
    crossings = spans_row & (from_x < from_y * slope)
    inside = np.logical_xor.reduce(crossings, axis=0)
    signed: FloatArray = np.where(inside, -distance, distance)
    return signed


# --- Outlines about the origin, as edges (E, 2, 2) ----------------------------------------


def _closed(vertices: NDArray[np.float64]) -> FloatArray:
    """Join vertices, (E, 2), to a closed outline of edges, (E, 2, 2)."""
    return np.stack([vertices, np.roll(vertices, -1, axis=0)], axis=1).astype(np.float32)


def _polar(angles: NDArray[np.float64], radii: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the points, (N, 2), at angles, (N,), and distances from the origin."""
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _regular(corners: int, radius: float = 1.0) -> FloatArray:
    """Return a regular polygon, (corners, 2, 2)."""
    return _closed(_polar(np.arange(corners) * 2 * np.pi / corners, radius))


def _star(points: int, inner_radius: float) -> FloatArray:
    """Return a star, (2 * points, 2, 2)."""
    angles = np.arange(2 * points) * np.pi / points
    return _closed(_polar(angles, np.where(np.arange(2 * points) % 2, inner_radius, 1.0)))


def _cross(half_width: float) -> FloatArray:
    """Return a plus sign, (12, 2, 2), whose bars are `2 * half_width` wide."""
    reach = np.sqrt(1 - half_width**2)
    arm = np.array([[reach, -half_width], [reach, half_width], [half_width, half_width]])
    turns = [np.linalg.matrix_power(np.array([[0, 1], [-1, 0]]), n) for n in range(4)]
    return _closed(np.concatenate([arm @ turn for turn in turns]))


def _ring(hole_radius: float) -> FloatArray:
    """Return the unit disc less a hole, (2 * _CIRCLE_CORNERS, 2, 2)."""
    hole = _regular(_CIRCLE_CORNERS, hole_radius)[:, ::-1]
    return np.concatenate([_regular(_CIRCLE_CORNERS), hole])


def _with_unit_area(edges: FloatArray) -> FloatArray:
    """Scale edges so that they enclose the area 1, for classes of the same frequency."""
    (start_x, start_y), (end_x, end_y) = edges.transpose(1, 2, 0)
    area = abs(float(np.sum(start_x * end_y - end_x * start_y))) / 2
    scaled: FloatArray = edges / area**0.5
    return scaled


# One for each class but the background, in the order of CLASS_NAMES.
_OUTLINES = tuple(
    _with_unit_area(edges)
    for edges in (
        _regular(_CIRCLE_CORNERS),
        _regular(4),
        _regular(3),
        _ring(hole_radius=0.55),
        _cross(half_width=0.3),
        _star(points=5, inner_radius=0.45),
    )
)

# --- Colours, textures and light ------------------------------------------------------------

Texture: TypeAlias = Callable[[FloatArray, FloatArray], FloatArray]


def _relief(distance: FloatArray) -> FloatArray:
    """Return a factor, (H, W, 1), that makes the middle of an object stand out."""
    depth: FloatArray = (-distance / _RELIEF_DEPTH).clip(0, 1)
    factor: FloatArray = 1 + _RELIEF_HEIGHT * (2 * depth - 1)
    return factor[..., None]


def _background_colours(rng: np.random.Generator) -> FloatArray:
    """Draw the two RGB colours, (2, 3) in [0, 1], of a dull texture of any hue."""
    return _random_colours(rng, rng.random(), _BACKGROUND_SATURATION, _BACKGROUND_VALUE)


def _object_colours(rng: np.random.Generator, label: int) -> FloatArray:
    """Draw the two RGB colours, (2, 3) in [0, 1], of a vivid texture of about the class's hue."""
    hue = rng.normal(label / (len(CLASS_NAMES) - 1), _HUE_SPREAD)
    return _random_colours(rng, hue, _OBJECT_SATURATION, _OBJECT_VALUE)


def _random_colours(
    rng: np.random.Generator,
    hue: float,
    saturation: tuple[float, float],
    value: tuple[float, float],
) -> FloatArray:
    """Draw a base colour and a variation of it, as RGB, (2, 3) in [0, 1]."""
    tint = 0.5 + 0.5 * np.cos(2 * np.pi * (hue + np.arange(3) / 3))
    base = rng.uniform(*value) * (1 - rng.uniform(*saturation) * tint)
    other = base + rng.uniform(-_COLOUR_VARIATION, _COLOUR_VARIATION, size=3)
    return np.stack([base, other]).clip(0, 1).astype(np.float32)


def _random_texture(rng: np.random.Generator, colours: FloatArray) -> Texture:
    """Draw a function from pixel centres, (1, W) and (H, 1), to colours, (H, W, 3)."""
    pattern = _PATTERNS[rng.integers(len(_PATTERNS))]
    angle, period = rng.uniform(0, 2 * np.pi), rng.uniform(*_PERIOD_RANGE)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    tiles = rng.random((8, 8), dtype=np.float32)

    def paint(x: FloatArray, y: FloatArray) -> FloatArray:
        u, v = x * cos + y * sin, y * cos - x * sin
        weight = pattern(u, v, np.float32(period), tiles)[..., None]
        painted: FloatArray = colours[0] + weight * (colours[1] - colours[0])
        return painted

    return paint


def _plain(u: FloatArray, v: FloatArray, period: np.float32, tiles: FloatArray) -> FloatArray:
    """Return one weight everywhere, (H, W)."""
    return np.zeros_like(u + v)


def _gradient(u: FloatArray, v: FloatArray, period: np.float32, tiles: FloatArray) -> FloatArray:
    """Return weights, (H, W) in [0, 1], that change smoothly along u."""
    weight: FloatArray = 0.5 + 0.5 * np.sin(0.5 * u / period)
    return weight


def _stripes(u: FloatArray, v: FloatArray, period: np.float32, tiles: FloatArray) -> FloatArray:
    """Return weights, (H, W), that are 0 or 1 in bars across u."""
    return (u % period < period / 2).astype(np.float32)


def _checkers(u: FloatArray, v: FloatArray, period: np.float32, tiles: FloatArray) -> FloatArray:
    """Return weights, (H, W), that are 0 or 1 on a chessboard."""
    board: FloatArray = (u // period + v // period) % 2
    return board


def _patches(u: FloatArray, v: FloatArray, period: np.float32, tiles: FloatArray) -> FloatArray:
    """Return weights, (H, W), that are random in [0, 1) on each square of a grid."""
    column, row = (u // period).astype(np.intp), (v // period).astype(np.intp)
    return tiles[row % len(tiles), column % len(tiles)]


_PATTERNS = (_plain, _gradient, _stripes, _checkers, _patches)


def _random_lighting(rng: np.random.Generator, x: FloatArray, y: FloatArray) -> FloatArray:
    """Draw a factor for each pixel, (H, W, 1), about 1, that changes linearly."""
    slope_x, slope_y = rng.uniform(-0.3, 0.3, size=2).astype(np.float32)
    gain = np.float32(rng.uniform(0.8, 1.1))
    factor: FloatArray = gain + slope_x * (x - 0.5) + slope_y * (y - 0.5)
    return factor[..., None]
