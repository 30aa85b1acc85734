"""Fits of all columns of an image, and fits of some of them again after a change."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemkit.columns import ColumnFits, fit_columns, render_columns
from stemkit.columns.solving import MAX_JOINT
from stemkit.detection.normalized_image import NormalizedImage
from stemkit.detection.quality import FAINT_SIGNIFICANCE

__all__ = ["CONSTANTS", "NO_POSITIONS", "ColumnFitter", "FittedColumns", "is_faint"]


@dataclass(frozen=True)
class _Constants:
    """Constants of :class:`ColumnFitter` (all chosen)."""

    #: Largest number of steps while columns are searched for ...
    quick_steps: int = 8
    #: ... the tolerance of these fits, standard errors ...
    quick_tolerance: float = 0.3
    #: ... and the number of neighbours that are free in their errors.
    quick_joint: int = 2
    #: Largest number of steps of the final fit ...
    final_steps: int = 16
    #: ... and its tolerance, standard errors.
    final_tolerance: float = 0.05
    #: Largest number of steps when most columns are fitted again.
    refit_steps: int = 6
    #: Columns within this distance of a changed one are fitted again, widths; those within twice the distance are part
    #: of the fit, but keep their numbers.
    refit_distance: float = 7.0
    #: Fraction of columns in a partial fit above which all are fitted again.
    max_partial: float = 0.4
    #: Largest width by which the windows of wide columns are chosen, in learnt widths; columns are wide from its root.
    wide: float = 2.0
    #: Number of columns whose median background is the starting one of a new column.
    background_neighbors: int = 6
    #: Least amplitude of a new column at the start, contrasts.
    min_start_amplitude: float = 0.1


CONSTANTS = _Constants()
NO_POSITIONS = np.empty((0, 2))


@dataclass(frozen=True)
class FittedColumns:
    """Fits, and which of them have their width fixed at the learnt one, ``(n,)``."""

    fits: ColumnFits
    width_fixed: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.fits)

    def take(self, which: NDArray) -> FittedColumns:
        """The columns that an index or a mask selects."""
        return FittedColumns(self.fits.take(which), self.width_fixed[which])


@dataclass(frozen=True)
class ColumnFitter:
    """Settings of the fits of the columns of one image.

    Parameters
    ----------
    image : NormalizedImage
    width : float
        Learnt width of the columns, px: the starting one, and that of columns that do not determine theirs.
    elliptical : bool
    device : torch.device or str
    background : float or None
        Fixed background of all columns, in units of the normalized image; None: each column has its own.
    common_width : bool
        Whether the width of all columns is fixed.
    quick : bool
        Whether fits stop early, for the search.
    """

    image: NormalizedImage
    width: float
    elliptical: bool = False
    device: torch.device | str = "cpu"
    background: float | None = None
    common_width: bool = False
    quick: bool = False

    def binned(self, factor: int, *, quick: bool = False) -> ColumnFitter:
        """The fitter of the image in means of squares of pixels."""
        width = np.sqrt(self.width**2 + (factor**2 - 1) / 12) / factor
        return replace(self, image=self.image.binned(factor), width=float(width), quick=quick)

    def without(self, fits: ColumnFits) -> ColumnFitter:
        """The fitter of the image minus some fitted columns."""
        recorded = self.image.recorded - render_columns(fits, self.image.recorded.shape)
        return replace(self, image=replace(self.image, recorded=recorded))

    def fit(
        self,
        start: NDArray | ColumnFits,
        widths: NDArray | float | None = None,
        *,
        fit_sigma: bool | NDArray = True,
        fit_position: bool | NDArray = True,
        prior: NDArray | None = None,
        changed: NDArray | None = None,
        movable: NDArray | None = None,
        iterations: int | None = None,
    ) -> ColumnFits:
        """Fit columns, as :func:`stemkit.columns.fit_columns` does, with the noise of the image.

        ``start``: positions ``(n, 2)``, px, or former fits; ``widths``: starting widths, px, by default the learnt one.
        """
        image = self.image
        fit_sigma = False if self.common_width else fit_sigma
        variance, streaks = image.noise_for_fits(self.width)
        fits = fit_columns(
            image.recorded,
            start,
            self.width if widths is None else widths,
            variance=variance,
            correlation_x=image.noise.pointwise.correlation_x,
            streaks=streaks,
            tilt=image.background_slope_std(self.width),
            valid=None if image.faulty is None else ~image.faulty,
            weights=image.weights,
            fit_sigma=fit_sigma,
            fit_position=fit_position,
            background=self.background,
            prior=prior,
            elliptical=self.elliptical,
            changed=changed,
            movable=movable,
            device=self.device,
            iterations=iterations or (CONSTANTS.quick_steps if self.quick else CONSTANTS.final_steps),
            tolerance=CONSTANTS.quick_tolerance if self.quick else CONSTANTS.final_tolerance,
            joint=CONSTANTS.quick_joint if self.quick else MAX_JOINT,
        )
        # the error of a fixed width is unknown, not 0
        fits.sigma_err[~np.broadcast_to(fit_sigma, len(fits))] = np.nan
        return fits

    def fix_faint_widths(
        self, columns: FittedColumns, new: NDArray = NO_POSITIONS, *, fit_position: bool = True
    ) -> FittedColumns:
        """Fix the widths of columns that are too faint to determine them, and fit these again.

        ``new`` positions ``(m, 2)``, px, become columns with a fixed width, at the end.
        """
        faint = ~columns.width_fixed & is_faint(columns.fits)
        if not faint.any() and len(new) == 0:
            return columns
        start = columns.fits.concatenate(self.start_at(new, columns.fits)) if len(new) else columns.fits
        is_new = np.ones(len(new), dtype=bool)
        start_columns = FittedColumns(start, np.append(columns.width_fixed | faint, is_new))
        return self.refit(start_columns, np.append(faint, is_new), fit_position=fit_position)

    def refit(
        self,
        start: FittedColumns,
        changed: NDArray[np.bool_],
        *,
        fit_position: bool = True,
        prior: NDArray | None = None,
    ) -> FittedColumns:
        """Fit columns that have changed again, together with their neighbours; the others keep their numbers."""
        fits, widths, free = start.fits, self.window_widths(start), ~start.width_fixed
        distance = cKDTree(fits.positions[changed]).query(fits.positions)[0] / widths.max()
        is_part, is_near = distance < 2 * CONSTANTS.refit_distance, distance < CONSTANTS.refit_distance
        if is_part.mean() > CONSTANTS.max_partial:
            again = self.fit(
                fits,
                widths,
                fit_sigma=free,
                fit_position=fit_position,
                prior=prior,
                changed=changed,
                movable=is_near,
                iterations=CONSTANTS.refit_steps,
            )
            return replace(start, fits=again)
        again = self.without(fits.take(~is_part)).fit(
            fits.take(is_part),
            widths[is_part],
            fit_sigma=free[is_part],
            fit_position=fit_position,
            prior=None if prior is None else prior[is_part],
            changed=changed[is_part],
        )
        return replace(start, fits=fits.updated(is_near, again.take(is_near[is_part])))

    def window_widths(self, columns: FittedColumns) -> NDArray[np.float64]:
        """Widths ``(n,)`` that determine the windows of fits: the learnt one, or that of wide columns."""
        is_wide = ~columns.width_fixed & (columns.fits.sigma > CONSTANTS.wide**0.5 * self.width)
        return np.where(is_wide, np.minimum(columns.fits.sigma, CONSTANTS.wide * self.width), self.width)

    def start_at(self, positions: NDArray, fits: ColumnFits) -> ColumnFits:
        """Starting values of new columns at these positions between fitted ones."""
        recorded = self.image.recorded
        row, col = (p.round().astype(int).clip(0, n - 1) for p, n in zip(positions.T, recorded.shape, strict=True))
        good = fits.take(~fits.failed)
        if len(good):
            k = min(CONSTANTS.background_neighbors, len(good))
            distance, nearest = cKDTree(good.positions).query(positions, k=[*range(1, k + 1)])
            tails = (good.amplitude[nearest] * np.exp(-0.5 * (distance / good.sigma[nearest]) ** 2)).sum(axis=1)
            background = np.median(good.background[nearest], axis=1)
        else:
            tails, background = np.zeros(len(positions)), np.full(len(positions), np.median(recorded))
        return ColumnFits.from_values(
            len(positions),
            y=positions[:, 0],
            x=positions[:, 1],
            amplitude=np.maximum(recorded[row, col] - background - tails, CONSTANTS.min_start_amplitude),
            sigma=self.width,
            background=background,
        )


def is_faint(fits: ColumnFits) -> NDArray[np.bool_]:
    """Fits that failed, or whose amplitude is too insignificant to determine a width."""
    with np.errstate(invalid="ignore"):
        return np.asarray(fits.failed | ~(fits.amplitude >= FAINT_SIGNIFICANCE * fits.amplitude_err))
