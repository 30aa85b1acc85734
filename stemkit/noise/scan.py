"""ScanNoise: streaks along the scan lines, and displacements of the beam."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stemkit.parameters import check_number, check_positive

__all__ = ["ScanNoise"]


@dataclass(frozen=True)
class ScanNoise:
    r"""Noise of the scan: streaks along the scan lines, and displacements of the beam.

    Streaks of two kinds are added to the signal. Displacements along x and along y are independent of each other, and
    each is the sum of three independent parts: jitter, which is independent between rows, drift, which changes slowly
    from row to row, and hum, a sine. A small displacement d along x adds ``d * dI/dx`` to the signal.

    Parameters
    ----------
    amplitude : float, default=0
        Standard deviation of the streaks, as a fraction of the contrast.
    length : float, default=20
        Sigma of the Gaussian filter along x of the streaks, px; ``inf``: whole rows.
    jitter : float, default=0
        RMS of the part of the displacement along x that is independent between rows, px.
    jitter_length : float, default=inf
        Like ``length``, for ``jitter`` and ``jitter_y``, px; ``inf``: a row is displaced as a whole.
    jitter_y : float, default=0
        Like ``jitter``, for the displacement along y, across the rows, px.
    drift, drift_y : float, default=0
        RMS of the slow displacement along x and along y, px. It is constant within a row.
    drift_rows : float, default=10
        Sigma of the Gaussian filter along y of ``drift`` and ``drift_y``, rows.
    hum, hum_y : float, default=0
        Amplitude (the largest displacement) of the periodic displacement along x and along y, px.
    hum_period : float, default=5
        Period of ``hum`` and ``hum_y``, rows. A period below two rows has an alias: rows that are displaced with the
        period p repeat like those with the period ``1 / |1 / p - m|`` for each integer m.
    short_amplitude : float, default=0
        Standard deviation of the short streaks, as a fraction of the contrast.
    short_length : float, default=3
        Like ``length``, for the short streaks, px.

    Raises
    ------
    ValueError
        If an amplitude or a length is negative, or ``drift_rows`` or ``hum_period`` is not positive and finite.

    Notes
    -----
    The autocovariance of the streaks at a distance of k px along the row is ``amplitude^2 exp(-k^2 / (4 length^2)) +
    short_amplitude^2 exp(-k^2 / (4 short_length^2))``, and 0 between rows. That of the displacement along x is, at a
    distance of k rows and j px, for rows of n_x px,

    .. math:: \delta_{k0}\, \mathrm{jitter}^2 e^{-j^2 / (4\, \mathrm{jitter\_length}^2)}
        + \mathrm{drift}^2 e^{-k^2 / (4\, \mathrm{drift\_rows}^2)}
        + \tfrac12 \mathrm{hum}^2 \cos\left(\frac{2 \pi (k + j / n_x)}{\mathrm{hum\_period}}\right) .
    """

    amplitude: float = 0.0
    length: float = 20.0
    jitter: float = 0.0
    jitter_length: float = math.inf
    jitter_y: float = 0.0
    drift: float = 0.0
    drift_y: float = 0.0
    drift_rows: float = 10.0
    hum: float = 0.0
    hum_y: float = 0.0
    hum_period: float = 5.0
    short_amplitude: float = 0.0
    short_length: float = 3.0

    def __post_init__(self) -> None:
        for name in ("amplitude", "short_amplitude", "jitter", "jitter_y", "drift", "drift_y", "hum", "hum_y"):
            check_number(f"{name} of ScanNoise", getattr(self, name), 0)
        for name in ("length", "short_length", "jitter_length"):
            if not (length := getattr(self, name)) >= 0:
                raise ValueError(f"{name} of ScanNoise must be at least 0 (inf: the whole row), but is {length!r}")
        for name in ("drift_rows", "hum_period"):
            check_positive(f"{name} of ScanNoise", getattr(self, name))

    @property
    def displacement(self) -> float:
        """RMS displacement along x of all parts, px."""
        return math.sqrt(self.jitter**2 + self.drift**2 + self.hum**2 / 2)

    @property
    def displacement_y(self) -> float:
        """RMS displacement along y of all parts, px."""
        return math.sqrt(self.jitter_y**2 + self.drift_y**2 + self.hum_y**2 / 2)

    def autocovariance(self, rows: ArrayLike, axis: str = "x") -> NDArray[np.float64]:
        """Autocovariance of the displacement of pixels in one column of the image, px squared.

        Parameters
        ----------
        rows : array_like
            Distances in rows.
        axis : {"x", "y"}
            Direction of the displacement.

        Returns
        -------
        ndarray
            As in the notes, for ``j = 0``; of the shape of ``rows``.
        """
        if axis not in ("x", "y"):
            raise ValueError(f"axis must be 'x' or 'y', but is {axis!r}")
        k = np.asarray(rows, dtype=np.float64)
        along_x = self.jitter, self.drift, self.hum
        jitter, drift, hum = along_x if axis == "x" else (self.jitter_y, self.drift_y, self.hum_y)
        slow = drift**2 * np.exp(-((k / (2 * self.drift_rows)) ** 2))
        return np.where(k == 0, jitter**2, 0.0) + slow + hum**2 / 2 * np.cos(2 * np.pi * k / self.hum_period)
