"""Images and maps as OME-Zarr 0.5."""

import itertools
from xml.etree import ElementTree

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from ome_zarr_models.v05.bioformats2raw import BioFormats2Raw
from ome_zarr_models.v05.image import Image

from oddlattice.storage import omezarr


@pytest.fixture
def group(tmp_path):
    return zarr.open_group(tmp_path / "store.zarr", mode="w", zarr_format=3)


def noise(shape, dtype="uint16"):
    return np.random.default_rng(0).poisson(300, shape).astype(dtype)


def test_level_shapes_by_counting():
    assert omezarr.level_shapes((512, 512)) == [(512, 512)]
    assert omezarr.level_shapes((2048, 1025)) == [(2048, 1025), (1024, 512), (512, 256)]
    assert omezarr.level_shapes((1, 4000)) == [(1, 4000)]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32"])
def test_halving_is_the_mean_of_four(dtype):
    values = noise((37, 50), dtype)
    if np.dtype(dtype).kind == "i":
        values = values - np.asarray(301, dtype)
    exact = values[:36].astype(float).reshape(18, 2, 25, 2).mean(axis=(1, 3))
    halved = omezarr.halve(values)
    assert halved.dtype == values.dtype
    expected = exact if np.dtype(dtype).kind == "f" else np.floor(exact + 0.5)
    np.testing.assert_allclose(halved, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "int32"])
def test_halving_does_not_overflow(dtype):
    info = np.iinfo(dtype)
    for value in (info.min, info.max):
        assert (omezarr.halve(np.full((4, 6), value, dtype)) == value).all()


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [("bool", "uint8"), (">u2", "uint16"), ("int64", "int64"), ("float64", "float32"), ("float16", "float32")],
)
def test_stored_dtypes(dtype, stored):
    assert omezarr.stored_dtype(dtype) == np.dtype(stored)


@pytest.mark.parametrize("shape", [(300, 200), (1024, 1024), (1025, 2047), (2500, 1100)])
@pytest.mark.parametrize("lazy", [False, True])
def test_an_image_is_valid_and_holds_its_pixels(group, shape, lazy):
    values = noise(shape)
    given_array = da.from_array(values, chunks=(700, 333)) if lazy else values
    omezarr.write_image(group, given_array, (0.0125, 0.02), name="HAADF")
    model = Image.from_zarr(group)
    assert model.attributes.ome.version == "0.5"
    shapes = omezarr.level_shapes(shape)
    expected = values
    for level, level_shape in enumerate(shapes):
        array = group[str(level)]
        assert array.shape == level_shape
        assert array.dtype == np.uint16
        assert array.metadata.dimension_names == ("y", "x")
        np.testing.assert_array_equal(array[:], expected)
        expected = omezarr.halve(expected)
    assert max(shapes[-1]) <= 512
    first, *others = model.attributes.ome.multiscales[0].datasets
    assert first.coordinateTransformations[0].scale == [0.0125, 0.02]
    for level, dataset in enumerate(others, 1):
        scale, shift = dataset.coordinateTransformations
        assert scale.scale == pytest.approx([0.0125 * 2**level, 0.02 * 2**level])
        # the centre of pixel 0 of this level is the mean of the centres of the pixels under it
        assert shift.translation == pytest.approx([p * np.mean(np.arange(2**level)) for p in (0.0125, 0.02)])


def test_chunks_are_compressed_as_zarr_would(group, tmp_path):
    values = noise((1500, 1300))
    omezarr.write_image(group, values, None)
    array = group["0"]
    assert array.chunks == (1024, 1024)
    codec = array.metadata.codecs[-1]
    assert (codec.cname.value, codec.shuffle.value, codec.typesize) == ("lz4", "bitshuffle", 2)
    again = zarr.create_array(
        store=tmp_path / "again.zarr",
        shape=array.shape,
        dtype=array.dtype,
        chunks=array.chunks,
        compressors=[codec],
        fill_value=0,
    )
    again[:] = values
    for chunk in ("c/0/0", "c/1/1"):
        assert (tmp_path / "again.zarr" / chunk).read_bytes() == (tmp_path / "store.zarr/0" / chunk).read_bytes()


def test_without_a_pixel_size_the_scale_is_in_pixels(group):
    omezarr.write_image(group, noise((64, 64)), None)
    axes = group.attrs["ome"]["multiscales"][0]["axes"]
    assert all("unit" not in axis for axis in axes)
    Image.from_zarr(group)


def test_same_bytes_whatever_the_number_of_threads(group, tmp_path):
    values = noise((2100, 3100))
    stores = []
    for threads in (1, 4):
        store = zarr.open_group(tmp_path / f"{threads}.zarr", mode="w", zarr_format=3)
        omezarr.write_image(store, values, (1.0, 1.0), threads=threads)
        root = tmp_path / f"{threads}.zarr"
        stores.append({str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()})
    assert stores[0] == stores[1]
    assert len(stores[0]) > 15


def test_a_map_is_a_float_image_of_its_own(group):
    values = np.random.default_rng(0).normal(size=(700, 900))
    omezarr.write_image(group.create_group("z"), values, (0.01, 0.01))
    assert group["z/0"].dtype == np.float32
    np.testing.assert_array_equal(group["z/0"][:], values.astype(np.float32))
    Image.from_zarr(group["z"])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 900), min_size=1, max_size=6))
def test_bands_of_any_height_give_the_same_image(tmp_path_factory, heights):
    rows = sum(heights)
    values = noise((rows, 40))
    store = zarr.open_group(tmp_path_factory.mktemp("bands"), mode="w", zarr_format=3)
    edges = np.cumsum([0, *heights])
    bands = [values[a:b] for a, b in itertools.pairwise(edges)]
    omezarr.write_bands(store, bands, (rows, 40), values.dtype, None)
    np.testing.assert_array_equal(store["0"][:], values)


def test_too_few_rows_are_noticed(group):
    with pytest.raises(AssertionError, match="of 100 rows written"):
        omezarr.write_bands(group, [noise((90, 40))], (100, 40), "uint16", None)


@pytest.mark.parametrize("names", [["b", "a"], ["b/z", "a/difference", "a/z"], []])
def test_a_store_is_a_collection_of_its_images(group, tmp_path, names):
    for name in names:
        omezarr.write_image(group.create_group(name), noise((64, 48)), (0.01, 0.02), name=name)
    omezarr.make_collection(tmp_path / "store.zarr", depth=2 if "/" in "".join(names) else 1)
    store = zarr.open_group(tmp_path / "store.zarr", mode="r")
    BioFormats2Raw.from_zarr(store)
    assert store["OME"].attrs["ome"] == {"version": "0.5", "series": sorted(names)}
    described = ElementTree.parse(tmp_path / "store.zarr/OME/METADATA.ome.xml").getroot()
    assert [image.get("ID") for image in described] == [f"Image:{name}" for name in sorted(names)]
    for (pixels,) in described:
        said = [pixels.get(key) for key in ("Type", "SizeY", "SizeX", "PhysicalSizeX", "PhysicalSizeXUnit")]
        assert said == ["uint16", "64", "48", "0.02", "nm"]
    for name in store["OME"].attrs["ome"]["series"]:
        (multiscale,) = Image.from_zarr(store[name]).attributes.ome.multiscales
        assert [axis.name for axis in multiscale.axes] == ["y", "x"]
