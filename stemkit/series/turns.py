"""Frames whose scan was turned by multiples of 90 degrees, and the pixels that they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stemkit.parameters import is_number
from stemkit.series.averaging import AverageGrid

__all__ = ["Turn", "quarter_turns", "scan_angles_of"]

#: Difference from a multiple of 90 degrees up to which a scan angle is one (chosen: files state hundredths).
TOLERANCE = 0.5


def scan_angles_of(frames: object) -> list[float] | None:
    """Scan angles of frames, degrees: the coordinate ``scan_angle`` of a series, or that coordinate or attribute of
    each image of a list. None if the angle of a frame is missing.
    """
    if isinstance(frames, xr.DataArray):
        angles = frames.coords.get("scan_angle")
        return None if angles is None or angles.ndim != 1 else [float(a) for a in angles.values]
    if isinstance(frames, list | tuple):
        given = [_scan_angle_of(frame) for frame in frames]
        known = [angle for angle in given if angle is not None]
        return known if known and len(known) == len(frames) else None
    return None


def _scan_angle_of(frame: object) -> float | None:
    if not isinstance(frame, xr.DataArray):
        return None
    angle = frame.coords.get("scan_angle")
    if angle is not None:
        return float(angle) if angle.ndim == 0 else None
    stated: Any = frame.attrs.get("scan_angle")
    return float(stated) if is_number(stated) else None


def quarter_turns(scan_angles: Sequence[float] | None, n_frames: int) -> list[int]:
    """Quarter turns, 0 to 3, of each frame from scan angles in degrees.

    Raises
    ------
    ValueError
        Unless there is a multiple of 90 degrees for each frame, with two directions at right angles if they differ.
    """
    if scan_angles is None:
        return [0] * n_frames
    angles = np.asarray(scan_angles, dtype=float)
    if angles.shape != (n_frames,) or not np.isfinite(angles).all():
        raise ValueError(
            f"scan_angles must be one angle in degrees for each of the {n_frames} frames, but is {scan_angles!r}"
        )
    relative = (angles - angles[0]) / 90.0
    turns = np.rint(relative)
    if (np.abs(relative - turns) * 90.0 > TOLERANCE).any():
        raise ValueError(
            f"scan_angles must differ by multiples of 90 degrees, but are {angles.tolist()}: rows that are not "
            "parallel to an axis of the average would have to be interpolated along both. Align the frames of each "
            "angle as a series of its own"
        )
    found = [int(t) for t in turns % 4]
    if len(set(found)) > 1 and len({t % 2 for t in found}) == 1:
        raise ValueError(
            f"scan_angles must include two directions at right angles, but are {angles.tolist()}: opposite scans alone "
            "do not show the drift that they have in common. Add frames at 90 degrees, or align the frames of each "
            "direction as a series of its own"
        )
    return found


@dataclass(frozen=True)
class Turn:
    """Quarter turns of the scan of frames of one shape.

    A frame at one turn, 90 degrees, is ``np.rot90(image)`` of the image at 0: its rows run along y, and follow each
    other towards lower x.

    Parameters
    ----------
    quarters : int
        0 to 3.
    shape : (int, int)
        ``(n_y, n_x)`` of the frames as recorded.
    """

    quarters: int
    shape: tuple[int, int]

    @property
    def turned_shape(self) -> tuple[int, int]:
        """Shape of the frames after they are turned back."""
        return self.shape if self.quarters % 2 == 0 else self.shape[::-1]

    @property
    def slow_axis(self) -> int:
        """The axis of the image along which rows follow each other."""
        return self.quarters % 2

    def image(self, values: NDArray) -> NDArray:
        """Pixels turned back to the directions of the image."""
        return np.rot90(values, -self.quarters)

    def rows(self) -> NDArray[np.float64]:
        """Position of each row along the slow axis of the frame after it is turned back, px."""
        n = self.shape[0]
        return np.arange(n, dtype=float) if self.quarters in (0, 3) else np.arange(n - 1, -1, -1, dtype=float)

    def to_image(self, vectors: NDArray) -> NDArray[np.float64]:
        """Vectors ``(..., 2)`` along the rows and pixels of the frame as vectors along y and x of the image."""
        y, x = vectors[..., 0], vectors[..., 1]
        for _ in range(self.quarters):
            y, x = x, -y
        return np.stack([y, x], axis=-1)

    def to_frame(self, vectors: NDArray) -> NDArray[np.float64]:
        """The inverse of :meth:`to_image`."""
        y, x = vectors[..., 0], vectors[..., 1]
        for _ in range(self.quarters):
            y, x = -x, y
        return np.stack([y, x], axis=-1)

    def grid_of_frame(self, grid: AverageGrid) -> AverageGrid:
        """A grid of the image's pixels in the directions of the frame."""
        (y, x), (height, width) = grid.origin, grid.shape
        size = self.turned_shape
        for _ in range(self.quarters):
            y, x, height, width, size = size[1] - x - width, y, width, height, size[::-1]
        return AverageGrid((y, x), (height, width))

    def grid_of_image(self, grid: AverageGrid) -> AverageGrid:
        """The inverse of :meth:`grid_of_frame`."""
        (y, x), (height, width) = grid.origin, grid.shape
        size = self.shape
        for _ in range(self.quarters):
            y, x, height, width, size = x, size[0] - y - height, width, height, size[::-1]
        return AverageGrid((y, x), (height, width))
