"""The columns of one image, found and fitted."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemkit.columns import ColumnFits, fit_columns, render_columns
from stemkit.columns.solving import MAX_JOINT
from stemkit.detection.finding import network_candidates, overlooked, significant
from stemkit.detection.misfit import Misfit
from stemkit.detection.table import FAINT_SIGMAS
from stemkit.detection.view import View

__all__ = ["NOTHING", "SEARCHED", "FoundColumns", "Search", "binned_places"]

#: The residual of the fits is searched so often at most, as long as it adds more than this part of the columns.
LOOKS, WORTH_A_LOOK = 2, 0.02
#: A place where the fit failed is a column's if it stands out of its surroundings by this part of the usual amplitude.
BRIGHT = 0.3
#: A column that leaves a residual of this many times the usual one is tried at this many times the learnt width.
WIDE_RESIDUAL, WIDE = 1.5, 2.0
#: Columns within this many widths of one that changes are fitted again with it; those as far again take part, and keep
#: what they had. All are fitted again where these are more than a part of all.
CONCERNED, MOST = 7.0, 0.4
#: A column whose width is fixed has its own if its amplitude is this many times its error after all.
CLEAR_SIGMAS = 1.5 * FAINT_SIGMAS
#: Known columns around a new one whose backgrounds are its first.
AROUND = 6
#: Two fits nearer than this many of their widths share one column: the sum of two equal ones has one maximum up to two
#: widths.
ONE_COLUMN = 1.5
#: Of two columns nearer than this part of the spacing the fainter is left out, and comes back only if it stands out
#: of the residual of the brighter one.
TIGHT = 0.5
#: Columns are searched for in pixels of this part of their width, and measured in pixels of the other part: means over
#: squares widen columns, sigma^2 by 1/12 px^2, which costs 0.9 % of the precision at a third of the width.
SEARCHED, MEASURED = 2, 3
#: While columns are searched for, fits take so many steps at most and stop where these are shorter than this part of
#: the errors.
QUICK_STEPS, QUICK = 8, 0.3
#: Overlapping neighbours that are free in the errors of these fits (chosen: those of the last fit have eight).
QUICK_JOINT = 2
#: Steps and tolerance of the last fit, and steps where most columns are fitted again.
LAST_STEPS, LAST, STEPS_AGAIN = 16, 0.05, 6
#: Error of the positions that a network shows, in widths (``benchmarks/low_dose.py``: 0.1 to 0.2 at 1 to 10 electrons,
#: with tails).
NETWORK_ERROR = 0.2
#: A column that is held there has an amplitude of this many of its errors at least (chosen: a network shows none in
#: pure noise, so that hardly any that it shows is missing).
LEAST_GUIDED = 0.3
#: What a network shows faintly beside a bright column is held there from this many errors, those of the misfit included
#: (chosen between simulated lattices, where such columns are true, and a particle in which they are not).
SHOWN = 2.5
NOTHING = np.empty((0, 2))


@dataclass(frozen=True)
class FoundColumns:
    """What a search gives: fits, and which of them have their width fixed, and their position held near where a
    network shows it.
    """

    fits: ColumnFits
    width_fixed: NDArray[np.bool_]
    guided: NDArray[np.bool_]


@dataclass(frozen=True)
class Search:
    """How the columns of one image are found and fitted.

    Parameters
    ----------
    view : View
    spacing, width : float
        Of the columns, px; the spacing may be NaN.
    significance : float
        A column's amplitude over its error, at least.
    elliptical : bool
    device : torch.device or str
    periodic : bool
        Whether the image is of a crystal, not of single atoms.
    background : float or None
        That of all columns, in units of the view, in each fit; None: each column has its own.
    quick : bool
        Whether fits may stop early.
    common_width : bool
        Whether all columns have the width that is given here.
    """

    view: View
    spacing: float
    width: float
    significance: float
    elliptical: bool = False
    device: torch.device | str = "cpu"
    periodic: bool = True
    background: float | None = None
    quick: bool = False
    common_width: bool = False

    def columns(self) -> FoundColumns:
        """The columns of the image."""
        shown = network_candidates(self.view, self.spacing, self.width)
        fine = max(1, int(self.width / MEASURED))
        coarse = fine * max(1, int(self.width / fine / SEARCHED))
        seeds = expected = None
        if shown is not None:
            places, overshadowed = binned_places(shown[0], coarse), shown[1]
            seeds, expected = places[~overshadowed], places[overshadowed]
        found, held, kept, misfit = self.binned(coarse, quick=True)._found(seeds, expected)
        measuring = self.binned(fine)
        fits = found.unbinned(coarse // fine)
        fits = measuring.fit(fits, measuring.rounded(fits.sigma), fit_sigma=~held)
        fits, held = measuring.with_faint_held(fits, held)
        fits, held = fits.take(kept), held[kept]
        guided = np.zeros(len(fits), dtype=bool)
        if shown is not None:
            fits, held, guided = measuring._guided(fits, held, binned_places(shown[0], fine), shown[1], misfit)
        fits = fits.unbinned(fine)
        inside = _is_inside(fits, self.view)
        return FoundColumns(fits.take(inside), held[inside], guided[inside])

    def binned(self, factor: int, *, quick: bool = False) -> Search:
        """The same in means of squares of pixels."""
        width = np.sqrt(self.width**2 + (factor**2 - 1) / 12) / factor
        return replace(
            self, view=self.view.binned(factor), spacing=self.spacing / factor, width=float(width), quick=quick
        )

    def fit(
        self,
        positions: NDArray | ColumnFits,
        widths: NDArray | float | None = None,
        *,
        fit_sigma: bool | NDArray = True,
        fit_position: bool | NDArray = True,
        prior: NDArray | None = None,
        changed: NDArray | None = None,
        movable: NDArray | None = None,
        iterations: int | None = None,
    ) -> ColumnFits:
        """Fits to all of an image's columns, starting at the learnt width where none is given."""
        view = self.view
        fit_sigma = False if self.common_width else fit_sigma
        variance, streaks = view.fitted_noise(self.width)
        fits = fit_columns(
            view.recorded,
            positions,
            self.width if widths is None else widths,
            variance=variance,
            correlation_x=view.noise.pointwise.correlation_x,
            streaks=streaks,
            tilt=view.tilt(self.width),
            valid=None if view.faulty is None else ~view.faulty,
            fit_sigma=fit_sigma,
            fit_position=fit_position,
            background=self.background,
            prior=prior,
            elliptical=self.elliptical,
            changed=changed,
            movable=movable,
            device=self.device,
            iterations=iterations or (QUICK_STEPS if self.quick else LAST_STEPS),
            tolerance=QUICK if self.quick else LAST,
            joint=QUICK_JOINT if self.quick else MAX_JOINT,
        )
        # what is fixed has no error, not one of 0
        fits.sigma_err[~np.broadcast_to(fit_sigma, len(fits))] = np.nan
        return fits

    def with_faint_held(
        self, fits: ColumnFits, held: NDArray[np.bool_], more: NDArray = NOTHING, *, fit_position: bool = True
    ) -> tuple[ColumnFits, NDArray[np.bool_]]:
        """Fits whose widths are fixed at the learnt one where they do not determine any; ``more`` columns join in."""
        with np.errstate(invalid="ignore"):
            faint = ~held & (fits.failed | ~(fits.amplitude >= FAINT_SIGMAS * fits.amplitude_err))
        if not faint.any() and len(more) == 0:
            return fits, held
        start = fits.concatenate(self._new(fits, more)) if len(more) else fits
        new = np.ones(len(more), dtype=bool)
        held, changed = np.append(held | faint, new), np.append(faint, new)
        widths = np.where(held, self.width, self.rounded(start.sigma))
        return self.fitted_again(start, changed, widths, held, fit_position=fit_position), held

    def fitted_again(
        self,
        start: ColumnFits,
        changed: NDArray,
        widths: NDArray,
        held: NDArray,
        *,
        fit_position: bool = True,
        prior: NDArray | None = None,
        iterations: int = STEPS_AGAIN,
    ) -> ColumnFits:
        """Columns that have changed fitted again, together with their neighbours; the others stay."""
        far = cKDTree(start.positions[changed]).query(start.positions)[0] / widths.max()
        part = far < 2 * CONCERNED
        if part.mean() > MOST:
            return self.fit(
                start,
                widths,
                fit_sigma=~held,
                fit_position=fit_position,
                prior=prior,
                changed=changed,
                movable=far < CONCERNED,
                iterations=iterations,
            )
        rest = self._without(start.take(~part))
        anew = rest.fit(
            start.take(part),
            widths[part],
            fit_sigma=~held[part],
            fit_position=fit_position,
            prior=None if prior is None else prior[part],
            changed=changed[part],
        )
        concerned = far < CONCERNED
        return start.updated(concerned, anew.take(concerned[part]))

    def rounded(self, sigma: NDArray) -> NDArray[np.float64]:
        """Widths that windows are made for: the learnt one, or that of wide columns."""
        return np.where(sigma > WIDE**0.5 * self.width, WIDE * self.width, self.width)

    @property
    def _tight(self) -> float:
        """Columns are hardly nearer to each other than this, px; 0 where no spacing is known."""
        return TIGHT * self.spacing if np.isfinite(self.spacing) else 0.0

    # --- steps -------------------------------------------------------------------------------------------------------

    def _found(
        self, seeds: NDArray | None, expected: NDArray | None
    ) -> tuple[ColumnFits, NDArray[np.bool_], NDArray[np.bool_], Misfit]:
        """All that is fitted together, which of these have their width fixed, which are columns, and the misfit."""
        if seeds is not None and not self.periodic:
            places = seeds
        else:
            places = significant(self.view, self.spacing, self.width, periodic=self.periodic)
        if seeds is not None and self.periodic:
            # what the recorded image shows by itself, and what only the network does
            places = np.concatenate([places, seeds[_distance(seeds, places) > ONE_COLUMN * self.width]])
        fits = self.fit(places)
        fits = fits.take(_is_column(fits, self.view, 0.5 * self.significance))
        fits, held = self.with_faint_held(fits, np.zeros(len(fits), dtype=bool))
        fits, held = self._without_duplicates(fits, held)
        fits, held = self._with_wide_ones(fits, held)
        misfit = Misfit(np.zeros(1))
        for _ in range(LOOKS):
            more, misfit = overlooked(self.view, fits, self.spacing, self.width, expected)
            if len(more) == 0:
                break
            fits, held = self.with_faint_held(fits, held, more)
            if len(more) < WORTH_A_LOOK * len(fits):
                break
        fits, held = self._without_duplicates(fits, held, misfit)
        # whether a column is there is judged at the learnt width: its own makes the errors larger
        fits, held = self.with_faint_held(fits, held)
        kept = _is_column(fits, self.view, self.significance)
        return *self._with_clear_freed(fits, held), kept, misfit

    def _without_duplicates(
        self, fits: ColumnFits, held: NDArray[np.bool_], misfit: Misfit | None = None
    ) -> tuple[ColumnFits, NDArray[np.bool_]]:
        """The fits, of those that share one column the highest alone."""
        width = np.maximum(fits.sigma, 1e-3)
        tight = self._tight
        reach = max(ONE_COLUMN * float(width.max(initial=0.0)), tight)
        pairs = cKDTree(fits.positions).query_pairs(reach, output_type="ndarray")
        distance = np.hypot(*(fits.positions[pairs[:, 0]] - fits.positions[pairs[:, 1]]).T)
        one = distance < ONE_COLUMN * width[pairs].mean(axis=1)
        order = np.argsort(-fits.amplitude[pairs], axis=1)
        higher, lower = np.take_along_axis(pairs, order, axis=1).T
        if misfit is None:
            one |= distance < tight
        else:
            # the fainter one may be what the brighter one leaves
            uncertain = np.hypot(
                np.nan_to_num(fits.amplitude_err[lower], nan=np.inf),
                fits.amplitude[higher] * np.sqrt(misfit.at(distance / self.width)),
            )
            one |= (distance < tight) & (fits.amplitude[lower] < 2 * self.significance * uncertain)
        kept = np.ones(len(fits), dtype=bool)
        for i in np.argsort(-fits.amplitude[higher]):
            if one[i]:
                kept[lower[i]] &= ~kept[higher[i]]
        return self._kept(fits, held, kept)

    def _kept(self, fits: ColumnFits, held: NDArray[np.bool_], kept: NDArray) -> tuple[ColumnFits, NDArray[np.bool_]]:
        """Some of the fits, with the neighbours of the others fitted again."""
        if kept.all():
            return fits, held
        left, held = fits.take(kept), held[kept]
        near = cKDTree(fits.positions[~kept]).query(left.positions)[0] < CONCERNED * self.width
        return self.fitted_again(left, near, self.rounded(left.sigma), held), held

    def _with_wide_ones(self, fits: ColumnFits, held: NDArray[np.bool_]) -> tuple[ColumnFits, NDArray[np.bool_]]:
        """The fits with those columns fitted anew that are much wider than the learnt width."""
        usual = np.median(fits.residual) if len(fits) else 1.0
        odd = fits.residual > WIDE_RESIDUAL * max(1.0, float(usual))
        if not odd.any() or self.common_width:
            return fits, held
        trial = self._without(fits.take(~odd)).fit(fits.positions[odd], WIDE * self.width)
        # what fits a window of its own size better, and is no bump of the background
        wide = ~trial.failed & (trial.residual < fits.residual[odd]) & (trial.sigma > WIDE**0.5 * self.width)
        wide &= trial.amplitude > FAINT_SIGMAS * np.nan_to_num(trial.amplitude_err, nan=np.inf)
        if not wide.any():
            return fits, held
        index = np.flatnonzero(odd)[wide]
        start = fits.updated(index, trial.take(wide))
        changed = np.zeros(len(fits), dtype=bool)
        changed[index] = True
        held = held & ~changed
        return self.fitted_again(start, changed, self.rounded(start.sigma), held), held

    def _with_clear_freed(self, fits: ColumnFits, held: NDArray[np.bool_]) -> tuple[ColumnFits, NDArray[np.bool_]]:
        """The fits with the widths of those fitted that were fixed, as all that join are, and stand out clearly."""
        with np.errstate(invalid="ignore"):
            clear = held & ~fits.failed & (fits.amplitude >= CLEAR_SIGMAS * fits.amplitude_err)
        if not clear.any() or self.common_width:
            return fits, held
        held = held & ~clear
        return self.with_faint_held(self.fitted_again(fits, clear, self.rounded(fits.sigma), held), held)

    def _guided(
        self,
        fits: ColumnFits,
        held: NDArray[np.bool_],
        seeds: NDArray,
        overshadowed: NDArray[np.bool_],
        misfit: Misfit,
    ) -> tuple[ColumnFits, NDArray[np.bool_], NDArray[np.bool_]]:
        """The fits with the faint ones and those that are lost near where a network shows them; which have their width
        fixed, and which are these.
        """
        guided = np.zeros(len(fits), dtype=bool)
        if len(seeds) == 0:
            return fits, held, guided
        with np.errstate(invalid="ignore"):
            faint = fits.failed | ~(fits.amplitude >= FAINT_SIGMAS * fits.amplitude_err)
        prior = np.column_stack([fits.positions, np.full(len(fits), np.inf)])
        distance, nearest = cKDTree(seeds).query(fits.positions) if len(fits) else (np.empty(0), np.empty(0, dtype=int))
        guided = faint & (distance < self.width)
        # of several at one place that the network shows, the nearest
        order = np.lexsort((distance, nearest))
        first = np.append(True, np.diff(nearest[order]) > 0) if len(fits) else guided
        spare = guided.copy()
        spare[order[first]] = False
        fits, held, faint = fits.take(~spare), held[~spare], faint[~spare]
        prior, guided, nearest = prior[~spare], guided[~spare], nearest[~spare]
        error = NETWORK_ERROR * self.width
        prior[guided] = np.column_stack([seeds[nearest[guided]], np.full(int(guided.sum()), error)])
        start = fits.updated(guided, fits.take(guided))
        start.y[guided], start.x[guided] = prior[guided, :2].T
        lost = _distance(seeds, start.positions) > max(ONE_COLUMN * self.width, self._tight)
        if lost.any():
            start = start.concatenate(self._new(fits, seeds[lost]))
            prior = np.concatenate([prior, np.column_stack([seeds[lost], np.full(int(lost.sum()), error)])])
        guided = np.append(guided, np.ones(int(lost.sum()), dtype=bool))
        doubtful = np.append(np.zeros(len(fits), dtype=bool), overshadowed[lost])
        if not guided.any():
            return fits, held, guided
        held = np.append(held, np.ones(int(lost.sum()), dtype=bool)) | guided
        widths = np.where(held, self.width, self.rounded(start.sigma))
        anew = self.fitted_again(start, guided, widths, held, prior=prior)
        with np.errstate(invalid="ignore"):
            least = LEAST_GUIDED * anew.amplitude_err
            left = misfit.amplitude(anew.positions[doubtful], anew.take(~guided), self.width)
            least[doubtful] = SHOWN * np.hypot(anew.amplitude_err[doubtful], left)
            # at the border a network shows the flanks of columns beyond
            kept = ~guided | (~anew.failed & (anew.amplitude >= least) & _is_inside(anew, self.view, margin=1.0))
        return anew.take(kept), held[kept], guided[kept]

    def _without(self, fits: ColumnFits) -> Search:
        """The same in what an image is without some columns."""
        recorded = self.view.recorded - render_columns(fits, self.view.recorded.shape)
        return replace(self, view=replace(self.view, recorded=recorded))

    def _new(self, fits: ColumnFits, positions: NDArray) -> ColumnFits:
        """New columns between fitted ones, as a start."""
        recorded = self.view.recorded
        row, col = (p.round().astype(int).clip(0, n - 1) for p, n in zip(positions.T, recorded.shape, strict=True))
        known = fits.take(~fits.failed)
        if len(known):
            distance, which = cKDTree(known.positions).query(positions, k=[*range(1, min(AROUND, len(known)) + 1)])
            theirs = (known.amplitude[which] * np.exp(-0.5 * (distance / known.sigma[which]) ** 2)).sum(axis=1)
            background = np.median(known.background[which], axis=1)
        else:
            theirs, background = np.zeros(len(positions)), np.full(len(positions), np.median(recorded))
        zero = np.zeros(len(positions))
        return ColumnFits(
            **dict.fromkeys(vars(fits), zero)
            | {
                "y": positions[:, 0],
                "x": positions[:, 1],
                "amplitude": np.maximum(recorded[row, col] - background - theirs, 0.1),
                "sigma": zero + self.width,
                "background": background,
                "failed": zero.astype(bool),
            }
        )


def binned_places(positions: NDArray, factor: int) -> NDArray[np.float64]:
    """Positions in means of squares of pixels."""
    return (positions - (factor - 1) / 2) / factor


def _distance(places: NDArray, others: NDArray) -> NDArray[np.float64]:
    """From each place to the nearest of others."""
    if len(others) == 0 or len(places) == 0:
        return np.full(len(places), np.inf)
    return np.asarray(cKDTree(others).query(places)[0])


def _is_column(fits: ColumnFits, view: View, significance: float) -> NDArray[np.bool_]:
    """Which fits are columns in the frame: those that stand out, and those that failed on something bright."""
    with np.errstate(invalid="ignore"):
        clear = fits.amplitude >= significance * fits.amplitude_err
    n_y, n_x = view.recorded.shape
    # a peak on the border that is no column is the flank of one beyond
    away_from_border = (np.minimum(fits.y, fits.x) > 1) & (fits.y < n_y - 2) & (fits.x < n_x - 2)
    usual = float(np.median(fits.amplitude[clear & ~fits.failed])) if (clear & ~fits.failed).any() else 0.0
    bright = away_from_border & (fits.amplitude - _surround(fits, view) > BRIGHT * usual)
    return _is_inside(fits, view) & (clear | (fits.failed & bright))


def _is_inside(fits: ColumnFits, view: View, margin: float = -0.5) -> NDArray[np.bool_]:
    """Which fits are centred in the frame, ``margin`` px from the centres of its outermost pixels at least."""
    n_y, n_x = view.recorded.shape
    inside = (np.minimum(fits.y, fits.x) >= margin) & (fits.y < n_y - 1 - margin) & (fits.x < n_x - 1 - margin)
    return np.asarray(inside)


def _surround(fits: ColumnFits, view: View) -> NDArray[np.float64]:
    """The median of a ring around each column."""
    turn = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    ring = 2.5 * fits.sigma[:, None]
    y, x = (
        (p[:, None] + ring * t).round().astype(int).clip(0, n - 1)
        for p, t, n in zip((fits.y, fits.x), (np.sin(turn), np.cos(turn)), view.recorded.shape, strict=True)
    )
    return np.median(view.recorded[y, x], axis=1)
