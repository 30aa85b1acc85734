"""Fitting columns together: Levenberg-Marquardt steps of those that have not converged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stemkit.columns.compiled import (
    Equations,
    Limits,
    Problem,
    Progress,
    covariance_blocks,
    judge,
    normal_equations,
    take_step,
    tie,
    unfinished,
)
from stemkit.columns.equations import ALIKE, Blocks, Noise, Scene, equations, neighbours, slopes
from stemkit.columns.solving import CYCLES, TOLERANCE, covariances, step

__all__ = ["FARTHEST", "NARROWEST", "REACH", "RENDERED", "WIDEST", "CompiledDescent", "Descent", "scene_of"]

#: A column is fitted on the pixels within this many sigmas of it, and its model is drawn within this many.
REACH, RENDERED = 2.5, 4.5
#: A column with a neighbour nearer than this many sigmas is solved for together with all that are within the second
#: number of sigmas, this many at most.
CROWDED, COUPLED, MOST_COUPLED = 4.5, 5.5, 20
#: Steps before which the neighbours' part in the equations is worked out anew; it changes little between them.
RENEWED = (1, 2, 3, 4, 8, 12, 16)
RENEWED_AT = np.isin(np.arange(max(RENEWED) + 2), RENEWED)
#: Fits stay within this many sigmas of their start, and their widths within these factors.
FARTHEST, NARROWEST, WIDEST = 1.5, 2.0, 2.0
#: One step moves a column by less than this many sigmas, and changes its width by less than this part (its height by
#: less than the image's range).
LONGEST, QUICKEST = 0.5, 0.3
#: A fit has converged when its last step was less than this part of its width and height, if not of its errors.
SMALLEST_STEP = 3e-5
#: Steps that made things worse are taken back where they are longer than this part of the errors.
SMALL_STEP = 0.05
#: As long as steps are damped by more than this they say little.
DAMPED = 0.1
#: The residual is larger than noise explains from this many of its own standard deviations.
UNEXPLAINED = 4.0
FIRST_DAMPING, LEAST_DAMPING, MOST_DAMPING = 1e-3, 1e-7, 1e4
#: Of columns that overlap. They are never without: many of them together have widths and backgrounds that hardly
#: change the image, and along these a column that is no Gaussian leads its neighbours astray.
CROWDED_DAMPING, LEAST_CROWDED_DAMPING = 0.3, 0.01
#: A step is damped less the next time if it went too far by no more than the first part of its length, and more beyond
#: the second.
ON_TARGET, OVERSHOT = 0.15, 0.5
#: The window follows a column that is farther from its middle than this, px.
OFF_CENTRE = 0.55
#: The largest of the numbers that make a column longish.
LONGISH = 0.6
LIMITS = Limits(
    alike=ALIKE,
    farthest=FARTHEST,
    narrowest=NARROWEST,
    widest=WIDEST,
    longest=LONGEST,
    quickest=QUICKEST,
    smallest_step=SMALLEST_STEP,
    small_step=SMALL_STEP,
    damped=DAMPED,
    most_damping=MOST_DAMPING,
    on_target=ON_TARGET,
    overshot=OVERSHOT,
    off_centre=OFF_CENTRE,
    longish=LONGISH,
)


def scene_of(
    values: NDArray,
    positions: NDArray,
    sigma: NDArray,
    noise: Noise,
    shifts: NDArray | None,
    valid: NDArray | None,
    free: NDArray,
    device: torch.device,
) -> Scene:
    """What :class:`Descent` works on, from arrays."""
    radius = np.maximum(2, np.ceil(REACH * sigma)).astype(int)
    reach = int(radius.max())
    pad = 2 * reach + 2
    near = neighbours(positions, radius, RENDERED * sigma)
    coupled = _coupled(positions, near, sigma)
    scan = None
    if shifts is not None:
        padded = np.pad(shifts, ((0, 0), (pad, pad), (pad, pad)), mode="edge")
        scan = np.ascontiguousarray(padded, dtype=np.float32)
    return Scene(
        image=torch.as_tensor(np.ascontiguousarray(np.pad(values, pad), dtype=np.float32), device=device),
        pad=pad,
        reach=reach,
        radius=torch.as_tensor(np.append(radius, 0), device=device),
        noise=noise,
        near=torch.as_tensor(near, device=device),
        coupled=torch.as_tensor(coupled, device=device),
        free=torch.as_tensor(np.concatenate([free, free[:1]]), device=device),
        scan=None if scan is None else torch.as_tensor(scan, device=device),
        valid=None if valid is None else torch.as_tensor(np.ascontiguousarray(np.pad(valid, pad)), device=device),
    )


class CompiledDescent:
    """Columns on their way from where they started to the most likely numbers, on the CPU.

    Parameters
    ----------
    scene : Scene
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

    def __init__(self, scene: Scene, start: Tensor, sigma: Tensor, prior: Tensor | None = None):
        self.scene, self.start, self.n = scene, start, len(start)
        self.touched = np.zeros(self.n, dtype=bool)
        n_parameters, coupled = start.shape[1], scene.coupled.numpy()
        nobody = np.zeros((1, n_parameters))
        # far away: in nobody's window
        nobody[0, :2], nobody[0, 3] = -1e6, 1.0
        parameters = np.concatenate([start.numpy(), nobody])
        crowded: NDArray[np.bool_] = np.asarray((coupled < self.n).any(1))
        self._crowded, self._no_rises = crowded, np.empty((0, 2, n_parameters))
        self.problem = compiled_problem(scene)
        self.equations = Equations(
            own=np.zeros((self.n, n_parameters, n_parameters)),
            shared=np.zeros((*coupled.shape, n_parameters, n_parameters)),
            gradient=np.zeros((self.n, n_parameters)),
            chi2=np.zeros(self.n),
            pixels=np.zeros(self.n),
        )
        self.progress = Progress(
            parameters=parameters,
            centre=centres(scene, parameters),
            movable=np.ones(self.n, dtype=bool),
            start=np.ascontiguousarray(start.numpy()),
            sigma=np.ascontiguousarray(sigma.numpy()),
            prior=np.empty((0, 3)) if prior is None else np.ascontiguousarray(prior.numpy()),
            damping=np.where(crowded, CROWDED_DAMPING, FIRST_DAMPING),
            least_damping=np.where(crowded, LEAST_CROWDED_DAMPING, LEAST_DAMPING),
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
        small = tolerance if self.scene.noise.variance is not None else tolerance / 50
        columns = np.arange(self.n)
        if first is not None:
            # what their neighbours' models were before is not known
            marked = np.append(first, False)
            self.progress.movable[:] = True if movable is None else movable
            columns = np.flatnonzero((first | marked[self.problem.coupled].any(1)) & self.progress.movable)
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
        free = self.scene.free.numpy()[which].astype(np.float64)
        covariance = self._covariances(which, joint) * free[:, :, None] * free[:, None, :]
        dof = np.maximum(self.equations.pixels[which] - free.sum(1), 1.0)
        chi2 = self.equations.chi2[which] / dof
        if self.scene.noise.variance is None:
            return covariance * chi2[:, None, None], np.ones_like(chi2)
        unexplained = np.where(chi2 > 1 + UNEXPLAINED * np.sqrt(2 / dof), chi2, 1.0)
        widened = covariance * unexplained[:, None, None]
        if self.scene.noise.tilt:
            moved = self.scene.noise.tilt * self._rises(which) @ covariance
            widened = widened + moved.transpose(0, 2, 1) @ moved
        prior = self.progress.prior
        if len(prior):
            # a residual makes the pixels worse, not what is known in addition to them
            scale = np.ones(free.shape)
            variance = np.maximum(np.diagonal(widened, axis1=1, axis2=2)[:, :2], 1e-300)
            scale[:, :2] = np.minimum(prior[which, 2:] / np.sqrt(variance), 1.0)
            widened = widened * scale[:, :, None] * scale[:, None, :]
        return widened, np.sqrt(chi2)

    # --- steps ---------------------------------------------------------------------------------------------------

    def _advance(self, columns: NDArray, small: float) -> NDArray[np.int64]:
        """One step of some columns; those that take another.

        Only columns that still move are evaluated. One that stands still joins in when the displacements of its
        neighbours, to first order, would move it by more than the tolerance.
        """
        progress, state = self.progress, (self.problem, self.progress, self.equations, LIMITS)
        number = np.full(self.n + 1, len(columns))
        number[columns] = np.arange(len(columns))
        change, length, slope = take_step(*state, columns, number, CYCLES, TOLERANCE)
        progress.age[columns] += 1
        progress.stale[columns] |= (length > small) & self._crowded[columns]
        self._evaluate(columns, RENEWED_AT[np.minimum(progress.age[columns], len(RENEWED_AT) - 1)])
        worse, concerned = judge(*state, columns, number, change, length, slope)
        if worse.any():
            self._evaluate(columns[concerned], np.zeros(int(concerned.sum()), dtype=bool))
        return np.asarray(unfinished(*state, columns, number, change, worse, small))

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
            self.problem, progress.parameters, progress.centre, columns, renewed, self.equations, self._no_rises
        )
        tie(self.problem, progress, self.equations, LIMITS, columns, renewed)
        progress.stale[columns[renewed]] = False

    def _covariances(self, which: NDArray, joint: int) -> NDArray[np.float64]:
        own, shared, coupled = self.equations.own, self.equations.shared, self.problem.coupled
        neighbours = np.unique(coupled[which, :joint])
        self._evaluate_new(neighbours[neighbours < self.n])
        diagonal, at = np.diagonal(own, axis1=1, axis2=2), np.arange(own.shape[1])
        scale = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
        blocks = own * scale[:, :, None] * scale[:, None, :]
        # what is not fitted has no errors
        blocks[:, at, at] += ~self.scene.free.numpy()[:-1]
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
            self.problem, self.progress.parameters, self.progress.centre, which, no_neighbours, spare, rises
        )
        return rises


class Descent:
    """Columns on their way from where they started to the most likely numbers.

    Parameters
    ----------
    scene : Scene
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

    def __init__(self, scene: Scene, start: Tensor, sigma: Tensor, prior: Tensor | None = None):
        self.scene, self.start, self.sigma, self.n, self.prior = scene, start, sigma, len(start), prior
        nobody = torch.zeros_like(start[:1])
        nobody[:, 3] = 1.0
        # far away: in nobody's window
        nobody[:, :2] = -1e6
        self.parameters = torch.cat([start, nobody])
        self.centre = self._centres(self.parameters)
        crowded = (scene.coupled < self.n).any(1)
        self.damping = torch.where(crowded, CROWDED_DAMPING, FIRST_DAMPING).to(start.dtype)
        self.least_damping = torch.where(crowded, LEAST_CROWDED_DAMPING, LEAST_DAMPING).to(start.dtype)
        self.everyone = torch.arange(self.n, device=start.device)
        self.movable = torch.ones_like(self.everyone, dtype=torch.bool)
        self.last_step = torch.full_like(self.damping, torch.inf)
        self.bond = torch.zeros(scene.coupled.shape, dtype=start.dtype, device=start.device)
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
            active = self._concerned(torch.as_tensor(np.append(first, False), device=self.start.device))
        for i in range(iterations):
            if len(active) == 0:
                break
            active = self._advance(active, tolerance, with_shared=i + 1 in RENEWED)
        crowded = self.everyone[(self.scene.coupled < self.n).any(1)]
        if len(crowded):
            self.blocks.put(crowded, self._equations(self.parameters, crowded))

    def errors(self, joint: int) -> tuple[NDArray, NDArray]:
        """Covariances ``(n, P, P)`` with ``joint`` neighbours free, and the residual's RMS over the expected one."""
        covariance, residual = self._errors(joint)
        return covariance.cpu().numpy(), residual.cpu().numpy()

    def _errors(self, joint: int) -> tuple[Tensor, Tensor]:
        blocks, free = self.blocks, self.scene.free[:-1].to(self.start.dtype)
        # what is not fitted has no errors
        covariance = covariances(
            replace(blocks, own=blocks.own + torch.diag_embed(1 - free)), self.scene.coupled, joint
        )
        covariance = covariance * free[:, :, None] * free[:, None, :]
        dof = self._degrees_of_freedom()
        chi2 = blocks.chi2 / dof
        if self.scene.noise.variance is None:
            return covariance * chi2[:, None, None], torch.ones_like(chi2)
        unexplained = torch.where(chi2 > 1 + UNEXPLAINED * (2 / dof).sqrt(), chi2, 1.0)
        widened = covariance * unexplained[:, None, None]
        if self.scene.noise.tilt:
            rises = slopes(self.scene, self.parameters, self.centre, self.everyone)
            moved = self.scene.noise.tilt * rises @ covariance
            widened = widened + moved.transpose(1, 2) @ moved
        return self._within_prior(widened), chi2.sqrt()

    # --- steps ---------------------------------------------------------------------------------------------------

    def _within_prior(self, covariance: Tensor) -> Tensor:
        """Covariances whose positions are no less certain than they were beforehand: a residual makes the pixels worse,
        not what is known besides.
        """
        if self.prior is None:
            return covariance
        scale = torch.ones_like(self.start)
        variance = covariance.diagonal(dim1=1, dim2=2)[:, :2].clamp_min(1e-300)
        scale[:, :2] = (self.prior[:, 2:] / variance.sqrt()).clamp(max=1.0)
        return covariance * scale[:, :, None] * scale[:, None, :]

    def _advance(self, active: Tensor, tolerance: float, *, with_shared: bool) -> Tensor:
        """One step of some columns; those that have to take another."""
        blocks, neighbours = self.blocks.take(active), self._among(active)
        change = step(blocks, neighbours, self._damping(active))
        before = self.parameters[active]
        self.parameters[active] = self._bounded(before + self._limited(change, active, neighbours), active)
        change = self.parameters[active] - before
        length = ((blocks.gradient * change).sum(1).abs() / self._unit()[active]).sqrt()
        off = active[(self.parameters[active, :2] - self.centre[active]).abs().amax(1) > OFF_CENTRE]
        self.centre[off] = self._centres(self.parameters[off])
        now = self._equations(self.parameters, active, None if with_shared else blocks.shared)
        first, last = (self._slope(part, change, neighbours) for part in (blocks, now))
        # what a step gains is half the sum of the slopes at its ends
        worse = (first + last < 0) & (length > SMALL_STEP)
        if worse.any():
            back = worse | _any(worse, neighbours)
            self.parameters[active[back]] = before[back]
            now.put(back, blocks.take(back))
            beside = ~back & _any(back, neighbours)
            if beside.any():
                now.put(beside, self._equations(self.parameters, active[beside], now.shared[beside]))
        self.blocks.put(active, now)
        over = -last / first.clamp_min(1e-200)
        factor = torch.where(over < ON_TARGET, 0.2, torch.where(over < OVERSHOT, 1.0, 4.0))
        changed = (self.damping[active] * factor).clamp(max=MOST_DAMPING)
        self.damping[active] = changed.maximum(self.least_damping[active])
        self.last_step[active] = length
        return self._unfinished(active, ~worse, tolerance, change)

    def _equations(self, parameters: Tensor, columns: Tensor, shared: Tensor | None = None) -> Blocks:
        """With the bond between the backgrounds of columns that overlap; ``shared`` is what it was before, if given."""
        blocks = equations(self.scene, parameters, self.centre, columns, with_shared=shared is None)
        if shared is None:
            # where rows have offsets of their own, backgrounds may be opposed
            self.bond[columns] = ALIKE * blocks.shared[:, :, 4, 4].clamp_min(0.0)
            blocks.shared[:, :, 4, 4] -= self.bond[columns]
        else:
            blocks.shared = shared
        if self.prior is not None:
            place, precision = self.prior[columns, :2], self.prior[columns, 2:] ** -2
            precision = precision * self.scene.free[columns, :2]
            blocks.gradient[:, :2] += precision * (place - parameters[columns, :2])
            blocks.own[:, [0, 1], [0, 1]] += precision
        bond, level = self.bond[columns], parameters[:, 4]
        blocks.own[:, 4, 4] += bond.sum(1)
        blocks.gradient[:, 4] -= (bond * (level[columns, None] - level[self.scene.coupled[columns]])).sum(1)
        return blocks

    def _unfinished(self, active: Tensor, good: Tensor, tolerance: float, change: Tensor) -> Tensor:
        amplitude = self.parameters[active, 2].abs().clamp_min(1e-12)
        relative = torch.maximum(
            change[:, [0, 1, 3]].abs().amax(1) / self.sigma[active], change[:, 2].abs() / amplitude
        )
        # errors are not known as long as there is more in the residual than noise
        small = tolerance if self.scene.noise.variance is not None else tolerance / 50
        finished = good & (
            (self.last_step[active] < small) & (self.damping[active] < DAMPED) | (relative < SMALLEST_STEP)
        )
        moving = torch.zeros(self.n + 1, dtype=torch.bool, device=active.device)
        moving[active] = ~finished
        # steps that make things worse again and again lead nowhere
        moving[:-1] &= self.damping < MOST_DAMPING
        return self._concerned(moving)

    def _concerned(self, moved: Tensor) -> Tensor:
        """Columns that have moved, ``(n + 1,)``, or overlap one that has."""
        return self.everyone[(moved[:-1] | moved[self.scene.coupled].any(1)) & self.movable]

    def _centres(self, parameters: Tensor) -> Tensor:
        """Pixels at which windows can stand."""
        size = torch.tensor(self.scene.image.shape, device=parameters.device) - 2 * self.scene.pad
        low = -self.scene.reach - 1
        return torch.minimum(parameters[:, :2].round().long().clamp_min(low), size - 1 - low)

    def _among(self, columns: Tensor) -> Tensor:
        """The neighbours of some columns as indices into these; the others stand still."""
        number = torch.full((self.n + 1,), len(columns), device=columns.device)
        number[columns] = torch.arange(len(columns), device=columns.device)
        return number[self.scene.coupled[columns]]

    def _limited(self, change: Tensor, columns: Tensor, neighbours: Tensor) -> Tensor:
        """Steps shortened as a whole where a part of them is too long, and those of neighbours with them."""
        sigma = self.sigma[columns]
        limit = torch.ones_like(change)
        limit[:, :2], limit[:, 3], limit[:, 5:] = LONGEST * sigma[:, None], QUICKEST * sigma, QUICKEST
        part = (limit / change.abs().clamp_min(1e-200)).amin(1).clamp(max=1.0)
        among = torch.cat([part, torch.ones_like(part[:1])])[neighbours]
        return change * torch.cat([part[:, None], among], dim=1).amin(1, keepdim=True)

    def _bounded(self, parameters: Tensor, columns: Tensor) -> Tensor:
        sigma, start = self.sigma[columns], self.start[columns, :2]
        far = FARTHEST * sigma[:, None]
        parameters[:, :2] = torch.maximum(torch.minimum(parameters[:, :2], start + far), start - far)
        parameters[:, 3] = torch.maximum(torch.minimum(parameters[:, 3], sigma * WIDEST), sigma / NARROWEST)
        parameters[:, 5:] = parameters[:, 5:].clamp(-LONGISH, LONGISH)
        return parameters

    def _damping(self, columns: Tensor) -> Tensor:
        """That of the most damped of a column and its neighbours: they move together."""
        among = torch.cat([self.damping, self.damping[:1] * 0])[self.scene.coupled[columns]]
        return torch.cat([self.damping[columns, None], among], dim=1).amax(1)

    def _slope(self, blocks: Blocks, change: Tensor, neighbours: Tensor) -> Tensor:
        """Along a change, summed over each column and its neighbours: above zero as long as it gains."""
        slope = (blocks.gradient * change).sum(1)
        return slope + torch.cat([slope, slope[:1] * 0])[neighbours].sum(1)

    def _unit(self) -> Tensor:
        """Variance of the weighed residuals: 1 where the noise is known and explains them."""
        least = 1.0 if self.scene.noise.variance is not None else 1e-12
        return (self.blocks.chi2 / self._degrees_of_freedom()).clamp_min(least)

    def _degrees_of_freedom(self) -> Tensor:
        return (self.blocks.pixels - self.scene.free[:-1].sum(1)).clamp_min(1).to(self.start.dtype)


def compiled_problem(scene: Scene) -> Problem:
    """A scene on the CPU as the compiled functions take it."""
    noise, known = scene.noise, scene.noise.variance
    return Problem(
        image=scene.image.numpy(),
        valid=np.empty((0, 0), dtype=bool) if scene.valid is None else scene.valid.numpy(),
        scan=np.empty((0, 0, 0), dtype=np.float32) if scene.scan is None else scene.scan.numpy(),
        pad=scene.pad,
        radius=scene.radius.numpy(),
        near=scene.near.numpy(),
        coupled=scene.coupled.numpy(),
        free=scene.free.numpy(),
        variance=np.array([] if known is None else [known.constant, known.slope, known.floor]),
        rho=float(noise.correlation_x),
        streaks=float(noise.streaks),
    )


def centres(scene: Scene, parameters: NDArray) -> NDArray[np.int64]:
    """Pixels at which the windows of columns ``(n, P)`` stand."""
    size = np.array(scene.image.shape) - 2 * scene.pad
    places = np.rint(parameters[:, :2]).astype(np.int64)
    return np.ascontiguousarray(places.clip(-scene.reach - 1, size + scene.reach))


def _any(of: Tensor, neighbours: Tensor) -> Tensor:
    """Whether one of the neighbours is among some columns."""
    return torch.cat([of, of[:1] & False])[neighbours].any(1)


def _coupled(positions: NDArray, near: NDArray, sigma: NDArray) -> NDArray[np.int64]:
    """The neighbours that columns are solved for together with, filled up with n."""
    n = len(positions)
    if near.shape[1] == 0:
        return near
    padded = np.concatenate([positions, np.full((1, 2), np.inf)])
    distance = np.hypot(*np.moveaxis(padded[near] - positions[:, None], -1, 0))
    # in terms of the mean width of both
    distance /= (sigma[:, None] + np.append(sigma, 1.0)[near]) / 2
    apart = (distance > COUPLED) | (distance.min(axis=1, keepdims=True) > CROWDED)
    coupled = np.where(apart, n, near)
    # nearest first, those that are none last
    order = np.argsort(np.where(apart, np.inf, distance), axis=1, kind="stable")
    most = min(MOST_COUPLED, int((coupled < n).sum(1).max()))
    return np.ascontiguousarray(np.take_along_axis(coupled, order, axis=1)[:, :most])
