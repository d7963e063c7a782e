"""Maps of an image that were dropped, made again from the image and the record of its registration."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import zarr

from oddlattice.defects.analyse import Stores, analyse
from oddlattice.lattice.record import Record, write_tiles
from oddlattice.model.folder import Model, load_model
from oddlattice.predict.infer_image import infer_one
from oddlattice.predict.predictor import Predictor
from oddlattice.run.stage_settings import DefectSettings, InferSettings
from oddlattice.storage.groups import attributes_of, grain_of, grains_in, group_of, listed_in, new_store, values_of
from oddlattice.storage.packed_stores import unpack_group


def maps_again(
    images: zarr.Group,
    lattices: Path,
    image_id: str,
    models: Mapping[str, Path],
    settings: tuple[InferSettings, DefectSettings],
    folder: Path,
) -> zarr.Group:
    """Go through the stages behind the registration of one image once more: the same maps, by the same program.

    Parameters
    ----------
    images : Group
        Store of the read stage.
    lattices : Path
        Store of the tile stage, or what was kept of it.
    image_id : str
    models : mapping of str to Path
        Folder of each model.
    settings : InferSettings, DefectSettings
        As of the run.
    folder : Path
        Empty, for what is made.

    Returns
    -------
    Group
        Store of the maps.
    """
    tiles = new_store(folder / "tiles")
    if lattices.is_dir():
        shutil.copytree(lattices / image_id, folder / "tiles" / image_id)
    else:
        unpack_group(lattices, image_id, folder / "tiles")
    raw = values_of(group_of(images, image_id), "0")
    for number in grains_in(tiles, image_id):
        grain = grain_of(tiles, image_id, number)
        if attributes_of(grain)["state"] == "tiled" and "tiles" not in grain:
            write_tiles(raw, Record.of(grain), grain)
    loaded: dict[str, Model] = {}

    def choose(name: str) -> tuple[Model | None, Predictor]:
        if name in models and name not in loaded:
            loaded[name] = load_model(models[name])
        return loaded.get(name), Predictor(loaded.get(name), settings[0], 1)

    differences, maps = new_store(folder / "differences"), new_store(folder / "maps")
    infer_one(tiles, differences, image_id, choose, settings[0])
    row = next(row for row in listed_in(images) if row["image_id"] == image_id)
    analyse(row, Stores(images, tiles, differences, maps, folder / "maps"), settings[1])
    return maps
