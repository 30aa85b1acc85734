"""Columns measured in the recorded pixels of all frames together."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from stemkit.columns import ColumnFits, fit_columns
from stemkit.detection import Quality
from stemkit.detection.normalized_image import FRAMES, NormalizedImage, length_scale
from stemkit.detection.table import table_of
from stemkit.images import Images, mode_sign
from stemkit.noise import NoiseCalibrator, NoiseModel, ScanNoise
from stemkit.pixels import faulty_pixels, filled
from stemkit.series.aligner import SeriesAligner
from stemkit.series.average_noise import with_mean_displacements
from stemkit.series.frames import Series, read_series

__all__ = ["Layers", "layers_of", "measure_series"]

#: Frames on which the noise is calibrated, at most (chosen: each takes some seconds).
MOST_CALIBRATED = 3
#: Width from which a column's window is enlarged, and the factor, median widths (those of the detector).
WIDE, ENLARGED = 2**0.5, 2.0


def measure_series(
    frames: Images, columns: pd.DataFrame, aligner: SeriesAligner, *, noise: NoiseModel | None = None
) -> pd.DataFrame:
    """Measure columns in the recorded pixels of all frames together.

    One position, height, width and background of each column is fitted to all frames by maximum likelihood. The
    displacements of the rows move the model, not the pixels, which are not interpolated; each pixel is weighted by the
    noise of its frame.

    Parameters
    ----------
    frames : DataArray, ndarray or list of them
        Those that ``aligner`` was fitted on.
    columns : DataFrame
        Columns of the average (:class:`~stemkit.AtomDetector`), from which the fit starts. Widths and backgrounds that
        are fixed there, and positions of ``GUIDED`` columns, stay so.
    aligner : SeriesAligner
    noise : NoiseModel, optional
        Of a frame. None: it is calibrated on up to three of the frames.

    Returns
    -------
    DataFrame
        As ``columns``, row by row, with ``n_frames``, the mean number of frames that show each column.

    Raises
    ------
    ValueError
        If ``columns`` is no table of columns, or ``frames`` are not those of the aligner.

    Notes
    -----
    Errors contain the noise of the pixels. ``y_jitter`` and ``x_jitter`` are those of the mean of n frames, which have
    ``1 / n`` of the variance of ``aligner.scan_noise_``: what all frames have in common cannot be measured.

    All frames are in memory together, 13 bytes per pixel of each.

    Examples
    --------
    >>> from stemkit import AtomDetector, NoiseModel, PointwiseNoise, SeriesAligner
    >>> from stemkit.series import draw_displacements, draw_series, measure_series
    >>> from stemkit.synthesis import cropped, disk, lattice, planar_cell
    >>> particle = cropped(lattice(planar_cell("square"), (64, 64), spacing=9.0), disk((30.0, 34.0), 22.0))
    >>> moved = draw_displacements(4, 64, drift=(1.3, -2.1), random_state=0)
    >>> noise = NoiseModel(pointwise=PointwiseNoise(readout=0.1))
    >>> frames = draw_series(particle, moved, shape=(64, 64), noise=noise, random_state=0)
    >>> aligner = SeriesAligner(denoiser=None).fit(frames)
    >>> columns = AtomDetector().fit_transform(aligner.transform(frames))
    >>> table = measure_series(frames, columns, aligner, noise=noise)
    >>> round(float(table["n_frames"].median()))
    4
    """
    check_is_fitted(aligner, "displacements_")
    series = read_series(frames, aligner._mode)
    aligner._check_same(series)
    _check_columns(columns)
    if len(columns) == 0:
        return columns.assign(n_frames=np.zeros(0))
    used = [i for i in series.images if i not in aligner.rejected_]
    model = _noise_of_frames(series, used) if noise is None else noise

    def recorded() -> Iterator[tuple[NDArray, NDArray]]:
        for i in used:
            values = series.images[i].values
            normalized = (values.astype(np.float64) - model.level) * (mode_sign(model.mode) / model.contrast)
            yield normalized, faulty_pixels(values)

    layers = layers_of(recorded(), aligner.displacements_[used], aligner.shape_)
    if noise is None:
        # a background that is common to all frames is measured best on their mean
        model = replace(model, background=NoiseCalibrator(mode="haadf").fit(layers.mean).noise_model_.background)
    average = _average_of(columns, layers, model, aligner.scan_noise_, len(used))
    fits = _fitted(columns, layers, average, model)
    quality = columns["quality"].to_numpy()
    table = table_of(
        fits,
        quality & Quality.WIDTH_FIXED > 0,
        average,
        0,
        guided=quality & Quality.GUIDED > 0,
        elliptical="sigma_major" in columns,
    )
    table["quality"] |= quality & (Quality.SATURATED | Quality.FAULTY_PIXELS)
    table.index = columns.index
    return table


# --- layers --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layers:
    """Rows of all frames, each at that row of a grid which is nearest to where it was recorded.

    Two rows that are nearest to the same one lie in different layers, so that no row is lost.

    Parameters
    ----------
    values : ndarray of shape (n_layers, n_y, n_x)
    shifts : ndarray of shape (n_layers, 2, n_y, n_x)
        What is left of the displacements along y and x, px, at most half a pixel.
    valid : ndarray of bool, shape (n_layers, n_y, n_x)
        Pixels that were recorded.
    """

    values: NDArray[np.float32]
    shifts: NDArray[np.float32]
    valid: NDArray[np.bool_]

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean of the layers ``(n_y, n_x)``; pixels that none shows are interpolated."""
        count = self.valid.sum(axis=0)
        total = np.where(self.valid, self.values, 0).sum(axis=0, dtype=np.float64)
        return filled(total / np.maximum(count, 1), count == 0)


def layers_of(frames: Iterator[tuple[NDArray, NDArray]], displacements: NDArray, shape: tuple[int, int]) -> Layers:
    """Sort the rows of frames onto a grid: recorded values are moved by whole pixels, and not interpolated.

    Parameters
    ----------
    frames : iterator of (ndarray, ndarray of bool), each of shape (n_y, n_x)
        Recorded pixels, and which of them are faulty.
    displacements : ndarray of shape (n_frames, n_y, 2)
        Relative to the grid, px.
    shape : (int, int)
        ``(n_y, n_x)`` of the grid.
    """
    nearest = np.rint(displacements).astype(int)
    rest = displacements - nearest
    rows = np.arange(displacements.shape[1]) + nearest[..., 0]
    layer = _order_within_rows(np.where((rows >= 0) & (rows < shape[0]), rows, -1))
    n_layers = max(int(layer.max()) + 1, 1)
    values = np.zeros((n_layers, *shape), dtype=np.float32)
    shifts = np.zeros((n_layers, 2, *shape), dtype=np.float32)
    valid = np.zeros((n_layers, *shape), dtype=bool)
    for f, (frame, faulty) in enumerate(frames):
        for y in np.flatnonzero(layer[f] >= 0):
            which, row, offset = layer[f, y], rows[f, y], nearest[f, y, 1]
            first, last = max(0, offset), min(shape[1], frame.shape[1] + offset)
            here, there = slice(first, max(first, last)), slice(first - offset, max(first, last) - offset)
            values[which, row, here] = frame[y, there]
            valid[which, row, here] = ~faulty[y, there]
            shifts[which, :, row] = rest[f, y][:, None]
    return Layers(values, shifts, valid)


def _order_within_rows(rows: NDArray) -> NDArray[np.int64]:
    """How many earlier elements have the same number, of the shape of rows; -1 for those of -1."""
    flat = rows.ravel()
    order = np.argsort(flat, kind="stable")
    first = np.searchsorted(flat[order], flat[order])
    rank = np.empty(flat.size, dtype=np.int64)
    rank[order] = np.arange(flat.size) - first
    return np.where(flat < 0, -1, rank).reshape(rows.shape)


# --- steps ---------------------------------------------------------------------------------------------------------


def _check_columns(columns: pd.DataFrame) -> None:
    needed = ("y", "x", "y_px", "x_px", "amplitude", "sigma", "background", "sigma_err", "background_err", "quality")
    missing = [name for name in needed if name not in columns]
    if missing:
        raise ValueError(
            f"columns must be a table of AtomDetector, but lacks {', '.join(missing)}: measure the average of the "
            "aligner first"
        )


def _noise_of_frames(series: Series, used: list[int]) -> NoiseModel:
    """The noise of a frame: the mean over frames that are spread over the series."""
    chosen = np.linspace(0, len(used) - 1, min(len(used), MOST_CALIBRATED)).round().astype(int)
    images = [series.images[used[int(i)]] for i in chosen]
    return NoiseCalibrator(mode=series.mode).fit(images).noise_model_


def _average_of(
    columns: pd.DataFrame, layers: Layers, noise: NoiseModel, scan: ScanNoise, n_frames: int
) -> NormalizedImage:
    """The average as the table describes it: its pixels, coordinates and noise."""
    root, pointwise = math.sqrt(n_frames), noise.pointwise
    of_average = replace(
        noise,
        scan=with_mean_displacements(noise.scan, scan, n_frames),
        pointwise=replace(pointwise, readout=pointwise.readout / root, gain=pointwise.gain / n_frames),
    )
    mean, count = layers.mean, layers.valid.sum(axis=0)
    coords = {FRAMES: (("y", "x"), count), **_coordinates(columns, mean.shape)}
    source = xr.DataArray(mean, coords, ("y", "x"))
    return NormalizedImage(source, of_average, mode_sign(noise.mode), mean, None, None, weights=count / n_frames)


def _pixel_sizes(columns: pd.DataFrame) -> tuple[float, float]:
    """Height and width of a pixel of a table, in its unit."""
    return tuple(float((columns[f"{d}_err"] / columns[f"{d}_px_err"]).median()) for d in "yx")


def _coordinates(columns: pd.DataFrame, shape: tuple[int, ...]) -> dict[str, xr.Variable]:
    """The coordinates of the image that a table was measured in; none for a table in px."""
    if columns.attrs.get("unit") != "nm":
        return {}
    coords = {}
    for dim, size, n in zip("yx", _pixel_sizes(columns), shape, strict=True):
        first = float((columns[dim] - size * columns[f"{dim}_px"]).median())
        coords[dim] = xr.Variable(dim, first + size * np.arange(n), {"units": "nm"})
    return coords


def _fitted(columns: pd.DataFrame, layers: Layers, average: NormalizedImage, noise: NoiseModel) -> ColumnFits:
    """Fit the columns of a table, in units of the normalized frames."""
    values = {name: columns[name].to_numpy(dtype=np.float64) for name in columns if name != "quality"}
    size = length_scale(average.source)[0]
    sigma = values["sigma"] / size
    start = ColumnFits.from_values(
        len(columns),
        y=values["y_px"],
        x=values["x_px"],
        amplitude=values["amplitude"] / noise.contrast,
        sigma=sigma,
        background=average.sign * (values["background"] - noise.level) / noise.contrast,
    )
    fit_sigma = np.isfinite(values["sigma_err"])
    fit_position = columns["quality"].to_numpy() & Quality.GUIDED == 0
    fixed = values["background"][0] if (values["background_err"] == 0).all() else None
    usual = float(np.median(sigma))
    one = replace(average, noise=noise)
    variance, streaks = one.noise_for_fits(usual)
    fits = fit_columns(
        layers.values,
        start,
        np.where(fit_sigma, usual * np.where(sigma > WIDE * usual, ENLARGED, 1.0), sigma),
        variance=variance,
        correlation_x=noise.pointwise.correlation_x,
        streaks=streaks,
        tilt=one.background_slope_std(usual),
        valid=layers.valid,
        shifts=layers.shifts,
        fit_sigma=fit_sigma,
        fit_position=fit_position,
        background=None if fixed is None else average.sign * (fixed - noise.level) / noise.contrast,
        elliptical="sigma_major" in columns,
    )
    fits.sigma_err[~fit_sigma] = np.nan
    for name in ("y_err", "x_err"):
        getattr(fits, name)[~fit_position] = values[name.replace("_", "_px_")][~fit_position]
    return fits
