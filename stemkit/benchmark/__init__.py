"""Images with known truth, scores and tables for the comparison of methods."""

from stemkit.benchmark.evaluation import Method, evaluate, summary
from stemkit.benchmark.frames import FrameComparison, compare_frames, repeat_frames
from stemkit.benchmark.scenes import SETS, Scenes, scenes
from stemkit.benchmark.simulated import SIMULATED, simulated, simulation_parameters
from stemkit.benchmark.truths import HOSTS, TRUTHS, Host, Planted, Truth

__all__ = [
    "HOSTS",
    "SETS",
    "SIMULATED",
    "TRUTHS",
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
