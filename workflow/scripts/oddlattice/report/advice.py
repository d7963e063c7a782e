"""What to do about an image that was not analysed: sentences, and settings to paste."""

import math

import yaml

from oddlattice.report import numbers as n
from oddlattice.report.images import Image
from oddlattice.storage.rows import Row


def train_config(image: Image, models: list[str]) -> Row:
    """Settings that train a model from this image's own bulk and then analyse with it, see the rule train_model."""
    row = image.row
    name = str(row["image_id"]).replace("-", "_")[:60]
    cell = {
        "a_nm": _rounded(row["a_nm"], 4),
        "b_nm": _rounded(row["b_nm"], 4),
        "gamma_deg": _rounded(row["gamma_deg"], 2),
    }
    bulk = {"path": str(row["path"]), "signal": str(row["signal"]), "frame": int(row["frame"])}
    return {
        "models": [*models, name],
        "train": {"name": name, "source": "images", "crystal": cell, "bulk": [bulk]},
    }


def _rounded(value: float | None, decimals: int) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, decimals)


def advice(image: Image, models: list[str]) -> Row:
    """What to do about an image that was not analysed: sentences, and a file to paste with its commands."""
    row = image.row
    if row["state"] == "no_model":
        name = f"train_{row['image_id']}.yaml"
        says = [
            "Train a model of this crystal from its bulk, here from this image itself: save these lines as a file.",
            "The first command trains, the second analyses with the new model. Name the archive as for this run.",
        ]
        if not n.usable(row["a_nm"]):
            says.append("The file is not calibrated: fill in a_nm and b_nm, the lengths of the cell’s edges, first.")
        return {
            "says": says,
            "file": name,
            "yaml": yaml.safe_dump(train_config(image, models), sort_keys=False, allow_unicode=True),
            "command": f"snakemake --cores all train --configfile {name}\nsnakemake --cores all --configfile {name}",
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
