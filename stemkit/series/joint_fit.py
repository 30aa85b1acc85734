"""Columns measured in the recorded pixels of the frames: in all of them together, and in each alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise, product

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from stemkit.columns import ColumnFits, fit_columns
from stemkit.columns.constants import DENSE_WINDOW_RADIUS, RENDER_RADIUS
from stemkit.detection import Quality
from stemkit.detection.normalized_image import FRAMES, NormalizedImage
from stemkit.detection.table import table_of
from stemkit.images.containers import Images
from stemkit.images.mode import mode_sign
from stemkit.images.pixel_size import mean_pixel_size
from stemkit.noise import NoiseCalibrator, NoiseModel
from stemkit.pixels import filled
from stemkit.series.aligner import SeriesAligner
from stemkit.series.average_noise import with_mean_displacements
from stemkit.series.frames import Series
from stemkit.series.layers import Layers, layers_of
from stemkit.tables import unit_of_table

__all__ = ["measure_frames", "measure_series"]

#: Largest number of frames on which the noise is calibrated (chosen: each takes a few seconds).
MOST_CALIBRATED = 3
#: Width from which the window of a column is enlarged, median widths (that of the detector).
WIDE = 2**0.5
#: Factor by which this window is enlarged (that of the detector).
ENLARGED = 2.0
#: Fraction of a column that a frame must show to measure it (chosen).
LEAST_SHOWN = 0.5
#: Number of pixels of all frames that are fitted at a time (chosen: each takes about 80 bytes of memory).
MOST_PIXELS = 2**22
#: Distance up to which other columns are fitted with those of a tile, median widths (derived: all columns whose models
#: extend into the windows of these have complete windows).
MARGIN = 2 * DENSE_WINDOW_RADIUS + RENDER_RADIUS


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
        The frames on which ``aligner`` was fitted.
    columns : DataFrame
        Columns of the average (:class:`~stemkit.AtomDetector`), from which the fit starts. Widths and backgrounds that
        are fixed there, and positions of ``GUIDED`` columns, remain fixed.
    aligner : SeriesAligner
        Fitted on the frames.
    noise : NoiseModel, optional
        Noise of a single frame. None: it is calibrated on up to three of the frames.

    Returns
    -------
    DataFrame
        The rows and the variables of ``columns``, and ``n_frames``, the mean number of frames that show each column.

    Raises
    ------
    ValueError
        If ``columns`` is no table of columns, or ``frames`` are not those of the aligner.

    Notes
    -----
    Errors contain the noise of the pixels. ``y_jitter`` and ``x_jitter`` are those of the mean of n frames, which have
    ``1 / n`` of the variance of ``aligner.scan_noise_``: displacements common to all frames cannot be measured.

    Columns are fitted in tiles, with those nearby on all sides, so that about 2 million pixels of all frames are in
    memory at a time; frames of a lazy series are read once for each tile.

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
    if len(columns) == 0:
        return columns.assign(n_frames=np.zeros(0))
    given = _Frames.of(frames, columns, aligner, noise)
    return given.measured(given.used, columns)


def measure_frames(
    frames: Images,
    columns: pd.DataFrame,
    aligner: SeriesAligner,
    *,
    fix_positions: bool = False,
    noise: NoiseModel | None = None,
) -> pd.DataFrame:
    """Measure the columns of the average in each frame alone: how they change from frame to frame.

    Parameters
    ----------
    frames, columns, aligner, noise
        As in :func:`measure_series`, which raises the same errors.
    fix_positions : bool, default=False
        Fix positions and widths at those of ``columns``: only heights and backgrounds are fitted, for columns that may
        be absent in a frame.

    Returns
    -------
    DataFrame
        A row for each column in each frame that shows it, with the numbers of the frame (``frame``, and ``image``) and
        of the column (``column``, its label in ``columns``). Positions are in the coordinates of the average.

    See Also
    --------
    link_columns : Links columns that are found in each frame, and may move further than their width.
    """
    if len(columns) == 0:
        return columns.assign(n_frames=np.zeros(0), frame=np.zeros(0, dtype=int), column=columns.index)
    given = _Frames.of(frames, columns, aligner, noise)
    tables = []
    for i in given.used:
        table = given.measured([i], columns, fix_positions=fix_positions)
        table = table.assign(image=i, frame=i, column=columns.index)
        tables.append(table[table[FRAMES] > LEAST_SHOWN])
    result = pd.concat(tables, ignore_index=True)
    result.attrs.update(columns.attrs)
    return result


# --- steps ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Frames:
    """Frames with their displacements and the noise of one of them."""

    series: Series
    aligner: SeriesAligner
    used: list[int]
    noise: NoiseModel

    @classmethod
    def of(cls, frames: Images, columns: pd.DataFrame, aligner: SeriesAligner, noise: NoiseModel | None) -> _Frames:
        _check_columns(columns)
        series = aligner.fitted_frames(frames)
        used = [i for i in series.images if i not in aligner.rejected_]
        if noise is not None:
            return cls(series, aligner, used, noise)
        chosen = np.linspace(0, len(used) - 1, min(len(used), MOST_CALIBRATED)).round().astype(int)
        images = [series.images[used[int(i)]] for i in chosen]
        of_frames = cls(series, aligner, used, NoiseCalibrator(mode=series.mode).fit(images).noise_model_)
        # a background that is common to all frames is measured best on their mean
        background = NoiseCalibrator(mode="haadf").fit(of_frames.mean(used)[0]).noise_model_.background
        return replace(of_frames, noise=replace(of_frames.noise, background=background))

    def mean(self, numbers: list[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean of a subset of the frames, in units of the contrast, and how many of them show each pixel.

        Pixels that none shows are interpolated.
        """
        total, count = np.zeros(self.aligner.shape_), np.zeros(self.aligner.shape_)
        for i in numbers:
            one = self.layers([i], (slice(0, total.shape[0]), slice(0, total.shape[1])))
            total += np.where(one.valid, one.values, 0).sum(axis=0, dtype=np.float64)
            count += one.valid.sum(axis=0)
        return filled(total / np.maximum(count, 1), count == 0), count

    def layers(self, numbers: list[int], area: tuple[slice, slice]) -> Layers:
        """Part of the rows of a subset of the frames, in an area of the average and in units of the contrast."""
        turns = [int(quarters) for quarters in self.aligner.quarter_turns_]
        n_y, n_x = (one.stop - one.start for one in area)
        origin = [one.start for one in area]
        parts = []
        for slow_axis in (0, 1):
            chosen = [i for i in numbers if turns[i] % 2 == slow_axis]
            if not chosen:
                continue
            # the rows of scans that are turned by 90 degrees are columns of pixels: y and x are exchanged
            places = [self._displacement(i, turns[i]) - origin for i in chosen]
            moved = np.stack([place[:, :: -1 if slow_axis else 1] for place in places])
            pixels = (self._turned_back(i, turns[i], exchanged=bool(slow_axis)) for i in chosen)
            found = layers_of(pixels, moved, (n_x, n_y) if slow_axis else (n_y, n_x))
            parts.append(found.transposed() if slow_axis else found)
        return Layers.joined(parts)

    def _displacement(self, frame: int, quarters: int) -> NDArray[np.float64]:
        """Displacements of a frame in the order of its rows after it is turned back."""
        return np.asarray(self.aligner.displacements_[frame][:: 1 if quarters in (0, 3) else -1])

    def _turned_back(self, frame: int, quarters: int, *, exchanged: bool) -> tuple[NDArray, NDArray]:
        """Normalized pixels of a frame in the directions of the image, and which of them are faulty."""
        values = self.series.images[frame].values.astype(np.float64)
        normalized = (values - self.noise.level) * (self.sign / self.noise.contrast)
        pixels, faulty = (np.rot90(array, -quarters) for array in (normalized, self.series.faulty(frame)))
        return (pixels.T, faulty.T) if exchanged else (pixels, faulty)

    @property
    def sign(self) -> float:
        """1 for bright, -1 for dark columns."""
        return mode_sign(self.noise.mode)

    def measured(self, numbers: list[int], columns: pd.DataFrame, *, fix_positions: bool = False) -> pd.DataFrame:
        """The columns fitted to a subset of the frames, row by row."""
        average = self._average(columns, numbers)
        fits = self._fitted(numbers, columns, average, fix_positions=fix_positions)
        quality = columns["quality"].to_numpy()
        is_fixed, is_guided = (quality & flag > 0 for flag in (Quality.WIDTH_FIXED, Quality.GUIDED))
        elliptical = "sigma_major" in columns
        table = table_of(fits, is_fixed, average, 0, guided=is_guided, elliptical=elliptical)
        table["quality"] |= quality & (Quality.SATURATED | Quality.FAULTY_PIXELS)
        table.index = columns.index
        return table

    def _average(self, columns: pd.DataFrame, numbers: list[int]) -> NormalizedImage:
        """The average as the table describes it: its pixels, coordinates and noise."""
        mean, count = self.mean(numbers)
        n_frames = max(float(np.median(count[count > 0])), 1.0)
        pointwise = self.noise.pointwise
        noise = replace(
            self.noise,
            scan=with_mean_displacements(self.noise.scan, self.aligner.scan_noise_, n_frames),
            pointwise=replace(
                pointwise, readout=pointwise.readout / math.sqrt(n_frames), gain=pointwise.gain / n_frames
            ),
        )
        coords = {FRAMES: (("y", "x"), count), **_coordinates(columns, mean.shape)}
        source = xr.DataArray(mean, coords, ("y", "x"))
        return NormalizedImage(source, noise, self.sign, mean, None, None, weights=count / n_frames)

    def _fitted(
        self, numbers: list[int], columns: pd.DataFrame, average: NormalizedImage, *, fix_positions: bool
    ) -> ColumnFits:
        """Fit the columns of a table, in units of the normalized frames."""
        noise = self.noise
        values = {name: columns[name].to_numpy(dtype=np.float64) for name in columns if name != "quality"}
        size = mean_pixel_size(average.source)
        sigma = values["sigma"] / size
        start = ColumnFits.from_values(
            len(columns),
            y=values["y_px"],
            x=values["x_px"],
            amplitude=values["amplitude"] / noise.contrast,
            sigma=sigma,
            background=average.sign * (values["background"] - noise.level) / noise.contrast,
        )
        fit_sigma = np.isfinite(values["sigma_err"]) & (not fix_positions)
        is_guided = columns["quality"].to_numpy() & Quality.GUIDED > 0
        fixed = values["background"][0] if (values["background_err"] == 0).all() else None
        usual = float(np.median(sigma))
        widths = np.where(fit_sigma, usual * np.where(sigma > WIDE * usual, ENLARGED, 1.0), sigma)
        fit_position = ~is_guided & (not fix_positions)
        one = replace(average, noise=noise)
        variance, streaks = one.noise_for_fits(usual)
        fits, most = start, MOST_PIXELS // len(numbers)
        for area, near, own in _tiles(start.positions, self.aligner.shape_, most, MARGIN * usual):
            layers, (top, left) = self.layers(numbers, area), (one.start for one in area)
            found = fit_columns(
                layers.values,
                _moved(start.take(near), -top, -left),
                widths[near],
                variance=variance,
                correlation_x=noise.pointwise.correlation_x,
                streaks=streaks,
                tilt=one.background_slope_std(usual),
                valid=layers.valid,
                shifts=layers.shifts,
                fit_sigma=fit_sigma[near],
                fit_position=fit_position[near],
                background=None if fixed is None else average.sign * (fixed - noise.level) / noise.contrast,
                elliptical="sigma_major" in columns,
            )
            fits = fits.updated(own, _moved(found.take(np.isin(near, own)), top, left))
        fits.sigma_err[~fit_sigma] = np.nan
        for name in ("y_err", "x_err"):
            getattr(fits, name)[is_guided] = values[name.replace("_", "_px_")][is_guided]
        return fits


def _tiles(
    positions: NDArray, shape: tuple[int, int], most_pixels: int, margin: float
) -> Iterator[tuple[tuple[slice, slice], NDArray[np.intp], NDArray[np.intp]]]:
    """Areas in which columns are fitted, of at most ``most_pixels`` unless their margins need more.

    Yields
    ------
    area : (slice, slice)
    near, own : ndarray of int
        Columns in the area, and those of them that are not in its margins, in increasing order.
    """
    width = math.ceil(margin)
    edge = max(shape) if math.prod(shape) <= most_pixels else max(math.isqrt(most_pixels) - 2 * width, width)
    axes = []
    for place, n in zip(positions.T, shape, strict=True):
        ends = np.linspace(0, n, math.ceil(n / edge) + 1).astype(int)
        # columns outside the average, too, belong to the tiles at its border
        tile = np.clip(np.searchsorted(ends, place, side="right") - 1, 0, len(ends) - 2)
        parts = [slice(max(0, int(a) - width), min(n, int(b) + width)) for a, b in pairwise(ends)]
        is_near = [((place >= p.start) | (p.start == 0)) & ((place < p.stop) | (p.stop == n)) for p in parts]
        axes.append([(part, is_near[i], tile == i) for i, part in enumerate(parts)])
    for (rows, near_y, own_y), (columns, near_x, own_x) in product(*axes):
        own = np.flatnonzero(own_y & own_x)
        if len(own):
            yield (rows, columns), np.flatnonzero(near_y & near_x), own


def _moved(fits: ColumnFits, y: float, x: float) -> ColumnFits:
    """Fits in an image whose first pixel is another one."""
    return replace(fits, y=fits.y + y, x=fits.x + x)


def _check_columns(columns: pd.DataFrame) -> None:
    needed = ("y", "x", "y_px", "x_px", "amplitude", "sigma", "background", "sigma_err", "background_err", "quality")
    missing = [name for name in needed if name not in columns]
    if missing:
        raise ValueError(
            f"columns must be a table of AtomDetector, but lacks {', '.join(missing)}: measure the average of the "
            "aligner first"
        )


def _pixel_sizes(columns: pd.DataFrame) -> tuple[float, float]:
    """Height and width of a pixel of a table, in its unit."""
    y, x = (float((columns[f"{d}_err"] / columns[f"{d}_px_err"]).median()) for d in "yx")
    return y, x


def _coordinates(columns: pd.DataFrame, shape: tuple[int, ...]) -> dict[str, xr.Variable]:
    """The coordinates of the image that a table was measured in; none for a table in px."""
    if unit_of_table(columns) != "nm":
        return {}
    coords = {}
    for dim, size, n in zip("yx", _pixel_sizes(columns), shape, strict=True):
        first = float((columns[dim] - size * columns[f"{dim}_px"]).median())
        coords[dim] = xr.Variable(dim, first + size * np.arange(n), {"units": "nm"})
    return coords
