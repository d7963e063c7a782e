"""An image with its defects and a scale bar, as a journal prints it: `oddlattice export --format figure`."""

from base64 import b64encode
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import AbstractPathEffect, withStroke
from PIL import Image
from PIL.Image import Dither, Resampling
from PIL.Image import Image as Picture

from oddlattice.defects.kinds import KINDS, kind_of
from oddlattice.report import numbers as n
from oddlattice.report import pictures
from oddlattice.report.exports import rgb
from oddlattice.report.vector_fields import round_up

WIDTH_IN, LEGEND_IN = 3.5, 0.42
TALLEST_IN = 9.0  # a page; an image that would be taller is narrower
DPI = 300
FIGURE_PX = 1000  # the longer side of a figure's image has at least so many, where the image has; twice as many at most
DARK = "#0c0e11"
_GRAYS, _SHADES = 184, 9  # of a figure's PNG: of the image, and of each kind's colour
_PLACE = "image"  # name of what stands for the image in matplotlib's drawing
_OUTLINED: list[AbstractPathEffect] = [withStroke(linewidth=1.9, foreground=DARK)]  # seen on light and on dark columns


def defect_figure(shape: tuple[int, int], defects: pl.DataFrame, pixel_nm: tuple[float, float] | None) -> Figure:
    """What lies on an image of `shape` in its figure: defects marked by kind, a scale bar, below it a legend.

    As wide as one column of a journal. `save_figure` lays the image under it.
    """
    rows, cols = shape
    image_in = min(WIDTH_IN * rows / cols, TALLEST_IN)
    whole_in = image_in + (LEGEND_IN if defects.height else 0.0)
    figure = Figure(figsize=(WIDTH_IN, whole_in), dpi=DPI)
    part = image_in * cols / rows / WIDTH_IN
    axes = figure.add_axes(((1 - part) / 2, 1 - image_in / whole_in, part, image_in / whole_in))
    axes.set_axis_off()
    axes.add_patch(Rectangle((-0.5, -0.5), cols, rows, facecolor="none", edgecolor="none", zorder=0, gid=_PLACE))
    kinds = [kind_of(k) for k in defects["kind"]]
    for kind in KINDS:
        some = defects.filter(pl.Series([k == kind for k in kinds], dtype=pl.Boolean))
        if some.height:
            colour, marker = KINDS[kind].colour, KINDS[kind].marker
            look: dict[str, Any] = {"color": colour} if marker in "+x" else {"facecolors": "none", "edgecolors": colour}
            marks = axes.scatter(some["col_px"], some["row_px"], s=26, marker=marker, linewidths=0.9, **look)
            marks.set_path_effects(_OUTLINED)
            marks.set_label(f"{kind} ({some.height})")
    if pixel_nm:
        _scale_bar(axes, rows, cols, pixel_nm[1])
    axes.set_xlim(-0.5, cols - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    if defects.height:
        figure.legend(loc="lower center", ncols=3, fontsize=6, frameon=False, handletextpad=0.2, columnspacing=1)
    return figure


def _scale_bar(axes: Axes, rows: int, cols: int, pixel_nm: float) -> None:
    nm = round_up(0.12 * cols * pixel_nm)
    length, left, bottom = nm / pixel_nm, 0.04 * cols, 0.95 * rows
    plate = Rectangle((left - 0.015 * cols, bottom - 0.07 * rows), length + 0.03 * cols, 0.095 * rows)
    plate.set(facecolor=DARK, alpha=0.65, linewidth=0, zorder=3)
    bar = Rectangle((left, bottom), length, 0.012 * rows)
    bar.set(facecolor="white", linewidth=0, zorder=3)
    for patch in (plate, bar):
        axes.add_patch(patch)
    words = axes.text(left + length / 2, bottom - 0.012 * rows, f"{n.significant(nm, 1)} nm", color="white", fontsize=7)
    words.set(zorder=4, horizontalalignment="center", verticalalignment="bottom")


def figure_view(image: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """Show an image (M, N) in gray as its figure does: halved while more than FIGURE_PX are left."""
    low, high = pictures.display_range(image)
    while max(image.shape) >= 2 * FIGURE_PX:
        image = pictures.halved(image)
    return pictures.to_bytes(image, low, high)


def save_figure(view: npt.NDArray[np.uint8], figure: Figure, stem: Path) -> None:
    """Write a figure on an image as `stem`.svg, text as text, and `stem`.png; the same bytes every time.

    Parameters
    ----------
    view : ndarray of shape (M, N), uint8
        The image, of whatever number of pixels; it fills the axes.
    figure : Figure
        See `defect_figure`.
    """
    # matplotlib would resample the image for both, in colour, and pack it at length: nine tenths of the time
    with rc_context({"svg.hashsalt": "oddlattice", "svg.fonttype": "none"}):
        text = StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    before, place, after = text.getvalue().partition(f'<g id="{_PLACE}">')
    assert place, f"{stem}: found no place for the image in the drawing"
    stem.with_suffix(".svg").write_text(f"{before}{place}{_embedded(view, figure)}{after}", encoding="utf-8")
    figure.patch.set_facecolor("none")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    drawn = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    _on_image(view, _box(figure, DPI), drawn).save(
        stem.with_suffix(".png"), dpi=(DPI, DPI), compress_level=1, compress_type=pictures.HUFFMAN_ONLY
    )


def _box(figure: Figure, per_inch: float) -> tuple[float, float, float, float]:
    """Left and upper edge, width and height of the axes."""
    box, width, height = figure.axes[0].get_position(), figure.get_figwidth(), figure.get_figheight()
    found = box.x0 * width, (1 - box.y1) * height, box.width * width, box.height * height
    left, top, across, down = (per_inch * float(x) for x in found)
    return left, top, across, down


def _embedded(view: npt.NDArray[np.uint8], figure: Figure) -> str:
    """The image as an element of the figure's SVG."""
    packed = BytesIO()
    pictures.save_gray(view, packed)
    left, top, width, height = (f"{x:.6g}" for x in _box(figure, 72))
    how = "pixelated" if _few(view.shape[1], _box(figure, DPI)[2]) else "auto"
    return (
        f'\n<image x="{left}" y="{top}" width="{width}" height="{height}" preserveAspectRatio="none" '
        f'style="image-rendering: {how}" '
        f'xlink:href="data:image/png;base64,{b64encode(packed.getvalue()).decode("ascii")}"/>'
    )


def _on_image(
    view: npt.NDArray[np.uint8], box: tuple[float, float, float, float], over: npt.NDArray[np.uint8]
) -> Picture:
    """What is drawn, RGBA (M, N, 4), on an image in its box [px], in a palette of grays and of the kinds' colours."""
    left, top, width, height = (round(x) for x in box)
    how = Resampling.NEAREST if _few(view.shape[1], width) else Resampling.BILINEAR
    ground = Image.new("L", (over.shape[1], over.shape[0]), 255)
    ground.paste(Image.fromarray(view).resize((max(width, 1), max(height, 1)), how), (left, top))
    seen = np.flatnonzero(over[..., 3])
    found = ground.point([round(k * (_GRAYS - 1) / 255) for k in range(256)])
    found.putpalette(_palette())
    if len(seen):
        colours, part = np.split(over.reshape(-1, 4)[seen], [3], axis=1)
        below = np.asarray(ground).reshape(-1)[seen, None]
        mixed = np.rint(below + (part / np.float32(255)) * (colours - below.astype(np.float32))).astype(np.uint8)
        index = np.array(found).reshape(-1)
        index[seen] = np.asarray(Image.fromarray(mixed[None]).quantize(palette=found, dither=Dither.NONE))[0]
        found = Image.frombytes("P", ground.size, index.tobytes())
        found.putpalette(_palette())
    return found


def _few(pixels: int, places: float) -> bool:
    """Whether pixels are so few that they are shown as squares."""
    return 2 * pixels <= places


def _palette() -> list[int]:
    """Grays, and every kind's colour in shades down to that of its outline."""
    grays = np.linspace(0, 255, _GRAYS).repeat(3)
    dark, share = np.array(rgb(DARK)), np.linspace(1, 0, _SHADES, endpoint=False)[:, None]
    shades = [dark + share * (np.array(rgb(kind.colour)) - dark) for kind in KINDS.values()]
    return [round(float(x)) for x in np.concatenate([grays, *(part.ravel() for part in shades)])]
