"""Orders to Snakemake: what a person types is passed on whole, and each mistake is one sentence."""

import os
import sys
from pathlib import Path

import pytest

from oddlattice.command import order
from oddlattice.command.places import HERE, Mistake


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "archive").mkdir()
    (tmp_path / "my images").mkdir()
    (tmp_path / "a.yaml").write_text("seed: 1\n")
    (tmp_path / "broken.yaml").write_text("seed: [1\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked(
    archive: str, *rest: str, own: tuple[str, ...] = (), files: tuple[str, ...] = (), work: str = "w"
) -> list[str]:
    return order.snakemake_order(Path(work), "2", own, [Path(file) for file in files], rest, Path(archive))


def test_an_order_is_what_one_would_type(here: Path) -> None:
    found = asked("archive", own=("settle_s=0",), files=("a.yaml",))
    assert found == [
        sys.executable, "-m", "snakemake", "--snakefile", str(HERE / "Snakefile"), "--directory", "w", "--cores", "2",
        "--configfile", str(here / "a.yaml"), "--config", "settle_s=0", f"archive={here / 'archive'}",
    ]  # fmt: skip
    assert (here / "w").is_dir()


def test_options_for_snakemake_go_on_and_its_config_is_joined(here: Path) -> None:
    given = (
        "--dry-run",
        "--config",
        "seed=3",
        "reviews=r",
        "--configfile=a.yaml",
        "-C",
        "settle_s=1",
        "--until",
        "all",
    )
    found = asked("archive", *given)
    assert found[9:12] == ["--dry-run", "--until", "all"]
    assert found[12:] == ["--configfile", str(here / "a.yaml"), "--config", "seed=3", "reviews=r", "settle_s=1",
                          f"archive={here / 'archive'}"]  # fmt: skip


def test_keys_of_sections_become_mappings() -> None:
    found = order.nested(["defects.fdr=0.1", "seed=3", "defects.shift_share=0.5", "schedule.drop=[tiles]"])
    assert found == {"defects": {"fdr": "0.1", "shift_share": "0.5"}, "seed": "3", "schedule": {"drop": ["tiles"]}}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"archive": "nowhere"}, "nowhere: found no such folder; needed the folder of microscope files"),
        ({"archive": "a.yaml"}, "a.yaml: found a file; needed the folder of microscope files"),
        ({"rest": ("defects.fdr=0.1",)}, "found defects.fdr=0.1 behind the archive; needed --set defects.fdr=0.1"),
        (
            {"archive": "my", "rest": ("images",)},
            "found my and behind it images; a path with a space needs quotes: 'my images'",
        ),
        (
            {"rest": ("--config", "defects.fdr=0.1")},
            "--config: found defects.fdr=0.1; needed --set defects.fdr=0.1, as Snakemake knows no keys of sections",
        ),
        (
            {"rest": ("--config", "reviews=my", "folder")},
            "found folder; needed KEY=VALUE, in quotes where it holds a space, as 'reviews=my folder'",
        ),
        ({"own": ("seed",)}, "found seed; needed KEY=VALUE, in quotes where it holds a space, as 'reviews=my folder'"),
        ({"own": ("a=1", "a.b=2")}, "--set a.b=2: found a set to a value before; needed one of the two"),
        ({"work": "a.yaml/w"}, "a.yaml/w: found Not a directory; needed a folder that can be written to"),
    ],
)
def test_a_mistake_is_one_sentence(here: Path, given: dict[str, object], sentence: str) -> None:
    archive, rest = given.pop("archive", "archive"), given.pop("rest", ())
    with pytest.raises(Mistake) as caught:
        asked(archive, *rest, **given)  # type: ignore[arg-type,misc]
    assert (caught.value.message, caught.value.exit_code) == (sentence, 2)


@pytest.mark.parametrize("name", ["missing.yaml", "broken.yaml", "archive"])
def test_a_config_file_that_cannot_be_read_is_one_sentence(here: Path, name: str) -> None:
    with pytest.raises(
        Mistake, match=rf"^{name}: found .*; needed a readable YAML file \(oddlattice init writes one\)$"
    ):
        asked("archive", files=(name,))


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/sys").is_dir(), reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to_is_one_sentence(here: Path) -> None:
    with pytest.raises(Mistake, match=r"^/proc/oddlattice: found .*; needed a folder that can be written to$"):
        asked("archive", work="/proc/oddlattice")


def test_without_the_repository_the_sentence_says_how_to_get_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oddlattice.command.places.HERE", here)
    with pytest.raises(Mistake, match=r"^found no Snakefile in .*pip install --editable REPOSITORY$"):
        asked("archive")
