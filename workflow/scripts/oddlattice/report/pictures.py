"""Pictures of the report: 8-bit views of arrays, tiles for the viewer, crops of defects. Arrays in, images out."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import map_coordinates

from oddlattice.numerics.arrays import Array
from oddlattice.storage.windows import every

Bytes = npt.NDArray[np.uint8]
Covered = tuple[Bytes, npt.NDArray[np.bool_] | None]  # 8-bit view, and where it has no data

# Signed maps: blue for less than the bulk, orange for more, pale in between. Told apart by the colour-blind too.
DIVERGING = np.array(
    [
        [0.031, 0.188, 0.420],
        [0.082, 0.353, 0.659],
        [0.259, 0.576, 0.835],
        [0.620, 0.792, 0.918],
        [0.945, 0.945, 0.937],
        [0.992, 0.784, 0.518],
        [0.945, 0.529, 0.149],
        [0.776, 0.302, 0.020],
        [0.478, 0.149, 0.012],
    ]
)
KEPT_LEVEL, KEPT_PX = 2, 1 << 24  # levels of a layer whose views are kept in memory
HUFFMAN_ONLY = 2  # ZHUFFMAN_ONLY of zlib
SAID_PX, SAID, PLATE = 9, (50, 54, 60), (241, 241, 239)  # of the limit in a difference: height, colour, ground
NO_DATA = np.array([128, 134, 140], dtype=np.uint8)  # a pixel of a crop that lies outside the analysed area


def sample_step(shape: tuple[int, ...]) -> int:
    """Every so many pixels along both axes stand for an image of `shape`: about a million are enough."""
    return max(1, round(math.sqrt(shape[0] * shape[1] / 1_000_000)))


def display_range(image: Any, low: float = 0.1, high: float = 99.9) -> tuple[float, float]:
    """Percentiles of the finite pixels, of every k-th one where the image is large; (0, 1) when there are none."""
    return range_of(every(image, sample_step(image.shape)), low, high)


def range_of(pixels: npt.NDArray[np.generic], low: float, high: float) -> tuple[float, float]:
    """Percentiles of the finite pixels; (0, 1) when there are none."""
    some = np.asarray(pixels, dtype=np.float32)
    finite = np.isfinite(some)
    some = some.ravel() if finite.all() else some[finite]
    if not some.size:
        return 0.0, 1.0
    # one by one: numpy.percentile, which takes both at once and lies between two pixels, takes five times as long
    places = (round(part / 100 * (some.size - 1)) for part in (low, high))
    bottom, top = (float(np.partition(some, place)[place]) for place in places)
    return (bottom, top) if top > bottom else (bottom, bottom + 1.0)


def percentiles(view: Bytes) -> list[int]:
    """Percentiles 0 to 100 of the pixels of an 8-bit view."""
    below = np.cumsum(np.bincount(view.ravel(), minlength=256))
    places = np.rint(np.linspace(0, view.size - 1, 101))
    return [int(gray) for gray in np.searchsorted(below, places, side="right")]


def to_bytes(image: npt.NDArray[np.generic], low: float, high: float) -> Bytes:
    """8-bit view of `image`: `low` is 0, `high` is 255; what is no number is 0."""
    scaled = np.subtract(image, np.float32(low), dtype=np.float32)
    scaled *= np.float32(255 / (high - low))
    np.clip(scaled, 0, 255, out=scaled)
    np.rint(scaled, out=scaled)
    if np.isnan(scaled.sum()):
        np.copyto(scaled, 0, where=np.isnan(scaled))
    return np.asarray(scaled, dtype=np.uint8)


def covered_bytes(image: npt.NDArray[np.generic], low: float, high: float) -> Covered:
    """8-bit view as `to_bytes` and where there is no data: gray as the rest on average, so that no edge is seen."""
    gaps = gaps_of(image)
    view = to_bytes(image, low, high)
    if gaps is not None and not gaps.all():
        np.copyto(view, 0, where=gaps)  # infinity is 255
        np.copyto(view, round(view.sum(dtype=np.int64) / np.count_nonzero(~gaps)), where=gaps)
    return view, gaps


def signed_bytes(image: npt.NDArray[np.generic], limit: float) -> Covered:
    """8-bit view of a signed map, 128 is zero, 1 and 255 are ∓`limit`; and where there is no data."""
    gaps = gaps_of(image)
    scaled = np.multiply(image, np.float32(127 / limit), dtype=np.float32)
    np.clip(scaled, -127, 127, out=scaled)
    np.rint(scaled, out=scaled)
    scaled += 128
    if gaps is not None:
        np.copyto(scaled, 128, where=gaps)
    return scaled.astype(np.uint8), gaps


def gaps_of(image: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_] | None:
    """Where `image` is not finite; None where it is finite everywhere."""
    gaps = ~np.isfinite(image)
    return gaps if gaps.any() else None


def coloured(value: npt.NDArray[np.generic], limit: float) -> Bytes:
    """A signed map in the diverging colours, shape (..., 3); `NO_DATA` where it is not finite."""
    finite = np.isfinite(value)
    place = (np.clip(np.nan_to_num(np.asarray(value, dtype=np.float64)) / limit, -1, 1) + 1) / 2
    anchors = np.linspace(0, 1, len(DIVERGING))
    rgb = np.stack([np.interp(place, anchors, DIVERGING[:, k]) for k in range(3)], axis=-1)
    return np.where(finite[..., None], np.rint(255 * rgb).astype(np.uint8), NO_DATA)


def halved(image: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """Means of 2x2 pixels, of the finite ones; an odd last row or column stands for itself. Shape (ceil, ceil)."""
    found = np.asarray(image, dtype=np.float32)
    odd = [(0, n % 2) for n in found.shape]
    if any(after for _, after in odd):
        found = np.pad(found, odd, mode="edge")
    pairs = found[::2] + found[1::2]
    means = np.asarray(pairs[:, ::2] + pairs[:, 1::2])
    means *= np.float32(0.25)
    gaps = gaps_of(means)
    if gaps is not None:
        blocks = found.reshape(means.shape[0], 2, means.shape[1], 2).swapaxes(1, 2)[gaps].reshape(-1, 4)
        finite = np.isfinite(blocks)
        number, total = finite.sum(axis=1), np.where(finite, blocks, 0).sum(axis=1)
        means[gaps] = np.where(number > 0, total / np.maximum(number, 1), np.nan)
    return means


def level_shapes(shape: tuple[int, int], tile_px: int, first: int = 0) -> list[tuple[int, int]]:
    """Shapes of an image and its halvings until one tile holds the whole of it, and level `first` at least."""
    shapes = [shape]
    while max(shapes[-1]) > tile_px or len(shapes) <= first:
        rows, cols = shapes[-1]
        shapes.append((-(-rows // 2), -(-cols // 2)))
    return shapes


def save_webp(view: Bytes, path: Path) -> None:
    """Save gray (M, N) or RGB (M, N, 3) as WebP, without loss."""
    image = Image.fromarray(np.ascontiguousarray(view)).convert("RGB")
    image.save(path, "WEBP", lossless=True, method=1, quality=20)


def save_gray(view: Bytes, path: Path | BinaryIO) -> None:
    """Save gray (M, N) as PNG, without loss.

    As colours of a palette, which PNG neither filters nor, said so, searches for repetitions: noise has none. A third
    of the time of the smallest picture, a fifth larger.
    """
    _with_palette(view, range(256)).save(path, "PNG", compress_level=1, compress_type=HUFFMAN_ONLY)


def save_lossy(view: Bytes, path: Path, quality: int) -> None:
    """Save gray (M, N) or RGB (M, N, 3) as JPEG, colours as sharp as light and dark."""
    Image.fromarray(np.ascontiguousarray(view)).save(path, "JPEG", quality=quality, subsampling=0, optimize=True)


def save_cover(gaps: npt.NDArray[np.bool_], path: Path) -> None:
    """Save where there is data as PNG: see-through in the gaps."""
    _with_palette((~gaps).view(np.uint8), (0, 255)).save(path, "PNG", compress_level=1, transparency=0)


def _with_palette(view: Bytes, grays: Iterable[int]) -> Image.Image:
    """Picture of the indices (M, N) of grays."""
    image = Image.frombuffer("P", (view.shape[1], view.shape[0]), np.ascontiguousarray(view), "raw", "P", 0, 1)
    image.putpalette([level for gray in grays for level in (gray, gray, gray)])
    return image


@dataclass(frozen=True)
class Layer:
    """Tiles of one layer of the viewer: `folder`/<level>_<tile row>_<tile column>.`ending`, level 0 is the raw frame.

    Tiles named in `covers` have gaps: <name>.cover.png is see-through where there is no data. Levels below `first` are
    not kept.
    """

    folder: str
    first: int
    levels: int
    rows: int
    cols: int
    tile_px: int
    ending: str
    covers: list[str]


class _Level:
    """A level of a layer: takes rows in order, writes every full row of tiles, hands the halved rows on."""

    def __init__(self, number: int, shapes: list[tuple[int, int]], write: "LayerWriter") -> None:
        self.number, self.shape, self.write = number, shapes[number], write
        self.views: list[Bytes] = []
        self.waiting: list[npt.NDArray[np.generic]] = []
        self.taken = self.written = 0
        self.next = _Level(number + 1, shapes, write) if number + 1 < len(shapes) else None

    def push(self, rows: npt.NDArray[np.generic]) -> None:
        self.waiting.append(rows)
        self.taken += len(rows)
        ends = self.taken == self.shape[0]
        side = self.write.tile_px
        if sum(map(len, self.waiting)) < side and not ends:
            return
        held = np.concatenate(self.waiting)
        number = len(held) if ends else len(held) // side * side
        self.waiting = [] if ends else [held[number:]]
        for start in range(0, number, side):
            band = held[start : min(start + side, number)]
            view = self.write.tiles(self.number, self.written, band)
            self.written += 1
            if self.number >= KEPT_LEVEL or self.shape[0] * self.shape[1] <= KEPT_PX:
                self.views.append(view)
            if self.next is not None:
                self.next.push(halved(band))


@dataclass(frozen=True)
class LayerWriter:
    """Writes an image as tiles of all levels into `folder`, band by band: memory does not grow with its rows.

    Attributes
    ----------
    folder : Path
        Made here; the layer's address is its last two names.
    view : callable
        From pixels to 8 bit, and where there is no data.
    tile_px : int
        Even.
    quality : int or None
        Of JPEG tiles; None: PNG tiles, lossless.
    first : int
        The finest level that is kept: 1, 2x2 pixels are one.
    covers : list of str
        Names of tiles with gaps; filled here.
    """

    folder: Path
    view: Callable[[npt.NDArray[np.generic]], Covered]
    tile_px: int
    quality: int | None
    first: int = 0
    covers: list[str] = field(default_factory=list)

    def write(self, bands: Iterable[npt.NDArray[np.generic]], shape: tuple[int, int]) -> tuple[Layer, list[Bytes]]:
        """Write the layer; with it the views of its levels: those from KEPT_LEVEL on, and small ones."""
        self.folder.mkdir(parents=True)
        shapes = level_shapes(shape, self.tile_px, self.first)
        level: _Level | None = _Level(0, shapes, self)
        top = level
        assert top is not None
        for band in bands:
            for start in range(0, len(band), self.tile_px):  # even heights but for the last: halves stay whole
                top.push(band[start : start + self.tile_px])
        views = []
        while level is not None:
            assert level.taken == level.shape[0], f"{level.taken} of {level.shape[0]} rows written"
            views.append(np.concatenate(level.views) if level.views else np.zeros((0, 0), np.uint8))
            level = level.next
        place = f"{self.folder.parent.name}/{self.folder.name}"
        ending = "png" if self.quality is None else "jpg"
        layer = Layer(place, self.first, len(shapes), *shape, self.tile_px, ending, sorted(self.covers))
        return layer, views

    def tiles(self, level: int, row: int, band: npt.NDArray[np.generic]) -> Bytes:
        """Write a row of tiles; its 8-bit view, empty where the level is not kept."""
        if level < self.first:
            return np.zeros((0, band.shape[1]), dtype=np.uint8)
        view, gaps = self.view(band)
        for j in range(-(-view.shape[1] // self.tile_px)):
            here = np.s_[:, j * self.tile_px : (j + 1) * self.tile_px]
            name = f"{level}_{row}_{j}"
            if self.quality is None:
                save_gray(view[here], self.folder / f"{name}.png")
            else:
                save_lossy(view[here], self.folder / f"{name}.jpg", self.quality)
            if gaps is not None and gaps[here].any():
                save_cover(gaps[here], self.folder / f"{name}.cover.png")
                self.covers.append(name)
        return view


def thumbnail(view: Bytes, side_px: int = 96) -> Image.Image:
    """A gray picture of at most `side_px`, the shorter side centred into a square."""
    image = Image.fromarray(view)
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    square = image.crop((left, top, left + short, top + short))
    return square.resize((side_px, side_px), Image.Resampling.BOX if short > side_px else Image.Resampling.BICUBIC)


def sampled(frame: Any, at: Array, repeated: bool = False) -> npt.NDArray[np.float32]:
    """Values of an array in the lattice frame at indices (2, M, N), between its pixels.

    NaN beyond the array and where it is 0, which is where nothing was analysed; where `repeated` it has no end.
    """
    if repeated:
        return np.asarray(map_coordinates(frame, at, order=1, mode="grid-wrap"), dtype=np.float32)
    low = np.maximum(np.floor(at.min(axis=(1, 2))).astype(int), 0)
    high = np.minimum(np.ceil(at.max(axis=(1, 2))).astype(int) + 1, frame.shape)
    if (high <= low).any():
        return np.full(at.shape[1:], np.nan, dtype=np.float32)
    window = np.array(frame[low[0] : high[0], low[1] : high[1]], dtype=np.float32)
    window[window == 0] = np.nan
    return np.asarray(map_coordinates(window, at - low[:, None, None], order=1, cval=np.nan), dtype=np.float32)


def sheet(triples: npt.NDArray[np.floating], low: float, high: float, limits: Sequence[float]) -> Bytes:
    """One picture of many defects: a row each, input, prediction, difference beside each other.

    From triples (n, 3, s, s) to shape (n*s, 3*s, 3). A difference has colours up to its own limit, which stands in it.
    """
    number, _, side, _ = triples.shape
    views = np.empty((number, side, 3, side, 3), dtype=np.uint8)
    for k in (0, 1):
        gray = to_bytes(triples[:, k], low, high)[..., None]
        views[:, :, k] = np.where(np.isfinite(triples[:, k])[..., None], gray, NO_DATA)
    for view, triple, limit in zip(views, triples, limits, strict=True):
        view[:, 2] = coloured(triple[2], limit)
    whole = Image.fromarray(views.reshape(number * side, 3 * side, 3))
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(SAID_PX)
    for k, limit in enumerate(limits):
        said, at = f"±{limit:.2g}", (2 * side + 2, (k + 1) * side - 2)
        pen.rectangle(pen.textbbox(at, said, font=font, anchor="ls"), fill=PLATE)
        pen.text(at, said, fill=SAID, font=font, anchor="ls")
    return np.asarray(whole)


def median_cell(frame: Any, mask: npt.NDArray[np.bool_], px_per_cell: tuple[int, int], most: int = 2000) -> Array:
    """The median of the analysed cells (of at most `most`, evenly taken) of a lattice-frame array; shape `px_per_cell`.

    Raises
    ------
    ValueError
        If no cell is analysed.
    """
    cells = np.argwhere(mask)
    if not len(cells):
        raise ValueError("no cell is analysed: there is no median cell")
    cells = cells[:: max(1, -(-len(cells) // most))]
    n_u, n_v = px_per_cell
    stack = [frame[i * n_u : (i + 1) * n_u, j * n_v : (j + 1) * n_v].ravel() for i, j in cells]
    half = len(stack) // 2
    found = np.partition(np.stack(stack, axis=1), half, axis=1)  # numpy.median takes four times as long
    lower = found[:, half] if len(stack) % 2 else found[:, :half].max(axis=1)
    return np.asarray((lower + found[:, half]) / 2, dtype=np.float64).reshape(n_u, n_v)
