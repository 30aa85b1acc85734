"""Detection and fits of atomic columns on arrays, in which columns are bright.

- ``peaks`` finds maxima, also of the matched filter.
- ``fitting`` fits columns: ``problem`` (pixels and neighbourhoods), ``starts`` (starting values), ``noise`` (weights),
  ``gaussians`` (values and derivatives), ``errors``, ``results`` and ``fits``.
- On a CPU, ``levenberg_marquardt`` calls the functions that ``compiled`` contains; on a GPU,
  ``batched_levenberg_marquardt`` uses ``equations``, ``whitening`` and ``solving``.
- ``constants`` are those of both implementations; ``rendering`` draws fitted columns.
"""

from stemkit.columns.fits import ColumnFits
from stemkit.columns.fitting import fit_columns
from stemkit.columns.noise import LinearVariance
from stemkit.columns.peaks import column_response, find_peaks, peaks_above_noise
from stemkit.columns.rendering import render_columns

__all__ = [
    "ColumnFits",
    "LinearVariance",
    "column_response",
    "find_peaks",
    "fit_columns",
    "peaks_above_noise",
    "render_columns",
]
