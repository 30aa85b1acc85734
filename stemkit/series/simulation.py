"""Simulated series of frames with known displacements."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage

from stemkit.compute import seed_from, torch_generator
from stemkit.images.mode import mode_sign
from stemkit.images.pixel_size import with_pixel_sizes
from stemkit.noise import NoiseModel, ScanNoise
from stemkit.noise.drawing import drift_field, hum_field, row_field, smooth_field
from stemkit.synthesis import Columns, render

__all__ = ["draw_displacements", "draw_series"]

#: Order of the splines that sample the specimen between its pixels (chosen: the error is below 1e-3 of the contrast for
#: columns of sigma 1.5 px).
SPLINE_ORDER = 5
#: Pixels of the specimen beyond the farthest displacement (chosen).
MARGIN = 8


def draw_displacements(
    n_frames: int,
    n_rows: int,
    *,
    scan: ScanNoise | None = None,
    drift: tuple[float, float] = (0.0, 0.0),
    bend: tuple[float, float] = (0.0, 0.0),
    random_state: int | np.random.RandomState | None = None,
) -> NDArray[np.float64]:
    """Draw displacements of the rows of a series.

    Parameters
    ----------
    n_frames, n_rows : int
        Number of frames, and of rows of each frame.
    scan : ScanNoise, optional
        Jitter, drift and hum within the frames; jitter moves rows as a whole.
    drift : (float, float)
        Displacement along y and x per frame, px; it is linear in time, and the flyback between frames takes no time.
    bend : (float, float)
        Change of ``drift`` from the first frame to the last, px per frame.
    random_state : int, RandomState or None

    Returns
    -------
    ndarray of shape (n_frames, n_rows, 2)
        Along y and x, px, with a mean of 0; defined as ``SeriesAligner.displacements_``.
    """
    scan = ScanNoise() if scan is None else scan
    generator = torch_generator(seed_from(random_state))
    shape, kind = torch.Size((n_frames, n_rows, 1)), torch.float64
    rows, period = (torch.full((n_frames,), float(v), dtype=kind) for v in (scan.drift_rows, scan.hum_period))
    whole = torch.full((n_frames,), math.inf, dtype=kind)
    axes = ((scan.jitter_y, scan.drift_y, scan.hum_y), (scan.jitter, scan.drift, scan.hum))
    time = (np.arange(n_frames * n_rows) / n_rows).reshape(n_frames, n_rows)
    time = time - time.mean()
    out = np.empty((n_frames, n_rows, 2))
    for axis, (jitter, slow, hum) in enumerate(axes):
        field = jitter * row_field(shape, whole, generator, kind) + slow * drift_field(shape, rows, generator, kind)
        field = field + hum * hum_field(shape, period, generator, kind)
        path = drift[axis] * time + bend[axis] * (time**2 - (time**2).mean()) / max(n_frames, 1) / 2
        out[:, :, axis] = field[:, :, 0].numpy() + path
    return out - out.mean(axis=(0, 1))


def draw_series(
    columns: Columns,
    displacements: NDArray,
    *,
    shape: tuple[int, int] = (256, 256),
    scan_angles: Sequence[float] | None = None,
    noise: NoiseModel | None = None,
    pixel_size: float | None = None,
    random_state: int | np.random.RandomState | None = None,
) -> xr.DataArray:
    """Record a specimen in displaced rows.

    Parameters
    ----------
    columns : Columns
        The specimen (its first image): positions in px of the undisplaced image. It must extend beyond the image as
        far as the frames are displaced.
    displacements : ndarray of shape (n_frames, n_y, 2)
        Pixel ``(y, x)`` of frame f is recorded at ``(y, x) + displacements[f, y]``, px; where the scan is turned, at
        the position of the pixel in the image plus the displacement along y and x of the image.
    shape : (int, int)
        ``(n_y, n_x)`` of the frames.
    scan_angles : sequence of float, optional
        Angle in degrees by which the scan of each frame is turned about the middle of the image: at 90, a frame is
        ``np.rot90(image)``.
    noise : NoiseModel, optional
        Pointwise noise and streaks are drawn for each frame, the background once for all; the displacements of the
        model are not used. None: no noise.
    pixel_size : float, optional
        Pixel size, nm. None: the frames are not calibrated.
    random_state : int, RandomState or None

    Returns
    -------
    DataArray of shape (n_frames, n_y, n_x)
        Dims ``("frame", "y", "x")``.

    Examples
    --------
    >>> from stemkit.series import draw_displacements, draw_series
    >>> from stemkit.synthesis import lattice, planar_cell
    >>> crystal = lattice(planar_cell("square"), (64, 64), spacing=10.0, margin=20.0)
    >>> moved = draw_displacements(3, 64, drift=(2.0, -1.0), random_state=0)
    >>> draw_series(crystal, moved, shape=(64, 64)).sizes["frame"]
    3
    """
    displacements = np.asarray(displacements, dtype=np.float64)
    if displacements.ndim != 3 or displacements.shape[1:] != (shape[0], 2):
        raise ValueError(
            f"displacements must have the shape (n_frames, {shape[0]}, 2), but has {displacements.shape}: give one "
            "(y, x) for each row of each frame"
        )
    noise = NoiseModel() if noise is None else noise
    seeds = np.random.default_rng(seed_from(random_state))
    margin = int(np.ceil(np.abs(displacements).max())) + MARGIN
    if scan_angles is not None:
        margin += (max(shape) - min(shape)) // 2 + int(np.ceil(0.21 * max(shape)))
    true_image = _specimen(columns, (shape[0] + 2 * margin, shape[1] + 2 * margin), margin, noise, seeds)
    knots = ndimage.spline_filter(true_image, SPLINE_ORDER)
    y, x = np.meshgrid(*(np.arange(n, dtype=np.float64) + margin for n in shape), indexing="ij")
    still = NoiseModel(
        noise.contrast, noise.level, noise.mode, scan=_unmoved(noise.scan), pointwise=noise.pointwise,
    )  # fmt: skip
    frames = []
    angles = np.zeros(len(displacements)) if scan_angles is None else np.asarray(scan_angles, dtype=np.float64)
    if angles.shape != (len(displacements),):
        raise ValueError(
            f"scan_angles must have one angle for each of the {len(displacements)} frames, but has the "
            f"shape {angles.shape}"
        )
    for moved, angle in zip(displacements, angles, strict=True):
        place = turned((y, x), angle, [margin + (n - 1) / 2 for n in shape])
        at = np.stack([place[0] + moved[:, :1], place[1] + moved[:, 1:]])
        seen = ndimage.map_coordinates(knots, at, order=SPLINE_ORDER, prefilter=False)
        seen = noise.level + noise.contrast * mode_sign(noise.mode) * seen
        frames.append(still.apply(seen, random_state=int(seeds.integers(2**31))))
    series = xr.DataArray(np.stack(frames).astype(np.float32), dims=("frame", "y", "x"), attrs={"mode": noise.mode})
    if scan_angles is not None:
        series = series.assign_coords(scan_angle=("frame", angles, {"units": "degrees"}))
    return series if pixel_size is None else with_pixel_sizes(series, pixel_size, pixel_size)


def turned(place: tuple[NDArray, NDArray], angle: float, middle: Sequence[float]) -> tuple[NDArray, NDArray]:
    """Positions ``(y, x)`` in the image of the pixels of a frame whose scan is turned by an angle, degrees."""
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    y, x = place[0] - middle[0], place[1] - middle[1]
    return middle[0] + cosine * y + sine * x, middle[1] - sine * y + cosine * x


def _specimen(
    columns: Columns, shape: tuple[int, int], margin: int, noise: NoiseModel, seeds: np.random.Generator
) -> NDArray[np.float64]:
    """The specimen and its background in units of the contrast, with a margin on each side."""
    true_image = render(columns.moved(*2 * [columns.y.new_tensor(margin)]), shape)[0].double()
    if noise.background.amplitude:
        length = torch.tensor([noise.background.length], dtype=torch.float64)
        generator = torch_generator(int(seeds.integers(2**31)))
        field = smooth_field(torch.Size((1, *shape)), length, generator, torch.float64)
        true_image = true_image + noise.background.amplitude * field[0]
    return np.asarray(true_image.numpy())


def _unmoved(scan: ScanNoise) -> ScanNoise:
    return ScanNoise(scan.amplitude, scan.length, short_amplitude=scan.short_amplitude, short_length=scan.short_length)
