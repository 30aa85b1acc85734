"""Series of frames of one area: alignment, average, simulation."""

from stemkit.series.aligner import SeriesAligner
from stemkit.series.averaging import transfer_function
from stemkit.series.frames import Series
from stemkit.series.joint_fit import measure_frames, measure_series
from stemkit.series.jumps import Ambiguity
from stemkit.series.linking import link_columns
from stemkit.series.simulation import draw_displacements, draw_series

__all__ = [
    "Ambiguity",
    "Series",
    "SeriesAligner",
    "draw_displacements",
    "draw_series",
    "link_columns",
    "measure_frames",
    "measure_series",
    "transfer_function",
]
