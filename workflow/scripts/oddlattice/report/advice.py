"""What to do about an image that was not analysed: sentences, and settings to paste."""

import os
import shlex
from pathlib import Path

import yaml

from oddlattice.archive.names import unescape
from oddlattice.report.images import Image
from oddlattice.storage.rows import Row

SNAKEFILE = Path(__file__).resolve().parents[4] / "Snakefile"


def archive_here() -> Row:
    """Where the archive of the run in this folder is; nothing where that is not known.

    It is read here and is no setting of the pages: a moved archive is no reason to make them again.
    """
    place = Path("results/0_archive/archive.txt")
    return {"archive": os.fsdecode(unescape(place.read_text("utf-8").removesuffix("\n")))} if place.exists() else {}


def train_config(image: Image, models: list[str]) -> Row:
    """Settings that train a model from this image's own bulk and then analyse with it, see the rule train_model."""
    row = image.row
    name = str(row["image_id"]).replace("-", "_")[:60]
    bulk = {"path": str(row["path"]), "signal": str(row["signal"]), "frame": int(row["frame"])}
    return {
        **archive_here(),
        "models": [*models, name],
        "train": {"name": name, "source": "images", "library": "", "crystal": "auto", "bulk": [bulk]},
    }


def commands(file: str) -> str:
    """Two lines for a shell in whatever folder the file was saved: train, then analyse where the run is."""
    line = shlex.join(["snakemake", "--snakefile", str(SNAKEFILE), "--directory", os.getcwd(), "--cores", "all"])
    return f"{line} train --configfile {file}\n{line} --configfile {file}"


def advice(image: Image, models: list[str]) -> Row:
    """What to do about an image that was not analysed: sentences, and a file to paste with its commands."""
    row = image.row
    if row["state"] == "no_model":
        name = f"train_{row['image_id']}.yaml"
        says = [
            "Train a model of this crystal from its bulk, here from this image itself: save these lines as a file.",
            "The first command trains, the second analyses with the new model.",
        ]
        return {
            "says": says,
            "file": name,
            "yaml": yaml.safe_dump(train_config(image, models), sort_keys=False, allow_unicode=True),
            "command": commands(name),
        }
    if row["state"] == "no_lattice":
        says = [
            "Nothing was tested for defects here. Does the image show atomic columns at all?",
            "A lattice is found from about 8 pixels per unit cell on, over at least a few cells.",
            "A survey image, vacuum or an amorphous region needs nothing more.",
            "To leave files out in the future, name them under exclude in the configuration.",
        ]
        return {"says": says, "file": "", "yaml": "", "command": ""}
    return {"says": [], "file": "", "yaml": "", "command": ""}
