"""Provenance of a whole result as an RO-Crate 1.1: what lies in the folder, from which files, with which program.

Source: https://www.researchobject.org/ro-crate/specification/1.1/, doi:10.3233/DS-210053.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from oddlattice.storage.rows import Row

CONTEXT = ["https://w3id.org/ro/crate/1.1/context", {"sha256": "https://w3id.org/ro/terms/workflow-run#sha256"}]
FORMATS = {
    ".csv": "text/csv",
    ".html": "text/html",
    ".json": "application/json",
    ".md": "text/markdown",
    ".parquet": "application/vnd.apache.parquet",
    ".tsv": "text/tab-separated-values",
    ".txt": "text/plain",
    ".yaml": "application/yaml",
    ".zip": "application/zip",
}
#: Files of a result, as patterns, and what they are.
FILES = {
    "config.yaml": "every setting of the run",
    "versions.txt": "versions of the program, of Python and of the packages that results depend on",
    "0_archive/discovered.tsv": "every file found under the archive",
    "2_records/*.zip": "records of how images lie on their own lattice, of which the tiles were dropped, zarr 3",
    "4_middles/*.zip": "middles of the maps in few levels, by which one scan in several guises is known, zarr 3",
    "4_defects/*.parquet": "table: images, defects, columns and their measured places, by shard and all together",
    "4_defects/*.csv": "table of all images",
    "4_defects/*.json": "statistics",
    "5_report/*.html": "report",
    "5_report/*.json": "every number of the index",
    "5_report/methods.md": "methods paragraph with its references",
}
FOLDERS = {
    "1_images/*.zarr": "images as they were read, OME-Zarr 0.5",
    "2_tiles/*.zarr": "images on their own lattice, zarr 3",
    "3_differences/*.zarr": "prediction of the bulk and difference from it, zarr 3",
    "4_defects/*.zarr": "maps in the frame of the images, OME-Zarr 0.5",
    "5_report/*/": "pages of the images of a shard, with their numbers and pictures",
}


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _address(path: Path, root: Path) -> str:
    return quote(path.relative_to(root).as_posix())


def file_entities(root: Path) -> list[Row]:
    """The files of a result, with their type, size and hash."""
    found = {}
    for pattern, says in FILES.items():
        for path in sorted(root.glob(pattern)):
            if path.is_file() and not path.name.startswith("."):
                found[path] = {
                    "@id": _address(path, root),
                    "@type": "File",
                    "name": path.name,
                    "description": says,
                    "encodingFormat": FORMATS[path.suffix],
                    "contentSize": str(path.stat().st_size),
                    "sha256": sha256(path),
                }
    return list(found.values())


def folder_entities(root: Path) -> list[Row]:
    """The zarr stores and folders of pages of a result."""
    return [
        {"@id": _address(path, root) + "/", "@type": "Dataset", "name": path.name, "description": says}
        for pattern, says in FOLDERS.items()
        for path in sorted(root.glob(pattern))
        if path.is_dir() and not path.name.startswith(".")
    ]


def written(root: Path, files: Sequence[Row]) -> str:
    """When the newest of the files was written: the result's own time, not that of the crate."""
    newest = max(((root / file["name"]).stat().st_mtime for file in files if "/" not in file["@id"]), default=0.0)
    newest = max([newest, *((path.stat().st_mtime) for path in root.glob("5_report/*.html"))])
    return datetime.fromtimestamp(int(newest), UTC).isoformat()


def crate(root: Path, models: Sequence[Mapping[str, Any]], archive: str, versions: Mapping[str, str]) -> Row:
    """The crate's metadata: JSON-LD of all that lies in a result's folder.

    Parameters
    ----------
    root : Path
        The folder of results.
    models : sequence of mapping
        Each model's name and weights_sha256.
    archive : str
        Where the raw files are.
    versions : mapping
        Of this program and its packages.
    """
    files, folders = file_entities(root), folder_entities(root)
    parts = [{"@id": entity["@id"]} for entity in (*files, *folders)]
    when = written(root, files)
    learnt = [_model_entity(model) for model in models]
    known = {entity["@id"] for entity in files}
    used = [{"@id": "#archive"}, *({"@id": model["@id"]} for model in learnt)]
    used += [{"@id": name} for name in ("config.yaml",) if name in known]
    about = [*_dataset_entities(when, parts), _archive_entity(archive), *learnt]
    return {"@context": CONTEXT, "@graph": [*about, *_run_entities(versions, when, used, parts), *files, *folders]}


def _model_entity(model: Mapping[str, Any]) -> Row:
    return {
        "@id": f"#model-{quote(str(model['name']))}",
        "@type": "CreativeWork",
        "name": f"model {model['name']}",
        "identifier": f"sha256:{model['weights_sha256']}",
    }


def _archive_entity(archive: str) -> Row:
    return {
        "@id": "#archive",
        "@type": "CreativeWork",
        "name": "archive of raw microscope files",
        "description": f"{archive}; its files are listed in 0_archive/discovered.tsv",
    }


def _dataset_entities(when: str, parts: list[Row]) -> list[Row]:
    """The crate itself, the folder that it describes, and its licence."""
    return [
        {
            "@id": "ro-crate-metadata.json",
            "@type": "CreativeWork",
            "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
            "about": {"@id": "./"},
        },
        {
            "@id": "./",
            "@type": "Dataset",
            "name": "Defects in STEM images, found by oddlattice",
            "description": "Images, maps, tables of defects with their statistics, and the report for review.",
            "datePublished": when,
            "license": {"@id": "#licence"},
            "hasPart": parts,
            "mentions": {"@id": "#run"},
        },
        {
            "@id": "#licence",
            "@type": "CreativeWork",
            "name": "No licence is given",
            "description": "Who owns the images decides how this result may be used.",
        },
    ]


def _run_entities(versions: Mapping[str, str], when: str, used: list[Row], parts: list[Row]) -> list[Row]:
    """The program, and the run that made the result."""
    return [
        {
            "@id": "#oddlattice",
            "@type": "SoftwareApplication",
            "name": "oddlattice",
            "softwareVersion": versions["oddlattice"],
            "softwareRequirements": [f"{name} {number}" for name, number in versions.items()],
        },
        {
            "@id": "#run",
            "@type": "CreateAction",
            "name": "analysis of the archive",
            "endTime": when,
            "instrument": {"@id": "#oddlattice"},
            "object": used,
            "result": parts,
        },
    ]
