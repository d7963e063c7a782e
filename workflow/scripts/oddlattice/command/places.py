"""Where the repository and the results of a run are."""

from pathlib import Path

import click

#: The folder that holds the Snakefile, where the package lies in its repository.
HERE = Path(__file__).resolve().parents[4]


class Mistake(click.ClickException):
    """The command cannot be carried out as it was given; one sentence, exit code 2."""

    exit_code = 2


def repository() -> Path:
    """Find the folder of the Snakefile, of the shipped config and models.

    Raises
    ------
    Mistake
        If the package was installed without them.
    """
    if not (HERE / "Snakefile").is_file():
        raise Mistake(
            f"found no Snakefile in {HERE}; needed the repository with its rules and models: make setup there, "
            "or pip install --editable REPOSITORY"
        )
    return HERE


def results_of(work: Path) -> Path:
    """Find the results of a run by its working folder, or by the folder `results` itself.

    Raises
    ------
    Mistake
        If there are none.
    """
    for folder in (work / "results", work):
        if (folder / "4_defects/images.parquet").is_file():
            return folder
    raise Mistake(
        f"{work}: found no results/4_defects/images.parquet; needed the working folder of a run that has finished"
    )


def made(folder: Path) -> Path:
    """Make a folder that can be written to, where it is not there yet.

    Raises
    ------
    Mistake
        If it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".oddlattice.part").touch()
        (folder / ".oddlattice.part").unlink()
    except OSError as error:
        raise Mistake(f"{folder}: found {error.strerror}; needed a folder that can be written to") from None
    return folder
