"""The result of fits: numbers of the columns and their standard deviations."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from stemkit.columns.gaussians import ELLIPTICAL

__all__ = ["FITTED_FIELDS", "ColumnFits"]

#: Largest ellipticity after the correction for the size of pixels (chosen: a covariance needs less than 1).
MAX_UNBINNED_ELLIPTICITY = 0.9
#: Fields of :class:`ColumnFits` that are measured: fitted parameters and the integral.
NUMBERS = (*ELLIPTICAL, "intensity")
#: These fields and their errors.
FITTED_FIELDS = (*NUMBERS, *(f"{name}_err" for name in NUMBERS))


@dataclass(frozen=True)
class ColumnFits:
    """Fitted columns: arrays ``(n,)`` with one element per column; lengths in px, intensities in the image's units.

    ``*_err`` are standard deviations. Fits are ``failed`` if they ended at a limit, have no finite errors or are
    outside the image; their numbers are those of the start and their errors NaN. The covariance matrix of a column's
    Gaussian is ``sigma^2 [[1 + e1, e2], [e2, 1 - e1]]`` in (y, x), ``intensity`` its integral. ``residual`` is the RMS
    of the residual over that of the expected noise. ``last_step`` is the length of the last step in standard errors,
    which is small if the fit has converged.
    """

    y: NDArray[np.float64]
    x: NDArray[np.float64]
    amplitude: NDArray[np.float64]
    sigma: NDArray[np.float64]
    background: NDArray[np.float64]
    e1: NDArray[np.float64]
    e2: NDArray[np.float64]
    intensity: NDArray[np.float64]
    y_err: NDArray[np.float64]
    x_err: NDArray[np.float64]
    amplitude_err: NDArray[np.float64]
    sigma_err: NDArray[np.float64]
    background_err: NDArray[np.float64]
    e1_err: NDArray[np.float64]
    e2_err: NDArray[np.float64]
    intensity_err: NDArray[np.float64]
    residual: NDArray[np.float64]
    last_step: NDArray[np.float64]
    failed: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.y)

    @classmethod
    def from_values(cls, n: int, **values: NDArray | float) -> ColumnFits:
        """Create n fits from the given fields, each an array ``(n,)`` or a number; other fields are 0 or False."""
        default = {f.name: np.zeros(n, dtype=bool if f.name == "failed" else np.float64) for f in fields(cls)}
        return cls(**default | {name: np.broadcast_to(v, n).copy() for name, v in values.items()})

    def take(self, which: NDArray) -> ColumnFits:
        """The fits that an index or a mask selects."""
        return ColumnFits(**{f.name: getattr(self, f.name)[which] for f in fields(self)})

    @property
    def positions(self) -> NDArray[np.float64]:
        """``(y, x)``, px, of shape (n, 2)."""
        return np.column_stack([self.y, self.x])

    @property
    def position_errors(self) -> NDArray[np.float64]:
        """Standard deviations of ``(y, x)``, px, of shape (n, 2)."""
        return np.column_stack([self.y_err, self.x_err])

    def updated(self, which: NDArray, others: ColumnFits) -> ColumnFits:
        """A copy in which the fits that an index or a mask selects are replaced by others."""
        result = {f.name: getattr(self, f.name).copy() for f in fields(self)}
        for name, values in result.items():
            values[which] = getattr(others, name)
        return ColumnFits(**result)

    def concatenate(self, others: ColumnFits) -> ColumnFits:
        """These fits followed by others."""
        return ColumnFits(**{f.name: np.append(getattr(self, f.name), getattr(others, f.name)) for f in fields(self)})

    def unbinned(self, factor: int) -> ColumnFits:
        """The fits in the pixels of the original image, for fits to an image that was binned by this factor.

        The mean over a square of f px increases the variance of a Gaussian by that of the square's pixels,
        (f^2 - 1) / 12.
        """
        f = factor
        if f == 1:
            return self
        binned_variance = (f * self.sigma) ** 2
        sigma = np.sqrt(np.maximum(binned_variance - (f**2 - 1) / 12, 0.1 * binned_variance))
        ratio = binned_variance / sigma**2
        e1, e2 = self.e1 * ratio, self.e2 * ratio
        shrunk = np.minimum(1.0, MAX_UNBINNED_ELLIPTICITY / np.maximum(np.hypot(e1, e2), 1e-12))
        e1, e2 = e1 * shrunk, e2 * shrunk
        # the integral is conserved: the amplitude changes with the square root of the determinant of the covariance
        higher = ratio * np.sqrt((1 - self.e1**2 - self.e2**2) / (1 - e1**2 - e2**2))
        changed = {
            "y": f * self.y + (f - 1) / 2,
            "x": f * self.x + (f - 1) / 2,
            "y_err": f * self.y_err,
            "x_err": f * self.x_err,
            "sigma": sigma,
            "sigma_err": f * self.sigma_err * np.sqrt(ratio),
            "amplitude": self.amplitude * higher,
            "amplitude_err": self.amplitude_err * higher,
            "e1": e1,
            "e2": e2,
            "e1_err": self.e1_err * ratio,
            "e2_err": self.e2_err * ratio,
            "intensity": self.intensity * f**2,
            "intensity_err": self.intensity_err * f**2,
        }
        return ColumnFits(**({f.name: getattr(self, f.name) for f in fields(self)} | changed))
