"""The commands of `oddlattice`: thin over Snakemake, for people who do not know it."""

import re
import webbrowser
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import click
import yaml

from oddlattice import __version__
from oddlattice.command import doctor as doctors
from oddlattice.command.first_config import commented, training
from oddlattice.command.order import become, nested, snakemake_order
from oddlattice.command.places import Mistake, made, repository, results_of
from oddlattice.run import settings
from oddlattice.storage.atomic import write_text

CODES = (
    "Exit codes: 0, done; 1, something did not work; 2, the command is wrong. "
    "`run` and `train` end with the code of Snakemake, which is 1 where a job failed."
)
FORMATS = ["html", "csv", "geojson", "strain", "figure", "cif", "xyz", "poscar"]
_WORK = click.argument("work", type=click.Path(path_type=Path), default=Path(), required=False)
_INTO = click.option(
    "--into",
    "work",
    type=click.Path(path_type=Path),
    default=Path(),
    help="Working folder; results/ comes to lie in it.",
)
_SET = click.option(
    "--set", "own", metavar="KEY=VALUE", multiple=True, help="A key of config.yaml, as defects.fdr=0.1."
)
_FILES = click.option(
    "--configfile", "files", type=click.Path(path_type=Path), multiple=True, help="A config file; see oddlattice init."
)
_REST = click.argument("rest", nargs=-1, metavar="[-- SNAKEMAKE OPTIONS]", type=click.UNPROCESSED)


def _cores(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if value != "all" and not re.fullmatch("[1-9][0-9]*", value):
        raise Mistake(f"--cores: found {value}; needed a number of processor cores, or all")
    return value


_CORES = click.option(
    "--cores", default="all", callback=_cores, help="Processor cores to use; all of them, unless told."
)


def _of_archive(command: Callable[..., None]) -> Callable[..., None]:
    """What every command takes that works through an archive."""
    for given in (_REST, _FILES, _SET, _CORES, _INTO, click.argument("archive", type=click.Path(path_type=Path))):
        command = given(command)
    return command


@click.group(epilog=CODES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="oddlattice")
def oddlattice() -> None:
    """Find what does not belong in atomic-resolution STEM images.

    \b
    oddlattice run /data/microscope --into work     analyse a folder of images
    oddlattice open work                            look at the report
    oddlattice export work --format cif             take results to other programs
    """  # noqa: D301 (click reads the backspace as: keep these lines)


@oddlattice.command(epilog=CODES)
@_of_archive
def run(archive: Path, work: Path, cores: str, own: Sequence[str], files: Sequence[Path], rest: Sequence[str]) -> None:
    """Analyse the images below ARCHIVE, which is only read. Run it again for new files; finished work is kept.

    \b
    oddlattice run /data/microscope
    oddlattice run "/data/my images" --into work --cores 8
    oddlattice run /data/microscope --set defects.fdr=0.1
    oddlattice run /data/microscope --configfile my.yaml -- --dry-run
    """  # noqa: D301 (click reads the backspace as: keep these lines)
    become(snakemake_order(work, cores, own, files, rest, archive))


@oddlattice.command(epilog=CODES)
@_of_archive
@click.option(
    "--unchanged",
    "unchanged_s",
    metavar="SECONDS",
    type=click.FloatRange(0),
    default=2.0,
    help="A file is complete when it has not changed for so long and is whole by its own header; 2 s unless told.",
)
def watch(
    archive: Path,
    work: Path,
    cores: str,
    own: Sequence[str],
    files: Sequence[Path],
    unchanged_s: float,
    rest: Sequence[str],
) -> None:
    """Analyse what lands below ARCHIVE as it lands, until Ctrl-C. It says where the page is that shows it by itself.

    \b
    oddlattice watch /data/microscope
    oddlattice watch /data/microscope --into work --unchanged 5
    """  # noqa: D301 (click reads the backspace as: keep these lines)
    from oddlattice.command import watch as watches

    order = snakemake_order(work, cores, own, files, rest, archive)
    results = work.resolve() / "results"
    try:
        config = settings.load_config(repository(), files, nested(own))
    except settings.SettingsError as error:
        raise Mistake(str(error)) from None
    one = watches.Watch(archive.resolve(), results, config, order[3:], partial(click.echo))
    try:
        watches.watch(one, unchanged_s)
    except KeyboardInterrupt:
        click.echo("the watch has ended; what is not done is done by the next run")


@oddlattice.command(name="open", epilog=CODES)
@_WORK
def open_report(work: Path) -> None:
    """Open the report of a run in the browser. WORK is its working folder, here unless told.

    \b
    oddlattice open
    oddlattice open work
    """  # noqa: D301 (click reads the backspace as: keep these lines)
    page = results_of(work).resolve() / "5_report/index.html"
    if not page.is_file():
        raise Mistake(f"{page}: found no report; needed a run that has finished")
    click.echo(page)
    if not webbrowser.open(page.as_uri()):
        raise click.ClickException("found no browser here; open the page above in one")


@oddlattice.command(epilog=CODES)
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Name of the model: small letters, digits, underscores.")
@_INTO
@_CORES
@_SET
def train(images: Sequence[Path], name: str, work: Path, cores: str, own: Sequence[str]) -> None:
    """Train a model of one crystal from images of its bulk. Options for Snakemake may stand behind --.

    Lattice and columns are taken from the first image. The model comes to lie in models/NAME of the working folder, and
    later runs in that folder use it where it fits.

    \b
    oddlattice train scan7.dm4 --name mos2
    oddlattice train scans/*.dm4 --name mos2 --into work --set train.steps=6000
    """  # noqa: D301 (click reads the backspace as: keep these lines)
    if not re.fullmatch("[a-z0-9][a-z0-9_]*", name):
        raise Mistake(f"--name: found {name}; needed a name of small letters, digits and underscores")
    first = next((k for k, image in enumerate(images) if str(image).startswith("-")), len(images))
    file = made(work) / f"train_{name}.yaml"
    write_text(file, yaml.safe_dump(training(images[:first], name), sort_keys=False, allow_unicode=True))
    click.echo(f"settings: {file}")
    become(snakemake_order(work, cores, own, [file], ["train", *map(str, images[first:])]))


@oddlattice.command(epilog=CODES)
@_WORK
@click.option("--format", "kind", required=True, type=click.Choice(FORMATS))
@click.option(
    "--into", type=click.Path(path_type=Path), help="Folder to write into; export/FORMAT in WORK unless told."
)
@click.option("--image", "chosen", multiple=True, metavar="IMAGE_ID", help="This image alone; may be repeated.")
@click.option(
    "--element", "told", multiple=True, metavar="SITE=ELEMENT", help="What a site is, as A=Mo; may be repeated."
)
@click.option(
    "--around", "around_nm", type=click.FloatRange(0, min_open=True), metavar="NM", help="Cut out each defect."
)
def export(
    work: Path, kind: str, into: Path | None, chosen: Sequence[str], told: Sequence[str], around_nm: float | None
) -> None:
    """Write the results of a run for other programs. WORK is its working folder, here unless told.

    html: an image's page with its pictures in one file, for an e-mail. csv: the tables of images, defects, grains and
    boundaries, and every column of each image. geojson: the defects, and grains and boundaries, for QuPath. strain:
    exx, eyy, exy and rotation of every grain over the image, as OME-Zarr. figure: the image with its defects and
    a scale bar, as SVG and PNG. cif, xyz (extended) and poscar: one atom for each atomic column, at its measured place,
    a file an image and grain; or, with --around 1.5, one of 3 x 3 nm around each defect.

    \b
    oddlattice export --format csv
    oddlattice export work --format xyz --element A=Mo --element B=S
    oddlattice export work --format cif --image scan-7-a1b2c3-haadf --around 1.5
    """  # noqa: D301 (click reads the backspace as: keep these lines)
    from oddlattice.command.export import export as write
    from oddlattice.results import Results

    results = results_of(work)
    folder = into or (results.parent / "export" / kind)
    say = partial(click.echo, err=True)
    written = write(Results(results), kind, made(folder), chosen, _elements(told), around_nm, say)
    click.echo(f"{folder}: {len(written)} {'file' if len(written) == 1 else 'files'}")
    if not written:
        raise click.ClickException("found nothing to write; needed an analysed image")


def _elements(told: Sequence[str]) -> dict[str, str]:
    """SITE=ELEMENT, checked."""
    from ase.data import atomic_numbers

    found = {}
    for item in told:
        site, _, element = item.partition("=")
        if element not in atomic_numbers:
            raise Mistake(f"--element: found {item}; needed SITE=ELEMENT with a chemical symbol, as A=Mo")
        found[site] = element
    return found


@oddlattice.command(epilog=CODES)
@_WORK
def doctor(work: Path) -> None:
    """Say what works on this machine and what does not: Python, packages, models, GPU, disk, fonts, browser.

    \b
    oddlattice doctor
    oddlattice doctor /data/work
    """  # noqa: D301 (click reads the backspace as: keep these lines)
    found = doctors.find_out(work)
    for what, state, says in found:
        click.echo(f"{state:<5} {what:<10} {says}")
    bad = [finding.what for finding in found if finding.state == doctors.BAD]
    if bad:
        raise click.ClickException(f"what does not work: {', '.join(bad)}")


@oddlattice.command(epilog=CODES)
@click.argument("archive", type=click.Path(path_type=Path), default=Path("archive"), required=False)
@click.option("--file", type=click.Path(path_type=Path), default=Path("oddlattice.yaml"), help="File to write.")
def init(archive: Path, file: Path) -> None:
    """Write a config file with every setting as a comment. ARCHIVE is the folder of microscope files.

    \b
    oddlattice init /data/microscope
    oddlattice run /data/microscope --configfile oddlattice.yaml
    """  # noqa: D301 (click reads the backspace as: keep these lines)
    if file.exists():
        raise Mistake(f"{file}: found a file of that name; needed another one (--file)")
    made(file.parent)
    shipped = (repository() / "config.yaml").read_text(encoding="utf-8")
    write_text(file, commented(shipped, str(archive), file.name))
    click.echo(file)
