"""Series of frames of one area: alignment, average, simulation.

- ``aligner`` is the estimator, ``frames`` checks its input, ``result`` makes the image.
- Whole frames: ``rigid``, with ``pairs`` and ``correlation``; ``envelope`` and ``jumps`` distinguish the cells of a
  lattice.
- Rows: ``refinement``, with ``rows`` and ``prior`` (jitter, drift, hum); ``directions``, ``turns`` and ``slow_drift``
  for scans at right angles.
- Average: ``averaging``, ``combined``, ``extent`` (its pixels) and ``average_noise``.
- Columns: ``joint_fit`` with ``layers`` (in all frames), ``linking`` (from frame to frame). ``simulation`` draws
  series.
"""

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
