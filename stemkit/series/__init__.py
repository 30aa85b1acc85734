"""Series of frames of one area: alignment, average, simulation."""

from stemkit.series.aligner import SeriesAligner
from stemkit.series.averaging import transfer_function
from stemkit.series.joint_fit import measure_series
from stemkit.series.simulation import draw_displacements, draw_series

__all__ = ["SeriesAligner", "draw_displacements", "draw_series", "measure_series", "transfer_function"]
