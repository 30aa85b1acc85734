"""Finding and fitting atomic columns: plain arrays in and out, bright columns only."""

from stemkit.columns.fitting import ColumnFits, absorbed, fit_columns, render_columns
from stemkit.columns.noise import Variance
from stemkit.columns.peaks import column_response, find_peaks, nearest_distances, peaks_above_noise, pixel_subset

__all__ = [
    "ColumnFits",
    "Variance",
    "absorbed",
    "column_response",
    "find_peaks",
    "fit_columns",
    "nearest_distances",
    "peaks_above_noise",
    "pixel_subset",
    "render_columns",
]
