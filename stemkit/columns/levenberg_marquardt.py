"""Levenberg-Marquardt fits of columns on the CPU; only columns that have not converged take steps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stemkit.columns.compiled import (
    EquationArrays,
    FitState,
    ProblemArrays,
    accept_or_undo,
    add_penalties,
    covariance_blocks,
    damped_step,
    normal_equations,
    take_step,
    unconverged,
)
from stemkit.columns.constants import CONSTANTS, IS_COUPLING_UPDATE
from stemkit.columns.errors import FitErrors, fit_errors
from stemkit.columns.problem import FitProblem
from stemkit.columns.solving import MAX_CYCLES, MAX_JOINT, TOLERANCE

__all__ = ["CompiledLevenbergMarquardt"]


class CompiledLevenbergMarquardt:
    """Maximum-likelihood fit of n columns on the CPU; the loops are compiled with Numba.

    The normal equations of several images of the same columns are added.

    Parameters
    ----------
    problem : FitProblem
    start : Tensor of shape (n, P)
        Starting parameters, in the order of :data:`stemkit.columns.gaussians.ELLIPTICAL`.
    sigma : Tensor of shape (n,)
        Widths that are the unit of the lengths of :class:`~stemkit.columns.constants.Constants`, px.
    prior : Tensor of shape (n, 3) or None
        Expected positions and their standard deviation, px.

    Attributes
    ----------
    touched : ndarray of bool, shape (n,)
        Columns that took part in the last run; the others have their starting parameters.
    """

    def __init__(self, problem: FitProblem, start: Tensor, sigma: Tensor, prior: Tensor | None = None):
        self.problem, self.start, self.n = problem, start, len(start)
        self.touched = np.zeros(self.n, dtype=bool)
        n_parameters, coupled = start.shape[1], problem.coupled.numpy()
        # the placeholder for an absent neighbour is far away, outside all windows
        placeholder = np.zeros((1, n_parameters))
        placeholder[0, :2], placeholder[0, 3] = -1e6, 1.0
        parameters = np.concatenate([start.numpy(), placeholder])
        crowded: NDArray[np.bool_] = np.asarray((coupled < self.n).any(1))
        self._crowded, self._dense = crowded, problem.is_dense.numpy()
        damping, min_damping = (t.numpy().copy() for t in problem.first_and_min_damping)
        self.images = _problem_arrays(problem)
        self.arrays = self.images[0]
        self.equations = EquationArrays(
            own=np.zeros((self.n, n_parameters, n_parameters)),
            shared=np.zeros((*coupled.shape, n_parameters, n_parameters)),
            gradient=np.zeros((self.n, n_parameters)),
            chi2=np.zeros(self.n),
            pixels=np.zeros(self.n),
        )
        self.state = FitState(
            parameters=parameters,
            center=_window_centers(problem, parameters),
            movable=np.ones(self.n, dtype=bool),
            start=np.ascontiguousarray(start.numpy()),
            sigma=np.ascontiguousarray(sigma.numpy()),
            prior=np.empty((0, 3)) if prior is None else np.ascontiguousarray(prior.numpy()),
            damping=damping,
            min_damping=min_damping,
            last_step=np.full(self.n, np.inf),
            background_weight=np.zeros(coupled.shape),
            evaluated=np.zeros(self.n, dtype=bool),
            n_steps=np.zeros(self.n, dtype=np.int64),
            outdated=np.zeros(self.n, dtype=bool),
        )

    def run(
        self, iterations: int, tolerance: float, first: NDArray | None = None, movable: NDArray | None = None
    ) -> None:
        """Take steps until that of every column is shorter than a fraction of its standard errors.

        Parameters
        ----------
        iterations : int
            Largest number of steps.
        tolerance : float
            Length of a step at convergence, standard errors.
        first : ndarray of bool, shape (n,), optional
            Columns that have changed since a former fit. The others take steps only if changes of their neighbours
            would move them by more than the tolerance. None: all columns take steps.
        movable : ndarray of bool, shape (n,), optional
            Columns that may take steps; all of them by default.
        """
        # without a known variance, errors are unknown while the residual contains more than noise
        min_step = tolerance if self.problem.noise.variance is not None else tolerance / 50
        columns = np.arange(self.n)
        if first is not None:
            # former models of the neighbours of changed columns are unknown: these columns are fitted, too
            marked = np.append(first, False)
            self.state.movable[:] = True if movable is None else movable
            has_changed_neighbor = marked[self.arrays.coupled].any(1) | marked[self.arrays.near].any(1)
            columns = np.flatnonzero((first | has_changed_neighbor) & self.state.movable)
        for _ in range(iterations):
            if len(columns) == 0:
                break
            self._evaluate_new(columns)
            columns = self._advance(columns, min_step)
        self._evaluate_new(columns)
        outdated = np.flatnonzero(self.state.outdated)
        self._evaluate(outdated, np.ones(len(outdated), dtype=bool))
        self.touched = self.state.evaluated.copy()

    @property
    def fitted(self) -> NDArray[np.float64]:
        """The columns' parameters ``(n, P)``."""
        return self.state.parameters[:-1]

    @property
    def last_steps(self) -> NDArray[np.float64]:
        """Length of each column's last step, or of the step that it would take next, standard errors."""
        return self.state.last_step

    def continue_from(self, last_steps: NDArray) -> None:
        """Set the lengths ``(n,)`` of the last steps to those of a former fit."""
        self.state.last_step[:] = last_steps

    def errors(self, joint: int) -> FitErrors:
        """Errors of the m columns that took part, with the parameters of ``joint`` neighbours free."""
        columns = np.flatnonzero(self.touched)
        free = self.problem.free.numpy()[columns].astype(np.float64)
        both_free = free[:, :, None] * free[:, None, :]
        covariance, alone = (self._covariances(columns, n) * both_free for n in (joint, 0))
        dof = np.maximum(self.equations.pixels[columns] - free.sum(1), 1.0)
        noise, prior = self.problem.noise, self.state.prior
        is_final = joint >= MAX_JOINT
        ramps = self._ramp_projections(columns) if noise.tilt or is_final else None
        used_prior = prior[columns] if len(prior) else None
        chi2, widths = self.equations.chi2[columns], self.fitted[columns, 3]
        return fit_errors(covariance, alone, chi2, dof, widths, noise, ramps, used_prior, final=is_final)

    # --- steps ---------------------------------------------------------------------------------------------------

    def _advance(self, columns: NDArray, min_step: float) -> NDArray[np.int64]:
        """Move some columns by one step; returns those that take another.

        Columns that have converged are not evaluated. One takes steps again when the displacements of its neighbours,
        to first order, would move it by more than the tolerance.
        """
        state, common = self.state, (self.arrays, self.state, self.equations, CONSTANTS)
        subset_index = np.full(self.n + 1, len(columns))
        subset_index[columns] = np.arange(len(columns))
        change = damped_step(*common[:3], columns, subset_index, MAX_CYCLES, TOLERANCE)
        length, slope = take_step(*common, columns, subset_index, change)
        state.n_steps[columns] += 1
        state.outdated[columns] |= (length > min_step) & self._crowded[columns]
        with_shared = IS_COUPLING_UPDATE[np.minimum(state.n_steps[columns], len(IS_COUPLING_UPDATE) - 1)]
        with_shared |= self._dense[columns]
        self._evaluate(columns, with_shared)
        undone, affected = accept_or_undo(*common, columns, subset_index, change, length, slope)
        if undone.any():
            self._evaluate(columns[affected], with_shared[affected])
        return np.asarray(unconverged(*common, columns, subset_index, change, undone, min_step))

    def _evaluate_new(self, columns: NDArray) -> None:
        """Compute the equations of those columns that have not been evaluated before."""
        new = columns[~self.state.evaluated[columns]]
        self._evaluate(new, np.ones(len(new), dtype=bool))
        self.state.evaluated[new] = True

    def _evaluate(self, columns: NDArray, with_shared: NDArray) -> None:
        """Compute the equations of some columns, and of those marked the blocks with their neighbours."""
        if len(columns) == 0:
            return
        state = self.state
        self._add_up(columns, with_shared, self.equations)
        add_penalties(self.arrays, state, self.equations, CONSTANTS, columns, with_shared)
        state.outdated[columns[with_shared]] = False

    def _add_up(
        self, columns: NDArray, with_shared: NDArray, total: EquationArrays, with_ramps: bool = False
    ) -> NDArray[np.float64]:
        """Set the equations of some columns to the sums over the images; returns the projections of the ramps."""
        given = (self.state.parameters, self.state.center, columns, with_shared)
        ramps = normal_equations(self.arrays, *given, total, with_ramps)
        if len(self.images) > 1:
            one, shared = EquationArrays(*map(np.zeros_like, total)), columns[with_shared]
            for image in self.images[1:]:
                ramps += normal_equations(image, *given, one, with_ramps)
                for name in ("own", "gradient", "chi2", "pixels"):
                    getattr(total, name)[columns] += getattr(one, name)[columns]
                total.shared[shared] += one.shared[shared]
        return np.asarray(ramps)

    def _covariances(self, columns: NDArray, joint: int) -> NDArray[np.float64]:
        own, shared, coupled = self.equations.own, self.equations.shared, self.arrays.coupled
        neighbors = np.unique(coupled[columns, :joint])
        self._evaluate_new(neighbors[neighbors < self.n])
        diagonal, index = np.diagonal(own, axis1=1, axis2=2), np.arange(own.shape[1])
        scale = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
        scaled_own = own * scale[:, :, None] * scale[:, None, :]
        # parameters that are not fitted have no errors: their rows and columns are zero, the diagonal must not be
        scaled_own[:, index, index] += ~self.problem.free.numpy()[:-1]
        neighbor_scale = np.append(scale, np.zeros_like(scale[:1]), axis=0)[coupled]
        scaled_shared = shared * scale[:, None, :, None] * neighbor_scale[:, :, None, :]
        result = np.empty((len(columns), *own.shape[1:]))
        covariance_blocks(scaled_own, scaled_shared, coupled, columns, joint, result)
        return result * scale[columns][:, :, None] * scale[columns][:, None, :]

    def _ramp_projections(self, columns: NDArray) -> NDArray[np.float64]:
        discarded = EquationArrays(*map(np.empty_like, self.equations))._replace(shared=self.equations.shared)
        return self._add_up(columns, np.zeros(len(columns), dtype=bool), discarded, with_ramps=True)


def _problem_arrays(problem: FitProblem) -> list[ProblemArrays]:
    """The fit problem of each image in the form that the compiled functions take."""
    noise, variance = problem.noise, problem.noise.variance
    images, weight, scan = (
        None if t is None else t.numpy() if problem.image.ndim == 3 else t.numpy()[None]
        for t in (problem.image, problem.weight, problem.scan)
    )
    assert images is not None
    first = ProblemArrays(
        image=images[0],
        weight=np.empty((0, 0), dtype=np.float32) if weight is None else weight[0],
        scan=np.empty((0, 0, 0), dtype=np.float32) if scan is None else scan[0],
        pad=problem.pad,
        radius=problem.radius.numpy(),
        near=problem.near.numpy(),
        coupled=problem.coupled.numpy(),
        free=problem.free.numpy(),
        variance=np.array([] if variance is None else [variance.constant, variance.slope, variance.floor]),
        rho=float(noise.correlation_x),
        streaks=float(noise.streaks),
    )
    others = (
        first._replace(
            image=images[i],
            weight=first.weight if weight is None else weight[i],
            scan=first.scan if scan is None else scan[i],
        )
        for i in range(1, len(images))
    )
    return [first, *others]


def _window_centers(problem: FitProblem, parameters: NDArray) -> NDArray[np.int64]:
    """Central pixels of the windows of columns ``(n, P)``."""
    size = np.array(problem.image.shape[-2:]) - 2 * problem.pad
    pixels = np.rint(parameters[:, :2]).astype(np.int64)
    return np.ascontiguousarray(pixels.clip(-problem.reach - 1, size + problem.reach))
