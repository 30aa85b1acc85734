"""Detection and fits of atomic columns on arrays, in which columns are bright."""

from stemkit.columns.fits import ColumnFits
from stemkit.columns.fitting import fit_columns
from stemkit.columns.noise import Variance
from stemkit.columns.peaks import column_response, find_peaks, peaks_above_noise
from stemkit.columns.rendering import render_columns

__all__ = [
    "ColumnFits",
    "Variance",
    "column_response",
    "find_peaks",
    "fit_columns",
    "peaks_above_noise",
    "render_columns",
]
