"""Calibrated noise against that of real images: ``python benchmarks/realism.py FOLDER [--figures DIR] [--csv FILE]``.

FOLDER contains recorded micrographs. Each is divided along y (rows are scan lines): the noise is calibrated on the top
half and compared on the bottom half. There the shipped network gives an estimate E of the true image, and the
difference is the real residual. A noise model draws a simulated image (its twin) from E, the same network enhances it,
and the difference is the twin's residual: the network has the same effect on both. At most 512 x 512 px of each half
are used, to save time.

Compared are the residuals' distribution (Wasserstein distance over the real standard deviation), their spectra along
and across the rows (RMS of the natural logarithm of the ratio, logarithmic bins, 0 included), and the standard
deviation of their row-to-row part against ``|dE/dx|`` (RMS log ratio over bins; the row-to-row part is the residual,
filtered along the row as in the paper's figure 3, less the mean of the rows above and below). All values are means over
seeds. They are to be compared with

floor
    Two twins of one model, drawn independently: sampling error alone.
self
    A twin in place of the real image, and a twin of that twin, with the model that is known to be true: the value of a
    perfect model, since the second twin's E is smoother than the first one's.

The baselines are fitted on the same top half. Gaussian, Poisson and Poisson-Gaussian noise take their variance from the
network's residual there, which is the quantity that is compared; the paper's model takes its own from its figure 3, and
the part of its streaks that is pointwise noise passed by the row filter is subtracted.

``BackgroundNoise`` is not drawn: the network keeps slow variation, so that E contains the specimen's background. With
``--background`` it is drawn; the network keeps it, and the measures hardly change.

``--recipe`` compares the scan noise of the recorded images, calibrated on the whole of each, with what the training
recipe draws for the spacings of their columns: a table of the images, and quantiles of both.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import warnings
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import scipy
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage, stats
from tqdm import tqdm

import stemkit
from stemkit import BackgroundNoise, NoiseCalibrator, NoiseModel, ScanNoise, SFINDenoiser
from stemkit.images.mode import resolve_mode
from stemkit.noise.fault_detection import find_scan_faults
from stemkit.noise.filter_residuals import residual_curves
from stemkit.synthesis.noises import draw_noise

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Draw = Callable[[NDArray, np.random.Generator], NDArray]

#: Largest side of a half that is used, px (chosen).
LARGEST = 512
#: Smallest side of a half, px (chosen).
SMALLEST = 16
#: Halves with a shorter side are reported as uncertain, px (chosen).
SMALL = 96
#: Bins of the gradient, and half the number of those of a spectrum (chosen).
N_BINS = 12
OURS = "stemkit"
MEASURES = ("distribution", "spectrum x", "spectrum y", "sigma(gradient)")


@dataclasses.dataclass(frozen=True)
class Residual:
    """An enhanced image and its residual, with the statistics that are compared."""

    enhanced: NDArray
    values: NDArray
    smoothing: float

    @property
    def gradient(self) -> NDArray:
        return np.abs(np.gradient(self.enhanced, axis=1))

    def spectrum(self, axis: int) -> tuple[NDArray, NDArray]:
        """Frequency (1/px) and mean power, in logarithmic bins; the first is frequency 0."""
        n = self.values.shape[axis]
        power = (np.abs(np.fft.rfft(self.values - self.values.mean(), axis=axis)) ** 2 / n).mean(axis=1 - axis)
        edges = np.unique(np.round(np.geomspace(1, len(power), 2 * N_BINS)).astype(int))
        starts = np.r_[0, edges[:-1]]
        count = np.diff(np.r_[starts, len(power)])
        return np.add.reduceat(np.fft.rfftfreq(n), starts) / count, np.add.reduceat(power, starts) / count

    def row_to_row(self, edges: NDArray) -> NDArray:
        """Standard deviation of the row-to-row part in bins of the gradient; NaN where a bin is nearly empty."""
        smooth = ndimage.gaussian_filter1d(self.values, self.smoothing, axis=1)
        part = (smooth[1:-1] - (smooth[:-2] + smooth[2:]) / 2) / np.sqrt(1.5)
        index = np.clip(np.digitize(self.gradient[1:-1], edges) - 1, 0, len(edges) - 2).ravel()
        count = np.bincount(index, minlength=len(edges) - 1)
        square = np.bincount(index, part.ravel() ** 2, minlength=len(edges) - 1)
        return np.sqrt(np.where(count > 20, square / np.maximum(count, 1), np.nan))

    def gradient_edges(self) -> NDArray:
        return np.unique(np.quantile(self.gradient, np.linspace(0, 1, N_BINS + 1)))


@dataclasses.dataclass(frozen=True)
class Case:
    """One image: its bottom half, the network's residual of it, and the twins of each model."""

    name: str
    recorded: NDArray
    real: Residual
    twins: dict[str, list[tuple[NDArray, Residual]]]
    floor: list[dict[str, float]]
    itself: list[dict[str, float]]

    def scores(self, model: str) -> list[dict[str, float]]:
        return [distances(self.real, residual) for _, residual in self.twins[model]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--figures", type=Path)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--background", action="store_true", help="draw the calibrated background, too")
    parser.add_argument(
        "--recipe", action="store_true", help="compare the calibrated scan noise with that of the training recipe"
    )
    arguments = parser.parse_args()
    if arguments.recipe:
        compare_recipe(arguments.folder, arguments.csv)
        return
    if arguments.seeds < 2:
        parser.error("--seeds must be at least 2: the floor needs two twins")
    seeds = list(range(arguments.seeds))
    print(
        f"stemkit {stemkit.__version__}, numpy {np.__version__}, scipy {scipy.__version__}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, {platform.processor() or platform.machine()}; seeds {seeds}"
    )
    warnings.simplefilter("ignore", UserWarning)  # inferred modes, small halves: both are printed
    tables = []
    for path in tqdm(sorted(p for p in arguments.folder.iterdir() if p.is_file()), disable=None):
        case = evaluate(path, seeds, arguments.background)
        if case is None:
            continue
        tables.append(scored(case))
        if arguments.figures is not None:
            arguments.figures.mkdir(parents=True, exist_ok=True)
            draw_figure(case, arguments.figures / f"{path.stem}.png", best_baseline(tables[-1]))
    if not tables:
        print("no image could be evaluated")
        return
    table = pd.concat(tables, ignore_index=True)
    report(table)
    if arguments.csv is not None:
        table.to_csv(arguments.csv, index=False)


# --- one image ---------------------------------------------------------------------------------------------------


def evaluate(path: Path, seeds: list[int], background: bool) -> Case | None:
    """Calibrate on the top half, draw on the bottom half; None, with a message, where that is not possible."""
    try:
        image = stemkit.read(path)
    except (ValueError, TypeError, OSError, ImportError) as error:
        return tqdm.write(f"{path.name}: left out, {error}")
    if image.ndim != 2 or image.sizes["y"] < 2 * SMALLEST or image.sizes["x"] < SMALLEST:
        return tqdm.write(f"{path.name}: left out, no single image of at least {2 * SMALLEST} x {SMALLEST} px")
    top, bottom = halves(image)
    if float(top.std()) == 0 or float(bottom.std()) == 0:
        return tqdm.write(f"{path.name}: left out, a half is constant")
    said = f"{path.name}: {image.sizes['y']} x {image.sizes['x']} px, halves {top.shape[0]} x {top.shape[1]}"
    tqdm.write(said + (", small: its values are uncertain" if min(top.shape) < SMALL else ""))

    calibrator = NoiseCalibrator().fit(top)
    labeled = calibrator.transform(bottom)
    model = NoiseModel.from_dict({k: v for k, v in json.loads(labeled.attrs["noise"]).items() if k != "pixel_size"})
    if not background:
        model = dataclasses.replace(model, background=BackgroundNoise())
    smoothing = filter_width(calibrator.diagnostics_[0]["spacing"])
    denoiser = SFINDenoiser(mode=model.mode).fit(top.values)

    def residual(values: NDArray) -> Residual:
        enhanced = np.asarray(denoiser.transform(values), dtype=np.float64)
        return Residual(enhanced, values - enhanced, smoothing)

    recorded = bottom.values.astype(np.float64)
    above_recorded = top.values.astype(np.float64)
    real, above = residual(recorded), residual(above_recorded)
    draws: dict[str, Draw] = {OURS: of_model(model)} | {
        name: fit(above_recorded, above) for name, fit in BASELINES.items()
    }
    twins = {
        name: [(twin, residual(twin)) for twin in (draw(real.enhanced, np.random.default_rng(s)) for s in seeds)]
        for name, draw in draws.items()
    }
    ours = [twin for _, twin in twins[OURS]]
    # with the same seeds the second twin would have the noise of the first one
    again = [
        residual(draws[OURS](one.enhanced, np.random.default_rng(1000 + s))) for s, one in zip(seeds, ours, strict=True)
    ]
    tqdm.write(described(calibrator.noise_model_, model))
    return Case(
        path.name,
        recorded,
        real,
        twins,
        floor=[distances(a, b) for a, b in combinations(ours, 2)],
        itself=[distances(a, b) for a, b in zip(ours, again, strict=True)],
    )


def halves(image: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """The rows above and below the middle, at most 512 of each and 512 px wide, with the mode as an attribute."""
    image = image.assign_attrs(mode=resolve_mode(image))
    if find_scan_faults(image.values):
        # the scan lines of the file run along y
        image = image.transpose("x", "y").rename({"x": "y", "y": "x"})
    middle = image.sizes["y"] // 2
    n = min(middle, LARGEST)
    image = image.isel(x=slice(0, LARGEST))
    return image.isel(y=slice(middle - n, middle)), image.isel(y=slice(middle, middle + n))


def filter_width(spacing: float | None) -> float:
    """Width of the filters, px: 0.6 of a column's, which is about a fifth of the spacing."""
    return max(0.8, 0.12 * spacing) if spacing else 1.2


def described(fitted: NoiseModel, model: NoiseModel) -> str:
    scan, point = model.scan, model.pointwise
    return (
        f"    streaks {scan.amplitude:.3f} (length {scan.length:.1f} px), jitter {scan.jitter:.2f} px (length "
        f"{scan.jitter_length:.1f}), readout {point.readout:.3f}, gain {point.gain:.4f}, shape {point.shape:.2f}, "
        f"correlation {point.correlation_x:.2f}, contrast top {fitted.contrast:.4g}, bottom {model.contrast:.4g}, "
        f"digitisation {dataclasses.astuple(model.digitization)}"
    )


# --- the models --------------------------------------------------------------------------------------------------


def of_model(model: NoiseModel) -> Draw:
    def draw(true_image: NDArray, rng: np.random.Generator) -> NDArray:
        return model.apply(true_image, random_state=int(rng.integers(2**31)))

    return draw


def gaussian(values: NDArray, fitted: Residual) -> Draw:
    """One standard deviation."""
    sigma = fitted.values.std()

    def draw(true_image: NDArray, rng: np.random.Generator) -> NDArray:
        return true_image + rng.normal(0, sigma, true_image.shape)

    return draw


def poisson(values: NDArray, fitted: Residual) -> Draw:
    """Counts above the darkest recorded value, the only black level that an image shows."""
    black = values.min()
    gain = fitted.values.var() / (fitted.enhanced - black).mean()

    def draw(true_image: NDArray, rng: np.random.Generator) -> NDArray:
        return black + gain * rng.poisson(np.maximum(true_image - black, 0) / gain)

    return draw


def poisson_gaussian(values: NDArray, fitted: Residual) -> Draw:
    """Normal, with a variance that is a straight line in the intensity."""
    edges = np.unique(np.quantile(fitted.enhanced, np.linspace(0, 1, N_BINS + 1)))
    index = np.clip(np.digitize(fitted.enhanced, edges) - 1, 0, max(len(edges) - 2, 0)).ravel()
    count = np.bincount(index)
    mean = np.bincount(index, fitted.enhanced.ravel())[count > 0] / count[count > 0]
    variance = np.bincount(index, fitted.values.ravel() ** 2)[count > 0] / count[count > 0]
    line = np.polyfit(mean, variance, 1, w=np.sqrt(count[count > 0])) if len(mean) > 2 else [0.0, fitted.values.var()]

    def draw(true_image: NDArray, rng: np.random.Generator) -> NDArray:
        return true_image + np.sqrt(np.maximum(np.polyval(line, true_image), 0)) * rng.normal(size=true_image.shape)

    return draw


def paper(values: NDArray, fitted: Residual) -> Draw:
    """Streaks whose standard deviation grows with the gradient, and Tukey noise with one that is linear in the
    intensity.
    """
    width = fitted.smoothing
    scan, pointwise = residual_curves(values, width)
    blurred = ndimage.gaussian_filter(values, width)
    away = values - ndimage.gaussian_filter1d(values, width, axis=1)
    sample = (away / np.maximum(pointwise.intercept + pointwise.slope * blurred, 1e-3 * away.std())).ravel()
    sample = np.random.default_rng(0).choice(sample, min(sample.size, 20_000), replace=False)
    shape = float(np.clip(stats.ppcc_max(sample, brack=(-0.2, 0.4)), -0.35, 0.6))
    scale = stats.tukeylambda.std(shape)
    kept = 1 / (2 * np.sqrt(np.pi) * width)

    def draw(true_image: NDArray, rng: np.random.Generator) -> NDArray:
        seen = ndimage.gaussian_filter(true_image, width)
        std = np.maximum(pointwise.intercept + pointwise.slope * seen, 0)
        streaks = np.maximum(scan.intercept + scan.slope * np.hypot(*np.gradient(seen)), 0)
        streaks = np.sqrt(np.maximum(streaks**2 - kept * std**2, 0))
        rows = ndimage.gaussian_filter1d(rng.normal(size=true_image.shape), width, axis=1)
        points = stats.tukeylambda.ppf(rng.uniform(1e-9, 1 - 1e-9, true_image.shape), shape) / scale
        return true_image + streaks * rows / rows.std() + std * points

    return draw


#: Each is fitted to the recorded top half and the network's residual of it.
BASELINES = {"Gaussian": gaussian, "Poisson": poisson, "Poisson-Gaussian": poisson_gaussian, "paper": paper}

# --- measures ----------------------------------------------------------------------------------------------------


def distances(real: Residual, twin: Residual) -> dict[str, float]:
    edges = real.gradient_edges()
    return {
        "distribution": stats.wasserstein_distance(
            (real.values - real.values.mean()).ravel(), (twin.values - twin.values.mean()).ravel()
        )
        / real.values.std(),
        "spectrum x": log_ratio(real.spectrum(1)[1], twin.spectrum(1)[1]),
        "spectrum y": log_ratio(real.spectrum(0)[1], twin.spectrum(0)[1]),
        "sigma(gradient)": log_ratio(real.row_to_row(edges), twin.row_to_row(edges)),
    }


def log_ratio(a: NDArray, b: NDArray) -> float:
    """RMS over the bins that both have."""
    both = (a > 0) & (b > 0)
    return float(np.sqrt(np.mean(np.log(a[both] / b[both]) ** 2))) if both.any() else float("nan")


def scored(case: Case) -> pd.DataFrame:
    """A row per measure: means over the seeds, and the scatter within which two models are tied."""
    columns = {name: pd.DataFrame(case.scores(name)) for name in (OURS, *BASELINES)}
    columns |= {"floor": pd.DataFrame(case.floor), "self": pd.DataFrame(case.itself)}
    table = pd.DataFrame({name: scores.mean() for name, scores in columns.items()}).loc[list(MEASURES)]
    # with few seeds the scatter of the floor may be small by chance: that of stemkit is used, too
    table["scatter"] = np.fmax(columns["floor"].std(), columns[OURS].std())
    table["best"] = table[[OURS, *BASELINES]].idxmin(axis=1)
    # values below the floor are equal to the floor
    ours, closest = (np.maximum(v, table["floor"]) for v in (table[OURS], table[list(BASELINES)].min(axis=1)))
    table["result"] = np.select([(ours - closest).abs() <= table["scatter"], ours < closest], ["tie", "win"], "loss")
    return table.rename_axis("measure").reset_index().assign(image=case.name)


def best_baseline(table: pd.DataFrame) -> str:
    return str(np.log(table[list(BASELINES)]).mean().idxmin())


def report(table: pd.DataFrame) -> None:
    models = [OURS, *BASELINES]
    for name, rows in table.groupby("image", sort=False):
        print(f"\n{name}")
        shown = rows[["measure", *models, "floor", "self", "result"]].round(3).astype(dict.fromkeys(models, str))
        for i, best in rows["best"].items():
            shown.loc[i, best] += "*"
        print(shown.to_string(index=False))
    print(
        "\n* closest; tie: within the scatter of the floor or of our seeds, or both below the floor.\n"
        "Geometric mean over the images:"
    )
    numbers = table[["measure", *models, "floor", "self"]]
    print(np.exp(numbers.set_index("measure").apply(np.log).groupby("measure", sort=False).mean()).round(3).to_string())
    print(f"\nclosest: {table['best'].value_counts().reindex(models, fill_value=0).to_dict()}")
    print(f"stemkit against the closest baseline: {table['result'].value_counts().to_dict()}")
    for row in table[table["result"] == "loss"].itertuples():
        print(
            f"  lost: {row.image}, {row.measure}: {getattr(row, OURS):.3f}, {row.best} {min_of(table, row.Index):.3f}"
        )


def min_of(table: pd.DataFrame, index: int) -> float:
    return float(table.loc[index, list(BASELINES)].min())


# --- the recipe --------------------------------------------------------------------------------------------------

SCAN = tuple(f.name for f in dataclasses.fields(ScanNoise))
#: Lengths and periods, and the amplitudes that they belong to.
AMPLITUDES_OF = {
    "length": ("amplitude",),
    "short_length": ("short_amplitude",),
    "jitter_length": ("jitter", "jitter_y"),
    "drift_rows": ("drift", "drift_y"),
    "hum_period": ("hum", "hum_y"),
}
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
N_DRAWN = 20_000


def compare_recipe(folder: Path, csv: Path | None) -> None:
    """Print the scan noise of every recorded image with columns, and its quantiles with those of the recipe."""
    warnings.simplefilter("ignore", UserWarning)
    rows = {}
    for path in tqdm(sorted(p for p in folder.iterdir() if p.is_file()), disable=None):
        try:
            image = stemkit.read(path)
        except (ValueError, TypeError, OSError, ImportError) as error:
            tqdm.write(f"{path.name}: left out, {error}")
            continue
        calibrator = NoiseCalibrator().fit(image)
        if all(d["has_columns"] for d in calibrator.diagnostics_):
            spacing = calibrator.diagnostics_[0]["spacing"]
            rows[path.name[:22]] = {"spacing": spacing, **dataclasses.asdict(calibrator.noise_model_.scan)}
    found = with_totals(pd.DataFrame(rows).T)
    spacings = torch.as_tensor(np.resize(found["spacing"].to_numpy(), N_DRAWN), dtype=torch.float32)
    drawn = draw_noise(spacings, torch.Generator().manual_seed(0))
    names = {"amplitude": "streaks", "length": "streak_length"}
    names |= {"short_amplitude": "short_streaks", "short_length": "short_streak_length"}
    recipe = with_totals(pd.DataFrame({name: getattr(drawn, names.get(name, name)).numpy() for name in SCAN}))
    print(found.round(3).to_string())
    print("\nFraction of the images that have it, and quantiles among them: recorded | recipe")
    print(pd.DataFrame({name: quantiles(found, recipe, name) for name in recipe}).T.to_string())
    if csv is not None:
        found.to_csv(csv)


def with_totals(table: pd.DataFrame) -> pd.DataFrame:
    """With the RMS displacement, and the fractions of its variance that are drift and hum."""
    out = table.copy()
    for end in ("", "_y"):
        total = table[f"jitter{end}"] ** 2 + table[f"drift{end}"] ** 2 + table[f"hum{end}"] ** 2 / 2
        out[f"displacement{end}"] = np.sqrt(total)
        out[f"drift share{end}"] = table[f"drift{end}"] ** 2 / total.where(total > 0)
        out[f"hum share{end}"] = table[f"hum{end}"] ** 2 / 2 / total.where(total > 0)
    for name, amplitudes in AMPLITUDES_OF.items():
        out[name] = out[name].where((table[list(amplitudes)] > 0).any(axis=1))
    return out


def quantiles(found: pd.DataFrame, recipe: pd.DataFrame, name: str) -> dict[str, str]:
    have = [table[name][table[name].notna() & (table[name] != 0)] for table in (found, recipe)]
    cells = {"have it": " | ".join(f"{len(h) / len(t):.2f}" for h, t in zip(have, (found, recipe), strict=True))}
    for q in QUANTILES:
        # infinite lengths can't be interpolated
        at = (np.quantile(h, q, method="nearest") if len(h) else np.nan for h in have)
        cells[f"{q:.0%}"] = " | ".join(f"{value:.3g}" for value in at)
    return cells


# --- figures -----------------------------------------------------------------------------------------------------


def draw_figure(case: Case, path: Path, baseline: str) -> None:
    """Crops of the recorded half and its twins, their residuals, and the curves that are compared."""
    shown = {
        "recorded": (case.recorded, case.real),
        f"{OURS}'s twin": case.twins[OURS][0],
        f"{baseline} twin": case.twins[baseline][0],
    }
    figure, axes = plt.subplots(2, 5, figsize=(20, 8), layout="constrained")
    n = min(160, *case.recorded.shape)
    corner = tuple((size - n) // 2 for size in case.recorded.shape)
    crop = tuple(slice(c, c + n) for c in corner)
    gray = dict(zip(("vmin", "vmax"), np.quantile(case.recorded[crop], [0.002, 0.998]), strict=True))
    spread = 3 * case.real.values.std()
    for (name, (image, residual)), column in zip(shown.items(), axes[:, :3].T, strict=True):
        column[0].imshow(image[crop], cmap="gray", **gray)
        column[1].imshow(residual.values[crop], cmap="gray", vmin=-spread, vmax=spread)
        column[0].set_title(name)
        column[1].set_title("residual")
    for axis in axes[:, :3].ravel():
        axis.set_axis_off()
    draw_curves(axes[:, 3:], {name: residual for name, (_, residual) in shown.items()})
    figure.suptitle(case.name)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def draw_curves(axes: NDArray, residuals: dict[str, Residual]) -> None:
    edges = next(iter(residuals.values())).gradient_edges()
    limits = 5 * next(iter(residuals.values())).values.std()
    bins = np.linspace(-limits, limits, 101)
    for name, residual in residuals.items():
        for axis, direction in ((axes[0, 0], 1), (axes[0, 1], 0)):
            axis.loglog(*(part[1:] for part in residual.spectrum(direction)), label=name)
        axes[1, 0].plot((edges[:-1] + edges[1:]) / 2, residual.row_to_row(edges), ".-", label=name)
        axes[1, 1].stairs(*np.histogram(residual.values - residual.values.mean(), bins, density=True), label=name)
    axes[1, 1].set_yscale("log")
    axes[0, 0].legend()
    titles = (
        "residual's power along x",
        "along y",
        "row-to-row standard deviation against |dE/dx|",
        "residual's distribution",
    )
    for axis, title in zip(axes.ravel(), titles, strict=True):
        axis.set_title(title)


if __name__ == "__main__":
    main()
