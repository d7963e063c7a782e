"""`.venv/bin/snakemake`: Snakemake itself; what it would answer with a traceback is said in one sentence first.

It is what `snakemake` means in the repository's environment. Snakemake reads config files, settings and the working
folder before it reads a Snakefile, so that these mistakes can be told nowhere else.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from oddlattice.command.order import CONFIG, CONFIGFILE, as_for_snakemake, become, taken_out
from oddlattice.command.places import Mistake, made
from oddlattice.run import settings


def check(words: Sequence[str]) -> None:
    """Look at the settings, the config files and the working folder that Snakemake is given.

    Raises
    ------
    Mistake
        If one of them cannot be used.
    """
    for item in taken_out(words, CONFIG)[1]:
        as_for_snakemake(item, "--config '{section}={{{key}: {value}}}', or a config file")
    for file in taken_out(words, CONFIGFILE)[1]:
        try:
            settings.load_yaml(Path(file))
        except settings.SettingsError as error:
            raise Mistake(f"--configfile: {error}") from None
    for folder in taken_out(words, ("--directory", "-d"))[1]:
        made(Path(folder))


def main() -> None:
    """Check what was typed, and go on as Snakemake; exit code 1 for a mistake, as Snakemake's own."""
    words = sys.argv[1:]
    try:
        check(words)
    except Mistake as mistake:
        sys.exit(f"Error: {mistake.message}")
    become([sys.executable, "-m", "snakemake", *words])


if __name__ == "__main__":
    main()
