"""Series of made-up column tables, followed: `try_series.py --seeds development`. Recipe: series_trial.yaml."""

import argparse
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow/scripts"))

import numpy as np
import yaml
from scipy.special import ndtr

from oddlattice.defects.fdr import q_values
from oddlattice.numerics.intervals import poisson_interval, wilson
from oddlattice.series.depth import depths
from oddlattice.series.dose import Dose
from oddlattice.series.drift import Frame
from oddlattice.series.follow import Followed, follow
from oddlattice.series.tables import rate_figures

RECIPE = yaml.safe_load(Path(__file__).with_name("series_trial.yaml").read_text(encoding="utf-8"))
FRACTION = np.array([[0.0, 0.0], [0.5, 0.5]])
Site = tuple[int, int, int]


@dataclass
class Made:
    """A specimen: change of every site in every frame, (U, V, 2, T), and displacement [100 pm], (U, V, 2, 2, T).

    The field begins in each frame at `field_at` [cells].
    """

    change: np.ndarray
    shift: np.ndarray
    field_at: np.ndarray
    sigma: float
    cells: int
    true: list[tuple[str, Site, int]] = field(default_factory=list)
    odd: list[Site] = field(default_factory=list)
    used: set[Site] = field(default_factory=set)
    moved: set[Site] = field(default_factory=set)


PAD = 5


def specimen(rng: np.random.Generator, cells: int, frames: int, sigma: float, scatter: float, jump: float) -> Made:
    """Bulk that drifts."""
    side = cells + 2 * PAD
    change, shift = (
        np.repeat(rng.normal(0, scatter, shape) if scatter else np.zeros(shape), frames, -1)
        for shape in ((side, side, 2, 1), (side, side, 2, 2, 1))
    )
    walk = np.cumsum(rng.normal(size=(frames, 2)), axis=0)
    walk -= walk[0]
    if jump:
        walk = np.cumsum(np.vstack([np.zeros((1, 2)), rng.uniform(-jump, jump, (frames - 1, 2)) / 1.4]), axis=0)
    most = np.hypot(*walk.T).max()
    walk *= min(RECIPE["series"]["drift_cells"] / most, 1.0 if jump else np.inf)
    return Made(change, shift, PAD + walk, sigma, cells)


def tables(rng: np.random.Generator, made: Made) -> list[Frame]:
    """What the defect stage would say of each frame."""
    side, pitch, found = made.change.shape[0], RECIPE["series"]["cell_px"], []
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side), [0, 1], indexing="ij"), -1).reshape(-1, 3)
    for t, start in enumerate(made.field_at):
        place = grid[:, :2] + FRACTION[grid[:, 2]] - start
        k = grid[((place >= 0) & (place < made.cells)).all(axis=1)]
        places = (k[:, :2] + FRACTION[k[:, 2]] - start) * pitch + rng.normal(
            0, RECIPE["series"]["place_px"], (len(k), 2)
        )
        cells = k[:, :2] - rng.integers(0, side, 2)
        if rng.random() < RECIPE["series"]["turned"]:  # a' = b, b' = -a; the other column then belongs to another cell
            u, v = cells.T
            cells = np.column_stack([v, -u - (k[:, 2] == 1)])
        change = made.change[tuple(k.T)][:, t] + rng.normal(0, made.sigma, len(k))
        moved = 100 * (made.shift[tuple(k.T)][..., t] + rng.normal(0, made.sigma, (len(k), 2)))
        errors = {"sigma": np.full(len(k), made.sigma), "shift_sigma_pm": np.full(len(k), 100 * made.sigma)}
        found.append(Frame(t, cells, k[:, 2], {0: "Sr", 1: "Ti"}, places, change, shift_pm=moved, **errors))
    return found


def laid_true(made: Made, series: Followed) -> np.ndarray:
    """Off by how many cells each site lies in every frame: (T, 2) whole cells against the first frame."""
    pitch = RECIPE["series"]["cell_px"]
    truth = -(made.field_at - made.field_at[0]) * pitch
    return np.rint((np.array([one.drift_px for one in series.laid]) - truth[[f.frame for f in series.frames]]) / pitch)


def site_of(made: Made, series: Followed, k: int) -> Site:
    """The specimen's site of a site of the series."""
    at = series.sites_px[k] / RECIPE["series"]["cell_px"] + made.field_at[0]
    c = int(series.column[k])
    u, v = np.rint(at - FRACTION[c]).astype(int)
    return int(u), int(v), c


def place(rng: np.random.Generator, made: Made) -> Site:
    """A site in the field throughout, with no other changed one near."""
    while True:
        u, v = (int(x) for x in rng.integers(PAD + 4, made.cells + PAD - 4, 2))
        c = int(rng.integers(2))
        near = {(u + i, v + j, d) for i in (-1, 0, 1) for j in (-1, 0, 1) for d in (0, 1)}
        if not near & made.used:
            made.used.add((u, v, c))
            return u, v, c


def step(rng: np.random.Generator, error: float) -> float:
    """A change, of either sign, that is `dprime` times an error."""
    size = rng.uniform(*RECIPE["events"]["dprime"]) * error
    return float(-min(size, 1.0) if rng.random() < 0.5 else size)


def happens(rng: np.random.Generator, made: Made) -> None:
    """Put the changes, returns, hops and those odd from the first frame into a specimen."""
    recipe = RECIPE["events"]
    error = made.sigma * np.sqrt(2 / 5)
    alone = np.sqrt(RECIPE["series"]["static_scatter"] ** 2 + made.sigma**2 / 5)
    for k in range(recipe["changes"]):
        s, t, size = place(rng, made), int(rng.integers(*recipe["frames"])), step(rng, error)
        end = made.change.shape[3]
        if k < recipe["returns"]:
            t = min(t, 60)
            end = min(t + int(rng.integers(15, 41)), made.change.shape[3] - 6)
            if end < made.change.shape[3] - 5:
                made.true.append(("returns", s, end))
        made.change[s][t:end] += size
        made.true.append(("changes", s, t))
    for _ in range(recipe["hops"]):
        (u, v, c), t = place(rng, made), int(rng.integers(*recipe["frames"]))
        size = abs(step(rng, error))
        other = (u, v, 1) if c == 0 else (u + 1, v + 1, 0)
        made.change[u, v, c][:t] += size
        made.change[other][t:] += size
        made.true.append(("hops", other, t))
    for k in range(recipe["from_the_first"]):
        s = place(rng, made)
        made.change[s] += -1.0 - made.change[s][0] if k % 2 else step(rng, alone)
        made.odd.append(s)


def move(rng: np.random.Generator, made: Made) -> None:
    """Put columns that move, and that are displaced in all frames, into a specimen."""
    recipe, error = RECIPE["moves"], made.sigma * np.sqrt(2 / 5)
    alone = np.sqrt(RECIPE["series"]["static_scatter"] ** 2 + made.sigma**2 / 5)

    def length(error: float) -> np.ndarray:
        angle = rng.uniform(0, 2 * np.pi)
        return abs(step(rng, error)) * np.array([[np.sin(angle)], [np.cos(angle)]])

    for k in range(recipe["changes"]):
        s, t, end = place(rng, made), int(rng.integers(*RECIPE["events"]["frames"])), made.shift.shape[-1]
        if k < recipe["returns"]:
            t = min(t, 50)
            end = t + int(rng.integers(15, 41))
            made.true.append(("returns", s, end))
        made.shift[s][:, t:end] += length(error)
        made.true.append(("changes", s, t))
        made.moved.add(s)
    for _ in range(recipe["from_the_first"]):
        s = place(rng, made)
        made.shift[s] += length(alone)
        made.odd.append(s)
        made.moved.add(s)


class Tally(dict[str, list[float]]):
    def add(self, name: str, *values: float) -> None:
        self.setdefault(name, []).extend(values)


def count_events(made: Made, series: Followed, tally: Tally, name: str) -> None:
    listed = [(e.event, site_of(made, series, e.site), e.at) for e in series.events]
    for sort, s, t in made.true:
        hit = any(
            q == s and abs(at - t) <= 1 and (e == sort or {e, sort} == {"hops", "changes"}) for e, q, at in listed
        )
        tally.add(f"{name} {sort}{' of place' if s in made.moved else ''} found", hit)
        if sort == "hops":
            tally.add(
                f"{name} hops told as hops", any(e == "hops" and q == s and abs(at - t) <= 1 for e, q, at in listed)
            )
    left = {
        (u + i, v + j, c)
        for kind, (u, v, _), _ in made.true
        if kind == "hops"
        for i in (-1, 0)
        for j in (-1, 0)
        for c in (0, 1)
    }
    false = [(e, q, at) for e, q, at in listed
             if not any(q == s and abs(at - t) <= 1 for _, s, t in made.true)
             and not (q in left and any(abs(at - t) <= 1 for k, _, t in made.true if k == "hops"))]  # fmt: skip
    tally.add(f"{name} false events", len(false))
    for s in made.odd:
        own = [t for t in series.tracks if site_of(made, series, t.site) == s]
        what = "displaced" if s in made.moved else "odd"
        tally.add(
            f"{name} {what} from the first: one track, no event", len(own) == 1 and all(q != s for _, q, _ in listed)
        )


def try_events(base: int, name: str, number: int, share: float, tally: Tally) -> None:
    """The sets `events` and `nothing`."""
    recipe = RECIPE["series"]
    for dose, sigma in RECIPE["noise_of_dose"].items():
        for k in range(round(RECIPE["sets"][name] * share)):
            rng = np.random.default_rng(base + 10000 * number + 100 * int(dose) + k)
            made = specimen(rng, recipe["cells"], recipe["frames"], sigma, recipe["static_scatter"], 0.0)
            if name == "events":
                happens(rng, made)
                move(rng, made)
            series = followed(rng, made)
            tally.add(f"{name} {dose} e/px frames told", *[one.told for one in series.laid])
            tally.add(
                f"{name} {dose} e/px cell errors where told",
                *(off.any() and one.told for off, one in zip(laid_true(made, series), series.laid, strict=True)),
            )
            count_events(made, series, tally, f"{name} {dose} e/px")
            if name == "nothing":
                tally.add(f"{name} {dose} e/px false tracks", len(series.tracks))


def try_tails(base: int, share: float, tally: Tally) -> None:
    """Static scatter with heavy tails."""
    recipe = RECIPE["series"]
    for dose, sigma in RECIPE["noise_of_dose"].items():
        for k in range(round(RECIPE["tails"]["series"] * share)):
            rng = np.random.default_rng(base + 10000 * 20 + 100 * int(dose) + k)
            made = specimen(rng, recipe["cells"], recipe["frames"], sigma, 0.0, 0.0)
            made.change += recipe["static_scatter"] * rng.standard_t(6, (*made.change.shape[:3], 1)) / np.sqrt(1.5)
            tally.add(f"tails {dose} e/px false tracks", len(followed(rng, made).tracks))


def try_drift(base: int, share: float, tally: Tally) -> None:
    """Whole cells of the drift, with a landmark, with the columns' own scatter, and without either."""
    recipe = RECIPE["drift"]
    for number, name in enumerate(("one_vacancy", "scatter_only", "no_landmark")):
        for k in range(round(recipe[name] * share)):
            rng = np.random.default_rng(base + 10000 * (10 + number) + k)
            scatter = RECIPE["series"]["static_scatter"] if name == "scatter_only" else 0.0
            made = specimen(rng, recipe["cells"], recipe["frames"], RECIPE["noise_of_dose"][60], scatter, 0.4)
            if name == "one_vacancy":
                made.change[place(rng, made)] -= 1.0
            series = followed(rng, made)
            off = laid_true(made, series).any(axis=1)
            told = np.array([one.told for one in series.laid])
            tally.add(f"drift {name}: series with a cell error where told", bool((off & told).any()))
            tally.add(f"drift {name}: series with a cell error anywhere", bool(off.any()))
            tally.add(f"drift {name}: frames told after the first", *told[1:])


def ninth(dprime: list[float], part: list[float]) -> float:
    """Smallest d' found in nine of ten, by interpolation."""
    risen = np.maximum.accumulate(part)
    return float(np.interp(0.9, risen, dprime)) if risen[-1] >= 0.9 else np.inf


def one_frame(rng: np.random.Generator, sites: int) -> list[float]:
    """Part found in the list of one frame, an oracle that knows its noise, of columns at each d'."""
    recipe, parts = RECIPE["depth"], []
    for dprime in recipe["dprime"]:
        hits = []
        for _ in range(recipe["frames"]):
            z = rng.normal(size=sites)
            z[: recipe["columns"]] -= dprime
            hits.append((q_values(2 * ndtr(-np.abs(z)))[: recipe["columns"]] <= recipe["fdr"]).mean())
        parts.append(float(np.mean(hits)))
    return parts


def try_depth(base: int, share: float, tally: Tally) -> None:
    """How faint a loss is found that is there in all frames."""
    recipe, series_of = RECIPE["depth"], RECIPE["series"]
    single = ninth(recipe["dprime"], one_frame(np.random.default_rng(base), 2 * series_of["cells"] ** 2))
    print(f"depth of one frame: d' {single:.2f}")
    for j, scatter in enumerate(recipe["static_scatter"]):
        for dose, sigma in RECIPE["noise_of_dose"].items():
            found, said, error = dict[float, list[bool]](), [], np.sqrt(scatter**2 + sigma**2 / series_of["frames"])
            for i, dprime in enumerate(recipe["dprime"]):
                for k in range(max(1, round(recipe["series"] * share))):
                    rng = np.random.default_rng(base + 10000 * (30 + j) + 100 * int(dose) + 10 * i + k)
                    made = specimen(rng, series_of["cells"], series_of["frames"], sigma, scatter, 0.0)
                    lost = [place(rng, made) for _ in range(recipe["columns"])]
                    for s in lost:
                        made.change[s] -= dprime * error
                    series = followed(rng, made)
                    listed = {site_of(made, series, track.site) for track in series.tracks}
                    found.setdefault(dprime, []).extend(s in listed for s in lost)
                    tally.add("depth false tracks", len(listed - set(lost)))
                    said += [one.loss_90 for one in depths(series, recipe["fdr"], 0) if one.loss_90 is not None]
            reached = ninth(recipe["dprime"], [float(np.mean(found[d])) for d in recipe["dprime"]])
            print(
                f"depth {dose} e/px, scatter {scatter}: d' {reached:.2f} = {reached / single:.2f} x one frame, loss "
                f"{reached * error:.3f}; said {np.mean(said):.3f} = {np.mean(said) / (reached * error):.2f} x of it"
            )


def try_rates(base: int, share: float, tally: Tally) -> None:
    """Whether the interval of the rate of changes holds the chance that was drawn by."""
    recipe = RECIPE["rates"]
    for j, expected in enumerate(recipe["expected"]):
        chance = expected / (2 * recipe["cells"] ** 2 * (recipe["frames"] - 1))
        for dose, sigma in RECIPE["noise_of_dose"].items():
            for k in range(round(recipe["series"] * share)):
                rng = np.random.default_rng(base + 10000 * (40 + j) + 100 * int(dose) + k)
                scatter = RECIPE["series"]["static_scatter"]
                made = specimen(rng, recipe["cells"], recipe["frames"], sigma, scatter, 0.0)
                at = rng.geometric(chance, made.change.shape[:3])
                for s in zip(*np.nonzero(at < recipe["frames"]), strict=True):
                    made.change[s][at[s] :] += step(rng, sigma * np.sqrt(2 / 5))
                row = rate_figures([followed(rng, made)], Dose())
                inside = row["change_rate_low_68"] <= chance <= row["change_rate_high_68"]
                tally.add(f"rates {expected} changes: 68 % intervals hold", inside)
                tally.add(f"rates {expected} changes: mean of rate / truth", row["change_rate"] / chance)


def followed(rng: np.random.Generator, made: Made) -> Followed:
    series = follow(tables(rng, made), RECIPE["depth"]["fdr"])
    assert series is not None
    return series


def report(tally: Tally) -> None:
    for name, values in tally.items():
        n, total = len(values), float(np.sum(values))
        if "false" in name:
            low, high = poisson_interval(total)
            print(f"{name}: {total:.0f} in {n} series, mean {total / n:.3f} ({low / n:.3f}-{high / n:.3f})")
        elif "mean" in name:
            print(f"{name}: {total / n:.3f} +- {np.std(values) / np.sqrt(n):.3f} ({n} series)")
        else:
            low, high = wilson(round(total), n)
            print(f"{name}: {total:.0f} of {n} = {total / n:.3f} ({low:.3f}-{high:.3f})")


def main() -> None:
    sets = ["events", "nothing", "drift", "depth", "tails", "rates"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", choices=["development", "final"], default="development")
    parser.add_argument("--sets", nargs="*", default=sets, choices=sets)
    parser.add_argument("--share", type=float, default=1.0, help="part of the series of each set")
    given = parser.parse_args()
    base, tally, started = RECIPE["seeds"][given.seeds], Tally(), time.process_time()
    for number, name in enumerate(("events", "nothing")):
        if name in given.sets:
            try_events(base, name, number, given.share, tally)
    for name, run in {"drift": try_drift, "depth": try_depth, "tails": try_tails, "rates": try_rates}.items():
        if name in given.sets:
            run(base, given.share, tally)
    report(tally)
    print(f"{time.process_time() - started:.0f} s of processor")


if __name__ == "__main__":
    main()
