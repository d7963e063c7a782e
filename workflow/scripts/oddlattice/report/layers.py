"""The layers of the viewer as tiles: the raw image, the prediction, the signed maps."""

import math
from functools import partial
from pathlib import Path

import numpy as np

from oddlattice.report import pictures
from oddlattice.report.images import Image
from oddlattice.storage.rows import Row
from oddlattice.storage.windows import bands

TILE_PX = 1024  # side of a tile of the viewer
MAP_PERCENTILES = 0.025, 99.975
MAP_QUALITY, SHOWN_Z = 95, 6.0  # of JPEG: less makes rings about strong defects; z up to which colours go at first


# From so many pixels on, pictures of noise would take more room than half of the raw image: there the raw image is
# JPEG, with errors well below the noise, and maps have half the resolution where columns are wide enough for it.
MANY_PX, RAW_QUALITY, HALVED_QUALITY, WIDE_PX = 900_000, 80, 90, 4.0


def write_raw(image: Image, folder: Path) -> Row:
    """Tiles and thumbnail of the raw image; how its counts became gray."""
    low, high = pictures.display_range(image.raw)
    quality = RAW_QUALITY if image.raw.shape[0] * image.raw.shape[1] >= MANY_PX else None
    writer = pictures.LayerWriter(folder / "raw", lambda x: (pictures.to_bytes(x, low, high), None), TILE_PX, quality)
    layer, levels = writer.write(bands(image.raw), image.raw.shape)
    first = next(view for view in levels if view.size)  # those of a huge image are not kept
    small = next(view for view in reversed(levels) if min(view.shape) >= 96 or view is first)
    pictures.thumbnail(small).convert("RGB").save(folder / "thumbnail.webp", "WEBP", quality=35, method=6)
    grays = pictures.percentiles(levels[min(2, len(levels) - 1)])
    return vars(layer) | {"low": low, "high": high, "percentiles": grays}


def write_maps(image: Image, folder: Path) -> dict[str, Row]:
    """Tiles of the signed maps in the raw frame."""
    found, first = {}, _finest(image)
    for key, values in image.maps.items():
        if key == "prediction":
            continue
        limit = map_limit(pictures.display_range(values, *MAP_PERCENTILES), 8.0 if key == "z" else 0.2)
        # a strong defect must not take the few gray levels away from all that is shown in the beginning
        limit, start = (min(limit, 4 * SHOWN_Z), SHOWN_Z) if key == "z" else (limit, limit / 2)
        view = partial(pictures.signed_bytes, limit=limit)
        writer = pictures.LayerWriter(folder / key, view, TILE_PX, HALVED_QUALITY if first else MAP_QUALITY, first)
        layer, _ = writer.write(bands(values), values.shape)
        found[key] = vars(layer) | {"limit": limit, "start": start}
    return found


def write_prediction(image: Image, raw: Row, folder: Path) -> Row | None:
    """Tiles of the prediction in the raw frame, in the raw image's gray; see-through where nothing was predicted."""
    values = image.maps.get("prediction")
    if values is None:
        return None
    known = (np.where(band != 0, band, np.nan) for band in bands(values))
    view = partial(pictures.covered_bytes, low=raw["low"], high=raw["high"])
    writer = pictures.LayerWriter(folder / "prediction", view, TILE_PX, 82, _finest(image))
    return vars(writer.write(known, values.shape)[0])


def _finest(image: Image) -> int:
    """The finest level of the maps: 1 where the image has many pixels and a column is several of them wide, else 0."""
    width = image.row.get("column_fwhm_px") or 0.0
    return int(image.raw.shape[0] * image.raw.shape[1] >= MANY_PX and width >= WIDE_PX)


def map_limit(between: tuple[float, float], least: float) -> float:
    """Half range of a signed map that lies `between`: rounded up to two digits, at least `least`."""
    reach = max(abs(between[0]), abs(between[1]), least)
    step = 10.0 ** (math.floor(math.log10(reach)) - 1)
    return round(math.ceil(reach / step - 1e-9) * step, 12)
