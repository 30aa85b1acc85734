"""The search for the columns of one image."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemkit.columns import ColumnFits
from stemkit.detection.candidates import (
    NetworkCandidates,
    network_candidates,
    recorded_candidates,
    residual_candidates,
)
from stemkit.detection.fitter import CONSTANTS as FITTER_CONSTANTS
from stemkit.detection.fitter import ColumnFitter, FittedColumns, is_faint
from stemkit.detection.guided import FoundColumns, add_guided_columns, distance_to_nearest, is_inside
from stemkit.detection.misfit import Misfit
from stemkit.detection.normalized_image import NormalizedImage, bin_positions
from stemkit.detection.quality import FAINT_SIGNIFICANCE

__all__ = ["CONSTANTS", "ColumnSearch"]


@dataclass(frozen=True)
class _Constants:
    """Constants of :class:`ColumnSearch` (all chosen unless stated otherwise)."""

    #: The image is binned such that the width is at least this many pixels for the search ...
    search_pixels: int = 2
    #: ... and this many for the final fit (derived: binning by f adds (f^2 - 1) / 12 px^2 to sigma^2, at most 1.3 %,
    #: which increases the errors of positions by 0.7 % where columns determine the noise, by 1.3 % where they do not).
    fit_pixels: float = 2.5
    #: Largest number of searches of the residual ...
    max_residual_searches: int = 2
    #: ... which end when one adds less than this fraction of the columns.
    min_added: float = 0.02
    #: Significance of the amplitude from which candidates are fitted further, as a fraction of the final one.
    first_significance: float = 0.5
    #: Contrast of a column whose fit failed with its surroundings, as a fraction of the median amplitude.
    min_failed_contrast: float = 0.3
    #: Residual from which a wide fit is tried, in median residuals.
    wide_residual: float = 1.5
    #: Significance from which a fixed width is fitted after all.
    free_width_significance: float = 1.5 * FAINT_SIGNIFICANCE
    #: Amplitude in RMS misfits of the neighbouring columns from which a column determines its width.
    min_over_misfit: float = 3.0
    #: Fits nearer than this many widths describe one column (derived: the sum of two equal Gaussians nearer than two
    #: widths has one maximum).
    duplicate_distance: float = 1.5
    #: A faint column of a crystal has neighbours within this many spacings or lattice vectors ...
    neighbor_distance: float = 2.0
    #: ... at least this fraction of the median number, relative to the area inside the image; a fainter spot in vacuum
    #: or on a support is not part of the crystal.
    min_neighbors: float = 0.2
    #: Of two columns nearer than this fraction of the spacing, the fainter one must be significant over the misfit of
    #: the brighter one.
    close_distance: float = 0.5


CONSTANTS = _Constants()


@dataclass(frozen=True)
class SearchResult:
    """Fits of all candidates in the binned image, which of these are columns, ``(n,)``, and the misfit of the fits."""

    columns: FittedColumns
    is_column: NDArray[np.bool_]
    misfit: Misfit


@dataclass(frozen=True)
class ColumnSearch:
    """The search for the columns of one image: candidates, fits, search of the residual, acceptance.

    The image is binned for the search and less so for the final fit, if columns are wide.

    Parameters
    ----------
    fitter : ColumnFitter
        Fits of the columns of the image, with the learnt width.
    spacing : float
        Spacing of the columns, px; may be NaN.
    significance : float
        Least amplitude of a column, standard errors.
    periodic : bool
        Whether the image shows a crystal, not single atoms.
    """

    fitter: ColumnFitter
    spacing: float
    significance: float
    periodic: bool = True

    @property
    def image(self) -> NormalizedImage:
        """The image that is searched."""
        return self.fitter.image

    @property
    def width(self) -> float:
        """The learnt width, px."""
        return self.fitter.width

    def run(self) -> FoundColumns:
        """Find and fit the columns of the image."""
        network = network_candidates(self.image, self.spacing, self.width)
        fine = max(1, int(self.width / CONSTANTS.fit_pixels))
        coarse = fine * max(1, int(self.width / fine / CONSTANTS.search_pixels))
        searched = self._binned(coarse, quick=True)
        result = searched._search(_binned_candidates(network, coarse))
        candidates = replace(result.columns, fits=result.columns.fits.unbinned(coarse // fine))
        final = self._binned(fine)
        # what is in the image but not a column could take part of the amplitude of a column next to it
        fitted = result.is_column | ~is_inside(result.columns.fits, searched.image)
        columns = final._fit_finally(candidates.take(fitted)).take(result.is_column[fitted])
        found = FoundColumns(columns.fits, columns.width_fixed, np.zeros(len(columns), dtype=bool))
        shown = _binned_candidates(network, fine)
        if shown is not None:
            min_distance = max(CONSTANTS.duplicate_distance * final.width, final._close_distance)
            found = add_guided_columns(final.fitter, columns, shown, result.misfit, min_distance)
        found = replace(found, fits=found.fits.unbinned(fine))
        found = found.take(is_inside(found.fits, self.image) & (found.guided | self._is_left(found.fits)))
        if not self.periodic or not np.isfinite(self.spacing) or len(found.fits) < 2:
            return found
        vectors = searched.image.lattice_vectors
        repeat = 0.0 if vectors is None else coarse * float(np.hypot(*vectors.T).max())
        return found.take(~self._is_isolated(found.fits, repeat))

    # --- steps -------------------------------------------------------------------------------------------------------

    def _binned(self, factor: int, *, quick: bool = False) -> ColumnSearch:
        return replace(self, fitter=self.fitter.binned(factor, quick=quick), spacing=self.spacing / factor)

    @property
    def _close_distance(self) -> float:
        """Columns are rarely nearer to each other than this, px; 0 if the spacing is unknown."""
        return CONSTANTS.close_distance * self.spacing if np.isfinite(self.spacing) else 0.0

    def _is_left(self, fits: ColumnFits) -> NDArray[np.bool_]:
        """Columns that have not lost their amplitude in the final fit, with other widths and smaller pixels."""
        least = CONSTANTS.first_significance * self.significance
        with np.errstate(invalid="ignore"):
            return np.asarray(fits.failed | (fits.amplitude >= least * fits.amplitude_err))

    def _is_isolated(self, fits: ColumnFits, repeat: float) -> NDArray[np.bool_]:
        """Faint columns with few neighbours in a crystal whose longer lattice vector is ``repeat`` px long."""
        radius, tree = CONSTANTS.neighbor_distance * max(self.spacing, repeat), cKDTree(fits.positions)
        n_neighbors = tree.query_ball_point(fits.positions, radius, return_length=True) - 1
        lengths = [
            np.minimum(p + 0.5, radius) + np.minimum(n - 0.5 - p, radius)
            for p, n in zip(fits.positions.T, self.image.recorded.shape, strict=True)
        ]
        density = n_neighbors / np.maximum(lengths[0] * lengths[1], 1.0)
        return is_faint(fits) & (density < CONSTANTS.min_neighbors * np.median(density))

    def _search(self, network: NetworkCandidates | None) -> SearchResult:
        fits = self.fitter.fit(self._first_candidates(network))
        fits = fits.take(_is_column(fits, self.image, CONSTANTS.first_significance * self.significance))
        columns = self.fitter.fix_faint_widths(FittedColumns(fits, np.zeros(len(fits), dtype=bool)))
        columns = self._fit_wide_columns(self._remove_duplicates(columns))
        columns, misfit = self._add_overlooked(columns, network)
        columns = self._remove_duplicates(self._fix_outshone_widths(columns, misfit), misfit)
        # columns are accepted with the fixed width: a free one would increase the errors of the amplitudes
        columns = self.fitter.fix_faint_widths(columns)
        is_column = _is_column(columns.fits, self.image, self.significance)
        return SearchResult(self._free_clear_widths(columns, misfit), is_column, misfit)

    def _first_candidates(self, network: NetworkCandidates | None) -> NDArray[np.float64]:
        """Candidates of the recorded image, and those that only the network shows; of single atoms the latter alone."""
        bright = None if network is None else network.positions[~network.is_faint]
        if bright is not None and not self.periodic:
            return bright
        positions = recorded_candidates(self.image, self.spacing, self.width, periodic=self.periodic)
        if bright is None:
            return positions
        is_new = distance_to_nearest(bright, positions) > CONSTANTS.duplicate_distance * self.width
        return np.concatenate([positions, bright[is_new]])

    def _add_overlooked(
        self, columns: FittedColumns, network: NetworkCandidates | None
    ) -> tuple[FittedColumns, Misfit]:
        """Add the columns that the residual of the fits shows; and the misfit of the fits."""
        expected = None if network is None else network.positions[network.is_faint]
        misfit = Misfit(np.zeros(1))
        for _ in range(CONSTANTS.max_residual_searches):
            candidates = residual_candidates(self.image, columns.fits, self.spacing, self.width, expected)
            misfit, new = candidates.misfit, candidates.positions
            if len(new) == 0:
                break
            columns = self.fitter.fix_faint_widths(columns, new)
            if len(new) < CONSTANTS.min_added * len(columns):
                break
        return columns, misfit

    def _fit_finally(self, columns: FittedColumns) -> FittedColumns:
        widths = self.fitter.window_widths(columns)
        fits = self.fitter.fit(columns.fits, widths, fit_sigma=~columns.width_fixed)
        return self.fitter.fix_faint_widths(replace(columns, fits=fits))

    def _remove_duplicates(self, columns: FittedColumns, misfit: Misfit | None = None) -> FittedColumns:
        """Remove the fainter of two fits that describe one column, and fit the neighbours again.

        With a misfit, the fainter of two columns that are close stays if it is significant over that of the brighter.
        """
        fits, close = columns.fits, self._close_distance
        width = np.maximum(fits.sigma, 1e-3)
        reach = max(CONSTANTS.duplicate_distance * float(width.max(initial=0.0)), close)
        pairs = cKDTree(fits.positions).query_pairs(reach, output_type="ndarray")
        distance = np.hypot(*(fits.positions[pairs[:, 0]] - fits.positions[pairs[:, 1]]).T)
        is_duplicate = distance < CONSTANTS.duplicate_distance * width[pairs].mean(axis=1)
        order = np.argsort(-fits.amplitude[pairs], axis=1)
        higher, lower = np.take_along_axis(pairs, order, axis=1).T
        if misfit is None:
            is_duplicate |= distance < close
        else:
            error = np.hypot(
                np.nan_to_num(fits.amplitude_err[lower], nan=np.inf),
                fits.amplitude[higher] * np.sqrt(misfit.at(distance / self.width)),
            )
            is_duplicate |= (distance < close) & (fits.amplitude[lower] < 2 * self.significance * error)
        keep = np.ones(len(fits), dtype=bool)
        for i in np.argsort(-fits.amplitude[higher]):
            if is_duplicate[i]:
                keep[lower[i]] &= ~keep[higher[i]]
        return self._remove(columns, ~keep)

    def _remove(self, columns: FittedColumns, removed: NDArray[np.bool_]) -> FittedColumns:
        """Remove columns, and fit their neighbours again."""
        if not removed.any():
            return columns
        rest = columns.take(~removed)
        distance = cKDTree(columns.fits.positions[removed]).query(rest.fits.positions)[0]
        return self.fitter.refit(rest, distance < FITTER_CONSTANTS.refit_distance * self.width)

    def _fit_wide_columns(self, columns: FittedColumns) -> FittedColumns:
        """Fit columns that are much wider than the learnt width from a larger one, in larger windows."""
        fits, fitter = columns.fits, self.fitter
        usual = np.median(fits.residual) if len(fits) else 1.0
        is_odd = fits.residual > CONSTANTS.wide_residual * max(1.0, float(usual))
        if not is_odd.any() or fitter.common_width:
            return columns
        trial = fitter.without(fits.take(~is_odd)).fit(fits.positions[is_odd], FITTER_CONSTANTS.wide * self.width)
        # it must fit its larger window better, and must not be a variation of the background
        better = ~trial.failed & (trial.residual < fits.residual[is_odd])
        better &= trial.sigma > FITTER_CONSTANTS.wide**0.5 * self.width
        better &= trial.amplitude > FAINT_SIGNIFICANCE * np.nan_to_num(trial.amplitude_err, nan=np.inf)
        if not better.any():
            return columns
        index = np.flatnonzero(is_odd)[better]
        changed = np.zeros(len(fits), dtype=bool)
        changed[index] = True
        start = FittedColumns(fits.updated(index, trial.take(better)), columns.width_fixed & ~changed)
        return fitter.refit(start, changed)

    def _is_outshone(self, fits: ColumnFits, misfit: Misfit) -> NDArray[np.bool_]:
        """Columns whose width is that of the misfit of brighter neighbours rather than their own."""
        good = fits.take(~fits.failed & (fits.amplitude > 0))
        return fits.amplitude < CONSTANTS.min_over_misfit * misfit.amplitude(fits.positions, good, self.width)

    def _fix_outshone_widths(self, columns: FittedColumns, misfit: Misfit) -> FittedColumns:
        fixed = ~columns.width_fixed & self._is_outshone(columns.fits, misfit)
        if not fixed.any():
            return columns
        return self.fitter.refit(replace(columns, width_fixed=columns.width_fixed | fixed), fixed)

    def _free_clear_widths(self, columns: FittedColumns, misfit: Misfit) -> FittedColumns:
        """Fit the fixed widths of columns that are significant enough, such as those that the residual has added."""
        fits = columns.fits
        with np.errstate(invalid="ignore"):
            is_clear = fits.amplitude >= CONSTANTS.free_width_significance * fits.amplitude_err
        freed = columns.width_fixed & ~fits.failed & is_clear & ~self._is_outshone(fits, misfit)
        if not freed.any() or self.fitter.common_width:
            return columns
        start = replace(columns, width_fixed=columns.width_fixed & ~freed)
        return self.fitter.fix_faint_widths(self.fitter.refit(start, freed))


def _binned_candidates(network: NetworkCandidates | None, factor: int) -> NetworkCandidates | None:
    """Candidates in the pixels of an image that is binned by a factor."""
    return None if network is None else replace(network, positions=bin_positions(network.positions, factor))


def _is_column(fits: ColumnFits, image: NormalizedImage, significance: float) -> NDArray[np.bool_]:
    """Fits in the image that are significant, or that failed on something bright."""
    with np.errstate(invalid="ignore"):
        is_significant = fits.amplitude >= significance * fits.amplitude_err
    n_y, n_x = image.recorded.shape
    # a peak on the border whose fit failed is the tail of a column outside the image
    away_from_border = (np.minimum(fits.y, fits.x) > 1) & (fits.y < n_y - 2) & (fits.x < n_x - 2)
    reliable = is_significant & ~fits.failed
    usual = float(np.median(fits.amplitude[reliable])) if reliable.any() else 0.0
    contrast = fits.amplitude - _surroundings(fits, image)
    is_bright = away_from_border & (contrast > CONSTANTS.min_failed_contrast * usual)
    return is_inside(fits, image) & (is_significant | (fits.failed & is_bright))


def _surroundings(fits: ColumnFits, image: NormalizedImage) -> NDArray[np.float64]:
    """Median of 16 pixels on a ring of 2.5 widths around each column."""
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    radius = 2.5 * fits.sigma[:, None]
    y, x = (
        (p[:, None] + radius * t).round().astype(int).clip(0, n - 1)
        for p, t, n in zip((fits.y, fits.x), (np.sin(angle), np.cos(angle)), image.recorded.shape, strict=True)
    )
    return np.median(image.recorded[y, x], axis=1)
