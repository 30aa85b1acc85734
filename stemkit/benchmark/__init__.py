"""Fixed images and scores on which methods are compared."""

from stemkit.benchmark.scenes import SETS, Scenes, scenes
from stemkit.benchmark.simulated import SIMULATED, made_by, simulated
from stemkit.benchmark.table import Method, evaluate
from stemkit.benchmark.truths import TRUTHS, Truth

__all__ = ["SETS", "SIMULATED", "TRUTHS", "Method", "Scenes", "Truth", "evaluate", "made_by", "scenes", "simulated"]
