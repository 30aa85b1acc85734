"""Fitting columns together on a GPU: Levenberg-Marquardt steps of thousands of columns at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stemkit.columns.equations import Blocks, equations, slopes
from stemkit.columns.errors import widened
from stemkit.columns.limits import LIMITS, RENEWED
from stemkit.columns.problem import FitProblem
from stemkit.columns.solving import covariances, step

__all__ = ["BatchedDescent"]


class BatchedDescent:
    """Columns on their way from where they started to the most likely numbers.

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
    parameters : Tensor of shape (n + 1, P)
        The last one stands for a column that is not there.
    last_step : Tensor of shape (n,)
        Length of each column's last step, in its errors.
    """

    def __init__(self, problem: FitProblem, start: Tensor, sigma: Tensor, prior: Tensor | None = None):
        self.problem, self.start, self.sigma, self.n, self.prior = problem, start, sigma, len(start), prior
        nobody = torch.zeros_like(start[:1])
        nobody[:, 3] = 1.0
        # far away: in nobody's window
        nobody[:, :2] = -1e6
        self.parameters = torch.cat([start, nobody])
        self.centre = self._centres(self.parameters)
        crowded = (problem.coupled < self.n).any(1)
        self.damping = torch.where(crowded, LIMITS.crowded_damping, LIMITS.first_damping).to(start.dtype)
        self.least_damping = torch.where(crowded, LIMITS.least_crowded_damping, LIMITS.least_damping).to(start.dtype)
        self.everyone = torch.arange(self.n, device=start.device)
        self.movable = torch.ones_like(self.everyone, dtype=torch.bool)
        self.last_step = torch.full_like(self.damping, torch.inf)
        self.bond = torch.zeros(problem.coupled.shape, dtype=start.dtype, device=start.device)
        self.blocks = self._equations(self.parameters, self.everyone)

    @property
    def touched(self) -> NDArray[np.bool_]:
        """Columns that take part: all of them."""
        return np.ones(self.n, dtype=bool)

    @property
    def fitted(self) -> NDArray[np.float64]:
        """The columns' parameters ``(n, P)``."""
        return self.parameters[:-1].cpu().numpy()

    @property
    def last_steps(self) -> NDArray[np.float64]:
        """The length of each column's last step, in its errors."""
        return self.last_step.cpu().numpy()

    def continue_from(self, last_steps: NDArray) -> None:
        """Take over the lengths ``(n,)`` of the last steps of a former fit."""
        self.last_step[:] = torch.as_tensor(last_steps)

    def run(
        self, iterations: int, tolerance: float, first: NDArray | None = None, movable: NDArray | None = None
    ) -> None:
        """Take steps until those of every column are shorter than a part of its errors, its window around it then.

        Where only some, ``first`` ``(n,)``, have changed, the others that are ``movable`` ``(n,)`` join in as far as
        their neighbours move.
        """
        active = self.everyone
        if movable is not None:
            self.movable = torch.as_tensor(movable, device=self.start.device)
        if first is not None:
            marked = torch.as_tensor(np.append(first, False), device=self.start.device)
            marked[:-1] |= marked[self.problem.near].any(1)
            active = self._concerned(marked)
        for i in range(iterations):
            if len(active) == 0:
                break
            active = self._advance(active, tolerance, with_shared=i + 1 in RENEWED)
        crowded = self.everyone[(self.problem.coupled < self.n).any(1)]
        if len(crowded):
            self.blocks.put(crowded, self._equations(self.parameters, crowded))

    def errors(self, joint: int) -> tuple[NDArray, NDArray]:
        """Covariances ``(n, P, P)`` with ``joint`` neighbours free, and the residual's RMS over the expected one."""
        blocks, free, noise = self.blocks, self.problem.free[:-1].to(self.start.dtype), self.problem.noise
        # what is not fitted has no errors
        covariance = covariances(
            replace(blocks, own=blocks.own + torch.diag_embed(1 - free)), self.problem.coupled, joint
        )
        covariance = covariance * free[:, :, None] * free[:, None, :]
        rises = None
        if noise.tilt:
            rises = slopes(self.problem, self.parameters, self.centre, self.everyone).cpu().numpy()
        known = None if self.prior is None else self.prior.cpu().numpy()
        chi2, dof = blocks.chi2.cpu().numpy(), self._degrees_of_freedom().cpu().numpy()
        return widened(covariance.cpu().numpy(), chi2, dof, noise, rises, known)

    # --- steps ---------------------------------------------------------------------------------------------------

    def _advance(self, active: Tensor, tolerance: float, *, with_shared: bool) -> Tensor:
        """One step of some columns; those that have to take another."""
        blocks, neighbours = self.blocks.take(active), self._among(active)
        change = step(blocks, neighbours, self._damping(active))
        before = self.parameters[active]
        self.parameters[active] = self._bounded(before + self._limited(change, active, neighbours), active)
        change = self.parameters[active] - before
        length = ((blocks.gradient * change).sum(1).abs() / self._unit()[active]).sqrt()
        off = active[(self.parameters[active, :2] - self.centre[active]).abs().amax(1) > LIMITS.off_centre]
        self.centre[off] = self._centres(self.parameters[off])
        now = self._equations(self.parameters, active, None if with_shared else blocks.shared)
        first, last = (self._slope(part, change, neighbours) for part in (blocks, now))
        # what a step gains is half the sum of the slopes at its ends
        worse = (first + last < 0) & (length > LIMITS.small_step)
        if worse.any():
            back = worse | _any(worse, neighbours)
            self.parameters[active[back]] = before[back]
            now.put(back, blocks.take(back))
            beside = ~back & _any(back, neighbours)
            if beside.any():
                now.put(beside, self._equations(self.parameters, active[beside], now.shared[beside]))
        self.blocks.put(active, now)
        over = -last / first.clamp_min(1e-200)
        factor = torch.where(over < LIMITS.on_target, 0.2, torch.where(over < LIMITS.overshot, 1.0, 4.0))
        changed = (self.damping[active] * factor).clamp(max=LIMITS.most_damping)
        self.damping[active] = changed.maximum(self.least_damping[active])
        self.last_step[active] = length
        return self._unfinished(active, ~worse, tolerance, change)

    def _equations(self, parameters: Tensor, columns: Tensor, shared: Tensor | None = None) -> Blocks:
        """With the bond between the backgrounds of columns that overlap; ``shared`` is what it was before, if given."""
        blocks = equations(self.problem, parameters, self.centre, columns, with_shared=shared is None)
        if shared is None:
            # where rows have offsets of their own, backgrounds may be opposed
            self.bond[columns] = LIMITS.alike * blocks.shared[:, :, 4, 4].clamp_min(0.0)
            blocks.shared[:, :, 4, 4] -= self.bond[columns]
        else:
            blocks.shared = shared
        if self.prior is not None:
            place, precision = self.prior[columns, :2], self.prior[columns, 2:] ** -2
            precision = precision * self.problem.free[columns, :2]
            blocks.gradient[:, :2] += precision * (place - parameters[columns, :2])
            blocks.own[:, [0, 1], [0, 1]] += precision
        bond, level = self.bond[columns], parameters[:, 4]
        blocks.own[:, 4, 4] += bond.sum(1)
        blocks.gradient[:, 4] -= (bond * (level[columns, None] - level[self.problem.coupled[columns]])).sum(1)
        return blocks

    def _unfinished(self, active: Tensor, good: Tensor, tolerance: float, change: Tensor) -> Tensor:
        amplitude = self.parameters[active, 2].abs().clamp_min(1e-12)
        relative = torch.maximum(
            change[:, [0, 1, 3]].abs().amax(1) / self.sigma[active], change[:, 2].abs() / amplitude
        )
        # errors are not known as long as there is more in the residual than noise
        small = tolerance if self.problem.noise.variance is not None else tolerance / 50
        finished = good & (
            (self.last_step[active] < small) & (self.damping[active] < LIMITS.damped)
            | (relative < LIMITS.smallest_step)
        )
        moving = torch.zeros(self.n + 1, dtype=torch.bool, device=active.device)
        moving[active] = ~finished
        # steps that make things worse again and again lead nowhere
        moving[:-1] &= self.damping < LIMITS.most_damping
        return self._concerned(moving)

    def _concerned(self, moved: Tensor) -> Tensor:
        """Columns that have moved, ``(n + 1,)``, or overlap one that has."""
        return self.everyone[(moved[:-1] | moved[self.problem.coupled].any(1)) & self.movable]

    def _centres(self, parameters: Tensor) -> Tensor:
        """Pixels at which windows can stand."""
        size = torch.tensor(self.problem.image.shape, device=parameters.device) - 2 * self.problem.pad
        low = -self.problem.reach - 1
        return torch.minimum(parameters[:, :2].round().long().clamp_min(low), size - 1 - low)

    def _among(self, columns: Tensor) -> Tensor:
        """The neighbours of some columns as indices into these; the others stand still."""
        number = torch.full((self.n + 1,), len(columns), device=columns.device)
        number[columns] = torch.arange(len(columns), device=columns.device)
        return number[self.problem.coupled[columns]]

    def _limited(self, change: Tensor, columns: Tensor, neighbours: Tensor) -> Tensor:
        """Steps shortened as a whole where a part of them is too long, and those of neighbours with them."""
        sigma = self.sigma[columns]
        limit = torch.ones_like(change)
        limit[:, :2], limit[:, 3], limit[:, 5:] = (
            LIMITS.longest * sigma[:, None],
            LIMITS.quickest * sigma,
            LIMITS.quickest,
        )
        part = (limit / change.abs().clamp_min(1e-200)).amin(1).clamp(max=1.0)
        among = torch.cat([part, torch.ones_like(part[:1])])[neighbours]
        return change * torch.cat([part[:, None], among], dim=1).amin(1, keepdim=True)

    def _bounded(self, parameters: Tensor, columns: Tensor) -> Tensor:
        sigma, start = self.sigma[columns], self.start[columns, :2]
        far = LIMITS.farthest * sigma[:, None]
        parameters[:, :2] = torch.maximum(torch.minimum(parameters[:, :2], start + far), start - far)
        parameters[:, 3] = torch.maximum(
            torch.minimum(parameters[:, 3], sigma * LIMITS.widest), sigma / LIMITS.narrowest
        )
        parameters[:, 5:] = parameters[:, 5:].clamp(-LIMITS.longish, LIMITS.longish)
        return parameters

    def _damping(self, columns: Tensor) -> Tensor:
        """That of the most damped of a column and its neighbours: they move together."""
        among = torch.cat([self.damping, self.damping[:1] * 0])[self.problem.coupled[columns]]
        return torch.cat([self.damping[columns, None], among], dim=1).amax(1)

    def _slope(self, blocks: Blocks, change: Tensor, neighbours: Tensor) -> Tensor:
        """Along a change, summed over each column and its neighbours: above zero as long as it gains."""
        slope = (blocks.gradient * change).sum(1)
        return slope + torch.cat([slope, slope[:1] * 0])[neighbours].sum(1)

    def _unit(self) -> Tensor:
        """Variance of the weighed residuals: 1 where the noise is known and explains them."""
        least = 1.0 if self.problem.noise.variance is not None else 1e-12
        return (self.blocks.chi2 / self._degrees_of_freedom()).clamp_min(least)

    def _degrees_of_freedom(self) -> Tensor:
        return (self.blocks.pixels - self.problem.free[:-1].sum(1)).clamp_min(1).to(self.start.dtype)


def _any(of: Tensor, neighbours: Tensor) -> Tensor:
    """Whether one of the neighbours is among some columns."""
    return torch.cat([of, of[:1] & False])[neighbours].any(1)
