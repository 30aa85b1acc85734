"""The fits of :mod:`stemkit.columns`, compiled for the CPU with Numba."""

from stemkit.columns.compiled.arithmetic import add_columns, add_rings
from stemkit.columns.compiled.descent import Progress, damped_step, judge, take_step, tie, unfinished
from stemkit.columns.compiled.equations import CompiledProblem, Equations, normal_equations
from stemkit.columns.compiled.steps import covariance_blocks, solve_coupled

__all__ = [
    "CompiledProblem",
    "Equations",
    "Progress",
    "add_columns",
    "add_rings",
    "covariance_blocks",
    "damped_step",
    "judge",
    "normal_equations",
    "solve_coupled",
    "take_step",
    "tie",
    "unfinished",
]
