"""Alignment of simulated and real series of frames: ``python benchmarks/series.py``.

Simulated series of four specimens drift by up to two cells per frame, in the tables by up to half of a side in all;
their rows are displaced by jitter, slow drift and hum, and electrons are counted. Displacements are compared with the
true ones after the best common affine map of the rows, since a drift that all frames share is not seen; rows count by
the information that the true image has on them.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import dataclass, replace
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.registration import phase_cross_correlation

from stemkit import AtomDetector, BackgroundNoise, NoiseModel, PointwiseNoise, ScanNoise, structure
from stemkit.series import SeriesAligner, draw_displacements, draw_series
from stemkit.series.rows import RowPrior
from stemkit.synthesis import (
    Columns,
    cropped,
    facets,
    half_plane,
    joined,
    lattice,
    planar_cell,
    removed,
    render,
    subset,
    substituted,
)

#: Nearest columns of the brighter kind, px, and their sigma.
SPACING, SIGMA = 14.0, 2.1
SCENES = ("crystal", "defect", "particle", "interface")
#: Displacements of the rows within a frame, px.
SCAN = ScanNoise(jitter=0.3, jitter_y=0.2, drift=0.4, drift_y=0.4, drift_rows=12.0, hum=0.3, hum_y=0.2, hum_period=7.3)
#: Amplitudes of equal columns differ by this fraction (thickness): otherwise no cell of a crystal differs from another.
SCATTER = 0.05
#: Level of the background, as a fraction of the contrast.
LEVEL = 0.2
#: Largest drift over a whole series of the tables, as a fraction of the side: of two frames that are farther apart,
#: little is the same.
TRAVEL = 0.5
#: Columns nearer than this to the border of the average are not compared, px.
BORDER = 10.0


@dataclass(frozen=True)
class Case:
    """A simulated series and its truth."""

    columns: Columns
    displacements: NDArray
    frames: xr.DataArray
    true_frames: xr.DataArray
    noise: NoiseModel


def specimen(kind: str, size: int, reach: float, seed: int) -> Columns:
    """Columns of one of :data:`SCENES`, in an image of this size, and beyond it."""
    generator = torch.Generator().manual_seed(seed)
    cell = planar_cell("square", basis=[(0, 0), (0.5, 0.5)], amplitude=[1.0, 0.5])
    columns = lattice(cell, (size, size), spacing=SPACING / 2**0.5, angle=7.0, margin=reach, sigma=SIGMA)
    scatter = 1 + SCATTER * torch.randn(columns.amplitude.shape, generator=generator)
    columns = replace(columns, amplitude=columns.amplitude * scatter)
    middle = (size / 2, size / 2)
    if kind == "defect":
        columns = removed(columns, subset(columns, 0.01, generator))
        return substituted(columns, subset(columns, 0.02, generator), 1.5)
    if kind == "particle":
        return cropped(columns, facets(middle, 0.38 * size, 6, 10.0))
    if kind == "interface":
        square = planar_cell("square", amplitude=0.7)
        other = lattice(square, (size, size), spacing=0.8 * SPACING, angle=7.0, margin=reach, sigma=SIGMA)
        return joined(columns, other, half_plane(middle, 20.0))
    return columns


def draw(kind: str, n_frames: int, dose: float, size: int, seed: int, *, travel: float = np.inf) -> Case:
    """A series whose drift has a random direction and up to two cells per frame, and up to ``travel`` px in all."""
    random = np.random.default_rng(seed)
    angle, speed = random.uniform(0, 2 * np.pi), random.uniform(0, min(2 * SPACING, travel / max(n_frames - 1, 1)))
    drift, bend = (speed * np.sin(angle), speed * np.cos(angle)), random.normal(0, 3, 2)
    moved = draw_displacements(
        n_frames, size, scan=SCAN, drift=drift, bend=(bend[0], bend[1]), random_state=int(random.integers(2**31))
    )
    columns = specimen(kind, size, float(np.abs(moved).max()) + 40.0, seed)
    noise = NoiseModel(
        dose,
        LEVEL * dose,
        background=BackgroundNoise(0.05, 30.0),
        scan=ScanNoise(amplitude=0.02, length=60.0),
        pointwise=PointwiseNoise.counted(dose, background=LEVEL * dose),
    )
    seed_of_noise = int(random.integers(2**31))
    frames = draw_series(columns, moved, shape=(size, size), noise=noise, pixel_size=0.02, random_state=seed_of_noise)
    silent = replace(noise, pointwise=PointwiseNoise(), scan=ScanNoise())
    true_frames = draw_series(
        columns, moved, shape=(size, size), noise=silent, pixel_size=0.02, random_state=seed_of_noise
    )
    return Case(columns, moved, frames, true_frames, noise)


# --- displacements -----------------------------------------------------------------------------------------------


def common_map(found: NDArray, true: NDArray, weight: NDArray) -> tuple[NDArray, NDArray]:
    """The affine map of rows ``(2, 2)`` from displacements found to true ones, and the residuals ``(n, n_y, 2)``."""
    n, n_y, _ = true.shape
    place = (np.arange(n_y) + found[..., 0]).ravel()
    good = np.isfinite(place)
    design = np.stack([np.ones(place.size), place], axis=1)
    residual = np.full((n * n_y, 2), np.nan)
    difference = (true - found).reshape(-1, 2)
    root = np.sqrt(np.repeat(weight.ravel()[:, None], 2, axis=1))[good]
    terms = np.linalg.lstsq(design[good] * root, difference[good] * root, rcond=None)[0]
    residual[good] = difference[good] - design[good] @ terms
    return terms, residual.reshape(n, n_y, 2)


def displacement_error(found: NDArray, case: Case) -> tuple[float, bool, float]:
    """RMS per axis (px) of the error between frames, whether a frame jumped by a cell, and RMS with the common part.

    The first is about the mean over frames in each row of the average, which the frames do not show.
    """
    weight = (np.diff(case.true_frames.values, axis=2) ** 2).sum(2)
    residual = common_map(found, case.displacements, weight)[1]
    if np.isnan(residual).any():
        weight = np.where(np.isnan(residual[..., 0]), 0.0, weight)
        residual = np.nan_to_num(residual)
    of_frames = np.abs((residual * weight[..., None]).sum(1) / weight.sum(1, keepdims=True).clip(1e-9))
    jumped = bool(of_frames.max() > 0.3 * SPACING)
    place = np.rint(np.arange(weight.shape[1]) + np.nan_to_num(found[..., 0])).astype(int)
    place -= place.min()
    total = np.bincount(place.ravel(), weight.ravel())
    own = residual.copy()
    number = np.bincount(place.ravel(), (weight > 0).ravel())
    for axis in (0, 1):
        mean = np.bincount(place.ravel(), (weight * residual[..., axis]).ravel()) / total.clip(1e-9)
        own[..., axis] -= mean[place]
    several = number[place] > 1
    freedom = np.sqrt(number[place] / np.maximum(number[place] - 1, 1))[..., None]
    kept = weight * several
    between = np.sqrt(((own * freedom) ** 2 * kept[..., None]).sum() / kept.sum() / 2) if kept.any() else np.nan
    whole = np.sqrt((residual**2 * weight[..., None]).sum() / weight.sum() / 2)
    return float(between), jumped, float(whole)


def displacement_bound(case: Case) -> float:
    """RMS per axis (px) that the displacements of the rows keep, given the electrons of a row and their distribution.

    The information of a row on its displacement is ``sum (slope^2 / variance)`` over its pixels, with the offset of the
    row eliminated, and that of a mean of the other frames is n - 1 times as large.
    """
    n = len(case.true_frames)
    prior, total, weights = RowPrior.of(SCAN, case.true_frames.shape[1]), 0.0, 0.0
    for true_frame in case.true_frames.values.astype(float):
        information = []
        for axis in (0, 1):
            slope, weight = np.gradient(true_frame, axis=axis), 1 / true_frame
            slope = slope - (weight * slope).sum(1, keepdims=True) / weight.sum(1, keepdims=True)
            information.append((weight * slope**2).sum(1) * (n - 1) / n)
        left = remaining_variance(np.stack(information), prior).mean(1)
        weight = (np.diff(true_frame, axis=1) ** 2).sum(1)
        total, weights = total + float((weight * left).sum()), weights + float(weight.sum())
    return float(np.sqrt(total / weights))


def remaining_variance(information: NDArray, prior: RowPrior) -> NDArray[np.float64]:
    """Variance ``(n_y, 2)`` of the displacements given readings of this information ``(2, n_y)``, px squared."""
    out = []
    for known, covariance in zip(information, prior.covariance, strict=True):
        out.append(np.diagonal(np.linalg.solve(np.eye(len(known)) + covariance * known, covariance)))
    return np.maximum(np.stack(out, axis=1), 0.0)


# --- the average -------------------------------------------------------------------------------------------------


def true_average(found: NDArray, case: Case, shape: tuple[int, int]) -> NDArray:
    """The specimen without noise on the pixels of an average."""
    weight = (np.diff(case.true_frames.values, axis=2) ** 2).sum(2)
    weight = np.where(np.isfinite(found[..., 0]), weight, 0.0)
    terms, _ = common_map(found, case.displacements, weight)
    y, x = np.meshgrid(*(np.arange(n, dtype=float) for n in shape), indexing="ij")
    at = np.stack([y + terms[0, 0] + terms[1, 0] * y, x + terms[0, 1] + terms[1, 1] * y])
    margin = int(max(0.0, -at.min(), at.max() - case.frames.shape[1])) + 20
    side = case.frames.shape[1] + 2 * margin
    whole = render(case.columns.moved(*2 * [case.columns.y.new_tensor(margin)]), (side, side))[0].double().numpy()
    return case.noise.level + case.noise.contrast * ndimage.map_coordinates(whole, at + margin, order=5)


def psnr(image: NDArray, truth: NDArray) -> float:
    """PSNR, dB, of all frequencies but those of the background, whose truth is not part of ``truth``; of the pixels
    that are not NaN, and NaN without any.
    """
    use = np.isfinite(image)
    if not use.any():
        return float("nan")
    seen = ndimage.gaussian_filter(use.astype(float), SPACING)
    image, truth = (
        v - ndimage.gaussian_filter(np.where(use, v, 0.0), SPACING) / np.maximum(seen, 1e-9) for v in (image, truth)
    )
    return float(10 * np.log10(np.ptp(truth[use]) ** 2 / ((image - truth)[use] ** 2).mean()))


def plain_mean(case: Case) -> tuple[NDArray, NDArray]:
    found = np.zeros_like(case.displacements)
    return case.frames.values.mean(0), found


def phase_correlation(case: Case) -> tuple[NDArray, NDArray]:
    """Mean of the frames shifted rigidly onto the first, by scikit-image, where all of them are."""
    frames = case.frames.values.astype(float)
    shifts = [phase_cross_correlation(frames[0], frame, upsample_factor=20)[0] for frame in frames]
    moved = [
        ndimage.shift(frame, s, order=3, mode="constant", cval=np.nan, prefilter=True)
        for frame, s in zip(frames, shifts, strict=True)
    ]
    count = np.isfinite(moved).sum(0)
    mean = np.where(count >= len(frames) / 2, np.nansum(moved, axis=0) / np.maximum(count, 1), np.nan)
    return mean, np.repeat(np.array(shifts)[:, None], frames.shape[1], axis=1)


# --- positions of columns ----------------------------------------------------------------------------------------


def bound(amplitude: NDArray, dose: float, n_frames: NDArray) -> NDArray:
    """Cramér-Rao bound of the position of single columns of these heights (fractions of the contrast), px per axis."""
    y, x = np.mgrid[-12:13, -12:13]
    shape = np.exp(-(y**2 + x**2) / (2 * SIGMA**2))
    slope = -x / SIGMA**2 * shape
    information = np.array([(dose * (a * slope) ** 2 / (LEVEL + a * shape)).sum() for a in amplitude])
    return 1 / np.sqrt(information * n_frames)


def positions(aligner: SeriesAligner, image: xr.DataArray, case: Case) -> dict[str, float]:
    """Errors of the columns' positions over the bound for n frames, and pulls."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detector = AtomDetector()
        table = detector.fit_transform(image)
        table = table[table["quality"] == 0]
        free = aligner.apply(case.true_frames)
        ideal = image.copy(data=np.nan_to_num(free.values).astype(image.dtype))
        start = table[["y_px", "x_px"]].to_numpy()
        noiseless = detector.measure(ideal, start)[["y_px", "x_px"]].to_numpy()
    inside = np.all((start > BORDER) & (start < np.array(image.shape) - BORDER), axis=1)
    # what the frames without noise give at the same displacements: the error is then that of the noise of the pixels
    error = (start - noiseless)[inside]
    stated = table[["y_px_err", "x_px_err"]].to_numpy()[inside]
    good = np.abs(error).max(1) < SPACING / 4
    error, stated = error[good], stated[good]
    height = table["amplitude"].to_numpy()[inside][good] / case.noise.contrast
    y, x = np.rint(start[inside][good]).astype(int).T
    lowest = bound(height, case.noise.contrast, image.n_frames.values[y, x])[:, None]
    return {
        "columns": float(len(error)),
        "noise/bound": float(np.sqrt(np.mean((error / lowest) ** 2))),
        "pull": float(np.sqrt(np.mean((error / stated) ** 2))),
        "all/bound": _against_truth(aligner, image.shape, start[inside][good], case, lowest),
    }


def _against_truth(aligner: SeriesAligner, shape: tuple, places: NDArray, case: Case, lowest: NDArray) -> float:
    """RMS of the error against the true positions after an affine map of the image, over the bound."""
    weight = np.where(np.isfinite(aligner.displacements_[..., 0]), 1.0, 0.0)
    terms, _ = common_map(aligner.displacements_, case.displacements, weight)
    rough = places + terms[0] + places[:, :1] * terms[1]
    present = case.columns.present[0].numpy()
    true = case.columns.places[0].numpy()[present]
    distance, nearest = cKDTree(true).query(rough)
    use = distance < SPACING / 4
    design = np.column_stack([np.ones(use.sum()), places[use]])
    error = true[nearest[use]] - design @ np.linalg.lstsq(design, true[nearest[use]], rcond=None)[0]
    return float(np.sqrt(np.mean((error / lowest[use]) ** 2)))


# --- tables ------------------------------------------------------------------------------------------------------


def one(kind: str, n_frames: int, dose: float, size: int, seed: int, *, denoiser: str | None, columns: bool) -> dict:
    """Scores of one series."""
    case = draw(kind, n_frames, dose, size, seed, travel=TRAVEL * size)
    out: dict = {"scene": kind, "frames": n_frames, "dose": dose}
    for name, method in {"mean": plain_mean, "phase": phase_correlation}.items():
        image, found = method(case)
        out[f"PSNR {name}"] = psnr(image, true_average(found, case, image.shape))
    if n_frames == 1:  # nothing to be aligned with: the methods that follow are compared with it
        return out
    start = time.process_time()
    try:
        aligner = SeriesAligner(denoiser=denoiser).fit(case.frames)
    except ValueError:
        return out | {"failed": 1.0}
    out["CPU s"] = time.process_time() - start
    between, jumped, whole = displacement_error(aligner.displacements_, case)
    out |= {
        "error px": between,
        "bound px": displacement_bound(case),
        "with common": whole,
        "jumped": float(jumped),
        "warned": float(bool(aligner.ambiguous_)),
        "failed": 0.0,
    }
    out["left out"] = float(len(aligner.rejected_))
    image = aligner.transform(case.frames)
    out["PSNR"] = psnr(image.values, true_average(aligner.displacements_, case, image.shape))
    out["noise ratio"] = aligner.noise_ratio_
    if columns and not jumped:
        out |= positions(aligner, image, case)
    return out


def jumps(n: int, size: int, denoiser: str | None, first_seed: int) -> pd.DataFrame:
    """Series of random scene, number of frames and dose: whole frames that are a cell off, and warnings of it."""
    rows = []
    for seed in range(first_seed, first_seed + n):
        random = np.random.default_rng(seed)
        kind, frames, dose = SCENES[seed % 4], int(random.choice([2, 4, 8, 16])), float(random.choice([3, 10, 30]))
        case = draw(kind, frames, dose, size, 1000 + seed)
        try:
            aligner = SeriesAligner(rows=False, denoiser=denoiser).fit(case.frames)
        except ValueError:
            rows.append({"scene": kind, "dose": dose, "series": 1, "failed": 1})
            continue
        jumped = displacement_error(aligner.displacements_, case)[1]
        warned = bool(aligner.ambiguous_)
        rows.append(
            {"scene": kind, "dose": dose, "series": 1, "jumped": int(jumped), "failed": 0, "warned": int(warned)}
            | {"jumped unwarned": int(jumped and not warned), "left out": len(aligner.rejected_)}
        )
    return pd.DataFrame(rows).fillna(0).groupby(["scene", "dose"]).sum().astype(int)


# --- a real series -----------------------------------------------------------------------------------------------


def rings(first: NDArray, second: NDArray, width: float = 0.05) -> NDArray:
    """Fourier ring correlation in rings of this width, cycles per px."""
    window = np.outer(*(np.hanning(n) for n in first.shape))
    a, b = (np.fft.rfft2((v - v.mean()) * window) for v in (first, second))
    radius = np.hypot(np.fft.fftfreq(first.shape[0])[:, None], np.fft.rfftfreq(first.shape[1]))
    ring = (radius / width).astype(int).ravel()

    def total(values: NDArray) -> NDArray:
        return np.bincount(ring, values.ravel())[: int(0.5 / width)]

    return total((a * b.conj()).real) / np.sqrt(total(np.abs(a) ** 2) * total(np.abs(b) ** 2))


def real(path: Path) -> None:
    """Correlations of the averages of N frames of a real series with those of N others, before and after alignment."""
    frames = np.load(path)["frames"].astype(float)
    n = len(frames)
    aligner = SeriesAligner(coverage=1.0, mode="haadf").fit(frames)
    inner = (slice(8, -8),) * 2
    stacks = {"recorded": frames, "aligned": aligner.aligned(frames).values}
    print(f"\n{path.name}: correlation of the averages of N frames with those of N others")
    correlations, curves = [], {}
    for half in range(1, n // 2 + 1):
        splits = [
            (a, b)
            for a in combinations(range(n), half)
            for b in combinations([k for k in range(n) if k not in a], half)
            if a < b
        ]
        row: dict[str, float] = {"N": half}
        for name, stack in stacks.items():
            means = [[stack[list(part)].mean(0)[inner] for part in split] for split in splits]
            row[name] = float(np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in means]))
            curves[f"{name}, N={half}"] = np.mean([rings(a, b) for a, b in means], axis=0)
        correlations.append(row)
    print(pd.DataFrame(correlations).set_index("N").round(4).to_string())
    table = pd.DataFrame(curves)
    table.index = pd.Index(np.round((np.arange(len(table)) + 0.5) * 0.05, 3), name="cycles/px")
    print("Fourier ring correlation\n" + table.round(3).to_string())
    print(f"  displacements of whole frames: {np.round(np.nanmean(aligner.displacements_, axis=1), 2).tolist()}")
    print(f"  {aligner.scan_noise_}")


# --- scans at right angles ---------------------------------------------------------------------------------------


def right_angles(n: int, size: int, first_seed: int) -> pd.DataFrame:
    """Lattices of particles from one scan and from scans at 0 and 90 degrees, with linear and with bent drift.

    Errors of the lengths (percent) and the angle (degrees) of the lattice vectors, absolute and over those that the fit
    of the lattice states, and the RMS of the strain, which is 0 in the specimen.
    """
    rows = []
    for bent in (False, True):
        for seed in range(first_seed, first_seed + n):
            random = np.random.default_rng(seed)
            drift = random.uniform(-0.05, 0.05, 2) * size
            bend = random.uniform(-0.03, 0.03, 2) * size if bent else np.zeros(2)
            columns = lattice(planar_cell("square"), (size, size), spacing=10.0, angle=7.0, margin=80.0, sigma=2.0)
            columns = cropped(columns, facets((size / 2, size / 2), 0.42 * size, 6, 10.0))
            scan = ScanNoise(jitter=0.15, jitter_y=0.1)
            moved = draw_displacements(
                2, size, scan=scan, drift=tuple(drift), bend=tuple(bend), random_state=int(random.integers(2**31))
            )
            noise = NoiseModel(10.0, 2.0, pointwise=PointwiseNoise.counted(10.0, background=2.0))
            frames = draw_series(
                columns, moved, shape=(size, size), scan_angles=[0, 90], noise=noise, pixel_size=0.02, random_state=seed
            )
            average = SeriesAligner(denoiser=None).fit_transform(frames)
            for name, image in (("one scan", frames[0]), ("0 and 90", average)):
                rows.append({"drift": "bent" if bent else "linear", "from": name, **_lattice_errors(image)})
    return pd.DataFrame(rows).groupby(["drift", "from"], sort=False).mean()


def _lattice_errors(image: xr.DataArray) -> dict[str, float]:
    table = AtomDetector().fit_transform(image)
    found = structure.fit_lattice(table)
    true = 10.0 * 0.02
    length, angle = found.lengths - true, found.angle - 90.0
    strains = structure.strain(table, found)[["exx", "eyy", "exy"]].to_numpy()
    return {
        "length %": float(100 * np.abs(length).mean() / true),
        "length/stated": float(np.abs(length / found.lengths_err).mean()),
        "angle deg": abs(angle),
        "angle/stated": abs(angle) / found.angle_err,
        "strain %": float(100 * np.sqrt(np.nanmean(strains**2))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--frames", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--doses", type=float, nargs="+", default=[3.0, 10.0, 30.0])
    parser.add_argument("--scenes", nargs="*", default=list(SCENES))
    parser.add_argument("--series", type=int, default=1, help="series of each kind")
    parser.add_argument("--no-positions", action="store_true", help="do not measure the columns of the averages")
    parser.add_argument("--jumps", type=int, default=40, help="series that are searched for jumps by a cell")
    parser.add_argument("--seed", type=int, default=0, help="of the first of the series")
    parser.add_argument("--right-angles", type=int, default=4, help="pairs of scans at right angles of each kind")
    parser.add_argument("--denoiser", default="auto", choices=("auto", "none"))
    parser.add_argument("--real", type=Path, help="an .npz file with the array frames")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    denoiser = None if arguments.denoiser == "none" else arguments.denoiser
    options = {"denoiser": denoiser, "columns": not arguments.no_positions}
    chosen = product(arguments.scenes, arguments.frames, arguments.doses, range(arguments.series))
    rows = [
        one(kind, n, dose, arguments.size, arguments.seed + 17 * k + 1, **options)
        for k, (kind, n, dose, _) in enumerate(chosen)
    ]
    table = pd.DataFrame(rows)
    if len(table):
        print(table.groupby(["scene", "frames", "dose"]).mean().round(3).to_string())
        print("\nmeans of the specimens; errors of the displacements without series in which a frame jumped")
        if "jumped" in table:
            table.loc[table["jumped"] == 1, ["error px", "with common"]] = np.nan
        print(table.drop(columns="scene").groupby(["frames", "dose"]).mean().round(3).to_string())
    if arguments.jumps:
        print(jumps(arguments.jumps, arguments.size, denoiser, arguments.seed).to_string())
    if arguments.right_angles:
        print(right_angles(arguments.right_angles, arguments.size, arguments.seed).round(3).to_string())
    if arguments.real is not None:
        real(arguments.real)


if __name__ == "__main__":
    main()
