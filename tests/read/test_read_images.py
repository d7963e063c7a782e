"""The read stage as a whole: files in, images and reasons out, whatever a file does to its reader."""

import hashlib
import itertools
import json
import os
import re
import stat
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from ome_zarr_models.v05.image import Image

import read_images
from oddlattice.read.read_shard import preloaded
from oddlattice.storage.products import READ
from support.raw_files import (
    SETTINGS,
    counts,
    shard_of,
    write_big_endian_dm,
    write_colour_dm,
    write_dm,
    write_ncem,
    write_velox,
)

REAL = Path(__file__).parents[3] / "shared/real"


def read(archive: Path, work: Path, threads: int = 1, call: str = "oddlattice.read.read_file:read_file", **settings):
    """Rows by file name, and the store."""
    names = shard_of(archive, work / "shard.tsv")
    out = work / "images.zarr"
    log = work / "read.log"
    read_images.main(
        work / "shard.tsv", archive, out, replace(SETTINGS, **settings), log=log, threads=threads, call=call
    )
    store = zarr.open_group(out, mode="r")
    rows: dict[str, list[dict]] = {name: [] for name in names.values()}
    for row in store.attrs["images"]:
        assert set(row) == set(READ)
        assert row["state"] in ("read", "rejected")
        assert bool(row["reason"]) == (row["state"] == "rejected")
        assert re.fullmatch("[a-z0-9-]+", row["image_id"])
        rows[names[row["file_id"]]].append(row)
    assert all(rows.values()), "every file has a row"
    ids = [row["image_id"] for row in itertools.chain(*rows.values())]
    assert len(ids) == len(set(ids))
    groups = {p.name for p in out.iterdir() if p.is_dir()}
    assert groups == {"OME"} | {row["image_id"] for row in itertools.chain(*rows.values()) if row["state"] == "read"}
    return rows, store


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """An archive of sound files, read once."""
    archive, work = tmp_path_factory.mktemp("sound"), tmp_path_factory.mktemp("work")
    write_dm(archive / "plain.dm4", counts())
    write_dm(archive / "old.dm3", counts(dtype="int32", seed=1), version=3)
    write_dm(archive / "float.dm4", counts(seed=2).astype(np.float32) / 7)
    write_dm(archive / "stack.dm4", counts((3, 80, 70), seed=3), stack=True)
    write_dm(archive / "bare.dm4", counts(seed=4), pixel=1.0, units="")
    write_dm(archive / "oblong.dm4", counts(seed=5), pixel=(20.0, 25.0), units="pm")
    write_ncem(archive / "ncem.emd", counts(seed=6))
    write_ncem(archive / "ncem stack.emd", counts((4, 66, 70), seed=7))
    write_velox(archive / "velox.emd", {"HAADF": counts((1, 96, 128), seed=8), "BF": counts((1, 96, 128), seed=9)})
    write_velox(archive / "velox stack.emd", {"BF": counts((3, 96, 128), seed=10)})
    name = os.fsdecode(b"sub/odd *[name]?\xff, 'quoted' \"twice\"\n<b>.dm4")
    (archive / "sub").mkdir()
    write_dm(archive / name, counts(seed=11))
    before = bytes_of(archive)
    rows, store = read(archive, work)
    assert bytes_of(archive) == before
    return archive, rows, store


def only(rows: list[dict]) -> dict:
    assert len(rows) == 1
    return rows[0]


@pytest.mark.parametrize(
    ("name", "expected", "pixel_nm"),
    [
        ("plain.dm4", counts(), 0.0125),
        ("old.dm3", counts(dtype="int32", seed=1), 0.0125),
        ("float.dm4", counts(seed=2).astype(np.float32) / 7, 0.0125),
        ("ncem.emd", counts(seed=6), 0.0125),
    ],
)
def test_an_image_comes_out_as_it_went_in(sound, name, expected, pixel_nm):
    _, rows, store = sound
    row = only(rows[name])
    assert row["state"] == "read"
    assert row["image_id"] == row["file_id"]
    group = store[row["image_id"]]
    assert group["0"].dtype == expected.dtype
    np.testing.assert_array_equal(group["0"][:], expected)
    assert group.attrs["oddlattice"]["pixel_nm_header"] == pytest.approx([pixel_nm, pixel_nm], rel=1e-6)
    assert (group.attrs["oddlattice"]["rows"], group.attrs["oddlattice"]["cols"]) == expected.shape
    Image.from_zarr(group)


def test_each_frame_of_a_stack_is_an_image(sound):
    _, rows, store = sound
    for name, data in (
        ("stack.dm4", counts((3, 80, 70), seed=3)),
        ("ncem stack.emd", counts((4, 66, 70), seed=7)),
        ("velox stack.emd", counts((3, 96, 128), seed=10)),
    ):
        assert [row["frame"] for row in rows[name]] == list(range(len(data)))
        for row, frame in zip(rows[name], data, strict=True):
            assert row["image_id"] == f"{row['file_id']}-s0-f{row['frame']:04d}"
            np.testing.assert_array_equal(store[row["image_id"]]["0"][:], frame)


def test_missing_and_uneven_pixel_sizes_are_told_and_not_refused(sound):
    _, rows, store = sound
    bare = store[only(rows["bare.dm4"])["image_id"]].attrs["oddlattice"]
    assert bare["pixel_nm_header"] is None
    assert "no pixel size" in bare["warnings"][0]
    oblong = store[only(rows["oblong.dm4"])["image_id"]].attrs["oddlattice"]
    assert oblong["pixel_nm_header"] == pytest.approx([0.020, 0.025], rel=1e-6)
    assert "not square" in oblong["warnings"][0]


def test_of_several_detectors_the_dark_field_is_taken_and_the_others_are_named(sound):
    _, rows, store = sound
    taken, left = sorted(rows["velox.emd"], key=lambda row: row["state"])
    assert (taken["signal"], left["signal"]) == ("HAADF", "BF")
    assert left["state"] == "rejected"
    assert "left out" in left["reason"]
    assert "'HAADF'" in left["reason"]
    attrs = store[taken["image_id"]].attrs["oddlattice"]
    assert attrs["detector"] == "HAADF"
    assert attrs["acquired"] == "2019-08-13T13:32:02+00:00"
    assert attrs["original_metadata"]["Optics"]["AccelerationVoltage"] == "300000"
    np.testing.assert_array_equal(store[taken["image_id"]]["0"][:], counts((1, 96, 128), seed=8)[0])


def test_any_file_name_works(sound):
    _, rows, store = sound
    row = only(next(found for name, found in rows.items() if name.startswith("sub/")))
    assert row["state"] == "read"
    assert row["path"].isprintable()
    np.testing.assert_array_equal(store[row["image_id"]]["0"][:], counts(seed=11))


def test_same_bytes_whatever_the_number_of_threads_and_a_second_time(sound, tmp_path):
    archive, _, store = sound
    first = bytes_of(Path(store.store.root))
    read(archive, tmp_path, threads=3)
    assert bytes_of(tmp_path / "images.zarr") == first


@pytest.mark.parametrize(("detectors", "taken"), [("all", {"HAADF", "BF"}), (["bf"], {"BF"}), (["EDX"], set())])
def test_detectors_are_chosen_by_the_config(tmp_path, detectors, taken):
    (tmp_path / "archive").mkdir()
    signals = {"HAADF": counts((1, 64, 64)), "BF": counts((1, 64, 64))}
    write_velox(tmp_path / "archive/two.emd", signals)
    rows, _ = read(tmp_path / "archive", tmp_path, detectors=detectors)
    assert {row["signal"] for row in rows["two.emd"] if row["state"] == "read"} == taken


def test_when_the_dark_field_is_no_good_another_detector_is_taken(tmp_path):
    (tmp_path / "archive").mkdir()
    write_velox(tmp_path / "archive/two.emd", {"HAADF": np.zeros((1, 64, 64), "u2"), "BF": counts((1, 64, 64))})
    rows, _ = read(tmp_path / "archive", tmp_path)
    assert {row["signal"]: row["state"] for row in rows["two.emd"]} == {"HAADF": "rejected", "BF": "read"}


def test_a_stack_becomes_its_aligned_sum_by_the_config(tmp_path):
    (tmp_path / "archive").mkdir()
    scene = counts((140, 150), mean=50.0)
    shifts = [(0, 0), (3, -2), (6, -4), (5, -7)]
    frames = np.stack([scene[20 + r : 120 + r, 20 + c : 120 + c] for r, c in shifts])
    write_dm(tmp_path / "archive/drift.dm4", frames, stack=True)
    rows, store = read(tmp_path / "archive", tmp_path, frames="sum")
    row = only(rows["drift.dm4"])
    assert (row["frame"], row["image_id"]) == (-1, row["file_id"])
    total = store[row["image_id"]]["0"]
    assert total.dtype == np.int32
    np.testing.assert_array_equal(total[:], 4 * scene[26:120, 20:113].astype(np.int32))
    assert "Sum of 4 frames" in store[row["image_id"]].attrs["oddlattice"]["warnings"][-1]


def cut(path: Path, fraction: float) -> None:
    os.truncate(path, int(path.stat().st_size * fraction))


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """An archive in which nothing can be used, read once."""
    archive, work = tmp_path_factory.mktemp("odd"), tmp_path_factory.mktemp("work")
    image = counts()
    (archive / "empty.dm4").touch()
    (archive / "pointer.emd").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    (archive / "random.dm4").write_bytes(np.random.default_rng(0).bytes(5000))
    (archive / "zeros.dm4").write_bytes(bytes(5000))
    (archive / "tiff.dm4").write_bytes(b"II*\x00" + bytes(500))
    (archive / "version.dm4").write_bytes(b"\x00\x00\x00\x05" + bytes(500))
    for kind in ("dm4", "emd"):
        (write_dm if kind == "dm4" else write_ncem)(archive / f"cut.{kind}", image)
        cut(archive / f"cut.{kind}", 0.7)
    write_dm(archive / "secret.dm4", image)
    (archive / "secret.dm4").chmod(0)
    write_dm(archive / "complex.dm4", image.astype(np.complex64))
    write_dm(archive / "fourier.dm4", image, pixel=0.08, units="1/nm")
    write_dm(archive / "angle.dm4", image, pixel=0.08, units="mrad")
    write_dm(archive / "spectrum.dm4", counts((1, 128))[0], pixel=0.5, units="eV", spectra=1)
    write_dm(archive / "spectra.dm4", counts((70, 70, 80)), pixel=(0.1, 0.1, 0.5), units=("nm", "nm", "eV"), spectra=1)
    write_colour_dm(archive / "colour.dm4", image)
    write_dm(archive / "4d.dm4", counts((4, 4, 70, 70)), pixel=(1.0, 1.0, 0.2, 0.2), units=("nm", "nm", "nm", "nm"))
    write_dm(archive / "blank.dm4", np.full_like(image, 7))
    write_dm(archive / "black.dm4", np.zeros_like(image))
    write_dm(archive / "burnt.dm4", np.where(image > 410, 65535, image).astype(np.uint16))
    write_dm(archive / "clipped.dm4", np.minimum(image, 420).astype(np.float32))
    write_dm(archive / "nan.dm4", np.where(image > 420, np.nan, image).astype(np.float32))
    write_dm(archive / "small.dm4", counts((63, 200)))
    write_velox(archive / "eds.emd", {"HAADF": counts((5, 16, 16))}, spectra=True)
    with h5py.File(archive / "nothing.emd", "w") as file:
        file.attrs["version_major"] = 0
        file.attrs["version_minor"] = 2
    with h5py.File(archive / "stranger.emd", "w") as file:
        file["data"] = image
    os.mkfifo(archive / "pipe.dm4")
    (archive / "gone.dm4").symlink_to("nowhere")
    rows, _ = read(archive, work, memory_mb=700)
    (archive / "secret.dm4").chmod(0o600)
    return rows


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty.dm4", r"The file is empty \(0 bytes\)\."),
        ("pointer.emd", "Git-LFS pointer"),
        ("random.dm4", "no known signature"),
        ("zeros.dm4", "holds zeros"),
        ("tiff.dm4", "is a TIFF without a page"),
        ("version.dm4", "no known signature"),
        ("cut.dm4", "truncated: .* are missing"),
        ("cut.emd", "truncated: .* are missing"),
        ("complex.dm4", "complex values"),
        ("fourier.dm4", r"diffraction pattern or Fourier transform \(axes in 1/nm\)"),
        ("angle.dm4", r"diffraction pattern or Fourier transform \(axes in mrad\)"),
        ("spectrum.dm4", "is a spectrum .128 channels"),
        ("spectra.dm4", "is a spectrum image"),
        ("colour.dm4", "colour picture"),
        ("4d.dm4", "4D-STEM, and no dark-field image can be made of it: its mean pattern shows no bright-field disk"),
        ("blank.dm4", "is blank: every pixel is 7"),
        ("black.dm4", "is blank: every pixel is zero"),
        ("burnt.dm4", "is saturated"),
        ("clipped.dm4", "is saturated"),
        ("nan.dm4", "no number in"),
        ("small.dm4", r"too small \(63 x 200 px\); needs at least 64 px"),
        ("nothing.emd", "holds no image"),
        ("stranger.emd", "holds no image of Velox or HyperSpy or Nion Swift or NCEM EMD"),
        ("pipe.dm4", "no plain file"),
        ("gone.dm4", "vanished"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_sentence(odd, name, reason):
    row = only(odd[name])
    assert row["state"] == "rejected"
    assert re.search(reason, row["reason"]), row["reason"]
    assert row["reason"].startswith("The ")
    assert row["reason"].endswith(".")
    assert row["reason"].isprintable()


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_without_permission_is_refused(odd):
    assert "permission denied" in only(odd["secret.dm4"])["reason"]


def test_a_spectrum_image_gives_a_row_for_its_image_and_one_for_its_spectra(odd):
    small, spectra = odd["eds.emd"]
    assert (small["signal"], spectra["signal"]) == ("HAADF", "EDS")
    assert "too small (16 x 16 px)" in small["reason"]
    assert "EDS spectrum image" in spectra["reason"]


def test_a_reader_that_misbehaves_costs_its_own_file_alone(tmp_path):
    archive = tmp_path / "archive"
    archive.mkdir()
    said = {
        "raises": r"could not be understood by its reader.*UnboundLocalError: cannot access local variable 'data'",
        "hangs": r"not read within 8 s",
        "spins": r"not read within 8 s",
        "segfaults": r"crashed its reader \(SIGSEGV\)",
        "eats": r"needs more than 512 MB of memory",
        "recurses": r"RecursionError",
        "exits": r"without a word \(status 7\)",
        "quits": r"without a word",
        "late": r"crashed its reader \(SIGSEGV\)",
        "grows": r"changed while being read; it will be taken as a new version",
    }
    for name in [*said, "sound", "well"]:
        write_dm(archive / f"{name}.dm4", counts())
    rows, _ = read(archive, tmp_path, threads=4, call="support.hostile_readers:read", timeout_s=8.0, memory_mb=512)
    for name, reason in said.items():
        assert re.search(reason, only(rows[f"{name}.dm4"])["reason"]), only(rows[f"{name}.dm4"])["reason"]
    assert only(rows["sound.dm4"])["state"] == "read"
    assert only(rows["well.dm4"])["state"] == "read"
    assert {p.name for p in (tmp_path / "images.zarr").iterdir()} == {
        "zarr.json",
        "OME",
        only(rows["sound.dm4"])["image_id"],
        only(rows["well.dm4"])["image_id"],
    }


def test_a_full_disk_is_no_fault_of_the_file(tmp_path):
    archive = tmp_path / "archive"
    archive.mkdir()
    write_dm(archive / "full.dm4", counts())
    with pytest.raises(OSError, match="while writing"):
        read(archive, tmp_path, call="support.hostile_readers:read")
    assert not (tmp_path / "images.zarr").exists()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_file_that_changed_since_the_scan_is_refused(tmp_path):
    archive = tmp_path / "archive"
    archive.mkdir()
    write_dm(archive / "new.dm4", counts())
    write_dm(archive / "gone.dm4", counts())
    shard_of(archive, tmp_path / "shard.tsv")
    write_dm(archive / "new.dm4", counts((99, 99)))
    (archive / "gone.dm4").unlink()
    read_images.main(tmp_path / "shard.tsv", archive, tmp_path / "images.zarr", SETTINGS, log=tmp_path / "log")
    reasons = [row["reason"] for row in zarr.open_group(tmp_path / "images.zarr", mode="r").attrs["images"]]
    assert "vanished" in reasons[0]
    assert reasons[1] == "The file changed while being read; it will be taken as a new version."


@pytest.mark.parametrize("is_there", [True, False])
def test_an_archive_that_is_away_is_an_error_and_no_reason_against_its_files(tmp_path, is_there):
    archive = tmp_path / "archive"
    archive.mkdir()
    write_dm(archive / "a.dm4", counts())
    shard_of(archive, tmp_path / "shard.tsv")
    (archive / "a.dm4").unlink()
    if not is_there:
        archive.rmdir()
    with pytest.raises(FileNotFoundError, match="archive"):
        read_images.main(tmp_path / "shard.tsv", archive, tmp_path / "images.zarr", SETTINGS)
    assert not (tmp_path / "images.zarr").exists()


def test_large_images_and_stacks_are_read_in_little_memory(tmp_path):
    archive = tmp_path / "archive"
    archive.mkdir()
    tile = counts((1024, 1024))
    write_dm(archive / "large.dm4", np.tile(tile, (12, 12)))  # 300 MB
    rows, store = read(archive, tmp_path, memory_mb=420)
    array = store[only(rows["large.dm4"])["image_id"]]["0"]
    assert array.shape == (12288, 12288)
    np.testing.assert_array_equal(array[11 * 1024 :, 11 * 1024 :], tile)
    np.testing.assert_array_equal(array[5 * 1024 : 6 * 1024, :1024], tile)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    if not REAL.is_dir():
        pytest.skip(f"SKIPPED LOUDLY: {REAL} is not there, the real microscope files are not tested")
    work = tmp_path_factory.mktemp("real")
    archive = work / "archive"
    archive.mkdir()
    for path in sorted(REAL.glob("*/*.[de]m[34d]")):
        os.link(path, archive / path.name) if os.stat(path).st_dev == os.stat(work).st_dev else None
        if not (archive / path.name).exists():
            (archive / path.name).write_bytes(path.read_bytes())
    rows, store = read(archive, work, threads=2)
    assert all(not stat.S_ISLNK(p.lstat().st_mode) for p in archive.iterdir())
    return rows, store


#: What each real file gives: shape and pixel size [nm] of its images, or the reasons.
IMAGES = {
    "Acquisition_18.emd": ((1024, 1024), "uint16", 0.012247),
    "BTO_crystal_1.dm4": ((413, 469), "float32", 0.029660),
    "DMReader_Image_SI-Survey.dm3": ((512, 512), "uint32", None),
    "example_Se_implanted_MoS2.dm3": ((1024, 1024), "uint32", 0.012695),
    "example_Au_nanoparticle.emd": ((2048, 2048), "uint16", 0.0074984),
    "STEM Moire Hologram.dm3": ((512, 512), "uint16", 0.465943),
    "EMDReader_Image_FEI.emd": ((512, 512), "uint16", 5.302415),
}
REFUSALS = {
    "1255_240909_Ti3C2_5HF_17.5_Mx_STEM_HAADF.emd": ["Git-LFS pointer"],
    "test_corrupted.dm3": ["is truncated: 96 kB are missing"],
    "Titan_FFT.dm3": [r"Fourier transform \(axes in 1/nm\)"],
    "TEM_list_signal_dataZeroed.dm3": ["is blank: every pixel is zero", "line profile or plot"],
    "EELS_SI.dm4": ["spectrum image .2 x 2 spectra of 2048 channels"],
    "DMReader_EELS_STO.dm4": ["is a spectrum .2048 channels"],
    "EMDReader_SpectrumImage_Si.emd": [r"too small \(16 x 16 px\)", "EDS spectrum image"],
    "fei_example_dpc_titles.emd": ["too small .2 x 2 px", "complex values"] + ["too small .2 x 2 px"] * 7,
    "fei_example_tem_stack.emd": ["too small .3 x 3 px"],
    "example_image.emd": ["too small .3 x 3 px"],
    "HAADF.dm3": [r"tilt series \(91 tilts\)"],
}


@pytest.mark.real
@pytest.mark.parametrize("name", IMAGES)
def test_real_images(real, name):
    rows, store = real
    row = only(rows[name])
    assert (row["state"], row["frame"]) == ("read", 0)
    group = store[row["image_id"]]
    shape, dtype, pixel_nm = IMAGES[name]
    assert (group["0"].shape, str(group["0"].dtype)) == (shape, dtype)
    attrs = group.attrs["oddlattice"]
    if pixel_nm is None:
        assert attrs["pixel_nm_header"] is None
        assert "no pixel size" in attrs["warnings"][0]
    else:
        assert attrs["pixel_nm_header"] == pytest.approx([pixel_nm, pixel_nm], rel=1e-4)
    assert len(json.dumps(attrs["original_metadata"])) < 80_000
    Image.from_zarr(group)


@pytest.mark.real
@pytest.mark.parametrize("name", REFUSALS)
def test_real_refusals(real, name):
    rows, _ = real
    found = rows[name]
    assert len(found) == len(REFUSALS[name])
    for row, reason in zip(found, REFUSALS[name], strict=True):
        assert row["state"] == "rejected"
        assert re.search(reason, row["reason"]), row["reason"]


@pytest.mark.real
def test_a_real_stack_gives_an_image_per_frame(real):
    rows, store = real
    found = rows["dmTest_3D_int16_64,65,66.dm4"]
    assert [row["frame"] for row in found] == list(range(66))
    attrs = store[found[-1]["image_id"]].attrs["oddlattice"]
    assert attrs["pixel_nm_header"] == pytest.approx([3.0, 0.002])
    assert (attrs["rows"], attrs["cols"]) == (65, 64)
    assert "not square" in attrs["warnings"][0]


@pytest.mark.real
def test_every_real_file_is_listed_here(real):
    rows, _ = real
    crystals = {"fe_bcc_two_grains.emd", "mos2_000-2.emd", "mos2_001-5.emd"}  # looked at in test_real_files
    assert set(rows) == set(IMAGES) | set(REFUSALS) | {"dmTest_3D_int16_64,65,66.dm4"} | crystals


def test_metadata_of_a_stack_stay_with_the_first_frame_that_is_read(tmp_path):
    archive = tmp_path / "archive"
    archive.mkdir()
    data = counts((4, 80, 90), seed=5)
    data[0] = 7  # blank: refused
    write_dm(archive / "stack.dm4", data, stack=True, tags={"Microscope": {"Operator": "Ada"}})
    for threads in (1, 3):
        rows, store = read(archive, tmp_path, threads=threads)
        assert [row["state"] for row in rows["stack.dm4"]] == ["rejected", "read", "read", "read"]
        first, *others = (store[row["image_id"]].attrs["oddlattice"] for row in rows["stack.dm4"][1:])
        assert "Ada" in json.dumps(first["original_metadata"])
        assert [said["original_metadata"] for said in others] == [{"_kept_with": first["image_id"]}] * 2


def test_the_same_scan_in_another_container_has_the_same_scan_id(tmp_path):
    archive = tmp_path / "archive"
    archive.mkdir()
    data = counts(seed=3)
    write_dm(archive / "a.dm4", data)
    write_ncem(archive / "b.emd", data, pixel=0.02)
    write_velox(archive / "c.emd", {"HAADF": data[None]})
    write_dm(archive / "d.dm4", data.astype(np.int32))  # another dtype
    write_dm(archive / "e.dm4", data.T.copy())  # the same size
    write_dm(archive / "f.dm4", np.zeros((80, 80), np.uint16))
    rows, store = read(archive, tmp_path)
    ids = {name: only(found)["scan_id"] for name, found in rows.items()}
    expected = hashlib.sha256(b"<u2 96 128\n" + data.tobytes()).hexdigest()
    assert ids["a.dm4"] == ids["b.emd"] == ids["c.emd"] == expected
    assert len({ids[name] for name in ("a.dm4", "d.dm4", "e.dm4")}) == 3
    assert ids["f.dm4"] == "", "what is refused has none"
    assert store[only(rows["a.dm4"])["image_id"]].attrs["oddlattice"]["scan_id"] == expected


def written_velox(path, alter) -> None:
    """A Velox file of a good HAADF and a BF of two frames that `alter` spoils: its metadata, then its group."""
    data = counts((1, 96, 128), seed=8)
    write_velox(path, {"BF": np.concatenate([data, data]), "HAADF": data})
    with h5py.File(path, "a") as file:
        for name in file["Data/Image"]:
            group = file[f"Data/Image/{name}"]
            text = bytes(group["Metadata"][:, 0]).rstrip(b"\0")
            metadata = json.loads(text)
            if metadata["BinaryResult"]["Detector"] == "BF":
                alter(metadata, group)
                text = np.frombuffer(json.dumps(metadata).encode(), np.uint8)
                group["Metadata"][...] = 0
                group["Metadata"][: len(text)] = text[:, None]


def no_metadata(metadata, group):
    metadata.clear()


def no_frames(metadata, group):
    del group["Data"]
    group.create_dataset("Data", shape=(96, 128, 0), maxshape=(96, 128, None), chunks=(96, 128, 1), dtype="u2")


def no_result(metadata, group):
    del metadata["BinaryResult"]


def no_frame_time(metadata, group):
    del metadata["Scan"]["FrameTime"]


def no_pixels(metadata, group):
    del group["Data"]


@pytest.mark.parametrize("alter", [no_metadata, no_frames, no_result, no_frame_time, no_pixels])
def test_a_broken_entry_of_a_velox_file_costs_itself_alone(tmp_path, alter):
    archive = tmp_path / "archive"
    archive.mkdir()
    written_velox(archive / "a.emd", alter)
    rows, store = read(archive, tmp_path)
    (good,) = [row for row in rows["a.emd"] if row["state"] == "read"]
    (bad,) = [row for row in rows["a.emd"] if row["state"] == "rejected"]
    assert good["signal"] == "HAADF"
    np.testing.assert_array_equal(store[good["image_id"]]["0"][:], counts((96, 128), seed=8))
    assert re.search("signal 'entry [0-9a-f]{8}' could not be understood by its reader", bad["reason"]), bad["reason"]


def test_velox_frames_beside_a_spectrum_image_are_all_read(tmp_path):
    archive = tmp_path / "archive"
    archive.mkdir()
    frames = counts((5, 80, 90), seed=12)
    write_velox(archive / "a.emd", {"HAADF": frames})
    with h5py.File(archive / "a.emd", "a") as file:  # as Velox 11 writes it: displays refer to shared properties
        (key,) = file["Data/Image"]
        del file["Version"], file["Operations"]
        text = h5py.string_dtype()

        def put(name, content):
            file.create_dataset(name, data=np.array([json.dumps(content).encode()], dtype=text))

        put("Version", {"version": "11", "format": "Velox"})
        put(f"Data/SpectrumImage/{'a' * 32}/SpectrumImageSettings", {"endFramePosition": "5"})
        file.create_group("Data/SpectrumStream")
        put(f"SharedProperties/ImageSeriesDataReference/{'c' * 32}", {"dataPath": f"/Data/Image/{key}"})
        reference = f"/SharedProperties/ImageSeriesDataReference/{'c' * 32}"
        put(f"Displays/ImageDisplay/{'d' * 32}", {"data": reference, "id": "HAADF", "title": "HAADF"})
    rows, store = read(archive, tmp_path)
    read_rows = [row for row in rows["a.emd"] if row["state"] == "read"]
    assert [row["frame"] for row in read_rows] == [0, 1, 2, 3, 4]
    for row, frame in zip(read_rows, frames, strict=True):
        np.testing.assert_array_equal(store[row["image_id"]]["0"][:], frame)


@pytest.mark.parametrize("unit", ["m", ""])
def test_velox_without_a_pixel_size_has_none(tmp_path, unit):
    archive = tmp_path / "archive"
    archive.mkdir()

    def without(metadata, group):
        del metadata["BinaryResult"]["PixelSize"]
        metadata["BinaryResult"]["PixelUnitX"] = unit

    written_velox(archive / "a.emd", without)
    rows, store = read(archive, tmp_path, detectors="all")
    (row,) = [row for row in rows["a.emd"] if row["signal"] == "BF" and row["frame"] == 0]
    said = store[row["image_id"]].attrs["oddlattice"]
    assert said["pixel_nm_header"] is None
    assert "The file has no pixel size" in said["warnings"][0]


@pytest.mark.parametrize("version", [3, 4])
def test_a_big_endian_dm_file_is_read_as_it_was_written(tmp_path, version):
    """A file whose order word says big: here the pixels of a little-endian one are turned, and so is the rest of it."""
    archive = tmp_path / "archive"
    archive.mkdir()
    data = counts(dtype="int32", seed=4)
    write_big_endian_dm(archive / f"a.dm{version}", data, version)
    rows, store = read(archive, tmp_path)
    row = only(rows[f"a.dm{version}"])
    assert row["state"] == "read", row["reason"]
    np.testing.assert_array_equal(store[row["image_id"]]["0"][:], data)
    assert store[row["image_id"]].attrs["oddlattice"]["pixel_nm_header"] == pytest.approx([0.0125, 0.0125])


def test_whole_rows_and_columns_without_numbers_are_filled(tmp_path):
    """What a drift correction leaves at the rim; as many pixels without numbers inside are refused."""
    archive = tmp_path / "archive"
    archive.mkdir()
    rim, inside = counts((100, 100)).astype(np.float32), counts((100, 100)).astype(np.float32)
    rim[:3] = rim[:, -4:] = np.nan
    inside[20:40, 20:40] = np.nan
    write_dm(archive / "rim.dm4", rim)
    write_dm(archive / "inside.dm4", inside)
    rows, store = read(archive, tmp_path)
    said = store[only(rows["rim.dm4"])["image_id"]].attrs["oddlattice"]
    assert said["warnings"] == ["6.9 % of the pixels were not numbers; they are set to the image's mean."]
    reason = only(rows["inside.dm4"])["reason"]
    assert (
        reason
        == "The signal holds no number in 4 % of its pixels (NaN or infinite); at most 1 % may, but for whole lines."
    )


def test_an_apple_double_is_named_as_such(tmp_path):
    archive = tmp_path / "archive"
    archive.mkdir()
    (archive / "._a.dm4").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(4000))
    rows, _ = read(archive, tmp_path)
    assert "AppleDouble" in only(rows["._a.dm4"])["reason"]


def test_only_readers_of_the_shard_s_formats_are_loaded_for_all_files() -> None:
    found = preloaded([{"path": "a/b.DM4"}, {"path": "c.unknown"}])
    assert "rsciio.digitalmicrograph._api" in found and "hyperspy.api" in found
    assert not [name for name in found if "emd" in name]
