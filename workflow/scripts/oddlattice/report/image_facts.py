"""What is known about one image, and how its page says it: numbers from the products become rows of text."""

import math
import re

import numpy as np
import polars as pl

from oddlattice.crystal import OWN
from oddlattice.lattice import pixel_size
from oddlattice.report import numbers as n
from oddlattice.report.images import Image
from oddlattice.storage.rows import Row

FROM_LATTICE = "scale from the fitted lattice"
OF_FRAME = re.compile(r"-f\d{4,}$")  # what the id of a frame has beyond that of its series
ROUND = 1.05  # length over width of a column; a longer one has a direction
STATES = {
    "analysed": "Analysed",
    "no_lattice": "No lattice found",
    "no_model": "No model for this lattice",
    "rejected": "Rejected",
}


def series_name(image_id: str) -> str:
    """Name of the page of the stack that a frame belongs to; "" where the image is no frame."""
    found = OF_FRAME.search(image_id)
    return image_id[: found.start()] if found else ""


def series_title(row: Row) -> str:
    """What a stack is called: file and signal."""
    return f"{row['path']} · {row['signal']}" if row["signal"] else str(row["path"])


def file_name(row: Row) -> tuple[str, str]:
    """Folder and name of the file of a row."""
    folder, _, name = str(row["path"]).rpartition("/")
    return folder, name


def sentence(text: object) -> str:
    """A text of another stage with a capital letter to begin with."""
    found = str(text or "")
    return found[:1].upper() + found[1:]


def expected_false(row: Row) -> str:
    """How many of the defects that a row is about are expected to be false, with the interval; "" where not known."""
    number, low, high = (row.get(f"expected_false{end}") for end in ("", "_ci_low", "_ci_high"))
    if not (n.usable(number) and n.usable(low) and n.usable(high)):
        return ""
    if number < 0.1 and high == 0:
        return "fewer than 0.1"
    about = "fewer than 0.1" if 0 < number < 0.1 else n.fixed(number, 1 if number < 10 else 0)
    return f"{about} ({n.fixed(low, 0)} to {n.fixed(high, 0)})"


def title(row: Row) -> str:
    """What the page is called: file, signal, frame of a stack."""
    parts = [file_name(row)[1]]
    if row["signal"]:
        parts.append(str(row["signal"]))
    if series_name(str(row["image_id"])):
        parts.append(f"frame {row['frame']}")
    elif row["frame"] == -1:
        parts.append("sum of frames")
    return " · ".join(parts)


def pixel_size_nm(image: Image) -> tuple[tuple[float, float] | None, str]:
    """Pixel size (row, col) [nm] the page measures with, and the ruler it comes from."""
    header, fitted = pixel_size.header_nm(image.source), image.row["pixel_nm"]
    if n.usable(fitted) and image.row["model"] not in (None, "", OWN):
        return pixel_size.by_lattice_nm(fitted, header), FROM_LATTICE
    return (header, "scale from the file header") if header else (None, "no scale: lengths are in pixels")


def warnings_of(image: Image) -> list[str]:
    """Every warning of the stages, once, in their order; first of all, if another image shows the same scan."""
    found = [image.row.get("not_counted") or ""]
    found += [*image.source.get("warnings", []), *image.lattice.get("warnings", []), *image.model.get("warnings", [])]
    if image.row["state"] == "analysed" and image.row["reason"]:
        known = " ".join(found)
        found += [part for part in str(image.row["reason"]).split("; ") if part.rstrip(".") not in known]
    return list(dict.fromkeys(sentence(w) for w in found if w))


def _figure(label: str, value: str, unit: str, note: str) -> Row:
    return {"label": label, "value": value, "unit": unit, "note": note}


def key_figures(row: Row, in_regions: int = 0) -> list[Row]:
    """The figures at the head of the page of an analysed image, with so many listed columns in extended regions."""
    density, between = n.interval(row["density_per_nm2"], row["density_ci_low"], row["density_ci_high"])
    flagged, tested, fdr = row["defects"] or 0, row["columns_tested"], row["fdr"]
    masked, cells = row["cells_masked"] or 0, (row["cells_analysed"] or 0) + (row["cells_masked"] or 0)
    without = f"; {n.significant(100 * masked / cells, 2)} % of the cells masked" if masked else ""
    expected = expected_false(row)
    false = f"; expected to be false: {expected}" if expected else ""
    false = false if flagged or in_regions else ": nothing is flagged"
    false += f"; {n.count(in_regions)} more in or at extended regions or boundaries" if in_regions else ""
    corrected, around = n.interval(*(row[f"density_corrected_{end}"] for end in ("per_nm2", "ci_low", "ci_high")))
    note = f"95 % interval {between}" if density != n.NONE else "not known: see the notes"
    if corrected != n.NONE:
        note += f"; corrected for missed and false ones {corrected} ({around}){_left_out(row)}"
    found = [
        _figure("Defects per nm²", density, "nm⁻²" if density != n.NONE else "", note),
        _figure("Flagged columns", n.count(flagged), "", f"of {n.count(tested)} tested{false}"),
        _figure(
            "Area tested",
            n.significant(row["area_nm2"]),
            "nm²" if n.usable(row["area_nm2"]) else "",
            f"{_of_image(row)}{n.count(row['cells_analysed'])} cells{without}",
        ),
        _figure(
            "False-discovery rate",
            n.significant(100 * fdr, 2) if n.usable(fdr) else n.NONE,
            "%",
            "within this image: at most, on average over many images",
        ),
    ]
    if row["extended_regions"]:
        known = n.usable(row["extended_area_nm2"])
        size = f"{n.significant(row['extended_area_nm2'], 2)} nm² in all, " if known else ""
        area = f"{size}not counted as point defects"
        found.insert(2, _figure("Extended regions", n.count(row["extended_regions"]), "", area))
    loss = row["smallest_loss_90"]
    if n.usable(loss):
        note = "the smallest loss of a column’s intensity found 9 times in 10"
        found.append(_figure("Detectable loss", n.significant(100 * loss, 2), "%", note))
    else:
        found.append(_figure("Detectable loss", n.NONE, "", "no loss of intensity is found 9 times in 10"))
    found.append(_completeness(row))
    return found


def _left_out(row: Row) -> str:
    """What the corrected density leaves out."""
    out = row.get("density_corrected_left_out")
    if not out:
        return ""
    return f", without {n.count(out)} too faint to count"


def _of_image(row: Row) -> str:
    """What part of the image was tested."""
    if not n.usable(row["area_nm2"]) or not n.usable(row["pixel_nm"]):
        return ""
    area = row["rows"] * row["cols"] * row["pixel_nm"] ** 2
    return f"of {n.significant(area)} nm² of image ({n.percent(row['area_nm2'] / area)}); "


def trial_table(trials: list[Row]) -> list[Row]:
    """Rows of the table of known defects put into the image: name, change, part found, ideal observer's."""
    rows = []
    for trial in trials:
        change = f"{n.fixed(trial['shift_pm'], 0)} pm" if trial["shift_pm"] else f"{100 * trial['change']:+.0f} %"
        between = f"{n.percent(trial['ci_low'])} to {n.percent(trial['ci_high'])}"
        rows.append(
            {
                "name": trial["name"],
                "change": change.replace("-", "−"),
                "found": n.percent(trial["recovered"]),
                "interval": between,
                "ideal": n.percent(trial["ideal"]),
            }
        )
    return rows


def trial_note(trials: list[Row]) -> str:
    """What the table's atoms are counted in."""
    thick = {(trial["of_atoms"], trial["thickness_nm"]) for trial in trials if trial["of_atoms"]}
    numbers = sorted({trial["n"] for trial in trials})
    each = f"{n.count(numbers[0])}" + (f" to {n.count(numbers[-1])}" if len(numbers) > 1 else "")
    atoms = "".join(f" Atoms are of {a} in a column, {n.fixed(t, 1)} nm." for a, t in sorted(thick))
    return f"Each put into {each} of this image’s own bulk columns and judged as they are.{atoms}"


def _completeness(row: Row) -> Row:
    vacancy, low, high = (row[f"completeness_vacancy{end}"] for end in ("", "_ci_low", "_ci_high"))
    if not n.usable(vacancy):
        return _figure("Empty columns found", n.NONE, "", "not measured in this image")
    between = (
        f"95 % interval {n.significant(100 * low, 3)} to {n.significant(100 * high, 3)} %; " if n.usable(low) else ""
    )
    return _figure(
        "Empty columns found", n.significant(100 * vacancy, 3), "%", f"{between}put into this image as a trial"
    )


def review_facts(image: Image) -> Row | None:
    """What people said of an image: sentences for its page; None where nobody said anything."""
    if not image.said.height:
        return None
    row, says = image.row, []
    counts = [
        (row["review_confirmed"], "confirmed"),
        (row["review_rejected"], "rejected"),
        (row["review_other"], "of another kind"),
        (row["review_conflicts"], "on which people disagree"),
    ]
    counted = ", ".join(f"{n.count(number)} {word}" for number, word in counts if number)
    if counted:
        says.append(f"Defects: {counted}.")
    if row["unusable"]:
        says.append("The image is marked unusable: none of its defects counts after review.")
    if row["review_missed"]:
        says.append(
            f"{n.count(row['review_missed'])} missed defect{'s' if row['review_missed'] > 1 else ''} added by people."
        )
    if row["looked_at"]:
        says.append("The image was looked at as a whole.")
    regions = image.said.filter(pl.col("what") == "region").height
    if regions and not row["unusable"]:
        area = f", {n.significant(row['excluded_area_nm2'], 2)} nm² of the area analysed" if row["area_nm2"] else ""
        says.append(f"{regions} excluded region{'s' if regions > 1 else ''}{area}.")
    if row["state"] == "analysed" and not row["unusable"]:
        before, _ = n.interval(row["density_per_nm2"], row["density_ci_low"], row["density_ci_high"])
        ends = (row[f"density_reviewed_{end}"] for end in ("per_nm2", "ci_low", "ci_high"))
        after, between = n.interval(*ends)
        says.append(f"Density: {before} nm⁻² as flagged, {after} nm⁻² after review (95 % interval {between}).")
    lost = image.said.filter(pl.col("state") == "unmatched").to_dicts()
    return {
        "people": str(row["reviewers"]),
        "says": says,
        "notes": [(m["reviewer"], m["note"]) for m in image.said.filter(pl.col("what") == "note").to_dicts()],
        "conflicts": [
            f"{d['kind']} at row {n.fixed(d['row_px'], 1)}, col {n.fixed(d['col_px'], 1)}: {d['review_by']}"
            for d in image.defects.filter(pl.col("review") == "conflict").to_dicts()
        ],
        "unmatched": [
            f"{m['reviewer']}: {m['verdict']}, {m['found_kind'] or 'defect'} at row {n.fixed(m['row_px'], 1)}, col "
            f"{n.fixed(m['col_px'], 1)}: {m['reason']}"
            for m in lost
        ],
    }


def _digits(value: float, error: float) -> str:
    return n.with_error(value, error, digits=1, digits_alone=4)


def _vector_rows(image: Image, name: str) -> list[tuple[str, str]]:
    vector = image.lattice.get(f"{name}_px")
    if vector is None:
        return []
    sigma = np.atleast_1d(np.asarray(image.lattice.get(f"{name}_sigma_px", np.nan), dtype=np.float64))
    row_sigma, col_sigma = float(sigma[0]), float(sigma[-1])
    length = math.hypot(*vector)
    error = math.hypot(vector[0] * row_sigma, vector[1] * col_sigma) / length
    return [
        (f"{name} (row, col)", f"{_digits(vector[0], row_sigma)}, {_digits(vector[1], col_sigma)} px"),
        (f"|{name}|", f"{_digits(length, error)} px"),
    ]


def edge_table(image: Image) -> list[tuple[str, str, str]]:
    """Lengths of the cell's edges: label, by the lattice and by the file header [nm]; empty without either."""
    header = pixel_size.header_nm(image.source)
    pixel_nm, ruler = pixel_size_nm(image)
    rows = []
    for name in ("a", "b"):
        vector = image.lattice.get(f"{name}_px")
        if vector is not None:
            by = [pixel_nm if ruler == FROM_LATTICE else None, header]
            texts = [n.significant(math.hypot(vector[0] * p[0], vector[1] * p[1]), 4) if p else n.NONE for p in by]
            rows.append((f"|{name}|, nm", texts[0], texts[1]))
    return [row for row in rows if set(row[1:]) != {n.NONE}]


def _crystal_rows(lattice: Row) -> list[tuple[str, str]]:
    """Which crystal the image's own was recognised as; none where a model of it was given."""
    who = lattice.get("identity")
    if who is None:
        return []
    listed = ", ".join(f"{one['crystal']} {one['axis']} {one['probability']:.2f}" for one in who["candidates"])
    if who["kind"] in ("crystal", "class"):
        lines = [("Crystal", f"{who['name']}, {who['probability']:.2f}")]
        return lines if len(who["candidates"]) == 1 else [*lines, ("Candidates", listed)]
    what = f"unknown: {who['name']}" if who["name"] else "unknown"
    return [("Crystal", what), *([("Candidates", listed)] if listed else [])]


def lattice_table(image: Image) -> list[tuple[str, str]]:
    """Label and text of each line of the lattice table; empty without a lattice."""
    found, row = image.lattice, image.row
    if found.get("a_px") is None:
        return []
    pixel, ruler = pixel_size_nm(image)
    header = image.source.get("pixel_nm_header")
    lines = [*_crystal_rows(found), *_vector_rows(image, "a"), *_vector_rows(image, "b")]
    for label, key in (("Angle from a to b", "gamma"), ("Rotation of a from +row", "rotation")):
        if n.usable(found.get(f"{key}_deg")):
            error = found.get(f"{key}_sigma_deg")
            lines.append((label, f"{n.with_error(found[f'{key}_deg'], error, digits=1, digits_alone=4)}°"))

    def length(label: str, key: str) -> None:
        value = found.get(key)
        if isinstance(value, float) and n.usable(value):
            metric = f" ({n.significant(1000 * value * math.sqrt(pixel[0] * pixel[1]), 2)} pm)" if pixel else ""
            lines.append((label, f"{n.significant(value, 2)} px{metric}"))

    lines += _quality_rows(row)
    length("Columns about the smooth lattice, rms", "lattice_rms_px")
    jitter = "Jitter of columns (the scan ran along them), rms" if found.get("scan_transposed") else "Row jitter, rms"
    length(jitter, "row_jitter_px_rms")
    units = image.source.get("units_header")
    as_written = f", unit written {units!r}" if units not in (None, "", "nm", "m") else ""
    lines.append(("Pixel by the header", _pixel_text(header) + as_written))
    if n.usable(row["pixel_nm"]) and ruler == FROM_LATTICE:
        lines.append(("Pixel by the lattice", f"{n.significant(1000 * row['pixel_nm'], 4)} pm"))
        if n.usable(row["pixel_nm_header"]):
            off = row["pixel_nm"] / row["pixel_nm_header"] - 1
            lines.append(("Lattice against header", f"{'+' if off >= 0.0005 else ''}{n.percent(off, 1)}"))
    return lines


def _quality_rows(row: Row) -> list[tuple[str, str]]:
    """What an image is worth: signal to noise, sharpness, astigmatism, distortion."""
    lines = []
    if n.usable(row.get("signal_to_noise")):
        lines.append(("Brightest column over the noise of a pixel", n.significant(row["signal_to_noise"], 2)))
    for label, key in (("Width of a column (FWHM)", "column_fwhm"), ("Lattice about a regular one, rms", "distortion")):
        if n.usable(row.get(f"{key}_px")):
            metric = f" ({n.significant(row[f'{key}_pm'], 2)} pm)" if n.usable(row.get(f"{key}_pm")) else ""
            lines.append((label, f"{n.significant(row[f'{key}_px'], 2)} px{metric}"))
    if n.usable(row.get("column_elongation")):
        along = f", {n.fixed(row['elongation_deg'], 0)}° from +row" if row["column_elongation"] > ROUND else ""
        lines.append(("Length over width of a column", n.fixed(row["column_elongation"], 2) + along))
    return lines


def _pixel_text(header: list[float] | None) -> str:
    if not header:
        return "not calibrated"
    if math.isclose(header[0], header[1], rel_tol=1e-4):
        return f"{n.significant(1000 * header[0], 4)} pm"
    return f"{n.significant(1000 * header[0], 4)} × {n.significant(1000 * header[1], 4)} pm (row × col)"


def quality_table(image: Image) -> list[tuple[str, str]]:
    """The tile stage's measures of the fit, as they are."""
    found = image.lattice.get("fit_quality", {})
    return [
        (
            str(key).replace("_", " "),
            n.significant(v) if isinstance(v, int | float) and not isinstance(v, bool) else str(v),
        )
        for key, v in found.items()
    ]


def provenance(image: Image, shard: str) -> list[tuple[str, str]]:
    """Label and text: from which file, model and program the numbers come."""
    row, source, dose = image.row, image.source, image.row["dose_counts_per_nm2"]
    device = " ".join(str(image.model[key]) for key in ("device", "precision") if image.model.get(key))
    lines = [
        ("File", str(row["path"])),
        ("SHA-256 of the file", str(source.get("sha256", ""))),
        ("Image", str(row["image_id"])),
        ("Shard", shard),
        ("Acquired", str(row["acquired"] or "")),
        ("Detector", str(source.get("detector", "") or "")),
        ("Model", str(row["model"] or "")),
        ("SHA-256 of the weights", str(image.model.get("model_sha256", "") or "")),
        ("Prediction", " on ".join(x for x in (str(image.model.get("method", "") or ""), device) if x)),
        ("Misfit of the model", n.significant(row["model_misfit"]) if n.usable(row["model_misfit"]) else ""),
        ("Noise model", str(row["noise_model"] or "")),
        ("Counts per area", f"{n.significant(dose)} nm⁻²" if n.usable(dose) else ""),
    ]
    return [(label, text) for label, text in lines if text]
