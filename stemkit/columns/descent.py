"""Fitting columns together: Levenberg-Marquardt steps of those that have not converged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stemkit.columns.equations import ALIKE, Blocks, Noise, Scene, equations, neighbours, slopes
from stemkit.columns.solving import covariances, step

__all__ = ["FARTHEST", "NARROWEST", "REACH", "RENDERED", "WIDEST", "Descent", "scene_of"]

#: A column is fitted on the pixels within this many sigmas of it, and its model is drawn within this many.
REACH, RENDERED = 2.5, 4.5
#: A column with a neighbour nearer than this many sigmas is solved for together with all that are within the second
#: number of sigmas, this many at most.
CROWDED, COUPLED, MOST_COUPLED = 4.5, 5.5, 20
#: Steps before which the neighbours' part in the equations is worked out anew; it changes little between them.
RENEWED = (1, 2, 3, 4, 8, 12, 16)
#: Fits stay within this many sigmas of their start, and their widths within these factors.
FARTHEST, NARROWEST, WIDEST = 1.5, 2.0, 2.0
#: One step moves a column by less than this many sigmas, and changes its width by less than this part (its height by
#: less than the image's range).
LONGEST, QUICKEST = 0.5, 0.3
#: A fit has converged when its last step was less than this part of its errors, or of its width and height: the next
#: one is several times shorter.
SMALL_STEP, SMALLEST_STEP = 0.1, 1e-4
#: A step after which the slope is steeper by this factor calls for shorter ones; a slope that would move a parameter by
#: less than this part of its error is no reason, since the weights change with the model.
GETTING_WORSE, GENTLE = 1.5, 0.3
#: The residual is larger than noise explains from this many of its own standard deviations.
UNEXPLAINED = 4.0
FIRST_DAMPING, CROWDED_DAMPING, LEAST_DAMPING, MOST_DAMPING = 1e-3, 0.3, 1e-7, 1e4
#: A step after which the residual on a column's window is larger by this factor is taken back.
MUCH_WORSE = 2.0
#: The window follows a column that is farther from its middle than this, px.
OFF_CENTRE = 0.55
#: The largest of the numbers that make a column longish.
LONGISH = 0.6


def scene_of(
    values: NDArray,
    positions: NDArray,
    sigma: NDArray,
    noise: Noise,
    shifts: NDArray | None,
    free: NDArray,
    device: torch.device,
) -> Scene:
    """What :class:`Descent` works on, from arrays."""
    radius = np.maximum(2, np.ceil(REACH * sigma)).astype(int)
    reach = int(radius.max())
    pad = 2 * reach + 2
    near = neighbours(positions, radius, RENDERED * sigma)
    coupled = _coupled(positions, near, sigma)
    scan = None if shifts is None else np.pad(shifts, ((0, 0), (pad, pad), (pad, pad)), mode="edge").astype(np.float32)
    return Scene(
        image=torch.as_tensor(np.pad(values, pad).astype(np.float32), device=device),
        pad=pad,
        reach=reach,
        radius=torch.as_tensor(np.append(radius, 0), device=device),
        noise=noise,
        near=torch.as_tensor(near, device=device),
        coupled=torch.as_tensor(coupled, device=device),
        free=torch.as_tensor(np.concatenate([free, free[:1]]), device=device),
        scan=None if scan is None else torch.as_tensor(scan, device=device),
    )


class Descent:
    """Columns on their way from where they started to the most likely numbers.

    Parameters
    ----------
    scene : Scene
    start : Tensor of shape (n, P)
    sigma : Tensor of shape (n,)
        The widths that lengths are compared with, px.

    Attributes
    ----------
    parameters : Tensor of shape (n + 1, P)
        The last one stands for a column that is not there.
    """

    def __init__(self, scene: Scene, start: Tensor, sigma: Tensor):
        self.scene, self.start, self.sigma, self.n = scene, start, sigma, len(start)
        nobody = torch.zeros_like(start[:1])
        nobody[:, 3] = 1.0
        # far away: in nobody's window
        nobody[:, :2] = -1e6
        self.parameters = torch.cat([start, nobody])
        self.centre = self._centres(self.parameters)
        crowded = (scene.coupled < self.n).any(1)
        self.damping = torch.where(crowded, CROWDED_DAMPING, FIRST_DAMPING).to(start.dtype)
        self.everyone = torch.arange(self.n, device=start.device)
        self.bond = torch.zeros(scene.coupled.shape, dtype=start.dtype, device=start.device)
        self.blocks = self._equations(self.parameters, self.everyone)

    def run(self, iterations: int) -> None:
        """Take steps until every column has converged, its window around where it is then."""
        active = self.everyone
        for i in range(iterations):
            active = self._advance(active, with_shared=i + 1 in RENEWED)
            if len(active) == 0:
                break
        crowded = self.everyone[(self.scene.coupled < self.n).any(1)]
        if len(crowded):
            self.blocks.put(crowded, self._equations(self.parameters, crowded))

    def errors(self) -> tuple[Tensor, Tensor]:
        """Covariances ``(n, P, P)``, and the residual's RMS over the expected one ``(n,)``."""
        blocks, free = self.blocks, self.scene.free[:-1].to(self.start.dtype)
        # what is not fitted has no errors
        covariance = covariances(replace(blocks, own=blocks.own + torch.diag_embed(1 - free)), self.scene.coupled)
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
        return widened, chi2.sqrt()

    # --- steps ---------------------------------------------------------------------------------------------------

    def _advance(self, active: Tensor, *, with_shared: bool) -> Tensor:
        """One step of some columns; those that have to take another."""
        blocks, neighbours = self.blocks.take(active), self._among(active)
        change = step(blocks, neighbours, self.damping[active])
        before = self.parameters[active]
        self.parameters[active] = self._bounded(before + self._limited(change, active), active)
        change = self.parameters[active] - before
        length = self._length(active, change)
        off = active[(self.parameters[active, :2] - self.centre[active]).abs().amax(1) > OFF_CENTRE]
        self.centre[off] = self._centres(self.parameters[off])
        now = self._equations(self.parameters, active, None if with_shared else blocks.shared)
        better = self._steepness(now) < GETTING_WORSE * self._steepness(blocks).clamp_min(GENTLE)
        worse = now.chi2 > MUCH_WORSE * (blocks.chi2 + blocks.pixels * self._unit()[active])
        if worse.any():
            back = worse | torch.cat([worse, worse[:1] & False])[neighbours].any(1)
            self.parameters[active[back]] = before[back]
            now.put(back, blocks.take(back))
            better &= ~back
        self.blocks.put(active, now)
        factor = torch.where(better, 0.2, 8.0)
        self.damping[active] = (self.damping[active] * factor).clamp(LEAST_DAMPING, MOST_DAMPING)
        return self._unfinished(active, better, length, change)

    def _equations(self, parameters: Tensor, columns: Tensor, shared: Tensor | None = None) -> Blocks:
        """With the bond between the backgrounds of columns that overlap; ``shared`` is what it was before, if given."""
        blocks = equations(self.scene, parameters, self.centre, columns, with_shared=shared is None)
        if shared is None:
            # where rows have offsets of their own, backgrounds may be opposed
            self.bond[columns] = ALIKE * blocks.shared[:, :, 4, 4].clamp_min(0.0)
            blocks.shared[:, :, 4, 4] -= self.bond[columns]
        else:
            blocks.shared = shared
        bond, level = self.bond[columns], parameters[:, 4]
        blocks.own[:, 4, 4] += bond.sum(1)
        blocks.gradient[:, 4] -= (bond * (level[columns, None] - level[self.scene.coupled[columns]])).sum(1)
        return blocks

    def _unfinished(self, active: Tensor, better: Tensor, length: Tensor, change: Tensor) -> Tensor:
        amplitude = self.parameters[active, 2].abs().clamp_min(1e-12)
        relative = torch.maximum(
            change[:, [0, 1, 3]].abs().amax(1) / self.sigma[active], change[:, 2].abs() / amplitude
        )
        # errors are not known as long as there is more in the residual than noise
        small = SMALL_STEP if self.scene.noise.variance is not None else SMALL_STEP / 10
        finished = better & ((length < small) | (relative < SMALLEST_STEP))
        moving = torch.zeros(self.n + 1, dtype=torch.bool, device=active.device)
        moving[active] = ~finished
        # steps that make things worse again and again lead nowhere
        moving[:-1] &= self.damping < MOST_DAMPING
        return self._concerned(moving)

    def _concerned(self, moved: Tensor) -> Tensor:
        """Columns that have moved, ``(n + 1,)``, or overlap one that has."""
        return self.everyone[moved[:-1] | moved[self.scene.coupled].any(1)]

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

    def _limited(self, change: Tensor, columns: Tensor) -> Tensor:
        sigma = self.sigma[columns]
        limit = torch.ones_like(change)
        limit[:, :2], limit[:, 3], limit[:, 5:] = LONGEST * sigma[:, None], QUICKEST * sigma, QUICKEST
        return torch.maximum(torch.minimum(change, limit), -limit)

    def _bounded(self, parameters: Tensor, columns: Tensor) -> Tensor:
        sigma, start = self.sigma[columns], self.start[columns, :2]
        far = FARTHEST * sigma[:, None]
        parameters[:, :2] = torch.maximum(torch.minimum(parameters[:, :2], start + far), start - far)
        parameters[:, 3] = torch.maximum(torch.minimum(parameters[:, 3], sigma * WIDEST), sigma / NARROWEST)
        parameters[:, 5:] = parameters[:, 5:].clamp(-LONGISH, LONGISH)
        return parameters

    def _length(self, columns: Tensor, change: Tensor) -> Tensor:
        """The largest part of a change, in standard deviations of that parameter, the others held."""
        curvature = self.blocks.own[columns].diagonal(dim1=1, dim2=2) / self._unit()[columns, None]
        return (change.abs() * curvature.sqrt()).amax(1)

    def _steepness(self, blocks: Blocks) -> Tensor:
        """How far from its best value, in standard deviations, each column's parameters are at most, others held."""
        return (blocks.gradient.abs() * blocks.own.diagonal(dim1=1, dim2=2).clamp_min(1e-200).rsqrt()).amax(1)

    def _unit(self) -> Tensor:
        """Variance of the weighed residuals: 1 where the noise is known."""
        blocks = self.blocks
        known = self.scene.noise.variance is not None
        return torch.ones_like(blocks.chi2) if known else (blocks.chi2 / self._degrees_of_freedom()).clamp_min(1e-12)

    def _degrees_of_freedom(self) -> Tensor:
        return (self.blocks.pixels - self.scene.free[:-1].sum(1)).clamp_min(1).to(self.start.dtype)


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
    return np.take_along_axis(coupled, order, axis=1)[:, :most]
