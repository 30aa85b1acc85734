"""Fitting columns together on the CPU: Levenberg-Marquardt steps of those that have not converged."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stemkit.columns.compiled import (
    CompiledProblem,
    Equations,
    Progress,
    covariance_blocks,
    damped_step,
    judge,
    normal_equations,
    take_step,
    tie,
    unfinished,
)
from stemkit.columns.errors import widened
from stemkit.columns.limits import LIMITS, RENEWED_AT
from stemkit.columns.problem import FitProblem
from stemkit.columns.solving import CYCLES, TOLERANCE

__all__ = ["CompiledDescent"]


class CompiledDescent:
    """Columns on their way from where they started to the most likely numbers, on the CPU.

    Parameters
    ----------
    problem : FitProblem
    start : Tensor of shape (n, P)
    sigma : Tensor of shape (n,)
        The widths that lengths are compared with, px.
    prior : Tensor of shape (n, 3) or None
        Expected positions and their standard deviation, px.

    Attributes
    ----------
    touched : ndarray of bool, shape (n,)
        Columns that took part in the last run: the others are where they started.
    """

    def __init__(self, problem: FitProblem, start: Tensor, sigma: Tensor, prior: Tensor | None = None):
        self.problem, self.start, self.n = problem, start, len(start)
        self.touched = np.zeros(self.n, dtype=bool)
        n_parameters, coupled = start.shape[1], problem.coupled.numpy()
        nobody = np.zeros((1, n_parameters))
        # far away: in nobody's window
        nobody[0, :2], nobody[0, 3] = -1e6, 1.0
        parameters = np.concatenate([start.numpy(), nobody])
        crowded: NDArray[np.bool_] = np.asarray((coupled < self.n).any(1))
        self._crowded, self._no_rises = crowded, np.empty((0, 2, n_parameters))
        self.arrays = compile_problem(problem)
        self.equations = Equations(
            own=np.zeros((self.n, n_parameters, n_parameters)),
            shared=np.zeros((*coupled.shape, n_parameters, n_parameters)),
            gradient=np.zeros((self.n, n_parameters)),
            chi2=np.zeros(self.n),
            pixels=np.zeros(self.n),
        )
        self.progress = Progress(
            parameters=parameters,
            centre=centres(problem, parameters),
            movable=np.ones(self.n, dtype=bool),
            start=np.ascontiguousarray(start.numpy()),
            sigma=np.ascontiguousarray(sigma.numpy()),
            prior=np.empty((0, 3)) if prior is None else np.ascontiguousarray(prior.numpy()),
            damping=np.where(crowded, LIMITS.crowded_damping, LIMITS.first_damping),
            least_damping=np.where(crowded, LIMITS.least_crowded_damping, LIMITS.least_damping),
            last_step=np.full(self.n, np.inf),
            bond=np.zeros(coupled.shape),
            known=np.zeros(self.n, dtype=bool),
            age=np.zeros(self.n, dtype=np.int64),
            stale=np.zeros(self.n, dtype=bool),
        )

    def run(
        self, iterations: int, tolerance: float, first: NDArray | None = None, movable: NDArray | None = None
    ) -> None:
        """Take steps until those of every column are shorter than a part of its errors.

        Where only some, ``first`` ``(n,)``, have changed, the others that are ``movable`` ``(n,)`` join in as far as
        these move them.
        """
        small = tolerance if self.problem.noise.variance is not None else tolerance / 50
        columns = np.arange(self.n)
        if first is not None:
            # what their neighbours' models were before is not known
            marked = np.append(first, False)
            self.progress.movable[:] = True if movable is None else movable
            beside = marked[self.arrays.coupled].any(1) | marked[self.arrays.near].any(1)
            columns = np.flatnonzero((first | beside) & self.progress.movable)
        for _ in range(iterations):
            if len(columns) == 0:
                break
            self._evaluate_new(columns)
            columns = self._advance(columns, small)
        self._evaluate_new(columns)
        stale = np.flatnonzero(self.progress.stale)
        self._evaluate(stale, np.ones(len(stale), dtype=bool))
        self.touched = self.progress.known.copy()

    @property
    def fitted(self) -> NDArray[np.float64]:
        """The columns' parameters ``(n, P)``."""
        return self.progress.parameters[:-1]

    @property
    def last_steps(self) -> NDArray[np.float64]:
        """The length of each column's last step, or of the one that it has not taken, in its errors."""
        return self.progress.last_step

    def continue_from(self, last_steps: NDArray) -> None:
        """Take over the lengths ``(n,)`` of the last steps of a former fit."""
        self.progress.last_step[:] = last_steps

    def errors(self, joint: int) -> tuple[NDArray, NDArray]:
        """Of the columns that were evaluated: covariances ``(m, P, P)`` with ``joint`` neighbours free, and the
        residual's RMS over the expected one.
        """
        which = np.flatnonzero(self.touched)
        free = self.problem.free.numpy()[which].astype(np.float64)
        covariance = self._covariances(which, joint) * free[:, :, None] * free[:, None, :]
        dof = np.maximum(self.equations.pixels[which] - free.sum(1), 1.0)
        noise, prior = self.problem.noise, self.progress.prior
        rises = self._rises(which) if noise.tilt else None
        known = prior[which] if len(prior) else None
        return widened(covariance, self.equations.chi2[which], dof, noise, rises, known)

    # --- steps ---------------------------------------------------------------------------------------------------

    def _advance(self, columns: NDArray, small: float) -> NDArray[np.int64]:
        """One step of some columns; those that take another.

        Only columns that still move are evaluated. One that stands still joins in when the displacements of its
        neighbours, to first order, would move it by more than the tolerance.
        """
        progress, state = self.progress, (self.arrays, self.progress, self.equations, LIMITS)
        number = np.full(self.n + 1, len(columns))
        number[columns] = np.arange(len(columns))
        change = damped_step(*state[:3], columns, number, CYCLES, TOLERANCE)
        length, slope = take_step(*state, columns, number, change)
        progress.age[columns] += 1
        progress.stale[columns] |= (length > small) & self._crowded[columns]
        renewed = RENEWED_AT[np.minimum(progress.age[columns], len(RENEWED_AT) - 1)]
        self._evaluate(columns, renewed)
        back, concerned = judge(*state, columns, number, change, length, slope)
        if back.any():
            self._evaluate(columns[concerned], renewed[concerned])
        return np.asarray(unfinished(*state, columns, number, change, back, small))

    def _evaluate_new(self, columns: NDArray) -> None:
        """Work out the equations of those columns of which they are not known."""
        new = columns[~self.progress.known[columns]]
        self._evaluate(new, np.ones(len(new), dtype=bool))
        self.progress.known[new] = True

    def _evaluate(self, columns: NDArray, renewed: NDArray) -> None:
        """Work out the equations of some columns, and of those marked the blocks with their neighbours."""
        if len(columns) == 0:
            return
        progress = self.progress
        normal_equations(
            self.arrays, progress.parameters, progress.centre, columns, renewed, self.equations, self._no_rises
        )
        tie(self.arrays, progress, self.equations, LIMITS, columns, renewed)
        progress.stale[columns[renewed]] = False

    def _covariances(self, which: NDArray, joint: int) -> NDArray[np.float64]:
        own, shared, coupled = self.equations.own, self.equations.shared, self.arrays.coupled
        neighbours = np.unique(coupled[which, :joint])
        self._evaluate_new(neighbours[neighbours < self.n])
        diagonal, at = np.diagonal(own, axis1=1, axis2=2), np.arange(own.shape[1])
        scale = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
        blocks = own * scale[:, :, None] * scale[:, None, :]
        # what is not fitted has no errors
        blocks[:, at, at] += ~self.problem.free.numpy()[:-1]
        theirs = np.append(scale, np.zeros_like(scale[:1]), axis=0)[coupled]
        between = shared * scale[:, None, :, None] * theirs[:, :, None, :]
        result = np.empty((len(which), *own.shape[1:]))
        covariance_blocks(blocks, between, coupled, which, joint, result)
        return result * scale[which][:, :, None] * scale[which][:, None, :]

    def _rises(self, which: NDArray) -> NDArray[np.float64]:
        rises = np.empty((len(which), 2, self.start.shape[1]))
        spare = Equations(*map(np.empty_like, self.equations))._replace(shared=self.equations.shared)
        no_neighbours = np.zeros(len(which), dtype=bool)
        normal_equations(
            self.arrays, self.progress.parameters, self.progress.centre, which, no_neighbours, spare, rises
        )
        return rises


def compile_problem(problem: FitProblem) -> CompiledProblem:
    """A problem on the CPU as the compiled functions take it."""
    noise, known = problem.noise, problem.noise.variance
    return CompiledProblem(
        image=problem.image.numpy(),
        valid=np.empty((0, 0), dtype=bool) if problem.valid is None else problem.valid.numpy(),
        scan=np.empty((0, 0, 0), dtype=np.float32) if problem.scan is None else problem.scan.numpy(),
        pad=problem.pad,
        radius=problem.radius.numpy(),
        near=problem.near.numpy(),
        coupled=problem.coupled.numpy(),
        free=problem.free.numpy(),
        variance=np.array([] if known is None else [known.constant, known.slope, known.floor]),
        rho=float(noise.correlation_x),
        streaks=float(noise.streaks),
    )


def centres(problem: FitProblem, parameters: NDArray) -> NDArray[np.int64]:
    """Pixels at which the windows of columns ``(n, P)`` stand."""
    size = np.array(problem.image.shape) - 2 * problem.pad
    places = np.rint(parameters[:, :2]).astype(np.int64)
    return np.ascontiguousarray(places.clip(-problem.reach - 1, size + problem.reach))
