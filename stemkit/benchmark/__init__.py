"""Images with known truth, scores and tables for the comparison of methods."""

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
