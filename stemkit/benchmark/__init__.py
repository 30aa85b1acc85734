"""Fixed images and scores on which methods are compared."""

from stemkit.benchmark.frames import FrameComparison, compare_frames, repeat_frames
from stemkit.benchmark.scenes import SETS, Scenes, scenes
from stemkit.benchmark.simulated import SIMULATED, made_by, simulated
from stemkit.benchmark.table import Method, evaluate, summary
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
    "made_by",
    "repeat_frames",
    "scenes",
    "simulated",
    "summary",
]
