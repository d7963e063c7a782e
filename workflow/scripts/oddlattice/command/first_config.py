"""Config files to start from: every key as a comment, or the settings of a training."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from oddlattice.archive.names import escape
from oddlattice.command.places import Mistake

HEAD = """\
# Settings of oddlattice. What stands behind # is what holds anyway: take the # away from what you change, and from the
# line of its section. oddlattice run ARCHIVE --configfile {name}, or snakemake --cores N --configfile {name}

"""
#: A small network, which minutes suffice to train; every key is in config.yaml.
TRAIN: dict[str, Any] = {
    "source": "images",
    "library": "",
    "crystal": "auto",
    "steps": 3000,
    "batch": 256,
    "latent": 8,
    "channels": [16, 32, 64],
    "basis": 128,
}


def commented(shipped: str, archive: str, name: str) -> str:
    """The shipped config with every line but that of the archive as a comment."""
    lines = []
    for line in re.sub(r"\A(#.*\n)+", "", shipped).splitlines():
        if line.startswith("archive:"):
            text = yaml.safe_dump({"archive": archive}, allow_unicode=True, width=1000).strip()
            line = f"{text:<34} # folder of microscope files; never written to"
        elif line:
            line = f"#{line}"
        lines.append(line)
    return HEAD.format(name=name) + "\n".join(lines).strip() + "\n"


def training(images: Sequence[Path], name: str) -> dict[str, Any]:
    """Settings that train a model from images of bulk.

    Raises
    ------
    Mistake
        If an image is missing.
    """
    for image in images:
        if not image.is_file():
            raise Mistake(f"{image}: found {'a folder' if image.is_dir() else 'no such file'}; needed an image of bulk")
    paths = [os.fsencode(os.path.abspath(image)) for image in images]
    archive = os.path.commonpath([os.path.dirname(path) for path in paths])
    bulk = [{"path": escape(os.path.relpath(path, archive))} for path in paths]
    return {"archive": os.fsdecode(archive), "train": {"name": name, **TRAIN, "bulk": bulk}}
