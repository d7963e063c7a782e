"""The methods paragraph of a paper: what was done to these images, with every parameter and the references."""

from collections.abc import Mapping, Sequence
from typing import Any

from oddlattice.crystal import CELL_PX, COLUMN_DISTANCE_PX, OWN
from oddlattice.predict.methods import METHODS, WITHOUT_MODEL
from oddlattice.report import numbers as n
from oddlattice.report.image_facts import expected_false
from oddlattice.run.stage_settings import DefectSettings, InferSettings, TileSettings
from oddlattice.statistics import pair_correlation
from oddlattice.storage.rows import Row

#: What is cited, by a key of our own. Checked against the publishers' pages.
REFERENCES = {
    "bh": "Y. Benjamini, Y. Hochberg, J. R. Stat. Soc. B 57 (1995) 289, doi:10.1111/j.2517-6161.1995.tb02031.x",
    "efron": "B. Efron, Stat. Sci. 23 (2008) 1, doi:10.1214/07-STS236",
    "garwood": "F. Garwood, Biometrika 28 (1936) 437, doi:10.1093/biomet/28.3-4.437",
    "wilson": "E. B. Wilson, J. Am. Stat. Assoc. 22 (1927) 209, doi:10.1080/01621459.1927.10502953",
    "gpa": "M. J. Hÿtch, E. Snoeck, R. Kilaas, Ultramicroscopy 74 (1998) 131, doi:10.1016/S0304-3991(98)00035-7",
    "vae": "D. P. Kingma, M. Welling, Auto-Encoding Variational Bayes (2013), doi:10.48550/arXiv.1312.6114",
    "envelope": "M. Myllymäki et al., J. R. Stat. Soc. B 79 (2017) 381, doi:10.1111/rssb.12172",
    "ratio": "J. Przyborowski, H. Wilenski, Biometrika 31 (1940) 313, doi:10.1093/biomet/31.3-4.313",
    "holm": "S. Holm, Scand. J. Stat. 6 (1979) 65",
    "hyperspy": "F. de la Peña et al., HyperSpy, doi:10.5281/zenodo.592838",
    "snakemake": "F. Mölder et al., F1000Research 10 (2021) 33, doi:10.12688/f1000research.29032.2",
    "scipy": "P. Virtanen et al., Nature Methods 17 (2020) 261, doi:10.1038/s41592-019-0686-2",
    "numpy": "C. R. Harris et al., Nature 585 (2020) 357, doi:10.1038/s41586-020-2649-2",
}


class Cited:
    """Numbers references in the order in which they are first cited."""

    def __init__(self) -> None:
        self.order: list[str] = []

    def __call__(self, *keys: str) -> str:
        """Text of a citation, e.g. [3, 4]."""
        for key in keys:
            if key not in self.order:
                self.order.append(key)
        return "[" + ", ".join(str(self.order.index(key) + 1) for key in keys) + "]"

    @property
    def texts(self) -> list[str]:
        """The references cited."""
        return [REFERENCES[key] for key in self.order]


def _spread(values: Sequence[float | None], unit: str, factor: float = 1.0) -> str:
    """Range of values with its unit, one number where they are alike."""
    known = sorted(factor * v for v in values if n.usable(v))
    if not known:
        return f"unknown {unit}".strip()
    low, high = n.significant(known[0], 3), n.significant(known[-1], 3)
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"


def _words_of(method: str, cite: Cited) -> str:
    words = METHODS[method].words
    return words.replace("{vae}", cite("vae")) if "{vae}" in words else words


def _counted(rows: Sequence[Row]) -> str:
    return "1 image" if len(rows) == 1 else f"{n.count(len(rows))} images"


def paragraphs(rows: Sequence[Row], found: Row, config: Mapping[str, Any], versions: Mapping[str, str]) -> Row:
    """The methods as paragraphs and numbered references.

    Parameters
    ----------
    rows : sequence of dict
        Analysed images (products.IMAGES) that count; what differs from one to the other is taken from here.
    found : dict
        4_defects/statistics.json: sums are taken from here.
    config : mapping
        The merged configuration.
    versions : mapping
        Of this program and its packages.
    """
    cite = Cited()
    texts = [
        _of_images(rows, found, config, versions, cite),
        _of_detection(rows, found, config, cite),
        _of_numbers(found, config, cite),
    ]
    return {"paragraphs": texts, "references": cite.texts}


def _of_images(
    rows: Sequence[Row], found: Row, config: Mapping[str, Any], versions: Mapping[str, str], cite: Cited
) -> str:
    total = found["totals"]["reviewed"]
    area, cells = total["area_nm2"], total["cells_analysed"]
    tile = TileSettings.of(config["tile"])
    how_many = "1 image was" if found["images"] == 1 else f"{n.count(found['images'])} images were"
    once = " Of a stack of frames one is counted." if found["images_counted"] < found["images"] else ""
    return (
        f"{how_many} analysed with oddlattice {versions['oddlattice']}, a Snakemake "
        f"{cite('snakemake')} pipeline which reads them with HyperSpy {versions['hyperspy']} {cite('hyperspy')} and "
        f"computes with NumPy {versions['numpy']} and SciPy {versions['scipy']} {cite('numpy', 'scipy')}. "
        f"{_of_crystals(rows, tile)} The lattice was fitted from the phases of its strongest reflections "
        f"{cite('gpa')} with a slowly varying displacement field, the shifts of scan lines were measured over whole "
        f"lines and taken out, the image was divided by its local mean and resampled along both lattice vectors. "
        f"In all {n.count(cells)} unit cells ({n.significant(area)} nm²) were analysed; regions without the crystal's "
        f"lattice were masked.{once}"
    )


def _of_crystals(rows: Sequence[Row], tile: TileSettings) -> str:
    """Where the cell and the pixel size of images come from: from a model's crystal, or from the image itself."""
    known, own = _by_model(rows)
    size = _spread([row["pixel_nm"] for row in known], "pm", 1000)
    of_models = (
        f"The pixel size of {_counted(known)}, {size}, comes from the fitted lattice and the lattice constants of a "
        f"model's crystal; images whose header disagreed in length by more than {n.percent(tile.length_tolerance)} "
        f"or in shape by more than {n.percent(tile.strain_tolerance)} were not taken for it. Its unit cell was "
        f"resampled to {CELL_PX} px along both lattice vectors."
    )
    of_images = (
        f"{_counted(own)} {'was' if len(own) == 1 else 'were'} laid on the unit cell that the image itself shows: its "
        f"cell from the image's reflections, its columns from a fit to the mean cell; neighbouring columns were "
        f"resampled to about {n.significant(COLUMN_DISTANCE_PX, 2)} px from each other."
    )
    return " ".join([of_models] * bool(known) + [of_images] * bool(own))


def _by_model(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Images on the crystal of a model, and those on their own."""
    return [row for row in rows if row["model"] != OWN], [row for row in rows if row["model"] == OWN]


def _of_prediction(rows: Sequence[Row], infer: InferSettings, cite: Cited) -> str:
    """How bulk was predicted: by the configured method, without a model from the image's own cell."""
    known, own = _by_model(rows)
    names = ", ".join(sorted({str(row["model"]) for row in known}))
    words = _words_of(infer.method, cite)
    width = f"{n.significant(infer.smooth_cells, 2)} unit cells"
    by_model = f"The bulk was predicted by {words} (model {names}; adapted to each image over {width})."
    without = f"The bulk of images without a model was predicted by {_words_of(WITHOUT_MODEL, cite)}." if own else ""
    return " ".join(text for text in (by_model if known or not own else "", without) if text)


def _of_detection(rows: Sequence[Row], found: Row, config: Mapping[str, Any], cite: Cited) -> str:
    columns, number = (found["totals"]["reviewed"][key] for key in ("columns_tested", "defects"))
    infer, defects = InferSettings.of(config["infer"]), DefectSettings.of(config["defects"])
    where = "over all images" if defects.fdr_over == "run" else "within each image"
    return (
        f"{_of_prediction(rows, infer, cite)} At each of the {n.count(columns)} atomic "
        f"columns the difference between image and prediction was weighed by least-squares kernels for a change of "
        f"intensity and a displacement, in the noise measured in the same image, and judged against the scatter of "
        f"the image's own columns of that site, {n.percent(defects.shift_share, 1)} of the false alarms being "
        f"allowed to the displacement, which was asked for together with the loss of intensity that it brings. "
        f"Columns were flagged at a false-discovery rate of "
        f"{n.percent(defects.fdr, 1)} {where} {cite('bh')}; {n.count(number)} point defects were "
        f"found{_of_false_alarms(found, cite)}. Regions without the lattice, and {defects.extended_columns} or more "
        f"neighbouring columns displaced alike, count as extended defects; point defects in them are listed, not "
        f"counted. Completeness was measured by injecting losses of intensity into each image's own bulk columns; the "
        f"smallest loss found nine times in ten was {_spread([row['smallest_loss_90'] for row in rows], '%', 100)}."
    )


def _of_false_alarms(found: Row, cite: Cited) -> str:
    false = expected_false(found["totals"]["reviewed"])
    return f", of which {false} are expected to be false by the two-groups model {cite('efron')}" if false else ""


def _of_numbers(found: Row, config: Mapping[str, Any], cite: Cited) -> str:
    return (
        f"Densities are given with exact Poisson intervals of 95 % {cite('garwood')}, proportions with Wilson's "
        f"{cite('wilson')}; where the completeness of a kind was measured, densities were corrected for it and for "
        f"the false alarms expected. Clustering was tested by the pair correlation of flagged columns against columns "
        f"drawn at random from the tested ones of the same site, with a global envelope of up to "
        f"{pair_correlation.SIMULATIONS} draws by extreme rank length {cite('envelope')}. Trends are Poisson "
        f"regressions with the analysed area as exposure; groups of images (by {found['group_by']}) were compared by "
        f"the exact conditional test of two Poisson rates {cite('ratio')}, p-values after Holm {cite('holm')}; scatter "
        f"between images beyond counting widens intervals and p-values. All random numbers derive from the seed "
        f"{config['seed']}."
    )


def markdown(methods: Row) -> str:
    """The methods as a text file."""
    listed = "\n".join(f"{k}. {text}" for k, text in enumerate(methods["references"], 1))
    return "# Methods\n\n" + "\n\n".join(methods["paragraphs"]) + "\n\n## References\n\n" + listed + "\n"
