"""Is a column with probability_real 0.7 real in 70 of 100 cases? The trial: recipe, seeds and what is counted.

`python tests/reliability.py columns SEED [IMAGES]`: columns of made-up images, drawn as estimates of intensity and
displacement, judged by their own scatter and each image alone, as the pipeline does.
`python tests/reliability.py fields SEED [IMAGES]`: scans of doped SrTiO3 through the stages up to defects.

Both print, for every tenth of probability, how many tested columns have it, what it says on average and how many of
them are real, with Wilson's interval of 95 %; then listed, false and expected false by kind.

Figures that are told come from `columns 52000 400` and `fields 5200 24`, first run after the last change of the code.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from oddlattice.numerics.intervals import wilson

Array = npt.NDArray[np.float64]
LEAST = 200  # columns of a tenth that is judged
WITHIN = 0.05


@dataclass(frozen=True)
class Seen:
    """Tested columns of one image: what the program says of each, and the truth."""

    probability: Array
    real: npt.NDArray[np.bool_]
    listed: npt.NDArray[np.bool_]
    kind: npt.NDArray[np.str_]


def drawn_estimates(rng: np.random.Generator) -> tuple[list[Array], list[npt.NDArray[np.bool_]]]:
    """Estimates (n, 3) of the columns of one image in units of its noise, of one to three sites, and which changed.

    Each image has a share of changed columns of its own, none to 20 %; of its changed columns some lost or gained the
    same (a dopant, a vacancy), some any part of a column, some moved. The dose sets how many standard deviations a
    whole column is worth: 6 to 60. Bulk scatters with few counts (skewness 0 to 0.2).
    """
    worth, skew = float(np.exp(rng.uniform(np.log(6), np.log(60)))), float(rng.uniform(0.0, 0.2))
    share = float(np.exp(rng.uniform(np.log(5e-4), np.log(0.2)))) * (rng.random() > 0.15)
    fixed, part_fixed, part_moved = float(rng.uniform(-1, 0.5)), float(rng.random()), float(rng.uniform(0, 0.3))
    sites, reals = [], []
    for _ in range(int(rng.integers(1, 4))):
        n = int(rng.integers(60, 1200))
        noise = rng.standard_normal((n, 3))
        if skew > 0.02:
            shape = 4 / skew**2
            noise[:, 0] = (rng.gamma(shape, size=n) - shape) / np.sqrt(shape)
        real = rng.random(n) < share
        how = rng.random(n)
        moved = real & (how < part_moved)
        change = np.where(rng.random(n) < part_fixed, fixed, rng.uniform(-1, 0.5, n))
        found = noise * [1.0, 12.0, 12.0] + rng.normal(0, 0.3, 3)
        found[real & ~moved, 0] += worth * change[real & ~moved]
        angle, far = rng.uniform(0, 2 * np.pi, n), 12.0 * worth / 6 * rng.uniform(0.2, 1.5, n)
        found[moved, 1] += (far * np.cos(angle))[moved]
        found[moved, 2] += (far * np.sin(angle))[moved]
        sites.append(found)
        reals.append(real)
    return sites, reals


def drawn_image(seed: int) -> Seen:
    """Columns of one made-up image, judged by themselves."""
    from oddlattice.defects.fdr import decide
    from oddlattice.defects.null import null_of
    from oddlattice.defects.populations import bulk_of
    from oddlattice.defects.two_groups import two_groups

    sites, reals = drawn_estimates(np.random.default_rng([seed, 14, 6]))
    ones = [np.ones((len(one), 2)) for one in sites]
    bulks = [bulk_of(one[:, 0], level[:, 0]).columns for one, level in zip(sites, ones, strict=True)]
    nulls = [null_of(one[bulk], level[bulk], 0.2) for one, level, bulk in zip(sites, ones, bulks, strict=True)]
    verdicts = [null.judge(one, level[:, 0]) for null, one, level in zip(nulls, sites, ones, strict=True)]
    p = np.concatenate([v.p_value for v in verdicts])
    kind = np.concatenate([v.odd_as for v in verdicts])
    listed = decide(p, np.empty(0), 0, 0.05).q <= 0.05
    found = two_groups(p, kind, np.zeros(len(p)), listed, of_bulk=nulls[0].false_shares)
    return Seen(found.probability_real, np.concatenate(reals), listed, kind)


def doped_image(seed: int) -> Seen:
    """A scan of doped SrTiO3 through the stages: none to 10 % of Sr columns changed, of several doses and tails."""
    from support.doped_fields import CELL_NM, PIXEL_NM, doped_scan, judged

    rng = np.random.default_rng([seed, 14, 7])
    share = float(np.exp(rng.uniform(np.log(0.003), np.log(0.1)))) * (rng.random() > 0.15)
    factor = float(1 + rng.choice([-1.0, 1.0]) * rng.uniform(0.08, 0.35))
    scan = doped_scan(share, factor, 1000 + seed, tail=float(rng.uniform(0.05, 0.25)))
    image, found = judged(scan)
    uv = np.concatenate([site.cells + np.array([site.shape.u, site.shape.v]) for site in found.kinds])
    places = image.coordinates.seen_px(uv)
    away = np.full(len(places), np.inf)
    for place in scan.changed_px:
        away = np.minimum(away, np.hypot(*(places - place).T))
    kind = np.concatenate([site.verdict.odd_as for site in found.kinds])
    own = found.own
    real = away < 0.3 * CELL_NM / PIXEL_NM
    return Seen(found.probability_real[own], real[own], found.flagged[own], kind[own])


def reliability(seen: list[Seen]) -> list[tuple[float, int, float, float, float, float]]:
    """Of each tenth: its lower end, columns, mean probability, part that is real, its interval."""
    chance, real = (np.concatenate([getattr(one, name) for one in seen]) for name in ("probability", "real"))
    rows = []
    for k in range(10):
        inside = (chance >= k / 10) & ((chance < (k + 1) / 10) | (k == 9))
        n, hits = int(inside.sum()), int(real[inside].sum())
        if n:
            rows.append((k / 10, n, float(chance[inside].mean()), hits / n, *wilson(hits, n)))
    return rows


def false_by_kind(seen: list[Seen]) -> Iterator[tuple[str, int, int, float]]:
    """Kind ("" for all), listed, false, expected false."""
    chance, real, listed, kind = (
        np.concatenate([getattr(one, name) for one in seen]) for name in ("probability", "real", "listed", "kind")
    )
    for name in ["", *np.unique(kind[listed])]:
        some = listed & ((kind == name) | (name == ""))
        yield str(name), int(some.sum()), int((some & ~real).sum()), float((1 - chance[some]).sum())


def main() -> None:
    """Print the tables."""
    what, first = sys.argv[1], int(sys.argv[2])
    images = int(sys.argv[3]) if len(sys.argv) > 3 else (300 if what == "columns" else 12)
    seen = [(drawn_image if what == "columns" else doped_image)(first + k) for k in range(images)]
    print(f"{images} images, {sum(len(one.real) for one in seen)} columns, {sum(one.real.sum() for one in seen)} real")
    for low, n, says, part, least, most in reliability(seen):
        off = "" if n < LEAST else "within" if abs(says - part) <= WITHIN else "OFF"
        print(f"{low:.1f}  n {n:7d}  says {says:.3f}  real {part:.3f} ({least:.3f} to {most:.3f})  {off}")
    for kind, number, false, expected in false_by_kind(seen):
        print(f"{kind or 'all':10s} listed {number:5d}  false {false:4d}  expected {expected:7.1f}")


if __name__ == "__main__":
    main()
