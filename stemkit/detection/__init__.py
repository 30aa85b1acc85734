"""Measurement of atomic columns: search, fits with error bars, quality flags, exports.

- ``detector`` is the estimator. For each image, ``normalized_image`` has its noise, ``spacing_width`` the lengths,
  and ``search`` finds the columns; ``tiles`` divides large images.
- Steps of the search: ``candidates`` and ``matched_filter`` (where columns may be), ``fitter`` (fits of all columns),
  ``misfit`` and ``recurring_maxima`` (residuals of the fits), ``guided`` (columns near where a network shows
  them), ``shared_positions`` (of several images).
- Results: ``table``, ``quality`` (flags), ``reconstruction`` (image of the fits), ``exports``.
"""

from stemkit.detection.detector import AtomDetector
from stemkit.detection.quality import Quality, good_columns
from stemkit.detection.reconstruction import fitted_image

__all__ = ["AtomDetector", "Quality", "fitted_image", "good_columns"]
