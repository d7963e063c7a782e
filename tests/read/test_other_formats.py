"""TIFF, TIA, MRC, HyperSpy, NumPy, Nion Swift, Panta Rhei: the same pixels and scale; crafted ones are refused."""

import json
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import zarr

import read_images
from oddlattice.read.formats.registry import FORMATS as KNOWN
from oddlattice.run.yaml_files import read_mapping
from oddlattice.storage.rows import Row
from support.other_files import FORMATS, PIXEL_NM, nion_h5, ser, tif_imagej
from support.raw_files import SETTINGS, counts, shard_of, write_dm

ROOT = Path(__file__).parents[2]


Read = dict[str, list[tuple[Row, zarr.Group | None]]]


def read(archive: Path, work: Path) -> Read:
    """Rows by file name, each with its image, where it was read; every file in a child of its own, as in a run."""
    names = shard_of(archive, work / "shard.tsv")
    read_images.main(work / "shard.tsv", archive, work / "images.zarr", SETTINGS, log=work / "log", threads=2)
    store = zarr.open_group(work / "images.zarr", mode="r")
    found: Read = {name: [] for name in names.values()}
    for row in store.attrs["images"]:
        found[names[row["file_id"]]].append((row, store[row["image_id"]] if row["state"] == "read" else None))
    return found


SHAPES = {"image": (96, 128), "stack": (3, 80, 90)}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Read:
    archive = tmp_path_factory.mktemp("sound")
    for kind, shape in SHAPES.items():
        for name, (ending, write, _) in FORMATS.items():
            write(archive / f"{name} {kind}{ending}", counts(shape))
        write_dm(archive / f"dm {kind}.dm4", counts(shape).reshape((-1, *shape[-2:]))[0])
    return read(archive, tmp_path_factory.mktemp("work"))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", SHAPES)
def test_the_same_pixels_and_scale_from_every_format(sound: Read, name: str, kind: str) -> None:
    ending, _, has_scale = FORMATS[name]
    frames = counts(SHAPES[kind]).reshape((-1, *SHAPES[kind][-2:]))
    found = sound[f"{name} {kind}{ending}"]
    assert [(row["state"], row["frame"]) for row, _ in found] == [("read", n) for n in range(len(frames))], found
    for (_, image), frame in zip(found, frames, strict=True):
        np.testing.assert_array_equal(image["0"][:], frame)
        pixel_nm = image.attrs["oddlattice"]["pixel_nm_header"]
        assert pixel_nm == (pytest.approx([PIXEL_NM, PIXEL_NM], rel=1e-5) if has_scale else None)
    ((same, _),) = sound[f"dm {kind}.dm4"]
    assert found[0][0]["scan_id"] == same["scan_id"]


def test_the_default_include_takes_every_format() -> None:
    included = read_mapping(ROOT / "config.yaml")["include"]
    assert {f"**/*{ending}" for known in KNOWN for ending in known.endings} == set(included)


def rgb(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((96, 128, 3), np.uint8), photometric="rgb")


def dots_per_inch(path: Path) -> None:
    tifffile.imwrite(path, counts(), resolution=(300, 300), resolutionunit="INCH")


def sidecar_of_words(path: Path) -> None:
    np.save(path, counts())
    path.with_suffix(".json").write_text('{"pixel_nm": "wide"}')


def sidecar_behind_a_link(path: Path) -> None:
    np.save(path, counts())
    path.with_name("secret.txt").write_text("pixel_nm: 5")
    path.with_suffix(".yaml").symlink_to(path.with_name("secret.txt"))


def mrc_claim(path: Path) -> None:
    head = struct.pack("<4i", 200_000, 200_000, 1, 6) + bytes(192) + b"MAP \x44\x44\0\0"
    path.write_bytes(head + bytes(5000))


def mrc_negative(path: Path) -> None:
    path.write_bytes(struct.pack("<4i", -5, 10, 1, 6) + bytes(192) + b"MAP \x44\x44\0\0" + bytes(5000))


def ser_claim(path: Path) -> None:
    ser(path, counts())
    content = bytearray(path.read_bytes())
    (first,) = struct.unpack_from("<I", content, struct.unpack_from("<I", content, 22)[0])
    struct.pack_into("<II", content, first + 42, 200_000, 200_000)
    path.write_bytes(content)


def npy_claim(path: Path) -> None:
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<u2", "fortran_order": False, "shape": (200_000, 200_000)}
        )
        file.write(bytes(5000))


def npy_objects(path: Path) -> None:
    np.save(path, np.array([{"a": 1}]), allow_pickle=True)


def tif_truncated(path: Path) -> None:
    tif_imagej(path, counts())
    path.write_bytes(path.read_bytes()[:-9000])


def tif_claim(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((64, 64), np.uint16), compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as file:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            file.pages[0].tags[name].overwrite(200_000)


def tif_no_page(path: Path) -> None:
    path.write_bytes(b"II*\0" + bytes(4))


def zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.npy", bytes(300 << 20))
        archive.writestr("metadata.json", "{}")


def zip_of_something(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


def h5_of_something(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["entry/measurement"] = counts()


def h5_elsewhere(path: Path) -> None:
    nion_h5(path, counts())
    with h5py.File(path, "a") as file:
        del file["data"]
        file["data"] = h5py.ExternalLink("/etc/passwd", "/x")


def nion_of_another(path: Path) -> None:
    nion_h5(path, counts())
    with h5py.File(path, "a") as file:
        file["data"].attrs["properties"] = json.dumps({"dimensional_calibrations": [{}]})


REASONS = {
    mrc_claim: (".mrc", "claims 80 GB of data .1 x 200000 x 200000. but is 5.2 kB long"),
    mrc_negative: (".mrc", "claims an image of 1 x 10 x -5 px"),
    ser_claim: ("_1.ser", "claims 40 GB of data .1 x 200000 x 200000. but is .* long"),
    npy_claim: (".npy", "claims 80 GB of data .200000 x 200000. but is"),
    npy_objects: (".npy", "holds Python objects"),
    tif_truncated: (".tif", "is truncated: 9.0 kB are missing at its end"),
    tif_claim: (".tif", "claims 80 GB of data .the pages. in"),
    tif_no_page: (".tif", "without a page"),
    zip_bomb: (".ndata1", "claims 315 MB of data .in a zip archive. in"),
    zip_of_something: (
        ".prz",
        "The file is a zip archive that holds no image of Nion Swift or Panta Rhei; need a microscope file",
    ),
    h5_of_something: (".h5", "holds no image of Velox or HyperSpy or Nion Swift or NCEM EMD; need"),
    h5_elsewhere: (".h5", "refers to another file .*external link"),
    nion_of_another: (".h5", "calibrates 1 axes of an array of 96 x 128"),
    rgb: (".tif", "is a colour picture .RGB, 96 x 128 px."),
    sidecar_of_words: (".npy", "pixel_nm is 'wide'; need a number above 0"),
}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Read:
    archive = tmp_path_factory.mktemp("odd")
    for craft, (ending, _) in REASONS.items():
        craft(archive / f"{craft.__name__}{ending}")
    dots_per_inch(archive / "dots.tif")
    sidecar_behind_a_link(archive / "linked.npy")
    return read(archive, tmp_path_factory.mktemp("work"))


@pytest.mark.parametrize("craft", REASONS, ids=lambda craft: craft.__name__)
def test_crafted_files_are_refused(odd: Read, craft: Callable[[Path], None]) -> None:
    ending, reason = REASONS[craft]
    ((row, _),) = odd[f"{craft.__name__}{ending}"]
    assert row["state"] == "rejected"
    assert re.search(reason, row["reason"]), row["reason"]


@pytest.mark.parametrize("name", ["dots.tif", "linked.npy"])
def test_what_is_no_scale_is_not_taken_for_one(odd: Read, name: str) -> None:
    """Dots per inch of a printer; a sidecar that is a link, which is not followed."""
    ((_, image),) = odd[name]
    assert image.attrs["oddlattice"]["pixel_nm_header"] is None
