"""Images with known truth, scores and tables for the comparison of methods.

- Images: ``scenes`` (fixed sets), ``simulated`` (multislice), ``truths`` (planted structures); ``held_back`` are
  structures that training never draws.
- Methods: ``methods`` (the rows of tables), ``trained`` (networks trained for the comparison), ``external`` (other
  packages) and ``smoothing``.
- Scores and tables: ``evaluation``, ``scores``, ``tables`` (with ``localization``, ``separation`` and ``cost``),
  ``report``.
- Repeat frames: ``frames``, with ``frame_checks``, ``alignment``, ``shifting``, ``frame_scores``, ``rings`` (ceiling)
  and ``frame_report``.
"""

from stemkit.benchmark.evaluation import Method, evaluate, summary
from stemkit.benchmark.frames import FrameComparison, compare_frames, repeat_frames
from stemkit.benchmark.scenes import Scenes, scenes
from stemkit.benchmark.simulated import simulated, simulation_parameters
from stemkit.benchmark.truths import Host, Planted, Truth

__all__ = [
    "FrameComparison",
    "Host",
    "Method",
    "Planted",
    "Scenes",
    "Truth",
    "compare_frames",
    "evaluate",
    "repeat_frames",
    "scenes",
    "simulated",
    "simulation_parameters",
    "summary",
]
