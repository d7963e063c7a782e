"""What is checked before a file is parsed, and its signals as HyperSpy reads them."""

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from oddlattice.process.sandbox import Refused
from oddlattice.read import checks
from oddlattice.read.amounts import amount
from oddlattice.read.formats import dm, hdf5, registry
from oddlattice.read.metadata import limited, text
from support.raw_files import counts, write_dm, write_ncem, write_velox


def opened(path: Path) -> int:
    stat = path.stat()
    return checks.open_checked(str(path), stat.st_size, stat.st_mtime_ns)


def formats_of(path: Path) -> tuple[registry.Format, ...]:
    return registry.candidates(opened(path))


def test_families_are_told_by_content_not_by_name(tmp_path):
    write_dm(tmp_path / "a.emd", counts())
    write_dm(tmp_path / "b.dm3", counts(dtype="int32"), version=3)
    write_ncem(tmp_path / "c.emd", counts())
    with h5py.File(tmp_path / "d.emd", "w", userblock_size=1024) as file:
        file["x"] = 1
    found = {path.name: registry.candidates(opened(path))[0].check for path in sorted(tmp_path.iterdir())}
    assert found == {"a.emd": dm.check, "b.dm3": dm.check, "c.emd": hdf5.check, "d.emd": hdf5.check}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "Git-LFS pointer"),
        (bytes(400), "holds zeros"),
        (b"\x00\x00\x00\x03", "no known signature"),
        (b"\x00\x00\x00\x03" + bytes(4) + b"\x00\x00\x00\x02" + bytes(99), "no known signature"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"\x89HDF\r\n", "no known signature"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path, content, reason):
    path = tmp_path / "a.dm4"
    path.write_bytes(content)
    with pytest.raises(Refused, match=reason):
        registry.candidates(opened(path))


def test_a_file_must_be_as_it_was_scanned(tmp_path):
    path = tmp_path / "a.dm4"
    path.write_bytes(b"1234")
    stat = path.stat()
    handle = opened(path)
    checks.check_unchanged(handle, 4, stat.st_mtime_ns)
    with pytest.raises(Refused, match="changed while being read"):
        checks.open_checked(str(path), 5, stat.st_mtime_ns)
    with pytest.raises(Refused, match="changed while being read"):
        checks.open_checked(str(path), 4, stat.st_mtime_ns + 1)
    path.write_bytes(b"123456")
    with pytest.raises(Refused, match="changed while being read"):
        checks.check_unchanged(handle, 4, stat.st_mtime_ns)


def test_missing_bytes(tmp_path):
    for version, name in ((3, "a.dm3"), (4, "a.dm4")):
        path = tmp_path / name
        write_dm(path, counts(dtype="int32"), version=version)
        assert dm.missing_bytes(opened(path)) == 0
        os.truncate(path, path.stat().st_size - 5000)
        assert dm.missing_bytes(opened(path)) == pytest.approx(5000, abs=30)


def test_only_digital_micrograph_says_how_long_it_is(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"MM\0*" + (8).to_bytes(4, "big") + (14 << 16).to_bytes(4, "big") + bytes(100))
    assert dm.missing_bytes(opened(tmp_path / "a.tif")) == 0


@pytest.mark.parametrize(
    ("n_bytes", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (40e9, "40 GB"), (4.2e9, "4.2 GB"), (5e15, "5000 TB")],
)
def test_amounts_in_words(n_bytes, words):
    assert amount(n_bytes) == words


def external_link(file, secret):
    file["data/image/data"] = h5py.ExternalLink(str(secret), "/image")


def external_storage(file, secret):
    file.create_dataset("data/image/data", (64, 64), "u2", external=[(str(secret), 0, 8192)])


def virtual(file, secret):
    layout = h5py.VirtualLayout((64, 64), "u2")
    layout[:] = h5py.VirtualSource(str(secret), "image", (64, 64))
    file.create_virtual_dataset("data/image/data", layout)


def soft_circle(file, secret):
    file["data/image/data"] = h5py.SoftLink("/data/image/other")
    file["data/image/other"] = h5py.SoftLink("/data/image/data")


def soft_upwards(file, secret):
    file["data/image/deeper/up"] = h5py.SoftLink("/data")


def hard_circle(file, secret):
    group = file.create_group("data/image")
    group["again"] = file["data"]


def soft_to_external(file, secret):
    external_link(file, secret)
    file["soft"] = h5py.SoftLink("/data/image/data")


def claim_contiguous(file, secret):
    space = h5py.h5s.create_simple((100_000, 200_000))
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
    h5py.h5d.create(file.id, b"data", h5py.h5t.NATIVE_UINT16, space, plist)


def claim_chunked(file, secret):
    file.create_dataset("data", (100_000, 200_000), "u2", chunks=(1000, 1000))


def bomb(file, secret):
    data = file.create_dataset("data", (3000, 1024, 1024), "u1", chunks=(100, 1024, 1024), compression="gzip")
    data[:400] = np.zeros((400, 1024, 1024), "u1")


def deep(file, secret):
    file.create_group("/".join("a" * 80))


@pytest.mark.parametrize(
    ("craft", "reason"),
    [
        (external_link, "refers to another file .*external link"),
        (external_storage, "refers to another file .*external storage"),
        (virtual, "refers to other files .*virtual dataset"),
        (soft_circle, "link in a circle"),
        (soft_upwards, "link in a circle"),
        (hard_circle, "built in a circle"),
        (soft_to_external, "refers to another file"),
        (claim_contiguous, r"claims 40 GB of data \(/data\) but is .* long"),
        (claim_chunked, r"claims 40 GB of data \(/data\) in 0 bytes"),
        (bomb, r"claims 3.1 GB of data \(/data\) in"),
        (deep, "deeper than 64"),
    ],
)
def test_crafted_hdf5_is_refused(tmp_path, craft, reason):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["image"] = counts((64, 64))
    with h5py.File(tmp_path / "a.emd", "w") as file:
        craft(file, secret)
    with pytest.raises(Refused, match=reason):
        hdf5.check(tmp_path / "a.emd")


def test_too_many_objects_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5, "_LARGEST_TREE", 50)
    with h5py.File(tmp_path / "a.emd", "w") as file:
        for n in range(51):
            file.create_group(f"g{n}")
    with pytest.raises(Refused, match="more than 50 objects"):
        hdf5.check(tmp_path / "a.emd")


def test_sound_hdf5_passes(tmp_path):
    write_ncem(tmp_path / "a.emd", counts())
    write_velox(tmp_path / "b.emd", {"HAADF": counts((2, 70, 80))})
    with h5py.File(tmp_path / "c.emd", "w") as file:
        file.create_dataset("data/image/data", data=np.zeros((900, 900)), compression="gzip")  # sky: small when packed
        file["again"] = h5py.SoftLink("/data/image/data")
        file["data/image/hard"] = file["data/image/data"]
        file["nowhere"] = h5py.SoftLink("/not/there")
    for name in "abc":
        hdf5.check(tmp_path / f"{name}.emd")


def test_a_dm_file_that_claims_more_than_it_holds_is_refused(tmp_path):
    path = tmp_path / "a.dm4"
    write_dm(path, counts((96, 128)))
    content = bytearray(path.read_bytes())
    place = content.index(b"Dimensions")
    for side in (128, 96):
        found = content.index(side.to_bytes(4, "little"), place)
        content[found : found + 4] = (140_000).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(Refused, match=r"claims 39 GB of data .140000 x 140000. but is \d+ kB long"):
        registry.load(path, formats_of(path))


def only(signals):
    assert len(signals) == 1
    return signals[0]


@pytest.mark.parametrize("flavour", ["dm3", "dm4", "ncem", "velox"])
def test_an_image_is_read_with_its_axes(tmp_path, flavour):
    data = counts((70, 90), dtype="int32" if flavour == "dm3" else "uint16")
    path = tmp_path / f"a.{'emd' if flavour in ('ncem', 'velox') else flavour}"
    if flavour.startswith("dm"):
        write_dm(path, data, pixel=(0.01, 0.02), version=int(flavour[2]))
    elif flavour == "ncem":
        write_ncem(path, data, pixel=(0.01, 0.02))
    else:
        write_velox(path, {"HAADF": data[None]}, pixel_m=(1e-11, 2e-11))
    signal = only(registry.load(path, formats_of(path)))
    np.testing.assert_array_equal(np.asarray(signal.data), data)
    assert [axis.size for axis in signal.axes] == [70, 90]
    ratio = signal.axes[1].scale / signal.axes[0].scale
    assert ratio == pytest.approx(2)
    assert signal.axes[0].units in ("nm", "pm")
    assert signal.dimension == 2
    json.dumps(signal.metadata)


def test_dm_times_and_detectors(tmp_path):
    tags = {
        "DataBar": {"Acquisition Date": "7/3/2016", "Acquisition Time": "6:20:54 PM", "Signal Name": "HAADF"},
    }
    write_dm(tmp_path / "a.dm4", counts(), tags=tags)
    signal = only(registry.load(tmp_path / "a.dm4", formats_of(tmp_path / "a.dm4")))
    assert signal.acquired == "2016-07-03T18:20:54"
    assert signal.detector == "HAADF"


def test_datasets_with_like_names_stay_apart(tmp_path):
    with h5py.File(tmp_path / "a.emd", "w") as file:
        file.attrs["version_major"], file.attrs["version_minor"] = 0, 2
        for name, rows in (("HAADF", 70), ("HAADF2", 80)):
            group = file.create_group(f"data/{name}")
            group.attrs["emd_group_type"] = 1
            group["data"] = np.zeros((90, rows))
            for number, size in ((1, 90), (2, rows)):
                dim = group.create_dataset(f"dim{number}", data=np.arange(size) * 0.01)
                dim.attrs["name"], dim.attrs["units"] = "x", "[n_m]"
    signals = registry.load(tmp_path / "a.emd", formats_of(tmp_path / "a.emd"))
    assert {(s.name, s.data.shape) for s in signals} == {("HAADF", (70, 90)), ("HAADF2", (80, 90))}


def test_labels_are_made_safe_for_a_line():
    assert text("a\nb\x1b[31m\tc\u202e") == "a b [31m c"
    assert text("<script>") == "<script>"  # escaped where it is shown
    assert text(None) == ""
    assert text("x" * 999) == "x" * 200
    assert text("\udcff") == "\\udcff"


def test_metadata_is_jsonable_and_limited():
    found = limited(
        {
            "number": np.float32(1.5),
            "not a number": float("nan"),
            "bytes": b"\xff\x00",
            "list": [1, (2, np.int64(3))],
            "long": list(range(100)),
            "array": np.zeros((3, 3)),
            "odd": "\udcff\x00",
            "deep": {"a": {"b": True, "c": None}},
            5: object(),
        }
    )
    assert json.loads(json.dumps(found, allow_nan=False).encode("utf-8")) == found
    assert found["number"] == 1.5
    assert found["not a number"] == "nan"
    assert found["list"] == [1, [2, 3]]
    assert found["long"] == "(100 values)"
    assert found["deep"] == {"a": {"b": True, "c": None}}
    large = {f"key {n}": "x" * 1000 for n in range(1000)} | {"ImageList": {"first": "kept"}}
    found = limited(large, 20_000)
    assert len(json.dumps(found)) < 25_000
    assert found["ImageList"] == {"first": "kept"}
    assert found["_left_out"] > 900
    nested: dict = {}
    for _ in range(100):
        nested = {"in": nested}
    json.dumps(limited(nested))


def test_a_checked_file_stays_the_same_when_it_is_replaced(tmp_path):
    path = tmp_path / "a.dm4"
    write_dm(path, counts(seed=1))
    handle = opened(path)
    with checks.safe_name(handle, ".dm4", tmp_path) as name:
        path.rename(tmp_path / "elsewhere.dm4")
        write_dm(path, counts(seed=2))
        np.testing.assert_array_equal(np.asarray(only(registry.load(name, formats_of(name))).data), counts(seed=1))
    assert not name.is_symlink()
