"""The fits of :mod:`stemkit.columns`, compiled for the CPU with Numba."""

from stemkit.columns.compiled.equations import EquationArrays, normal_equations
from stemkit.columns.compiled.gaussians import add_columns, add_radial_profiles
from stemkit.columns.compiled.levenberg_marquardt import (
    accept_or_undo,
    add_penalties,
    damped_step,
    take_step,
    unconverged,
)
from stemkit.columns.compiled.linear_algebra import covariance_blocks, solve_coupled
from stemkit.columns.compiled.state import FitState
from stemkit.columns.compiled.windows import ProblemArrays

__all__ = [
    "EquationArrays",
    "FitState",
    "ProblemArrays",
    "accept_or_undo",
    "add_columns",
    "add_penalties",
    "add_radial_profiles",
    "covariance_blocks",
    "damped_step",
    "normal_equations",
    "solve_coupled",
    "take_step",
    "unconverged",
]
