"""Errors of the detector relative to Cramér-Rao bounds: ``python benchmarks/column_precision.py`` checks the bounds.

``python benchmarks/columns.py`` prints the parts ``precision``, ``pairs`` and ``dense``, which are defined here.
Images, noise and bounds are plain NumPy; only the JSON text of the noise model comes from stemkit.

SNR is a column's amplitude over the standard deviation of the noise of one pixel at its centre (of the brighter column
alone, in a pair): for counted electrons, that of 5 % dark and 95 % counted variance there. A bound is the square root
of the diagonal of the inverse Fisher matrix of y, x, amplitude and sigma of each column of a group (one column, or a
pair) and of one constant background, on the pixels within 6 sigmas, where derivatives have fallen below 1e-7. The
covariance is the exact one: variance ``readout^2 + gain s`` at the true signal s, correlation ``rho^lag`` along the
row. For counted electrons this is the Fisher matrix of the Poisson distribution, including the electrons of the
background; a fit that uses only mean and variance (quasi-likelihood) can reach it, too.

The detector is given the true noise, spacing and width. If it can measure at given positions, the fits start at the
true ones; otherwise it searches for columns. Errors are in units of the bound of their column. Amplitudes are fractions
of the contrast, positions (y, x) in px."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from plain_scenes import Columns, Noise, pointwise_noise, render
from scipy import signal as filters

from stemkit import AtomDetector, NoiseModel, PointwiseNoise
from stemkit.columns import fit_columns
from stemkit.images.provenance import check_noise_attr
from stemkit.metrics import match_columns

#: Distance from a column, sigmas, at which its derivatives are below 1e-7.
REACH = 6.0
#: Contrast and level of the images, in their units (chosen).
CONTRAST = 1000.0
LEVEL = 100.0
NOISES = ("Gaussian", "counted", "correlated")
#: Correlation along the row of the correlated noise (chosen).
CORRELATION = 0.3
#: Fraction of the variance at the centre of a column that does not depend on the signal, if counted (chosen).
DARK = 0.05
#: The flag of a failed fit.
FAILED = 2
#: Number of pixels whose derivatives are in memory at once (chosen).
CHUNK = 400_000


# --- images ------------------------------------------------------------------------------------------------------


def noise_of(kind: str, snr: float) -> Noise:
    """Noise of one pixel whose standard deviation at the centre of a column of height 1 is 1 / snr."""
    quiet = {"shape": 0.14, "streaks": 0.0, "jitter": 0.0, "background": 0.0}
    if kind == "counted":
        return Noise(readout=np.sqrt(DARK) / snr, gain=(1 - DARK) / snr**2, kind="poisson", **quiet)
    return Noise(readout=1 / snr, gain=0.0, correlation_x=CORRELATION if kind == "correlated" else 0.0, **quiet)


def recorded(true_image: NDArray, noise: Noise, rng: np.random.Generator) -> xr.DataArray:
    """The true signal with noise, in the image's units, with the true noise model in its attributes."""
    drawn = (
        pointwise_noise(true_image, noise, rng)
        if noise.kind == "poisson"
        else normal_rows(true_image.shape, noise, rng)
    )
    pointwise = PointwiseNoise(noise.readout, noise.gain, noise.shape, noise.correlation_x, noise.kind)
    model = NoiseModel(contrast=CONTRAST, level=LEVEL, mode="haadf", pointwise=pointwise)
    text = json.dumps({"pixel_size": None, **model.to_dict()})
    image = xr.DataArray(
        LEVEL + CONTRAST * (true_image + drawn), dims=("y", "x"), attrs={"mode": "haadf", "noise": text}
    )
    check_noise_attr(image)
    return image


def normal_rows(shape: tuple[int, int], noise: Noise, rng: np.random.Generator) -> NDArray:
    """Normal noise, autoregressive along the rows."""
    rho = noise.correlation_x
    white = noise.readout * rng.standard_normal(shape)
    if rho == 0:
        return white
    white[:, 1:] *= np.sqrt(1 - rho**2)  # the first of a row is drawn from the stationary distribution
    return filters.lfilter([1.0], [1.0, -rho], white, axis=1)


def groups(
    n_side: int, sigma: float, rng: np.random.Generator, *, apart: float = 0.0, second: float = 1.0
) -> tuple[NDArray, NDArray, NDArray]:
    """A square grid of single columns, or of pairs ``apart`` px apart, with random angles and sub-pixel positions.

    Returns the true signal, positions ``(n, k, 2)`` and amplitudes ``(n, k)``. Columns of different groups are at
    least 9 sigmas apart, and all at least 6 from the border.
    """
    pitch = int(np.ceil(9 * sigma + apart)) + 1
    margin = int(np.ceil(REACH * sigma + apart / 2)) + 1
    size = 2 * margin + pitch * (n_side - 1) + 1
    grid = margin + pitch * np.stack(np.meshgrid(*2 * [np.arange(n_side)], indexing="ij"), axis=-1).reshape(-1, 1, 2)
    center = grid + rng.uniform(-0.5, 0.5, (n_side**2, 1, 2))
    angle = rng.uniform(0, 2 * np.pi, (n_side**2, 1))
    half = apart / 2 * np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    places = center if apart == 0 else np.concatenate([center - half, center + half], axis=1)
    amplitude = np.ones(places.shape[:2])
    amplitude[:, 1:] = second
    y, x = places.reshape(-1, 2).T
    return render(Columns(y, x, amplitude.ravel(), sigma), np.zeros((size, size))), places, amplitude


# --- bounds ------------------------------------------------------------------------------------------------------


def bounds(places: NDArray, amplitude: NDArray, sigma: float, noise: Noise) -> NDArray:
    """Bounds of y and x of each column, ``(n, k, 2)`` px, for groups at ``places`` (n, k, 2)."""
    half = int(np.ceil(REACH * sigma + np.ptp(places, axis=1).max() / 2)) + 1
    at_once = max(1, CHUNK // (2 * half + 1) ** 2)
    parts = [slice(i, i + at_once) for i in range(0, len(places), at_once)]
    return np.concatenate([_bounds(places[p], amplitude[p], sigma, noise, half) for p in parts])


def _bounds(places: NDArray, amplitude: NDArray, sigma: float, noise: Noise, half: int) -> NDArray:
    n, k = amplitude.shape
    mean, by = derivatives(places, amplitude, sigma, half)
    scaled = by / np.sqrt(noise.readout**2 + noise.gain * mean)[:, None]
    if noise.correlation_x:  # whitening along each row
        rho = noise.correlation_x
        white = (scaled[..., 1:] - rho * scaled[..., :-1]) / np.sqrt(1 - rho**2)
        scaled = np.concatenate([scaled[..., :1], white], axis=-1)
    flat = scaled.reshape(n, by.shape[1], -1)
    fisher = flat @ flat.swapaxes(1, 2)
    scale = 1 / np.sqrt(np.einsum("nii->ni", fisher))
    inverse = np.linalg.inv(fisher * scale[:, :, None] * scale[:, None, :])
    deviation = np.sqrt(np.einsum("nii->ni", inverse)) * scale
    return deviation[:, :-1].reshape(n, k, 4)[:, :, :2]


def derivatives(places: NDArray, amplitude: NDArray, sigma: float, half: int) -> tuple[NDArray, NDArray]:
    """The signal ``(n, w, w)``, and its derivatives by y, x, amplitude, sigma of each column, then the background."""
    n, k = amplitude.shape
    first = np.round(places.mean(axis=1)) - half
    span = np.arange(2 * half + 1)
    dy, dx = (first[:, None, i, None] + span - places[:, :, i, None] for i in (0, 1))
    dy, dx = dy[:, :, :, None], dx[:, :, None, :]
    g = np.exp(-(dy**2) / (2 * sigma**2)) * np.exp(-(dx**2) / (2 * sigma**2))
    ag = amplitude[:, :, None, None] * g
    each = np.stack([ag * dy / sigma**2, ag * dx / sigma**2, g, ag * (dy**2 + dx**2) / sigma**3], axis=2)
    w = len(span)
    return ag.sum(axis=1), np.concatenate([each.reshape(n, 4 * k, w, w), np.ones((n, 1, w, w))], axis=1)


# --- single columns ----------------------------------------------------------------------------------------------


def precision(folder: Path | None, quick: bool) -> pd.DataFrame:
    """Single columns at least 9 sigmas apart, fitted from the true positions if the detector can.

    ``y, x / bound`` are RMS errors in units of the bound, ``+-`` the larger one's standard error; ``pull`` are RMS
    errors in units of the stated ones; ``bias`` the mean errors in px. Failed columns are not in them. A cell that
    misses names what does: within 5 % of the bound (20 % under SNR 10; under 5 where sigma is 2 px or more), pull
    within 0.95-1.05 (under 1.25), bias under 0.01 px from SNR 10 on; each axis by its own figure.
    """
    rng = np.random.default_rng(0)
    n_side = 24 if quick else 45
    rows = []
    for sigma in (1.5, 3.0) if quick else (1.0, 1.5, 2.0, 3.0, 4.0, 6.0):
        true_image, places, amplitude = groups(n_side, sigma, rng)
        for kind in NOISES:
            for snr in (5, 30) if quick else (3, 5, 10, 30, 100):
                noise = noise_of(kind, snr)
                image = recorded(true_image, noise, rng)
                detector = AtomDetector(spacing=9.0 * sigma, width=sigma).fit(image)
                table = measured(detector, image, places[:, 0])
                limit = bounds(places, amplitude, sigma, noise)[:, 0]
                row = {"noise": kind, "sigma": sigma, "SNR": snr, "n": len(places)}
                rows.append(row | judged(table, places[:, 0], limit, sigma, snr))
    return pd.concat([pd.DataFrame(rows), summary(pd.DataFrame(rows))], ignore_index=True)


def summary(cells: pd.DataFrame) -> pd.DataFrame:
    """Means over the cells from SNR 10 on, which show deviations too small for one cell, and the number missed."""
    clear = cells[cells["SNR"] >= 10]
    figures = ["y / bound", "x / bound", "pull y", "pull x", "bias y", "bias x", "not found %", "failed %"]
    means = clear.groupby("noise", sort=False)[figures].mean()
    for error in ("+-", "+- "):
        means[error] = clear.groupby("noise")[error].agg(lambda v: np.sqrt((v**2).sum()) / len(v))
    missed = cells.groupby("noise")["misses"].agg(lambda v: f"{(v != '').sum()} of {len(v)}")
    means = means.assign(misses=missed, n=clear.groupby("noise")["n"].sum()).reset_index()
    return means.assign(noise="mean " + means["noise"])


def measured(detector: AtomDetector, image: xr.DataArray, places: NDArray) -> pd.DataFrame:
    """The table's rows in the order of the positions; NaN where the detector has no column."""
    if hasattr(detector, "measure"):
        return detector.measure(image, places)
    return own_columns(detector, image, places, detector.spacing_ / 3)


def own_columns(detector: AtomDetector, image: xr.DataArray, places: NDArray, radius: float) -> pd.DataFrame:
    """Columns that the detector finds, in the order of the true positions; NaN where it finds none."""
    table = detector.transform(image)
    match = match_columns(table[["y_px", "x_px"]], places, radius)
    return table.iloc[match.found].set_index(match.true).reindex(range(len(places)))


def judged(table: pd.DataFrame, places: NDArray, limit: NDArray, sigma: float, snr: float) -> dict[str, float | str]:
    good = fitted(table)
    error = (table[["y_px", "x_px"]].to_numpy() - places)[good]
    ratio, ratio_error = rms(error / limit[good])
    pull, _ = rms(error / table[["y_px_err", "x_px_err"]].to_numpy()[good])
    bias, bias_error = (error.mean(axis=0), rms(error)[0].max()) if len(error) else (np.full(2, np.nan), np.nan)
    strict = snr >= 10 or (snr >= 5 and sigma >= 2)
    misses = {
        # NaN is outside
        "bound": not (abs(ratio - 1) <= (0.05 if strict else 0.20)).all(),
        "pull": not ((pull <= (1.05 if strict else 1.25)) & (pull >= (0.95 if strict else 0.0))).all(),
        "bias": snr >= 10 and not (abs(bias) < 0.01).all(),
    }
    return {
        "bound px": float(np.median(limit)),
        "y / bound": ratio[0],
        "x / bound": ratio[1],
        "+-": ratio_error.max(),
        "pull y": pull[0],
        "pull x": pull[1],
        "bias y": bias[0],
        "bias x": bias[1],
        "+- ": float(bias_error / np.sqrt(max(len(error), 1))),
        "not found %": 100 * float(table["y_px"].isna().mean()),
        "failed %": 100 * float((~good & table["y_px"].notna()).mean()),
        "misses": " ".join(name for name, missed in misses.items() if missed),
    }


def fitted(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Rows with a fit: found, not failed, with errors."""
    known = table[["y_px", "x_px", "y_px_err", "x_px_err"]].notna().all(axis=1).to_numpy()
    return known & (table["quality"].fillna(FAILED).astype(int).to_numpy() & FAILED == 0)


def rms(values: NDArray) -> tuple[NDArray, NDArray]:
    """RMS down the columns and its standard error, from the values' own spread; NaN of nothing."""
    if len(values) == 0:
        return np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    square = values**2
    root = np.sqrt(square.mean(axis=0))
    return root, square.std(axis=0) / np.sqrt(len(square)) / (2 * root)


# --- pairs -------------------------------------------------------------------------------------------------------


def pairs(folder: Path | None, quick: bool) -> pd.DataFrame:
    """Pairs of columns, SNR 20 for the brighter: errors in units of their joint bound, both axes together.

    ``from`` is the truth or the detector's own candidates. A pair is resolved where both of its columns have a fit, and
    from own candidates one within half their distance; only those are judged. ``1``, ``2``: the brighter and the
    other one.
    """
    rng = np.random.default_rng(1)
    rows = []
    for kind in ("Gaussian", "counted"):
        for sigma in (2.0,) if quick else (2.0, 3.0):
            for second in (1.0, 0.5):
                for apart in (2.0, 3.0, 4.0) if quick else (2.0, 2.5, 3.0, 3.5, 4.0):
                    cell = {"noise": kind, "sigma": sigma, "heights": f"1:{second:g}", "apart sigma": apart}
                    rows += [cell | row for row in pair_rows(kind, sigma, second, apart, 12 if quick else 20, rng)]
    return pd.DataFrame(rows)


def pair_rows(
    kind: str, sigma: float, second: float, apart: float, n_side: int, rng: np.random.Generator
) -> list[dict[str, float | str]]:
    noise = noise_of(kind, 20.0)
    true_image, places, amplitude = groups(n_side, sigma, rng, apart=apart * sigma, second=second)
    image = recorded(true_image, noise, rng)
    limit = bounds(places, amplitude, sigma, noise)
    detector = AtomDetector(spacing=apart * sigma, width=sigma).fit(image)
    flat, half = places.reshape(-1, 2), apart * sigma / 2
    rows = [{"from": "own", **pair_figures(own_columns(detector, image, flat, half), places, limit)}]
    if hasattr(detector, "measure"):
        rows.insert(0, {"from": "truth", **pair_figures(detector.measure(image, flat), places, limit)})
    return rows


def pair_figures(table: pd.DataFrame, places: NDArray, limit: NDArray) -> dict[str, float]:
    shape = places.shape
    error = table[["y_px", "x_px"]].to_numpy().reshape(shape) - places
    stated = table[["y_px_err", "x_px_err"]].to_numpy().reshape(shape)
    resolved = fitted(table).reshape(shape[:2]).all(axis=1)
    # from (pairs, columns, axes) to one row per axis of a column
    ratio, ratio_error = rms((error / limit)[resolved].swapaxes(1, 2).reshape(-1, 2))
    pull, _ = rms((error / stated)[resolved].swapaxes(1, 2).reshape(-1, 2))
    return {
        "pairs": len(places),
        "resolved %": 100 * float(resolved.mean()),
        "bound 1 px": float(np.median(limit[:, 0])),
        "1 / bound": ratio[0],
        "2 / bound": ratio[1],
        "+-": ratio_error.max(),
        "pull 1": pull[0],
        "pull 2": pull[1],
    }


# --- dense lattices ----------------------------------------------------------------------------------------------


def dense(folder: Path | None, quick: bool) -> pd.DataFrame:
    """Square lattices whose columns overlap on all sides: standard deviations of the errors in stated errors.

    Two kinds of columns alternate, 12 % different in width and 30 % in height, displaced by 5 % of a width. Columns in
    the two outer rows are left out. The fits start at the truth, with one width for all columns.
    """
    rows = []
    for apart in (2.8, 3.0, 3.3, 4.0):
        for snr in (30.0, 300.0):
            found = [dense_errors(apart, snr, seed) for seed in range(1 if quick else 4)]
            together = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
            spread = {name: float(np.nanstd(values)) for name, values in together.items()}
            rows.append({"apart sigma": apart, "snr": snr, "columns": len(together["y"]), **spread})
    return pd.DataFrame(rows)


def dense_errors(apart: float, snr: float, seed: int, sigma: float = 3.0, n_side: int = 18) -> dict[str, NDArray]:
    """Errors of the columns inside a lattice, in stated errors."""
    rng = np.random.default_rng(seed)
    index = np.mgrid[0:n_side, 0:n_side].reshape(2, -1).T
    places = (index + 1.5) * apart * sigma + rng.normal(0, 0.05 * sigma, index.shape)
    width = sigma * np.where(index.sum(axis=1) % 2, 1.0, 1.12)
    height = np.where(index[:, 0] % 2, 1.0, 0.7)
    y, x = np.mgrid[0 : int((n_side + 2) * apart * sigma), 0 : int((n_side + 2) * apart * sigma)]
    image = 0.3 + rng.normal(0, 1 / snr, y.shape)
    for place, w, h in zip(places, width, height, strict=True):
        image += h * np.exp(-((y - place[0]) ** 2 + (x - place[1]) ** 2) / (2 * w**2))
    fits = fit_columns(image, places, sigma, variance=snr**-2)
    inside = ((index > 1) & (index < n_side - 2)).all(axis=1)
    truth = {"y": places[:, 0], "x": places[:, 1], "amplitude": height, "sigma": width}
    truth["intensity"] = 2 * np.pi * height * width**2
    return {name: ((getattr(fits, name) - true) / getattr(fits, f"{name}_err"))[inside] for name, true in truth.items()}


# --- checks -----------------------------------------------------------------------------------------------------------


def check(seed: int = 0) -> None:
    """The bounds against a Fisher matrix by finite differences and a full covariance, and against the closed form."""
    rng = np.random.default_rng(seed)
    for kind in NOISES:
        noise = noise_of(kind, 20.0)
        for apart, second in ((0.0, 1.0), (5.0, 0.5)):
            _, places, amplitude = groups(1, 2.0, rng, apart=apart, second=second)
            found = bounds(places, amplitude, 2.0, noise)[0]
            assert np.allclose(found, brute_bounds(places[0], amplitude[0], 2.0, noise), rtol=1e-5)
    _, places, amplitude = groups(5, 3.0, rng)
    # without correlation: sqrt(2 / pi) / SNR px, independent of the width; noise of the correlation rho has
    # (1 + rho) / (1 - rho) times the power at low frequencies
    assert np.allclose(bounds(places, amplitude, 3.0, noise_of("Gaussian", 20.0)), np.sqrt(2 / np.pi) / 20, rtol=1e-4)
    slow = bounds(places, amplitude, 8.0, noise_of("correlated", 20.0)) / (np.sqrt(2 / np.pi) / 20)
    assert np.allclose(slow, np.sqrt((1 + CORRELATION) / (1 - CORRELATION)), rtol=0.02)
    check_noise(rng)
    print("bounds: as by finite differences and in closed form")


def brute_bounds(places: NDArray, amplitude: NDArray, sigma: float, noise: Noise) -> NDArray:
    start = np.append(np.column_stack([places, amplitude, np.full(len(places), sigma)]).ravel(), 0.0)
    center, half = places.mean(axis=0).round(), int(np.ceil(6 * sigma + np.ptp(places, axis=0).max() / 2)) + 1
    rows, cols = (np.arange(c - half, c + half + 1) for c in center)
    y, x = (grid.ravel() for grid in np.meshgrid(rows, cols, indexing="ij"))

    def model(p: NDArray) -> NDArray:
        total = np.full(y.shape, p[-1])
        for at_y, at_x, height, width in p[:-1].reshape(-1, 4):
            total += height * np.exp(-(np.hypot(y - at_y, x - at_x) ** 2) / (2 * width**2))
        return total

    steps = 1e-5 * np.eye(len(start))
    slopes = np.array([(model(start + s) - model(start - s)) / 2e-5 for s in steps])
    deviation = np.sqrt(noise.readout**2 + noise.gain * model(start))
    same_row = y[:, None] == y[None, :]
    correlation = np.where(same_row, noise.correlation_x ** np.abs(x[:, None] - x[None, :]), 0.0)
    covariance = deviation[:, None] * correlation * deviation[None, :]
    fisher = slopes @ np.linalg.solve(covariance, slopes.T)
    return np.sqrt(np.diag(np.linalg.inv(fisher)))[:-1].reshape(-1, 4)[:, :2]


def check_noise(rng: np.random.Generator) -> None:
    for kind in NOISES:
        noise = noise_of(kind, 10.0)
        image = recorded(np.ones((800, 800)), noise, rng).values
        drawn = (image - LEVEL) / CONTRAST - 1
        assert abs(drawn.std() * 10 - 1) < 0.01
        assert abs(drawn.mean()) < 0.001
        lag = (drawn[:, 1:] * drawn[:, :-1]).mean() / drawn.var()
        assert abs(lag - noise.correlation_x) < 0.008


if __name__ == "__main__":
    check()
