"""The one place that knows the products: tables, columns, dtypes and units, and how they are written."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import polars as pl

from oddlattice import __version__
from oddlattice.storage.atomic import whole_file

Schema = dict[str, pl.DataType | type[pl.DataType]]

#: The last column of every table, written by `write_parquet` and `write_csv`: the program that made the row.
VERSION: Schema = {"version": pl.String}

#: results/0_archive/inventory.tsv: one row per file found under the archive.
INVENTORY: Schema = {
    "file_id": pl.String,
    "path": pl.String,  # relative to the archive, odd bytes escaped (paths.escape)
    "size_bytes": pl.Int64,
    "mtime_ns": pl.Int64,
    "state": pl.String,  # ready | waiting | done | rejected
    "reason": pl.String,
    "shard": pl.String,  # "" while waiting
}

#: results/0_archive/{shard}.tsv: the files of a shard, frozen.
SHARD: Schema = {k: INVENTORY[k] for k in ("file_id", "path", "size_bytes", "mtime_ns")}

#: Rows kept by the read stage (attribute "images" of 1_images/{shard}.zarr): each image, and each refusal.
READ: Schema = {
    "image_id": pl.String,  # group name in the zarr store; for a refusal the id it would have had
    "file_id": pl.String,
    "scan_id": pl.String,  # SHA-256 of pixels, shape and dtype, the same in whatever container; "" where refused
    "path": pl.String,
    "signal": pl.String,  # name of the signal or detector in the file; "" when the file itself is refused
    "frame": pl.Int64,  # index in a stack; -1 for the aligned sum; 0 for a single image
    "state": pl.String,  # read | rejected
    "reason": pl.String,
}

#: results/4_defects/images.parquet: one row per image analysed or refused.
IMAGES: Schema = {
    "image_id": pl.String,
    "file_id": pl.String,
    "scan_id": pl.String,
    "path": pl.String,
    "signal": pl.String,
    "frame": pl.Int64,
    "state": pl.String,  # analysed | no_lattice | no_model | rejected
    "reason": pl.String,  # sentence for a microscopist; also warnings of an analysed image
    "rows": pl.Int64,
    "cols": pl.Int64,
    "pixel_nm_header": pl.Float64,  # geometric mean of the two directions
    "pixel_nm": pl.Float64,  # from the fitted lattice, where a model's cell is the ruler
    "a_nm": pl.Float64,  # fitted with the header's pixel size
    "b_nm": pl.Float64,
    "a_px": pl.Float64,
    "b_px": pl.Float64,
    "gamma_deg": pl.Float64,
    "rotation_deg": pl.Float64,
    "lattice_rms_px": pl.Float64,
    "crystal": pl.String,  # name and zone axis, or those that look alike; empty where it is not recognised
    "crystal_probability": pl.Float64,  # of that name; empty where a model of the crystal was given
    "crystal_candidates": pl.String,  # the most likely first, each with its probability
    "crystal_in_run": pl.String,  # the same of all images that show it: a name, or crystal 1, 2, ...; filled by gather
    "grains": pl.Int64,  # crystals that are analysed, or told why not: see the table of grains
    "model": pl.String,  # empty where grains have different ones, as lattice and rotation where there are several
    "model_misfit": pl.Float64,
    "cells_analysed": pl.Int64,
    "cells_masked": pl.Int64,
    "columns_tested": pl.Int64,
    "defects": pl.Int64,
    "extended_regions": pl.Int64,
    "extended_area_nm2": pl.Float64,
    "density_per_nm2": pl.Float64,
    "density_ci_low": pl.Float64,
    "density_ci_high": pl.Float64,
    "density_corrected_per_nm2": pl.Float64,  # for chance of being found and false alarms; of those found half the time
    "density_corrected_ci_low": pl.Float64,
    "density_corrected_ci_high": pl.Float64,
    "density_corrected_left_out": pl.Int64,  # listed defects so faint that fewer than half of their like are found
    "expected_false": pl.Float64,  # of the point defects listed: sum of 1 - probability_real
    "expected_false_ci_low": pl.Float64,  # the number of false ones lies between these with 95 %
    "expected_false_ci_high": pl.Float64,
    "false_dispersion": pl.Float64,  # variance of that number over that of independent defects
    "area_nm2": pl.Float64,
    "fdr": pl.Float64,
    "noise_model": pl.String,
    "dose_counts_per_nm2": pl.Float64,
    "signal_to_noise": pl.Float64,  # height of the brightest column over the rms noise of a pixel
    "column_fwhm_px": pl.Float64,  # full width at half maximum of the brightest column, as it is seen
    "column_fwhm_pm": pl.Float64,
    "column_elongation": pl.Float64,  # its long over its short side: astigmatism, tilt or drift
    "elongation_deg": pl.Float64,  # direction of the long side, from +row towards +col
    "jitter_px": pl.Float64,  # rms of the shifts of scan lines
    "jitter_pm": pl.Float64,
    "distortion_px": pl.Float64,  # rms distance of the cells from a regular lattice: drift, slow scan errors, strain
    "distortion_pm": pl.Float64,
    "published_mean": pl.Float64,
    "published_std": pl.Float64,
    "published_flagged": pl.Int64,
    "completeness_vacancy": pl.Float64,  # recovered fraction of emptied columns injected into this image
    "completeness_vacancy_ci_low": pl.Float64,
    "completeness_vacancy_ci_high": pl.Float64,
    "smallest_loss_90": pl.Float64,  # smallest loss of a column's intensity recovered in 90 % (fraction of a column)
    "acquired": pl.String,  # ISO time from the metadata, "" where unknown
    "reviewers": pl.String,  # people who said something of this image; the columns from here on are filled by gather
    "same_scan_as": pl.String,  # image_id that is counted instead: the same scan, a copy or another guise; "" for none
    "same_scan_how": pl.String,  # what tells so: same content, same noise (with its correlation), or time and columns
    "counted": pl.Boolean,  # in densities: analysed, usable, the first frame of its stack, no copy or guise of another
    "unusable": pl.Boolean,  # a person said so
    "review_confirmed": pl.Int64,  # defects
    "review_rejected": pl.Int64,
    "review_other": pl.Int64,  # real, but of another kind
    "review_conflicts": pl.Int64,  # people disagree
    "review_missed": pl.Int64,  # defects that people added
    "looked_at": pl.Boolean,  # a person looked at the whole image
    "excluded_area_nm2": pl.Float64,  # of the area analysed
    "defects_reviewed": pl.Int64,  # point defects neither rejected nor in what is excluded
    "area_reviewed_nm2": pl.Float64,
    "density_reviewed_per_nm2": pl.Float64,  # the same density as above where nobody said anything
    "density_reviewed_ci_low": pl.Float64,
    "density_reviewed_ci_high": pl.Float64,
}

#: Key of a column within an image, in every table.
COLUMN_KEY = ("grain", "cell_u", "cell_v", "column")

#: results/4_defects/{shard}.columns.parquet: every column tested.
COLUMNS: Schema = {
    "image_id": pl.String,
    "grain": pl.Int64,  # 1, 2, ... within the image
    "cell_u": pl.Int64,  # counted from the origin of the grain's lattice, which is a column
    "cell_v": pl.Int64,
    "column": pl.Int64,  # index in the crystal's cell; unique where two columns share a site
    "site": pl.String,
    "row_px": pl.Float64,  # in the raw image as read by HyperSpy
    "col_px": pl.Float64,
    "z": pl.Float64,
    "p_value": pl.Float64,
    "q_value": pl.Float64,
    "probability_real": pl.Float64,  # that the column has changed
    "z_intensity": pl.Float64,
    "z_shift": pl.Float64,
    "anm": pl.Float64,  # published score
    "intensity_change": pl.Float64,  # fraction of a bulk column
    "intensity_change_sigma": pl.Float64,
    "intensity_noise": pl.Float64,  # standard error of the change by the image's noise alone
    "intensity_plain": pl.Float64,  # change as read with nothing taken out beside it: whatever else is listed
    "population": pl.Int64,  # component of 4_defects/populations: 0 the bulk; null of a column of none
    "in_region": pl.Boolean,  # in an extended region, at its rim, or in an odd layer along a boundary
    "shift_row_pm": pl.Float64,
    "shift_col_pm": pl.Float64,
    "shift_sigma_pm": pl.Float64,
}

#: results/4_defects/completeness.parquet: known defects put into each image's own bulk, and how many were found.
COMPLETENESS: Schema = {
    "image_id": pl.String,
    "name": pl.String,
    "site": pl.String,
    "kind": pl.String,
    "atoms": pl.Int64,  # changed, of so many in the column; 0: the column as a whole
    "of_atoms": pl.Int64,
    "thickness_nm": pl.Float64,  # of the specimen in which the change of intensity holds
    "change": pl.Float64,  # fraction of a bulk column
    "shift_pm": pl.Float64,
    "n": pl.Int64,
    "recovered": pl.Float64,
    "ci_low": pl.Float64,
    "ci_high": pl.Float64,
    "ideal": pl.Float64,  # what an ideal observer told what to look for would find in this image's noise
}

#: results/4_defects/defects.parquet: one row per flagged column or extended region.
DEFECTS: Schema = {
    "image_id": pl.String,
    "path": pl.String,
    "signal": pl.String,
    "frame": pl.Int64,
    "row_px": pl.Float64,
    "col_px": pl.Float64,
    "row_nm": pl.Float64,
    "col_nm": pl.Float64,
    "grain": pl.Int64,  # 1, 2, ... within the image
    "cell_u": pl.Int64,  # counted from the origin of the grain's lattice, which is a column
    "cell_v": pl.Int64,
    "column": pl.Int64,  # index in the crystal's cell; null of what is no column
    "number": pl.Int64,  # of what is no column: 1, 2, ... within its grain and kind, from the top; its key with them
    "site": pl.String,
    "site_in_run": pl.String,  # the site's name in all images; null where that is not told; filled by gather
    "kind": pl.String,  # vacancy-like | lighter | heavier | displaced | extra | extended | boundary | unknown
    "sort": pl.String,  # of a boundary, as in the table of boundaries, whose row has its number; else null
    "kind_probability": pl.Float64,  # of this kind, if the defect is real
    "probability_real": pl.Float64,  # that it is no false alarm; null of a region
    "z": pl.Float64,
    "p_value": pl.Float64,
    "q_value": pl.Float64,
    "anm": pl.Float64,
    "intensity_change": pl.Float64,
    "intensity_change_sigma": pl.Float64,
    "shift_row_pm": pl.Float64,
    "shift_col_pm": pl.Float64,
    "shift_sigma_pm": pl.Float64,
    "area_px2": pl.Float64,  # of an extended region, else null
    "area_nm2": pl.Float64,  # the same; null too where the pixel's size is not known
    "burgers_u": pl.Float64,  # of an extended region: closure of a circuit around it, in lattice vectors; 0, 0 of none
    "burgers_v": pl.Float64,
    "burgers_pm": pl.Float64,  # its length
    "burgers_reason": pl.String,  # why it is not told
    "population": pl.Int64,  # component of 4_defects/populations: 0 the bulk; null of a column of none
    "in_region": pl.Boolean,  # in an extended region, at its rim, or in an odd layer along a boundary: in no density
    "counted": pl.Boolean,  # whether its image is (see images), filled by gather
    "track": pl.Int64,  # of the series that its image is a frame of (see tracks), filled by gather; null of none
    "again": pl.Boolean,  # of a stack: another frame's row stands for it, or the series does not confirm it; by gather
    "page_row": pl.Int64,  # place in the list of its image's page, filled by gather; null of what the run alone lists
    "review": pl.String,  # "" | confirmed | rejected | other (kind) | conflict
    "review_kind": pl.String,  # what a person says it is, where review is other
    "review_by": pl.String,  # who said what
    "review_note": pl.String,
    "excluded": pl.Boolean,  # in a region or an image that a person excluded
}

#: results/4_defects/grains.parquet: one row per grain of every image with a lattice.
GRAINS: Schema = {
    "image_id": pl.String,
    "grain": pl.Int64,  # 1, 2, ... within the image: the analysed ones first, the largest of them 1
    "state": pl.String,  # as of an image
    "reason": pl.String,
    "model": pl.String,
    "crystal": pl.String,
    "pixel_nm": pl.Float64,
    "a_px": pl.Float64,
    "b_px": pl.Float64,
    "a_nm": pl.Float64,  # by `pixel_nm`
    "b_nm": pl.Float64,
    "a_relative_sigma": pl.Float64,  # standard errors over lengths
    "b_relative_sigma": pl.Float64,
    "gamma_deg": pl.Float64,
    "rotation_deg": pl.Float64,  # of a, from +row towards +col
    "rotation_sigma_deg": pl.Float64,
    "share_of_image": pl.Float64,  # null in an image of one grain, as the outline
    "outline_px": pl.String,  # JSON: closed lines, lists of [row, col]
    "cells_analysed": pl.Int64,
    "cells_masked": pl.Int64,
    "columns_tested": pl.Int64,
    "columns_not_tested": pl.Int64,  # of so many as its area holds: at the seam, at the image's edge, masked
    "defects": pl.Int64,
    "area_nm2": pl.Float64,
    "density_per_nm2": pl.Float64,
    "density_ci_low": pl.Float64,
    "density_ci_high": pl.Float64,
    "completeness_vacancy": pl.Float64,
    "completeness_vacancy_ci_low": pl.Float64,
    "completeness_vacancy_ci_high": pl.Float64,
    "own_columns": pl.String,  # JSON: of a crystal that the image itself shows, [site, u, v, brightness, its error]
    "crystal_in_run": pl.String,  # as of an image; filled by gather
    "sites_in_run": pl.String,  # JSON: name in the run of the site of each column, "" where that is not told
}

#: results/4_defects/boundaries.parquet: where two grains meet, and faults within one; each is a defect, too.
BOUNDARIES: Schema = {
    "image_id": pl.String,
    "boundary": pl.Int64,  # 1, 2, ... within the image
    "grain_1": pl.Int64,
    "grain_2": pl.Int64,  # the first again where the boundary lies within a grain
    "sort": pl.String,  # grain | low-angle (below 15 degrees) | twin | phase (crystals) | antiphase | stacking fault
    "length_px": pl.Float64,
    "length_nm": pl.Float64,
    "misorientation_deg": pl.Float64,  # least rotation of one lattice onto the other; null where no cells are alike
    "misorientation_sigma_deg": pl.Float64,
    "misfit": pl.Float64,  # of the second's lattice constant against the first's
    "width_px": pl.Float64,  # mean distance across it from the outermost column on its site on one side to the other's
    "width_sigma_px": pl.Float64,
    "width_nm": pl.Float64,
    "columns_missing": pl.Int64,  # sites of both crystals, each on its own side, within 1.5 cells, without a column
    "columns_extra": pl.Int64,  # columns there that stand on no site
    "columns_reason": pl.String,  # why these are not told
    "direction_1": pl.String,  # of two crystals: the directions of low indices that run side by side
    "direction_2": pl.String,
    "directions_apart_deg": pl.Float64,
    "misfit_along": pl.Float64,  # of the second's step along them against the first's
    "dislocations": pl.Int64,  # of a low-angle boundary: those whose Burgers vectors are told
    "dislocations_not_told": pl.Int64,  # seen without a closed circuit, or needed for the misorientation
    "burgers": pl.String,  # JSON: lists of [row, col, u, v], place [px] and vector in the first grain's cells
    "shift_u": pl.Float64,  # across an antiphase boundary or a stacking fault [cells]: of what is right of the path
    "shift_v": pl.Float64,
    "shift_u_sigma": pl.Float64,
    "shift_v_sigma": pl.Float64,
    "path_px": pl.String,  # JSON: lists of [row, col]
}

#: results/4_defects/reviews.parquet: every statement of a person, and what became of it.
REVIEWS: Schema = {
    "image_id": pl.String,
    "scan_id": pl.String,  # "" in files of versions that knew none
    "path": pl.String,
    "reviewer": pl.String,
    "at": pl.String,  # UTC
    "what": pl.String,  # defect | missed | image | looked | region | note
    "verdict": pl.String,  # of a defect: confirmed | rejected | other | none (a note alone); of others, what they say
    "kind": pl.String,  # what the person says it is
    "found_kind": pl.String,  # what the program said then
    "site": pl.String,
    "cell_u": pl.Int64,
    "cell_v": pl.Int64,
    "row_px": pl.Float64,  # of a region: its middle
    "col_px": pl.Float64,
    "thing": pl.String,  # of a region or a missed defect: its id, by which the person may take it back
    "corners_px": pl.String,  # of a region: JSON list of [row, col]
    "note": pl.String,
    "state": pl.String,  # taken | unmatched
    "reason": pl.String,
    "file": pl.String,
}

#: results/4_defects/precision.csv: what reviews say about how many of the flagged defects are real.
PRECISION: Schema = {
    "group": pl.String,
    "flagged": pl.Int64,
    "reviewed": pl.Int64,
    "real": pl.Int64,
    "rejected": pl.Int64,
    "conflicts": pl.Int64,
    "precision": pl.Float64,
    "ci_low": pl.Float64,
    "ci_high": pl.Float64,
}

#: results/4_defects/{shard}.places.parquet: every column whose place could be measured in the image itself.
PLACES: Schema = {
    "image_id": pl.String,
    "grain": pl.Int64,  # 1, 2, ... within the image
    "cell_u": pl.Int64,  # counted from the origin of the grain's lattice, which is a column
    "cell_v": pl.Int64,
    "column": pl.Int64,  # index in the crystal's cell; unique where two columns share a site
    "site": pl.String,
    "row_px": pl.Float64,  # measured, in the raw image
    "col_px": pl.Float64,
    "polar_row_pm": pl.Float64,  # B site of a perovskite against the centroid of its four A neighbours, else null
    "polar_col_pm": pl.Float64,
}

#: results/4_defects/densities.csv: point defects of each kind in all images of a model; kind "all": of every kind.
DENSITIES: Schema = {
    "model": pl.String,
    "crystal": pl.String,  # images.crystal_in_run
    "kind": pl.String,
    "number": pl.Int64,
    "expected_false": pl.Float64,  # sum of 1 - probability_real
    "expected_false_ci_low": pl.Float64,  # the number of false ones lies between these with 95 %
    "expected_false_ci_high": pl.Float64,
    "area_nm2": pl.Float64,
    "density_per_nm2": pl.Float64,  # as flagged
    "ci_low_per_nm2": pl.Float64,
    "ci_high_per_nm2": pl.Float64,
    "completeness": pl.Float64,
    "corrected_per_nm2": pl.Float64,  # for false discoveries and completeness
    "corrected_ci_low_per_nm2": pl.Float64,
    "corrected_ci_high_per_nm2": pl.Float64,
    "not_corrected": pl.String,  # why not
}

#: results/4_defects/sites.csv: part of the tested columns of a site that is flagged; kind "any": as whatever kind.
SITES: Schema = {
    "model": pl.String,
    "crystal": pl.String,  # images.crystal_in_run
    "site": pl.String,
    "kind": pl.String,
    "number": pl.Int64,
    "columns_tested": pl.Int64,
    "fraction": pl.Float64,
    "ci_low": pl.Float64,
    "ci_high": pl.Float64,
}

#: results/4_defects/populations.parquet: kinds of columns that a site has in good number, told by their intensities.
POPULATIONS: Schema = {
    "image_id": pl.String,
    "grain": pl.Int64,
    "site": pl.String,
    "component": pl.Int64,  # 0: the bulk, more than half of the site; where there is none, they begin with 1
    "fraction": pl.Float64,  # of the site's tested columns
    "fraction_low_68": pl.Float64,
    "fraction_high_68": pl.Float64,
    "fraction_low_95": pl.Float64,
    "fraction_high_95": pl.Float64,
    "mean_intensity": pl.Float64,  # over the bulk's; over the image's mean column where there is no bulk
    "scatter": pl.Float64,  # in the same unit, noise taken out
    "n": pl.Int64,  # columns that most probably belong to it
}

#: results/4_defects/folder_populations.csv: the same of all images of a folder together, of sites that have a bulk.
FOLDER_POPULATIONS: Schema = {
    "folder": pl.String,
    "model": pl.String,
    "crystal": pl.String,  # images.crystal_in_run
    "images": pl.Int64,
    **{name: dtype for name, dtype in POPULATIONS.items() if name not in ("image_id", "grain")},
}

#: results/4_defects/series.parquet: one row per stack of which frames were analysed one by one.
SERIES: Schema = {
    "series_id": pl.String,  # file_id and signal
    "file_id": pl.String,
    "path": pl.String,
    "signal": pl.String,
    "first_image_id": pl.String,  # of its first frame that was read
    "state": pl.String,  # followed | not_followed
    "reason": pl.String,  # why not; also warnings of one that was followed
    "frames": pl.Int64,  # in the file
    "frames_used": pl.Int64,
    "frames_left_out": pl.String,  # each with its reason
    "frames_assumed": pl.Int64,  # of those used: their columns do not tell drift by whole cells, the smallest was taken
    "grains": pl.Int64,  # that were followed
    "drift_row_px": pl.Float64,  # of the specimen in the field, from the first frame used to the last
    "drift_col_px": pl.Float64,
    "drift_largest_px": pl.Float64,  # farthest from the first frame
    "column_distance_px": pl.Float64,  # from a column to the nearest one
    "frame_s": pl.Float64,  # from the beginning of a frame to that of the next; null: the header does not state it
    "dose_e_per_nm2": pl.Float64,  # electrons per area of a frame; null: the header does not state it
    "dose_from": pl.String,  # what of the header both were taken from
    "loss_90_in_frame": pl.Float64,  # smallest loss found nine times in ten by single frames; median of those used
    "sites": pl.Int64,  # columns seen in two frames or more
    "tracks": pl.Int64,
    "changes": pl.Int64,  # of a column of bulk or of another kind
    "returns": pl.Int64,
    "hops": pl.Int64,
    "column_frames": pl.Float64,  # intervals in which changes of bulk columns count: two frames show these on each side
    "change_rate": pl.Float64,  # changes and hops out of bulk, per column and interval
    "change_rate_low_68": pl.Float64,
    "change_rate_high_68": pl.Float64,
    "change_rate_low_95": pl.Float64,
    "change_rate_high_95": pl.Float64,
    "cross_section_barn": pl.Float64,  # changes and hops out of bulk, per column and electron per area
    "cross_section_low_68_barn": pl.Float64,
    "cross_section_high_68_barn": pl.Float64,
    "cross_section_low_95_barn": pl.Float64,
    "cross_section_high_95_barn": pl.Float64,
}

#: results/4_defects/series_frames.parquet: every frame of a series that was followed.
SERIES_FRAMES: Schema = {
    "series_id": pl.String,
    "file_id": pl.String,
    "path": pl.String,
    "signal": pl.String,
    "image_id": pl.String,
    "frame": pl.Int64,
    "used": pl.Boolean,
    "reason": pl.String,  # why it was left out
    "drift_row_px": pl.Float64,  # of the specimen in the field since the first frame used
    "drift_col_px": pl.Float64,
    "drift_assumed": pl.Boolean,  # its columns do not tell drift by whole cells: the smallest was taken
    "time_s": pl.Float64,  # since the first frame began; null: the header does not state it
    "dose_before_e_per_nm2": pl.Float64,  # electrons per area before it began; null: the header does not state it
    "columns": pl.Int64,  # sites of the series seen in it
    "odd_vacancy_like": pl.Int64,  # tracks of each kind that it belongs to
    "odd_lighter": pl.Int64,
    "odd_heavier": pl.Int64,
    "odd_displaced": pl.Int64,
    "odd_extra": pl.Int64,
    "bulk_left": pl.Float64,  # part of the columns bulk in the first frame that has not left it (Kaplan-Meier)
    "bulk_left_low_95": pl.Float64,
    "bulk_left_high_95": pl.Float64,
}

#: results/4_defects/series_depths.parquet: how small a loss of each site a series shows.
SERIES_DEPTHS: Schema = {
    "series_id": pl.String,
    "file_id": pl.String,
    "path": pl.String,
    "signal": pl.String,
    "grain": pl.Int64,  # as in `tracks`
    "site": pl.String,
    "columns": pl.Int64,  # that trial losses were put into
    "loss_90": pl.Float64,  # found nine times in ten where odd in all frames, fraction of a column; null: not even 1
    "noise": pl.Float64,  # standard deviation of a change by a frame's noise
    "scatter": pl.Float64,  # between columns, in the mean of all frames
}

#: results/4_defects/tracks.parquet: a column of a series for as long as it was odd.
TRACKS: Schema = {
    "series_id": pl.String,
    "file_id": pl.String,
    "path": pl.String,
    "signal": pl.String,
    "track": pl.Int64,  # 1, 2, ... within the series, in order of appearance
    "grain": pl.Int64,  # of the series, in the order in which they come into view, the largest of a frame first
    "site": pl.String,  # "" of an extra column
    "column": pl.Int64,  # index in the crystal's cell; null of an extra column
    "cell_u": pl.Int64,  # as the first frame used counts them; of an extra column the nearest one's
    "cell_v": pl.Int64,
    "kind": pl.String,  # vacancy-like | lighter | heavier | displaced | extra
    "first_frame": pl.Int64,
    "last_frame": pl.Int64,
    "probability": pl.Float64,  # that it was odd
    "intensity_change": pl.Float64,  # mean over its frames, fraction of a bulk column; null of an extra column
    "shift_row_pm": pl.Float64,  # mean displacement over its frames
    "shift_col_pm": pl.Float64,
    "row_px": pl.Float64,  # in its first frame
    "col_px": pl.Float64,
}

#: results/4_defects/events.parquet: what happened to columns of a series.
EVENTS: Schema = {
    "series_id": pl.String,
    "file_id": pl.String,
    "path": pl.String,
    "signal": pl.String,
    "track": pl.Int64,  # that it begins, or of a return ends; null where that is too unsure to be listed
    "grain": pl.Int64,  # as in `tracks`
    "event": pl.String,  # changes | returns | hops
    "frame": pl.Int64,  # first frame that shows it
    "frame_ci_low": pl.Int64,  # the first frame that shows it lies between these with 95 %
    "frame_ci_high": pl.Int64,
    "probability": pl.Float64,  # that it happened
    "kind_before": pl.String,  # of this column; bulk, or a kind
    "kind_after": pl.String,
    "from_track": pl.Int64,  # of a hop: the track of the column where it came from; null: that column is not odd
    "row_px": pl.Float64,  # in that frame
    "col_px": pl.Float64,
}

#: Tables of what happens in stacks, by name, and by what they are sorted.
OF_SERIES: dict[str, tuple[Schema, list[str]]] = {
    "series": (SERIES, ["path", "signal"]),
    "series_frames": (SERIES_FRAMES, ["path", "signal", "frame"]),
    "series_depths": (SERIES_DEPTHS, ["path", "signal", "grain", "site"]),
    "tracks": (TRACKS, ["path", "signal", "track"]),
    "events": (EVENTS, ["path", "signal", "frame", "row_px", "col_px", "event"]),
}

#: results/4_defects/groups.csv
GROUPS: Schema = {
    "model": pl.String,
    "crystal": pl.String,  # images.crystal_in_run
    "group": pl.String,
    "images": pl.Int64,
    "number": pl.Int64,
    "area_nm2": pl.Float64,
    "density_per_nm2": pl.Float64,
    "ci_low_per_nm2": pl.Float64,
    "ci_high_per_nm2": pl.Float64,
    "dispersion": pl.Float64,  # scatter of the images over that of counting
}

#: results/4_defects/comparisons.csv: rates of two groups of images.
COMPARISONS: Schema = {
    "model": pl.String,
    "crystal": pl.String,  # images.crystal_in_run
    "first": pl.String,
    "second": pl.String,
    "ratio": pl.Float64,  # first over second
    "ci_low": pl.Float64,
    "ci_high": pl.Float64,
    "p_value": pl.Float64,
    "p_holm": pl.Float64,
    "dispersion": pl.Float64,
}

#: results/4_defects/trends.csv: Poisson regression of each session and stack.
TRENDS: Schema = {
    "series": pl.String,
    "unit": pl.String,  # h: of time; frame: of a stack
    "kind": pl.String,
    "images": pl.Int64,
    "images_without_time": pl.Int64,
    "defects": pl.Int64,
    "slope": pl.Float64,  # of the logarithm of the density, per unit
    "ci_low": pl.Float64,
    "ci_high": pl.Float64,
    "p_poisson": pl.Float64,
    "dispersion": pl.Float64,
    "p_value": pl.Float64,
    "p_holm": pl.Float64,
}


def table(rows: list[dict[str, object]], schema: Schema) -> pl.DataFrame:
    """A table of `rows` with exactly the columns of `schema`; a missing key becomes null.

    Rows of a table that was written before keep the `version` of the program that made them.

    Raises
    ------
    ValueError
        If a row has a key that the schema does not know.
    """
    if any("version" in row for row in rows):
        schema = schema | VERSION
    for row in rows:
        unknown = set(row) - set(schema)
        if unknown:
            raise ValueError(f"row has unknown columns {sorted(unknown)}; known are {sorted(schema)}")
    return pl.DataFrame([{key: row.get(key) for key in schema} for row in rows], schema=schema, orient="row")


def _write(content: BytesIO, path: str | Path) -> None:
    with whole_file(path) as part:
        part.write_bytes(content.getbuffer())


def versioned(frame: pl.DataFrame) -> pl.DataFrame:
    """A table with the column `version`; rows that have one keep it."""
    made_by = pl.lit(__version__, pl.String)
    if "version" in frame.columns:
        return frame.with_columns(pl.col("version").fill_null(made_by))
    return frame.with_columns(version=made_by)


def write_parquet(frame: pl.DataFrame, path: str | Path) -> None:
    """Write a table as a whole Parquet file (zstd)."""
    # polars speaks of a full disk as of a fault in the data; Python's own writing says what it is
    content = BytesIO()
    versioned(frame).write_parquet(content, compression="zstd", statistics=False)
    _write(content, path)


def write_csv(frame: pl.DataFrame, path: str | Path) -> None:
    """Write a table as a whole CSV file; no byte-order mark, empty cells for null."""
    content = BytesIO()
    versioned(frame).write_csv(content)
    _write(content, path)


def write_both(frame: pl.DataFrame, out: Mapping[str, str], name: str) -> pl.DataFrame:
    """Write a table as Parquet and as CSV to ``{name}_parquet`` and ``{name}_csv`` of `out`, and give it back."""
    write_parquet(frame, out[f"{name}_parquet"])
    write_csv(frame, out[f"{name}_csv"])
    return frame


def write_tsv(frame: pl.DataFrame, path: str | Path) -> None:
    """Write a table as a whole tab-separated file; values must hold no tab or newline (see paths.escape)."""
    content = BytesIO()
    frame.write_csv(content, separator="\t", quote_style="never")
    _write(content, path)


def read_tsv(path: str | Path, schema: Schema) -> pl.DataFrame:
    """Read a tab-separated table written by `write_tsv`."""
    return pl.read_csv(path, separator="\t", schema=schema, quote_char=None, empty_string_is_null=False, glob=False)


def read_table(path: str | Path, schema: Schema) -> pl.DataFrame:
    """Read a Parquet table with the columns of `schema` and `version`; what another version did not write is null."""
    frame = pl.read_parquet(path)
    schema = schema | VERSION
    missing = [pl.lit(None, dtype).alias(name) for name, dtype in schema.items() if name not in frame.columns]
    return frame.with_columns(missing).select(schema.keys())


def gathered(paths: Sequence[str], schema: Schema, by: list[str]) -> pl.DataFrame:
    """One table of many, sorted: the order of the shards does not show."""
    tables = [table([], schema | VERSION), *(read_table(path, schema) for path in paths)]
    return pl.concat(tables).sort(by, nulls_last=True)
