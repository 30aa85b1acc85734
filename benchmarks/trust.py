"""How often the assessment of an enhanced image is wrong: ``python benchmarks/trust.py``.

false-alarms  p-values of the residual of the true image, with noise of one kind each: fraction below 5 %
power         the same with a planted error of the enhanced image: fraction in which its test is below 1 %
coverage      fraction of the pixels, and of local mean intensities, inside the stated intervals, on the fixed sets of
              stemkit.benchmark; the factors are those of one half of each set, the coverage that of the other half.
              --write stores the factors with the package
flags         the same sets: fraction of the enhanced images in which a test of the residual shows structure, for
              small and for large errors
columns       fraction of false ones among the columns with a q-value below 5 %, and of true columns that are kept
cost          CPU seconds of the assessment and of the enhancement

Each prints a table. Seeds are fixed.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from tqdm import tqdm

import stemkit
from stemkit import (
    AtomDetector,
    BackgroundNoise,
    NoiseCalibrator,
    NoiseModel,
    PointwiseNoise,
    ScanNoise,
    SFINDenoiser,
    STEMSynthesizer,
)
from stemkit.benchmark import scenes
from stemkit.benchmark.scenes import SETS
from stemkit.denoising import load_weights
from stemkit.images.mode import mode_sign
from stemkit.trust.expected_noise import ExpectedNoise, column_width
from stemkit.trust.residual import check_residual
from stemkit.trust.spread import (
    CALIBRATED,
    ErrorSources,
    Factors,
    calibrated_factors,
    error_sources,
    network_results,
)

SHAPE = (192, 192)
READOUT = PointwiseNoise(readout=0.2)
#: Kinds of noise, with amplitudes inside the ranges of the training.
NOISES: dict[str, dict] = {
    "white": {"pointwise": READOUT},
    "2 electrons": {"pointwise": PointwiseNoise.counted(2.0, background=0.4)},
    "20 electrons": {"pointwise": PointwiseNoise.counted(20.0, background=4.0)},
    "heavy tails, correlated": {"pointwise": PointwiseNoise(readout=0.2, shape=-0.1, correlation_x=0.3)},
    "background of 32 px": {"pointwise": READOUT, "background": BackgroundNoise(0.06, 32.0)},
    "background of 10 px": {"pointwise": READOUT, "background": BackgroundNoise(0.06, 10.0)},
    "streaks": {"pointwise": READOUT, "scan": ScanNoise(amplitude=0.1, length=20.0)},
    "jitter": {"pointwise": READOUT, "scan": ScanNoise(jitter=0.5, jitter_y=0.3)},
    "jitter along the row": {"pointwise": READOUT, "scan": ScanNoise(jitter=0.5, jitter_length=30.0)},
    "drift and hum": {
        "pointwise": READOUT,
        "scan": ScanNoise(jitter=0.3, drift=0.4, drift_rows=8.0, hum=0.3, hum_period=6.0),
    },
    "jitter, little noise": {"pointwise": PointwiseNoise(readout=0.05), "scan": ScanNoise(jitter=0.5, jitter_y=0.3)},
    "drift, little noise": {
        "pointwise": PointwiseNoise(readout=0.05),
        "scan": ScanNoise(jitter=0.3, drift=0.4, drift_y=0.4, drift_rows=8.0),
    },
}
DOSES = (1.0, 3.0, 10.0, 30.0)
#: Doses in the power of the tests.
POWER_DOSES = (3.0, 30.0)
#: Error of an enhanced image above which it is large, standard deviations of the true one (chosen).
LARGE_ERROR = 0.2
#: File for the table of a run.
CSV: Path | None = None


@dataclass(frozen=True)
class Scene:
    true_image: NDArray
    positions: NDArray
    sigma: float
    model: NoiseModel

    @classmethod
    def draw(cls, seed: int, **noise: object) -> Scene:
        true_image, positions, sigma = specimen(seed)
        low = float(true_image.min())
        model = NoiseModel(contrast=float(np.quantile(true_image, 0.995)) - low, level=low, **noise)
        return cls(true_image, positions, sigma, model)

    def recorded(self, seed: int) -> NDArray:
        return np.asarray(self.model.apply(self.true_image, random_state=seed))

    def blob(self, near: tuple[float, float]) -> NDArray:
        """A Gaussian of the width of the columns at the column nearest to a position."""
        y, x = self.positions[np.argmin(np.hypot(*(self.positions - near).T))]
        rows, cols = np.indices(self.true_image.shape)
        return np.exp(-((rows - y) ** 2 + (cols - x) ** 2) / (2 * self.sigma**2))


@cache
def specimen(seed: int) -> tuple[NDArray, NDArray, float]:
    """A true image, and the positions and the width of its columns, px."""
    synthesizer = STEMSynthesizer(arrangements=("lattice",), shape=SHAPE, random_state=seed)
    pairs, columns = synthesizer.sample(1, return_columns=True)
    sigma = float(columns["sigma"].median()) / pairs["enhance"].stem.pixel_size
    return pairs["enhance"][0].values.astype(np.float64), columns[["y_px", "x_px"]].to_numpy(), sigma


def tested(recorded: NDArray, enhanced: NDArray) -> pd.Series:
    residual = recorded - enhanced
    return check_residual(residual, enhanced, ExpectedNoise.from_residual(residual, enhanced)).table["p"]


# --- residual ----------------------------------------------------------------------------------------------------


def false_alarms(n: int) -> None:
    rows, all_p = [], []
    for name, noise in tqdm(NOISES.items(), desc="kinds of noise"):
        found = []
        for seed in range(n):
            scene = Scene.draw(seed, **noise)
            found.append(tested(scene.recorded(seed), scene.true_image))
        all_p.append(pd.DataFrame(found))
        rows.append({"noise": name} | alarms(all_p[-1]))
    rows.append({"noise": "all"} | alarms(pd.concat(all_p)))
    show(pd.DataFrame(rows), f"False alarms in {n} images of {SHAPE[0]} x {SHAPE[1]} px: fraction with p < 5 %")


def alarms(p: pd.DataFrame) -> dict[str, float]:
    """Fraction of p-values below 5 % by test, and of images in which any of the tests is below 1 %, corrected."""
    return {str(name): (p[name] < 0.05).mean() for name in p} | {
        "any < 1 %": (p.min(axis=1) * p.shape[1] < 0.01).mean()
    }


def planted(scene: Scene, what: str) -> NDArray:
    middle = tuple(n / 2 for n in scene.true_image.shape)
    height = scene.model.contrast
    match what:
        case "column removed":
            return scene.true_image - 0.9 * height * scene.blob(middle)
        case "column added":
            gap = scene.positions[np.argmin(np.hypot(*(scene.positions - middle).T))] + (0.0, 0.0)
            rows, cols = np.indices(scene.true_image.shape)
            at = gap + np.array([2.5 * scene.sigma, 2.5 * scene.sigma])
            return scene.true_image + 0.9 * height * np.exp(
                -((rows - at[0]) ** 2 + (cols - at[1]) ** 2) / (2 * scene.sigma**2)
            )
        case "blurred by a third of the width":
            return ndimage.gaussian_filter(scene.true_image, scene.sigma / 3)
        case "image shifted by 0.3 px":
            return ndimage.shift(scene.true_image, (0.0, 0.3), order=3, mode="nearest")
        case "contrast of 90 %":
            return scene.true_image.mean() + 0.9 * (scene.true_image - scene.true_image.mean())
    raise ValueError(what)


PLANTED = (
    "column removed",
    "column added",
    "blurred by a third of the width",
    "image shifted by 0.3 px",
    "contrast of 90 %",
)


def power(n: int) -> None:
    rows = []
    for what in tqdm(PLANTED, desc="planted errors"):
        for dose in POWER_DOSES:
            found = []
            for seed in range(n):
                scene = Scene.draw(seed, pointwise=PointwiseNoise.counted(dose, background=0.2 * dose))
                found.append(tested(scene.recorded(seed), planted(scene, what)))
            p = pd.DataFrame(found)
            rows.append({"planted": what, "electrons": dose} | {k: (p[k] < 0.01).mean() for k in p})
            rows[-1]["any"] = (p.min(axis=1) * p.shape[1] < 0.01).mean()
    show(pd.DataFrame(rows), f"Power: fraction of {n} images with p < 1 %")


# --- uncertainty -------------------------------------------------------------------------------------------------


def enhanced_sets(n: int, folder: Path | None) -> Iterator[tuple[str, int, xr.DataArray, NDArray, NDArray, str]]:
    """Set, index, recorded image, results of the network, true image and mode of the images of the fixed sets."""
    denoiser = SFINDenoiser(device="cpu")
    for name in SETS:
        pairs = scenes(name, n).pairs
        modes = pairs["mode"].values if "mode" in pairs.coords else [name] * pairs.sizes["image"]
        for i in tqdm(range(pairs.sizes["image"]), desc=name):
            noisy = pairs["noisy"][i].reset_coords(drop=True).assign_attrs(mode=str(modes[i]))
            path = None if folder is None else folder / f"{name}_{i:03d}.npy"
            yield name, i, noisy, kept_results(noisy, denoiser, path), pairs["enhance"][i].values, str(modes[i])


def flags(n: int, folder: Path | None) -> None:
    rows = []
    for _, _, noisy, results, true_image, mode in enhanced_sets(n, folder):
        enhanced = mode_sign(mode) * results[0]
        residual = mode_sign(mode) * noisy.values - enhanced
        found = check_residual(residual, enhanced, ExpectedNoise.from_residual(residual, enhanced))
        is_large = (results[0] - true_image).std() > LARGE_ERROR * true_image.std()
        shown = {name: name in found.structure.index for name in found.table.index}
        rows.append({"error": ("below", "above")[int(is_large)], "images": 1} | shown | {"any": any(shown.values())})
    table = pd.DataFrame(rows).groupby("error", sort=False)
    found = table.mean(numeric_only=False).assign(images=table["images"].sum()).reset_index()
    show(found, f"Structure in what was removed, error below or above {LARGE_ERROR:.0%} of the contrast")


def coverage(n: int, write: bool, folder: Path | None) -> None:
    kinds = ("pixel", "integrated")
    parts: dict[tuple[str, str, int], list[tuple[NDArray, ErrorSources]]] = {}
    for name, i, noisy, results, true_image, mode in enhanced_sets(n, folder):
        error = results[0] - true_image
        width = column_width(mode_sign(mode) * results[0])
        # in the drawn sets, every other image has a structure that training never draws
        half = i % 2 if name == "simulated" else i // 2 % 2
        for kind, errors, sources in (
            ("pixel", error, error_sources(noisy, results, mode)),
            ("integrated", ndimage.gaussian_filter(error, width), error_sources(noisy, results, mode, width)),
        ):
            parts.setdefault((kind, name, half), []).append((thinned(errors), at_thinned(sources)))
    rows, factors = [], {}
    for kind in kinds:
        # the sets have about equally many images
        chosen = [pair for name in SETS for pair in parts[kind, name, 0]]
        factors[kind] = calibrated_factors(*zip(*chosen, strict=True))
        intervals = factors[kind], replace(factors[kind], **scaled(factors[kind]))
        for name in SETS:
            for half in (0, 1):
                inside = np.array(
                    [
                        [np.mean(np.abs(e) <= sources.half_width(f)) for f in intervals]
                        for e, sources in parts[kind, name, half]
                    ]
                )
                rows.append(
                    {
                        "set": name,
                        "of": kind,
                        "half": ("calibrated", "tested")[half],
                        "images": len(inside),
                        "68 %": inside[:, 0].mean(),
                        "std over images": inside[:, 0].std(),
                        "95 %": inside[:, 1].mean(),
                        "std over images ": inside[:, 1].std(),
                    }
                )
    show(pd.DataFrame(rows), "Coverage of the intervals")
    stored = {kind: {name: round(float(value), 4) for name, value in asdict(f).items()} for kind, f in factors.items()}
    print("factors:", stored)
    if write:
        CALIBRATED.write_text(json.dumps({load_weights("auto")[1].sha256: stored}, indent=1) + "\n")


def thinned(values: NDArray) -> NDArray:
    """One of seven pixels: neighbouring errors are alike."""
    return values.ravel()[::7]


def at_thinned(sources: ErrorSources) -> ErrorSources:
    return replace(sources, spread=thinned(sources.spread), displacement=thinned(sources.displacement))


def scaled(factors: Factors) -> dict[str, float]:
    """Factors of the 95 % interval."""
    return {name: factors.wide * getattr(factors, name) for name in ("spread", "background", "displacement")}


def kept_results(noisy: xr.DataArray, denoiser: SFINDenoiser, path: Path | None) -> NDArray:
    """Results of the network, from a file if they were computed before."""
    if path is not None and path.exists():
        return np.load(path).astype(np.float64)
    results = network_results(noisy, denoiser.fit(noisy))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, results.astype(np.float32))
    return results


# --- columns -----------------------------------------------------------------------------------------------------


def columns(n: int) -> None:
    rows = []
    for dose in DOSES:
        for seed in tqdm(range(n), desc=f"{dose:g} electrons"):
            noise = NoiseModel(pointwise=PointwiseNoise.counted(dose, background=0.2 * dose))
            synthesizer = STEMSynthesizer(
                arrangements=("lattice", "random", "particle"),
                shape=SHAPE,
                spacing=(0.08, 0.24),
                noise=noise,
                random_state=seed,
            )
            pairs, true = synthesizer.sample(1, return_columns=True)
            recorded = pairs["noisy"][0]
            enhanced = SFINDenoiser(device="cpu").fit_transform(NoiseCalibrator().fit_transform(recorded))
            table = AtomDetector().fit_transform(enhanced)
            if len(table) == 0 or len(true) == 0:
                continue
            judged = stemkit.assess(recorded, enhanced, table).columns
            reach = 2 * float(true["sigma"].median()) / recorded.stem.pixel_size
            is_false = cKDTree(true[["y_px", "x_px"]]).query(table[["y_px", "x_px"]])[0] > reach
            kept = (judged["q_value"] <= 0.05).to_numpy()
            rows.append(
                {
                    "electrons": dose,
                    "found": len(table),
                    "false": is_false.sum(),
                    "kept": kept.sum(),
                    "false kept": (is_false & kept).sum(),
                    "fraction false": is_false[kept].mean() if kept.any() else 0.0,
                    "true columns kept": (kept & ~is_false).sum() / max((~is_false).sum(), 1),
                }
            )
    show(pd.DataFrame(rows).groupby("electrons").mean().reset_index(), f"Columns, means over {n} images")


def cost(n: int) -> None:
    rows = []
    for size in (256, 512, 1024):
        true_image = STEMSynthesizer(arrangements=("lattice",), shape=(size, size), random_state=0).sample(1)["noisy"][
            0
        ]
        denoiser = SFINDenoiser(device="cpu")
        enhanced = denoiser.fit_transform(true_image)
        stemkit.assess(true_image, enhanced)

        def seconds(run: Callable[[], object]) -> float:
            times = []
            for _ in range(n):
                start = time.process_time()
                run()
                times.append(time.process_time() - start)
            return min(times)

        enhance = seconds(lambda: denoiser.transform(true_image))  # noqa: B023
        quick = seconds(lambda: stemkit.assess(true_image, enhanced))  # noqa: B023
        rows.append({"px": size, "enhancement s": enhance, "assessment s": quick, "ratio": quick / enhance})
    show(pd.DataFrame(rows), f"CPU seconds, least of {n} runs")


def show(table: pd.DataFrame, title: str) -> None:
    if CSV is not None:
        table.round(3).to_csv(CSV, index=False)
    print(f"\n{title}\n{table.round(3).to_string(index=False)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("false-alarms", "power", "coverage", "flags", "columns", "cost"))
    parser.add_argument("--images", type=int, default=40, help="images of each kind (default: 40)")
    parser.add_argument("--write", action="store_true", help="coverage: store the factors with the package")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="coverage, flags: keep the network's results, and reuse them"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the table, as those in docs/trust")
    arguments = parser.parse_args()
    global CSV
    CSV = arguments.csv
    warnings.simplefilter("ignore", UserWarning)
    match arguments.what:
        case "false-alarms":
            false_alarms(arguments.images)
        case "power":
            power(arguments.images)
        case "coverage":
            coverage(arguments.images, arguments.write, arguments.keep)
        case "flags":
            flags(arguments.images, arguments.keep)
        case "columns":
            columns(arguments.images)
        case "cost":
            cost(arguments.images)


if __name__ == "__main__":
    main()
