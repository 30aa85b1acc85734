"""Comparison of grids for the network: ``python benchmarks/sampling.py [--only PART ...] [--series FILE]``.

crystals  PSNR on multislice images by pixel size and dose, at the image's own sampling, at others and at ``"auto"``
lattices  the same for lattices with spacings below and above those of the training
drawn     the same for the drawn sets of :mod:`stemkit.benchmark`, by the spacing of the columns
series    correlation of one enhanced frame with the mean of the other recorded ones (``--series FILE``)
details   RMS error (px, both axes together) of the positions of heavy columns fitted to the result, for those within a
          tenth of the spacing of the true ones, and the fraction of the others; remaining contrast at vacancies
precision PSNR and pixels in bfloat16 compared with single precision
speed     processor seconds: the least of several alternating runs

Gains are in dB relative to ``sampling=1``. ``"auto"`` was tuned on the images of ``crystals``, ``lattices`` and
``drawn``, not on those of ``series`` and ``details``.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr

from stemkit import NoiseModel, PointwiseNoise, SFINDenoiser, STEMSynthesizer
from stemkit.benchmark import scenes
from stemkit.benchmark.simulated import SIMULATED, simulated
from stemkit.benchmark.truths import TRUTHS
from stemkit.columns import fit_columns
from stemkit.denoising.sampling import chosen_grid
from stemkit.images.mode import mode_sign
from stemkit.metrics import psnr
from stemkit.statistics import median_spacing
from stemkit.synthesis import lattice, planar_cell, removed, subset

SAMPLINGS: tuple[float | str, ...] = (1.0, 0.8, 0.65, 0.5, "auto")
SIGNALS = ("haadf", "abf", "bf")
#: Pixel sizes, nm, at which the columns of the five crystals are 2 to 50 px apart (chosen).
PIXEL_SIZES = (0.02, 0.0133, 0.01, 0.0067, 0.005)
DOSES = (3.0, 10.0, 40.0)
#: Seed of the noise; that of the tuning was another one.
SEED = 5
#: Seed of the planted structures; that of the tuning was another one.
PLANTED_SEED = 2**41 + 7
#: Limits of the classes of spacings, px (chosen).
SPACINGS = (0.0, 10.0, 16.0, 25.0, 35.0, np.inf)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--series", type=Path, help=".npz with frames (n, n_y, n_x) of the same field, aligned")
    parser.add_argument("--mode", default="haadf", help="of the series (default: haadf)")
    parser.add_argument("--images", type=int, default=40, help="of each drawn set (default: 40)")
    parser.add_argument("--signals", nargs="+", choices=SIGNALS, default=list(SIGNALS), help="of the crystals")
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024], help="of speed, px (default: 512 1024)")
    parser.add_argument("--runs", type=int, default=3, help="of speed (default: 3)")
    parser.add_argument("--weights", default="auto")
    arguments = parser.parse_args()
    # a given sampling warns if the spacing is outside the range of the training, which is compared here
    warnings.filterwarnings("ignore", message="columns are .* px apart")
    pd.set_option("display.width", 160, "display.max_rows", 500)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {arguments.weights}")
    for part in arguments.only:
        print(f"\n{part}")
        print(PARTS[part](arguments).to_string())


# --- PSNR --------------------------------------------------------------------------------------------------------


def crystals(arguments: argparse.Namespace) -> pd.DataFrame:
    rows = []
    for about, noisy, true_image in _recorded_crystals(arguments.signals):
        rows.append(about | _scores(noisy, true_image, arguments.weights))
    table = pd.DataFrame(rows)
    print(table.set_index(["crystal", "signal", "spacing", "dose"]).round(2).to_string())
    return _by_class(table, ["signal", "dose"])


def lattices(arguments: argparse.Namespace) -> pd.DataFrame:
    rows = []
    for spacing in (2.4, 2.8, 3.2, 3.7, 45.0, 60.0, 80.0, 110.0):
        for readout in (0.1, 0.4, 1.0):
            shape = (192, 192) if spacing < 10 else (320, 320)
            cell = planar_cell("square", basis=[(0, 0), (0.5, 0.5)], amplitude=[1.0, 0.6])
            columns = lattice(cell, shape, spacing=spacing, sigma=0.2 * spacing, angle=12.0)
            columns = removed(columns, subset(columns, 0.04, torch.Generator().manual_seed(1)))
            noise = NoiseModel(pointwise=PointwiseNoise(readout=readout))
            pair = STEMSynthesizer(shape=shape, noise=noise, random_state=SEED).record(columns).isel(image=0)
            noisy = pair["noisy"].reset_coords(drop=True)
            about = {"spacing": spacing, "noise": readout}
            rows.append(about | _scores(noisy, pair["enhance"].values, arguments.weights))
    return pd.DataFrame(rows).set_index(["spacing", "noise"]).round(2)


def drawn(arguments: argparse.Namespace) -> pd.DataFrame:
    rows = []
    for name in ("haadf", "bf"):
        fixed = scenes(name, arguments.images)
        for i in range(len(fixed)):
            pair, true = fixed.pairs.isel(image=i), fixed.columns[fixed.columns["image"] == i]
            about = {"set": name, "held_back": bool(pair["held_back"]), "spacing": _spacing(true)}
            noisy = pair["noisy"].drop_vars(("arrangement", "held_back")).assign_attrs(mode=name)
            rows.append(about | _scores(noisy, pair["enhance"].values, arguments.weights))
    return _by_class(pd.DataFrame(rows), ["set", "held_back"])


def _recorded_crystals(signals: list[str]) -> Iterator[tuple[dict[str, object], xr.DataArray, np.ndarray]]:
    for name in SIMULATED:
        for signal in signals:
            for pixel_size in PIXEL_SIZES:
                true_image, columns = simulated(name, signal, pixel_size=pixel_size)
                for dose in DOSES:
                    about: dict[str, object] = {"crystal": name, "signal": signal, "dose": dose}
                    yield about | {"spacing": _spacing(columns)}, _counted(true_image, dose), true_image.values


def _counted(true_image: xr.DataArray, dose: float) -> xr.DataArray:
    """Noise of counted electrons, ``dose`` at the brightest point above the darkest."""
    low, high = float(true_image.min()), float(true_image.max())
    mode = true_image.attrs["mode"]
    level = high if mode == "bf" else low
    counts = PointwiseNoise.counted(dose, background=dose * level / (high - low), mode=mode)
    return (
        NoiseModel(high - low, level, mode, pointwise=counts)
        .apply(true_image, random_state=SEED)
        .assign_attrs(mode=mode)
    )


def _scores(noisy: xr.DataArray, true_image: np.ndarray, weights: str) -> dict[str, float]:
    """PSNR at the image's own sampling, gains of others, and the sampling chosen by ``"auto"``."""
    info = SFINDenoiser(weights=weights).fit(noisy).info_
    chosen = chosen_grid(noisy.values * mode_sign(noisy.attrs["mode"]), "auto", info.spacing).sampling
    found = {s: psnr(_enhanced(noisy, s, weights), true_image) for s in SAMPLINGS if s != "auto"}
    found["auto"] = found[chosen] if chosen in found else psnr(_enhanced(noisy, "auto", weights), true_image)
    gains = {f"{s}": value - found[1.0] for s, value in found.items() if s != 1.0}
    return {"chosen": chosen, "PSNR": found[1.0], **gains}


def _enhanced(noisy: xr.DataArray, sampling: float | str, weights: str) -> np.ndarray:
    return SFINDenoiser(weights=weights, sampling=sampling).fit_transform(noisy).values


def _by_class(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Means, the least gain of ``"auto"`` and how often it resamples, by keys and spacing."""
    classes = pd.cut(table["spacing"], SPACINGS).astype(str)
    groups = table.assign(spacing=classes, least=table["auto"], resampled=table["chosen"] != 1.0)
    how = dict.fromkeys(("PSNR", "0.8", "0.65", "0.5", "auto", "resampled"), "mean") | {"least": "min"}
    return groups.groupby([*keys, "spacing"]).agg(how).round(2)


def _spacing(columns: pd.DataFrame) -> float:
    """Median distance of nearest columns, px; NaN for fewer than two."""
    places = columns[["y_px", "x_px"]].to_numpy()
    return median_spacing(places)


# --- without truth, and details ----------------------------------------------------------------------------------


def series(arguments: argparse.Namespace) -> pd.DataFrame:
    if arguments.series is None:
        return pd.DataFrame({"series": ["not given"]})
    frames = np.load(arguments.series)["frames"].astype(float)
    rows = {}
    for s in (*SAMPLINGS[:-1], 0.4, "auto"):
        start = time.process_time()
        denoiser = SFINDenoiser(weights=arguments.weights, mode=arguments.mode, sampling=s)
        enhanced = [denoiser.fit_transform(frame) for frame in frames]
        seconds = (time.process_time() - start) / len(frames)
        others = [np.delete(frames, i, axis=0).mean(axis=0) for i in range(len(frames))]
        correlations = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(enhanced, others, strict=True)]
        rows[s] = {"correlation": np.mean(correlations), "least": min(correlations), "CPU s per frame": seconds}
    return pd.DataFrame(rows).T.round(4)


def details(arguments: argparse.Namespace) -> pd.DataFrame:
    """Positions on multislice images of large spacing; vacancies in crystals whose columns are 12 or 16 px apart."""
    rows = []
    for about, noisy, _ in _recorded_crystals(arguments.signals):
        if _pixel_size(noisy) > 0.006:
            continue
        _, columns = simulated(str(about["crystal"]), str(about["signal"]), pixel_size=_pixel_size(noisy))
        for s in SAMPLINGS:
            error, lost = _position_error(_enhanced(noisy, s, arguments.weights), columns, noisy.attrs["mode"])
            row = {"dose": about["dose"], "sampling": str(s)}
            rows.append(row | {"of": f"positions, {about['signal']}", "is": error})
            rows.append(row | {"of": f"positions lost, {about['signal']}", "is": lost})
    for host in ("square", "honeycomb"):
        for mode in ("haadf", "bf"):
            for dose in (3.0, 10.0, 30.0):
                for s in SAMPLINGS:
                    left = _contrast_left(host, mode, dose, s, arguments.weights)
                    rows.append({"of": f"vacancies, {mode}", "dose": dose, "sampling": str(s), "is": left})
    return pd.DataFrame(rows).pivot_table("is", ["of", "dose"], "sampling", sort=False).round(3)


def _pixel_size(image: xr.DataArray) -> float:
    return float(image["x"][1] - image["x"][0])


def _position_error(enhanced: np.ndarray, columns: pd.DataFrame, mode: str) -> tuple[float, float]:
    """Of Gaussians fitted to the result at the true places of the heavy inner columns: RMS error of those that stay
    near, px, and fraction of the others.
    """
    heavy = columns[columns["weight"] > 0.5 * columns["weight"].max()]
    # there is a single silicon atom in graphene
    heavy = heavy if len(heavy) > 8 else columns
    places, spacing = heavy[["y_px", "x_px"]].to_numpy(), _spacing(heavy)
    inner = ((places > spacing / 2) & (places < np.array(enhanced.shape) - 1 - spacing / 2)).all(axis=1)
    fits = fit_columns(enhanced * mode_sign(mode), places, 0.18 * spacing)
    distance = np.hypot(fits.y - places[:, 0], fits.x - places[:, 1])
    near = ~fits.failed & (distance < spacing / 10)
    return float(np.sqrt((distance[inner & near] ** 2).mean())), float((inner & ~near).sum() / inner.sum())


def _contrast_left(host: str, mode: str, dose: float, sampling: float | str, weights: str) -> float:
    truth = TRUTHS["vacancies"]
    planted = truth.record(dose, PLANTED_SEED, host=host, mode=mode)
    noisy = planted.pair["noisy"].assign_attrs(mode=mode)
    enhanced = noisy.copy(data=_enhanced(noisy, sampling, weights) * mode_sign(mode))
    return truth.judge(planted, enhanced, pd.DataFrame(columns=["y_px", "x_px"]))["contrast left"]


# --- precision and speed -----------------------------------------------------------------------------------------


def precision(arguments: argparse.Namespace) -> pd.DataFrame:
    rows = []
    for name in ("haadf", "bf", "simulated"):
        fixed = scenes(name, min(16, arguments.images))
        for i in range(len(fixed)):
            pair = fixed.pairs.isel(image=i)
            mode = str(pair["mode"].values) if "mode" in pair.coords else name
            noisy, true_image = pair["noisy"].reset_coords(drop=True).assign_attrs(mode=mode), pair["enhance"].values
            single, half = (
                SFINDenoiser(weights=arguments.weights, precision=p).fit_transform(noisy).values
                for p in ("float32", "bfloat16")
            )
            apart = np.abs(half - single) / np.ptp(true_image)
            gain = psnr(half, true_image) - psnr(single, true_image)
            rows.append({"set": name, "dB": gain, "largest / contrast": apart.max(), "RMS": np.sqrt((apart**2).mean())})
    return pd.DataFrame(rows).groupby("set").agg(["mean", "min", "max"]).round(4)


def speed(arguments: argparse.Namespace) -> pd.DataFrame:
    cases = [(p, s) for p in ("float32", "bfloat16") for s in (1.0, 0.65)]
    rows: dict[tuple[int, str, float], tuple[float, float]] = {}
    for size in arguments.sizes:
        image = np.random.default_rng(0).poisson(5.0, (size, size)).astype(np.float32)
        for _ in range(arguments.runs):
            for p, s in cases:
                denoiser = SFINDenoiser(weights=arguments.weights, mode="haadf", precision=p, sampling=s)
                denoiser.fit(image[:64, :64])
                cpu, wall = time.process_time(), time.perf_counter()
                denoiser.transform(image)
                took = time.process_time() - cpu, time.perf_counter() - wall
                before = rows.get((size, p, s), took)
                rows[size, p, s] = (min(took[0], before[0]), min(took[1], before[1]))
    table = pd.DataFrame(rows, index=["CPU s", "wall s"]).T.round(2)
    return table.rename_axis(["px", "precision", "sampling"])


PARTS: dict[str, Callable[[argparse.Namespace], pd.DataFrame]] = {
    "crystals": crystals,
    "lattices": lattices,
    "drawn": drawn,
    "series": series,
    "details": details,
    "precision": precision,
    "speed": speed,
}

if __name__ == "__main__":
    main()
