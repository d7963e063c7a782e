"""Where the program `oddlattice` begins: it says in one sentence if Python lacks what it needs."""

import sys


def main() -> None:
    """Run the command line; the exit code is 0, 1 (something did not work), 2 (the command is wrong) or Snakemake's."""
    try:
        from oddlattice.command.commands import oddlattice
    except ModuleNotFoundError as error:
        sys.exit(
            f"oddlattice: {sys.executable}: found no package {error.name}; needed the environment of the repository: "
            "make setup there, then .venv/bin/oddlattice"
        )
    oddlattice(prog_name="oddlattice")
