"""Levenberg-Marquardt fits of columns on a GPU: the steps of thousands of columns as batched tensors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stemkit.columns.constants import CONSTANTS, COUPLING_UPDATES
from stemkit.columns.equations import NormalEquations, normal_equations, ramp_projections
from stemkit.columns.errors import FitErrors, fit_errors
from stemkit.columns.problem import FitProblem
from stemkit.columns.solving import MAX_JOINT, covariances, damped_step

__all__ = ["BatchedLevenbergMarquardt"]


class BatchedLevenbergMarquardt:
    """Maximum-likelihood fit of n columns on any device.

    Parameters
    ----------
    problem, start, sigma, prior
        As of :class:`~stemkit.columns.levenberg_marquardt.CompiledLevenbergMarquardt`; tensors on the same device.

    Attributes
    ----------
    parameters : Tensor of shape (n + 1, P)
        The last row stands for an absent neighbour.
    last_step : Tensor of shape (n,)
        Length of each column's last step, standard errors.
    """

    def __init__(self, problem: FitProblem, start: Tensor, sigma: Tensor, prior: Tensor | None = None):
        self.problem, self.start, self.sigma, self.n, self.prior = problem, start, sigma, len(start), prior
        # the placeholder for an absent neighbour is far away, outside all windows
        placeholder = torch.zeros_like(start[:1])
        placeholder[:, 3] = 1.0
        placeholder[:, :2] = -1e6
        self.parameters = torch.cat([start, placeholder])
        self.center = self._window_centers(self.parameters)
        self.damping, self.min_damping = (t.to(start.dtype) for t in problem.first_and_min_damping)
        self.all_columns = torch.arange(self.n, device=start.device)
        self.movable = torch.ones_like(self.all_columns, dtype=torch.bool)
        self.last_step = torch.full_like(self.damping, torch.inf)
        self.background_weight = torch.zeros(problem.coupled.shape, dtype=start.dtype, device=start.device)
        self.equations = self._evaluate(self.parameters, self.all_columns)

    @property
    def touched(self) -> NDArray[np.bool_]:
        """Columns that took part in the last run: all of them, ``(n,)``."""
        return np.ones(self.n, dtype=bool)

    @property
    def fitted(self) -> NDArray[np.float64]:
        """The columns' parameters ``(n, P)``."""
        return self.parameters[:-1].cpu().numpy()

    @property
    def last_steps(self) -> NDArray[np.float64]:
        """Length of each column's last step, standard errors."""
        return self.last_step.cpu().numpy()

    def continue_from(self, last_steps: NDArray) -> None:
        """Set the lengths ``(n,)`` of the last steps to those of a former fit."""
        self.last_step[:] = torch.as_tensor(last_steps)

    def run(
        self, iterations: int, tolerance: float, first: NDArray | None = None, movable: NDArray | None = None
    ) -> None:
        """Take steps until that of every column is shorter than a fraction of its standard errors.

        The parameters are those of :meth:`stemkit.columns.levenberg_marquardt.CompiledLevenbergMarquardt.run`.
        """
        active = self.all_columns
        if movable is not None:
            self.movable = torch.as_tensor(movable, device=self.start.device)
        if first is not None:
            marked = torch.as_tensor(np.append(first, False), device=self.start.device)
            marked[:-1] |= marked[self.problem.near].any(1)
            active = self._with_coupled(marked)
        every_step = bool(self.problem.is_dense.any())
        for i in range(iterations):
            if len(active) == 0:
                break
            active = self._advance(active, tolerance, with_shared=every_step or i + 1 in COUPLING_UPDATES)
        crowded = self.all_columns[(self.problem.coupled < self.n).any(1)]
        if len(crowded):
            self.equations.put(crowded, self._evaluate(self.parameters, crowded))

    def errors(self, joint: int) -> FitErrors:
        """Errors of the n columns, with the parameters of ``joint`` neighbours free."""
        equations, noise = self.equations, self.problem.noise
        free = self.problem.free[:-1].to(self.start.dtype)
        # parameters that are not fitted have no errors: their rows and columns are zero, the diagonal must not be
        fitted, coupled = replace(equations, own=equations.own + torch.diag_embed(1 - free)), self.problem.coupled
        both_free = free[:, :, None] * free[:, None, :]
        covariance, alone = (
            (covariances(fitted, coupled[:, :n], joint) * both_free).cpu().numpy() for n in (coupled.shape[1], 0)
        )
        ramps, is_final = None, joint >= MAX_JOINT
        if noise.tilt or is_final:
            ramps = ramp_projections(self.problem, self.parameters, self.center, self.all_columns).cpu().numpy()
        prior = None if self.prior is None else self.prior.cpu().numpy()
        chi2, dof = equations.chi2.cpu().numpy(), self._degrees_of_freedom().cpu().numpy()
        widths = self.parameters[:-1, 3].cpu().numpy()
        return fit_errors(covariance, alone, chi2, dof, widths, noise, ramps, prior, final=is_final)

    # --- steps ---------------------------------------------------------------------------------------------------

    def _advance(self, active: Tensor, tolerance: float, *, with_shared: bool) -> Tensor:
        """Move some columns by one step; returns those that take another."""
        equations, neighbors = self.equations.take(active), self._neighbors_in(active)
        change = damped_step(equations, neighbors, self._damping_of(active))
        before = self.parameters[active]
        self.parameters[active] = self._clipped(before + self._limited(change, active, neighbors), active)
        change = self.parameters[active] - before
        length = ((equations.gradient * change).sum(1).abs() / self._residual_variance()[active]).sqrt()
        off_center = (self.parameters[active, :2] - self.center[active]).abs().amax(1) > CONSTANTS.max_off_center
        moved = active[off_center]
        self.center[moved] = self._window_centers(self.parameters[moved])
        new = self._evaluate(self.parameters, active, None if with_shared else equations.shared)
        slope, slope_at_end = (self._slope(e, change, neighbors) for e in (equations, new))
        # the gain of a step is half the sum of the slopes at its ends
        worse = (CONSTANTS.undone_overshoot * slope + slope_at_end < 0) & (length > CONSTANTS.min_undone_step)
        if worse.any():
            self._undo(worse, active, neighbors, before, new)
        self.equations.put(active, new)
        overshoot = -slope_at_end / slope.clamp_min(1e-200)
        factor = torch.where(overshoot < CONSTANTS.bad_overshoot, 1.0, CONSTANTS.damping_increase)
        factor = torch.where(overshoot < CONSTANTS.good_overshoot, CONSTANTS.damping_decrease, factor)
        damping = (self.damping[active] * factor).clamp(max=CONSTANTS.max_damping)
        self.damping[active] = damping.maximum(self.min_damping[active])
        self.last_step[active] = length
        return self._unconverged(active, ~worse, tolerance, change)

    def _undo(self, worse: Tensor, active: Tensor, neighbors: Tensor, before: Tensor, new: NormalEquations) -> None:
        """Undo the steps of columns whose likelihood decreased and of their neighbours, and update ``new``."""
        undone = worse | _has_marked_neighbor(worse, neighbors)
        self.parameters[active[undone]] = before[undone]
        # neighbours of the undone columns may have moved: their equations are not the former ones
        affected = undone | _has_marked_neighbor(undone, neighbors)
        new.put(affected, self._evaluate(self.parameters, active[affected], new.shared[affected]))

    def _evaluate(self, parameters: Tensor, columns: Tensor, shared: Tensor | None = None) -> NormalEquations:
        """Normal equations with the prior and the penalty for different backgrounds of overlapping columns; former
        off-diagonal blocks ``shared`` are kept, if given.
        """
        equations = normal_equations(self.problem, parameters, self.center, columns, with_shared=shared is None)
        if shared is None:
            # with streaks, the off-diagonal element of the backgrounds may be negative
            overlap = equations.shared[:, :, 4, 4].clamp_min(0.0)
            self.background_weight[columns] = CONSTANTS.background_penalty * overlap
            equations.shared[:, :, 4, 4] -= self.background_weight[columns]
        else:
            equations.shared = shared
        if self.prior is not None:
            expected, precision = self.prior[columns, :2], self.prior[columns, 2:] ** -2
            precision = precision * self.problem.free[columns, :2]
            equations.gradient[:, :2] += precision * (expected - parameters[columns, :2])
            equations.own[:, [0, 1], [0, 1]] += precision
        weight, level = self.background_weight[columns], parameters[:, 4]
        difference = level[columns, None] - level[self.problem.coupled[columns]]
        equations.own[:, 4, 4] += weight.sum(1)
        equations.gradient[:, 4] -= (weight * difference).sum(1)
        return equations

    def _unconverged(self, active: Tensor, accepted: Tensor, tolerance: float, change: Tensor) -> Tensor:
        amplitude = self.parameters[active, 2].abs().clamp_min(1e-12)
        relative = torch.maximum(
            change[:, [0, 1, 3]].abs().amax(1) / self.sigma[active], change[:, 2].abs() / amplitude
        )
        # without a known variance, errors are unknown while the residual contains more than noise
        min_step = tolerance if self.problem.noise.variance is not None else tolerance / 50
        finished = accepted & (
            (self.last_step[active] < min_step) & (self.damping[active] < CONSTANTS.converged_damping)
            | (relative < CONSTANTS.converged_relative_step)
        )
        moving = torch.zeros(self.n + 1, dtype=torch.bool, device=active.device)
        moving[active] = ~finished
        # columns whose steps have been undone many times are given up
        moving[:-1] &= self.damping < CONSTANTS.max_damping
        return self._with_coupled(moving)

    def _with_coupled(self, marked: Tensor) -> Tensor:
        """Indices of the marked columns ``(n + 1,)`` and of those coupled to them, if they may move."""
        return self.all_columns[(marked[:-1] | marked[self.problem.coupled].any(1)) & self.movable]

    def _window_centers(self, parameters: Tensor) -> Tensor:
        """Central pixels of the columns' windows."""
        size = torch.tensor(self.problem.image.shape, device=parameters.device) - 2 * self.problem.pad
        low = -self.problem.reach - 1
        return torch.minimum(parameters[:, :2].round().long().clamp_min(low), size - 1 - low)

    def _neighbors_in(self, columns: Tensor) -> Tensor:
        """The coupled neighbours of m columns as indices into these; m for others, which do not move."""
        subset_index = torch.full((self.n + 1,), len(columns), device=columns.device)
        subset_index[columns] = torch.arange(len(columns), device=columns.device)
        return subset_index[self.problem.coupled[columns]]

    def _limited(self, change: Tensor, columns: Tensor, neighbors: Tensor) -> Tensor:
        """Scale down a step with a component that is too long, and the steps of coupled neighbours with it."""
        sigma = self.sigma[columns]
        limit = torch.ones_like(change)
        limit[:, :2] = CONSTANTS.max_position_step * sigma[:, None]
        limit[:, 3] = CONSTANTS.max_relative_step * sigma
        limit[:, 5:] = CONSTANTS.max_relative_step
        fraction = (limit / change.abs().clamp_min(1e-200)).amin(1).clamp(max=1.0)
        of_neighbors = torch.cat([fraction, torch.ones_like(fraction[:1])])[neighbors]
        return change * torch.cat([fraction[:, None], of_neighbors], dim=1).amin(1, keepdim=True)

    def _clipped(self, parameters: Tensor, columns: Tensor) -> Tensor:
        sigma, start = self.sigma[columns], self.start[columns, :2]
        reach = CONSTANTS.max_displacement * sigma[:, None]
        parameters[:, :2] = torch.maximum(torch.minimum(parameters[:, :2], start + reach), start - reach)
        parameters[:, 3] = torch.maximum(
            torch.minimum(parameters[:, 3], sigma * CONSTANTS.max_widening), sigma / CONSTANTS.max_narrowing
        )
        parameters[:, 5:] = parameters[:, 5:].clamp(-CONSTANTS.max_ellipticity, CONSTANTS.max_ellipticity)
        return parameters

    def _damping_of(self, columns: Tensor) -> Tensor:
        """The largest damping of a column and its neighbours: overlapping columns move together."""
        of_neighbors = torch.cat([self.damping, self.damping[:1] * 0])[self.problem.coupled[columns]]
        return torch.cat([self.damping[columns, None], of_neighbors], dim=1).amax(1)

    def _slope(self, equations: NormalEquations, change: Tensor, neighbors: Tensor) -> Tensor:
        """Derivative of the log-likelihood of each column and its neighbours along their steps."""
        slope = (equations.gradient * change).sum(1)
        return slope + torch.cat([slope, slope[:1] * 0])[neighbors].sum(1)

    def _residual_variance(self) -> Tensor:
        """Variance of a column's weighted residuals: at least 1 where the noise is known."""
        least = 1.0 if self.problem.noise.variance is not None else 1e-12
        return (self.equations.chi2 / self._degrees_of_freedom()).clamp_min(least)

    def _degrees_of_freedom(self) -> Tensor:
        return (self.equations.pixels - self.problem.free[:-1].sum(1)).clamp_min(1).to(self.start.dtype)


def _has_marked_neighbor(marked: Tensor, neighbors: Tensor) -> Tensor:
    return torch.cat([marked, marked[:1] & False])[neighbors].any(1)
