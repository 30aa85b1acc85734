"""The columns of one image, found and fitted: candidates, those among them that are columns, and what these leave."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemkit.columns import ColumnFits, fit_columns, render_columns
from stemkit.columns.fitting import ITERATIONS, TOLERANCE
from stemkit.detection.finding import candidates, overlooked
from stemkit.detection.table import FAINT_SIGMAS
from stemkit.detection.view import View

__all__ = ["NOTHING", "Search"]

#: What fits leave is looked through so often, as long as it makes more than this part of the columns.
LOOKS, WORTH_A_LOOK = 3, 0.02
#: A place where the fit failed is a column's if it stands out of its surroundings by this part of the usual amplitude.
BRIGHT = 0.3
#: A column that leaves a residual of this many times the noise, and what others leave, is tried at this many times the
#: learnt width.
WIDE_RESIDUAL, WIDE = 1.5, 2.0
#: Columns within this many widths of one that changes are fitted again with it; those as far again take part, and keep
#: what they had. All are fitted again where these are more than a part of all.
CONCERNED, MOST = 7.0, 0.4
#: A column whose width is held has its own if its amplitude is this many times its error after all.
CLEAR_SIGMAS = 1.5 * FAINT_SIGMAS
#: Known columns around a new one that tell what it stands on.
AROUND = 6
#: Two fits nearer than this many of their widths share one column: the sum of two equal ones has one maximum up to two
#: widths.
ONE_COLUMN = 1.5
#: While columns are looked for, fits take so many steps at most and stop where these are shorter than this part of the
#: errors; those of the last ones are shorter than this.
QUICK_STEPS, QUICK, LAST = 12, 0.3, 0.1
NOTHING = np.empty((0, 2))


@dataclass(frozen=True)
class Search:
    """How columns of one image are looked for.

    Parameters
    ----------
    view : View
    spacing, width : float
        Of the columns, px; the spacing may be NaN.
    significance : float
        A column's amplitude over its error, at least.
    elliptical : bool
    device : torch.device or str
    quick : bool
        Whether fits may stop early.
    """

    view: View
    spacing: float
    width: float
    significance: float
    elliptical: bool = False
    device: torch.device | str = "cpu"
    quick: bool = False

    def columns(self) -> tuple[ColumnFits, NDArray[np.bool_]]:
        """The columns, and which of them have their width held."""
        fits, held, kept = replace(self, quick=True)._sought()
        with np.errstate(invalid="ignore"):
            loose = ~fits.failed & ~(fits.last_step < LAST)
        if loose.any():
            fits = self._fitted_again(fits, loose, self._rounded(fits.sigma), held)
            fits, held = self.with_faint_held(fits, held)
        return fits.take(kept), held[kept]

    def _sought(self) -> tuple[ColumnFits, NDArray[np.bool_], NDArray[np.bool_]]:
        """All that is fitted together, what has its width held, and which are columns."""
        fits = self.fit(candidates(self.view, self.spacing, self.width))
        fits = fits.take(_there(fits, self.view, 0.5 * self.significance))
        fits, held = self.with_faint_held(fits, np.zeros(len(fits), dtype=bool))
        fits, held = self._without_doubles(fits, held)
        fits, held = self._with_wide_ones(fits, held)
        for _ in range(LOOKS):
            more = overlooked(self.view, fits, self.spacing, self.width)
            fits, held = self.with_faint_held(fits, held, more)
            if len(more) < WORTH_A_LOOK * len(fits):
                break
        fits, held = self._without_doubles(fits, held)
        # whether a column is there is asked at the learnt width: its own makes the errors larger
        kept = _there(fits, self.view, self.significance)
        return *self._with_clear_freed(fits, held), kept

    def fit(
        self,
        positions: NDArray | ColumnFits,
        widths: NDArray | float | None = None,
        *,
        fit_sigma: bool | NDArray = True,
        fit_position: bool | NDArray = True,
        changed: NDArray | None = None,
    ) -> ColumnFits:
        """Fits to all of an image's columns, starting at the learnt width where none is given."""
        view = self.view
        return fit_columns(
            view.recorded,
            positions,
            self.width if widths is None else widths,
            variance=view.pixel_variance,
            correlation_x=view.noise.pointwise.correlation_x,
            streaks=view.noise.scan.amplitude,
            tilt=view.tilt(self.width),
            fit_sigma=fit_sigma,
            fit_position=fit_position,
            elliptical=self.elliptical,
            changed=changed,
            device=self.device,
            iterations=QUICK_STEPS if self.quick else ITERATIONS,
            tolerance=QUICK if self.quick else TOLERANCE,
        )

    def with_faint_held(
        self, fits: ColumnFits, held: NDArray[np.bool_], more: NDArray = NOTHING, *, fit_position: bool = True
    ) -> tuple[ColumnFits, NDArray[np.bool_]]:
        """Fits whose widths are held at the learnt one where they tell none; ``more`` columns join in, held."""
        with np.errstate(invalid="ignore"):
            faint = ~held & (fits.failed | ~(fits.amplitude >= FAINT_SIGMAS * fits.amplitude_err))
        if not faint.any() and len(more) == 0:
            return fits, held
        start = self._joined(fits, more) if len(more) else fits
        new = np.ones(len(more), dtype=bool)
        held, changed = np.append(held | faint, new), np.append(faint, new)
        widths = np.where(held, self.width, self._rounded(start.sigma))
        return self._fitted_again(start, changed, widths, held, fit_position=fit_position), held

    # --- steps -------------------------------------------------------------------------------------------------------

    def _without_doubles(self, fits: ColumnFits, held: NDArray[np.bool_]) -> tuple[ColumnFits, NDArray[np.bool_]]:
        """The fits, of those that share one column the highest alone."""
        places = _places(fits)
        pairs = cKDTree(places).query_pairs(ONE_COLUMN * fits.sigma.max(initial=0.0), output_type="ndarray")
        apart = np.hypot(*(places[pairs[:, 0]] - places[pairs[:, 1]]).T) / fits.sigma[pairs].mean(axis=1)
        pairs = pairs[apart < ONE_COLUMN]
        kept = np.ones(len(fits), dtype=bool)
        higher_first = np.take_along_axis(pairs, np.argsort(-fits.amplitude[pairs], axis=1), axis=1)
        for higher, lower in higher_first[np.argsort(-fits.amplitude[higher_first[:, 0]])]:
            kept[lower] &= ~kept[higher]
        if kept.all():
            return fits, held
        left, held = fits.take(kept), held[kept]
        beside = cKDTree(places[~kept]).query(places[kept])[0] < CONCERNED * self.width
        return self._fitted_again(left, beside, self._rounded(left.sigma), held), held

    def _with_wide_ones(self, fits: ColumnFits, held: NDArray[np.bool_]) -> tuple[ColumnFits, NDArray[np.bool_]]:
        """The fits with those columns fitted anew that are much wider than the learnt width."""
        usual = np.median(fits.residual) if len(fits) else 1.0
        odd = fits.residual > WIDE_RESIDUAL * max(1.0, float(usual))
        if not odd.any():
            return fits, held
        trial = self._without(fits.take(~odd)).fit(_places(fits)[odd], WIDE * self.width)
        # what fits a window of its own size better, and is no bump of the background
        wide = ~trial.failed & (trial.residual < fits.residual[odd]) & (trial.sigma > WIDE**0.5 * self.width)
        wide &= trial.amplitude > FAINT_SIGMAS * np.nan_to_num(trial.amplitude_err, nan=np.inf)
        if not wide.any():
            return fits, held
        widths = np.full(len(fits), self.width)
        widths[np.flatnonzero(odd)[wide]] = WIDE * self.width
        held = held & (widths == self.width)
        anew = self.fit(_places(fits), widths, fit_sigma=~held)
        anew.sigma_err[held] = np.nan
        return anew, held

    def _with_clear_freed(self, fits: ColumnFits, held: NDArray[np.bool_]) -> tuple[ColumnFits, NDArray[np.bool_]]:
        """The fits with the widths of those free that were held, as all that join are, and stand out clearly."""
        with np.errstate(invalid="ignore"):
            clear = held & ~fits.failed & (fits.amplitude >= CLEAR_SIGMAS * fits.amplitude_err)
        if not clear.any():
            return fits, held
        held = held & ~clear
        return self.with_faint_held(self._fitted_again(fits, clear, self._rounded(fits.sigma), held), held)

    def _fitted_again(
        self, start: ColumnFits, changed: NDArray, widths: NDArray, held: NDArray, *, fit_position: bool = True
    ) -> ColumnFits:
        """Columns that have changed fitted again, together with those that they concern; the others stay."""
        places = _places(start)
        far = cKDTree(places[changed]).query(places)[0] / widths.max()
        part = far < 2 * CONCERNED
        if part.mean() > MOST:
            anew = self.fit(start, widths, fit_sigma=~held, fit_position=fit_position, changed=changed)
            anew.sigma_err[held] = np.nan
            return anew
        rest = self._without(start.take(~part))
        anew = rest.fit(
            start.take(part), widths[part], fit_sigma=~held[part], fit_position=fit_position, changed=changed[part]
        )
        anew.sigma_err[held[part]] = np.nan
        concerned = far < CONCERNED
        result = {f.name: getattr(start, f.name).copy() for f in fields(ColumnFits)}
        for name, values in result.items():
            values[concerned] = getattr(anew, name)[concerned[part]]
        return ColumnFits(**result)

    def _without(self, fits: ColumnFits) -> Search:
        """The same in what an image is without some columns."""
        recorded = self.view.recorded - render_columns(fits, self.view.recorded.shape)
        return replace(self, view=replace(self.view, recorded=recorded))

    def _joined(self, fits: ColumnFits, more: NDArray) -> ColumnFits:
        """Fits and new columns as a start for all."""
        recorded = self.view.recorded
        row, col = (p.round().astype(int).clip(0, n - 1) for p, n in zip(more.T, recorded.shape, strict=True))
        known = fits.take(~fits.failed)
        k = min(AROUND, len(known))
        distance, which = cKDTree(_places(known)).query(more, k=[*range(1, k + 1)])
        on = known.amplitude[which] * np.exp(-0.5 * (distance / known.sigma[which]) ** 2)
        background = np.median(known.background[which], axis=1)
        zero = np.zeros(len(more))
        new = {f.name: zero for f in fields(ColumnFits)} | {
            "y": more[:, 0],
            "x": more[:, 1],
            "amplitude": np.maximum(recorded[row, col] - background - on.sum(axis=1), 0.1),
            "sigma": zero + self.width,
            "background": background,
            "failed": zero.astype(bool),
        }
        return ColumnFits(**{name: np.concatenate([getattr(fits, name), value]) for name, value in new.items()})

    def _rounded(self, sigma: NDArray) -> NDArray[np.float64]:
        """Widths that windows are made for: the learnt one, or that of wide columns."""
        return np.where(sigma > WIDE**0.5 * self.width, WIDE * self.width, self.width)


def _places(fits: ColumnFits) -> NDArray[np.float64]:
    return np.column_stack([fits.y, fits.x])


def _there(fits: ColumnFits, view: View, significance: float) -> NDArray[np.bool_]:
    """Which fits are columns in the frame: those that stand out, and those that failed on something bright."""
    with np.errstate(invalid="ignore"):
        clear = fits.amplitude >= significance * fits.amplitude_err
    n_y, n_x = view.recorded.shape
    inside = (fits.y >= -0.5) & (fits.y < n_y - 0.5) & (fits.x >= -0.5) & (fits.x < n_x - 0.5)
    # a peak on the border that is no column is the flank of one beyond
    within = (np.minimum(fits.y, fits.x) > 1) & (fits.y < n_y - 2) & (fits.x < n_x - 2)
    usual = float(np.median(fits.amplitude[clear & ~fits.failed])) if (clear & ~fits.failed).any() else 0.0
    bright = within & (fits.amplitude - _surround(fits, view) > BRIGHT * usual)
    return inside & (clear | (fits.failed & bright))


def _surround(fits: ColumnFits, view: View) -> NDArray[np.float64]:
    """The median of a ring around each column."""
    turn = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    ring = 2.5 * fits.sigma[:, None]
    y, x = (
        (p[:, None] + ring * t).round().astype(int).clip(0, n - 1)
        for p, t, n in zip((fits.y, fits.x), (np.sin(turn), np.cos(turn)), view.recorded.shape, strict=True)
    )
    return np.median(view.recorded[y, x], axis=1)
