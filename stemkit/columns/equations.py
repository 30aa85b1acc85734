"""The normal equations of columns that are fitted together: one block for each column, one for each that overlap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from stemkit.columns.gaussians import ROUND, derivatives, projected, summed

__all__ = ["Blocks", "Noise", "Scene", "Variance", "equations", "neighbours", "slopes"]

#: Values of the windows that are worked on at once: bounds the memory, and keeps it near the processor.
AT_ONCE = 2**17


@dataclass(frozen=True)
class Variance:
    """Variance of the noise of a pixel, ``max(constant + slope I, floor)`` where the noise-free intensity is I."""

    constant: float
    slope: float = 0.0
    floor: float = 0.0

    def __call__(self, intensity: Tensor) -> Tensor:
        return (self.constant + self.slope * intensity).clamp_min(self.floor)

    def in_units(self, level: float, scale: float) -> Variance:
        """The same of ``(I - level) / scale``."""
        return Variance((self.constant + self.slope * level) / scale**2, self.slope / scale, self.floor / scale**2)


@dataclass(frozen=True)
class Noise:
    """The noise that residuals are weighted by; ``variance`` is None where it is unknown. ``streaks`` is the standard
    deviation of the offset that a row has as a whole. ``tilt``, that of the background's slope per px along either
    axis, widens the errors.
    """

    variance: Variance | None = None
    correlation_x: float = 0.0
    streaks: float = 0.0
    tilt: float = 0.0


@dataclass(frozen=True)
class Scene:
    """What does not change while columns are fitted.

    Parameters
    ----------
    image : Tensor of shape (n_y + 2 pad, n_x + 2 pad)
        Recorded values.
    pad, reach : int
        Windows are squares of ``2 reach + 1`` px, those of the widest columns.
    radius : Tensor of shape (n + 1,)
        A column is fitted on the pixels within this distance of the one at its centre.
    noise : Noise
    near, coupled : Tensor of shape (n, k)
        Neighbours whose models reach into the column's window, and those that are solved for together with it; filled
        up with n, which stands for a column that is not there.
    free : Tensor of bool, shape (n + 1, P)
        Which parameters are fitted.
    scan : Tensor of shape (2, n_y + 2 pad, n_x + 2 pad) or None
        Displacement of the beam at each pixel, px.
    valid : Tensor of bool, shape (n_y + 2 pad, n_x + 2 pad), or None
        Pixels that count; all of them where it is None.
    """

    image: Tensor
    pad: int
    reach: int
    radius: Tensor
    noise: Noise
    near: Tensor
    coupled: Tensor
    free: Tensor
    scan: Tensor | None = None
    valid: Tensor | None = None

    @property
    def span(self) -> Tensor:
        """Pixels of a window along one axis, from its centre."""
        return torch.arange(-self.reach, self.reach + 1, device=self.image.device)

    def windows(self, values: Tensor, centre: Tensor) -> Tensor:
        """Squares around pixels, ``(..., m, h, w)``."""
        size = 2 * self.reach + 1
        row, col = (centre - self.reach + self.pad).T
        if values.device.type == "cpu":
            # NumPy copies whole blocks, five times as fast
            blocks = np.lib.stride_tricks.sliding_window_view(values.numpy(), (size, size), axis=(-2, -1))
            return torch.from_numpy(blocks[..., row.numpy(), col.numpy(), :, :])
        return values.unfold(-2, size, 1).unfold(-2, size, 1)[..., row, col, :, :]

    def used(self, columns: Tensor, centre: Tensor) -> Tensor:
        """Which pixels of the columns' windows are in the image and within the radius, ``(m, h, w)``."""
        size = torch.tensor(self.image.shape, device=centre.device) - 2 * self.pad
        place = centre[:, :, None] + self.span
        inside = (place >= 0) & (place < size[:, None])
        square = self.span**2
        disk = square[:, None] + square[None, :] <= ((self.radius[columns] + 0.5) ** 2)[:, None, None]
        within = inside[:, 0, :, None] & inside[:, 1, None, :] & disk
        return within if self.valid is None else within & self.windows(self.valid, centre)


@dataclass
class Blocks:
    """The linear equations of a step for m columns of P parameters, and what belongs to them.

    ``own`` ``(m, P, P)`` and ``shared`` ``(m, k, P, P)`` are ``J^T C^-1 J`` on the column's window, with itself and
    with its coupled neighbours; ``gradient`` ``(m, P)`` is ``J^T C^-1 residual``; ``chi2`` ``(m,)`` the weighed square
    of ``pixels`` ``(m,)``.
    """

    own: Tensor
    shared: Tensor
    gradient: Tensor
    chi2: Tensor
    pixels: Tensor

    def take(self, which: Tensor) -> Blocks:
        """Those of some of the columns."""
        return Blocks(*(getattr(self, f.name)[which] for f in fields(self)))

    def put(self, which: Tensor, others: Blocks) -> None:
        """Replace those of some of the columns."""
        for f in fields(self):
            getattr(self, f.name)[which] = getattr(others, f.name)


def neighbours(positions: NDArray, windows: NDArray, drawn: NDArray) -> NDArray[np.int64]:
    """Neighbours of n columns whose models, drawn so far (px), reach into the column's window, nearest first.

    Returns
    -------
    ndarray of shape (n, k)
        Indices, filled up with n.
    """
    n = len(positions)
    pairs = cKDTree(positions).query_pairs(float(windows.max() + drawn.max()), output_type="ndarray")
    both = np.concatenate([pairs, pairs[:, ::-1]])
    distance = np.hypot(*(positions[both[:, 0]] - positions[both[:, 1]]).T)
    reaching = distance <= windows[both[:, 0]] + drawn[both[:, 1]]
    both, distance = both[reaching], distance[reaching]
    if len(both) == 0:
        return np.empty((n, 0), dtype=np.int64)
    both = both[np.lexsort((distance, both[:, 0]))]
    first = np.searchsorted(both[:, 0], np.arange(n))
    place = np.arange(len(both)) - first[both[:, 0]]
    found = np.full((n, int(place.max()) + 1), n, dtype=np.int64)
    found[both[:, 0], place] = both[:, 1]
    return found


def equations(scene: Scene, parameters: Tensor, centre: Tensor, columns: Tensor, *, with_shared: bool = True) -> Blocks:
    """The normal equations of some columns at given parameters.

    Parameters
    ----------
    scene : Scene
    parameters : Tensor of shape (n + 1, P)
        The last one stands for a column that is not there.
    centre : Tensor of shape (n + 1, 2)
        The pixels at the centres of the windows.
    columns : Tensor of shape (m,)
        Indices.
    with_shared : bool
        Whether to work out ``shared``, which takes half of the time where columns overlap; else it is zero.

    Returns
    -------
    Blocks
    """
    elliptical_or_bent = scene.scan is not None or parameters.shape[1] > len(ROUND)
    deep = 1 + scene.coupled.shape[1] * with_shared + scene.near.shape[1] * elliptical_or_bent

    def part(own_scene: Scene, some: Tensor) -> tuple[Tensor, ...]:
        return _part(own_scene, parameters, centre, some, with_shared)

    return Blocks(*_in_parts(part, scene, columns, deep))


def slopes(scene: Scene, parameters: Tensor, centre: Tensor, columns: Tensor) -> Tensor:
    """``J^T C^-1 r`` for backgrounds that rise by 1 per px along y and x, ``(m, 2, P)``."""

    def part(own_scene: Scene, some: Tensor) -> tuple[Tensor, ...]:
        weighed = _weighed(own_scene, parameters, centre, some)
        dy, dx = _distances(own_scene, parameters[some], centre[some], None)
        rise = torch.stack(torch.broadcast_tensors(dy, dx), dim=1).contiguous()
        product = weighed.whiten(rise).flatten(2) @ weighed.stacked[:, :-1].flatten(2).transpose(1, 2)
        return (product.to(torch.float64) * scene.free[some][:, None],)

    return _in_parts(part, scene, columns)[0]


# --- steps -------------------------------------------------------------------------------------------------------


def _in_parts(
    work: Callable[[Scene, Tensor], tuple[Tensor, ...]], scene: Scene, columns: Tensor, deep: int = 1
) -> tuple[Tensor, ...]:
    """What some work gives for columns, done for a few at a time, in windows no larger than these need."""
    radius = scene.radius[columns]
    parts, order = [], []
    for reach in torch.unique(radius).tolist():
        some = torch.nonzero(radius == reach)[:, 0]
        own_scene = replace(scene, reach=int(reach))
        size = max(16, AT_ONCE // ((2 * own_scene.reach + 1) ** 2 * deep))
        parts += [work(own_scene, columns[few]) for few in some.split(size)]
        order.append(some)
    back = torch.argsort(torch.cat(order))
    return tuple(torch.cat(part)[back] for part in zip(*parts, strict=True))


def _part(scene: Scene, parameters: Tensor, centre: Tensor, part: Tensor, with_shared: bool) -> tuple[Tensor, ...]:
    others = scene.coupled[part]
    weighed = _weighed(scene, parameters, centre, part)
    stacked = weighed.stacked.flatten(2)
    product = (stacked @ stacked.transpose(1, 2)).to(torch.float64)
    free = scene.free.to(product.dtype)
    own, gradient, chi2 = product[:, :-1, :-1], product[:, :-1, -1] * free[part], product[:, -1, -1]
    own = own * free[part][:, :, None] * free[part][:, None, :]
    shared = own.new_zeros(*others.shape, *own.shape[1:])
    if with_shared and others.shape[1]:
        their = parameters[others].to(scene.image.dtype)
        displaced = None if weighed.displaced is None else weighed.displaced[:, :, None]
        distances = _distances(scene, parameters[others], centre[part][:, None], displaced)
        onto = weighed.whiten.adjoint(weighed.stacked[:, :-1])
        shared = projected(their, *distances, weighed.shares[:, 1:], onto).to(own.dtype)
        shared = shared * free[part][:, None, :, None] * free[others][:, :, None, :]
    return own, shared, gradient, chi2, weighed.pixels


@dataclass
class _Weighed:
    """Derivatives and, last, the residual on windows ``(m, P + 1, h, w)``, whitened; and how they came about."""

    stacked: Tensor
    shares: Tensor
    displaced: Tensor | None
    whiten: _Whitening
    pixels: Tensor


def _weighed(scene: Scene, parameters: Tensor, centre: Tensor, part: Tensor) -> _Weighed:
    middle, dtype = centre[part], scene.image.dtype
    use = scene.used(part, middle)
    displaced = None if scene.scan is None else scene.windows(scene.scan, middle)
    shares, model = _backgrounds(scene, parameters, centre, part)
    stacked = torch.empty(len(part), parameters.shape[1] + 1, *use.shape[1:], dtype=dtype, device=use.device)
    distances = _distances(scene, parameters[part], middle, displaced)
    column, _ = derivatives(parameters[part].to(dtype), *distances, shares[:, 0], stacked[:, :-1])
    model = model + column
    if scene.near.shape[1]:
        model += _others(scene, parameters[scene.near[part]], middle, displaced)
    torch.sub(scene.windows(scene.image, middle), model, out=stacked[:, -1])
    variance = None if scene.noise.variance is None else scene.noise.variance(model)
    whiten = _Whitening(variance, use, scene.noise)
    return _Weighed(whiten(stacked), shares, displaced, whiten, use.sum((1, 2)))


def _distances(scene: Scene, parameters: Tensor, middle: Tensor, displaced: Tensor | None) -> tuple[Tensor, Tensor]:
    """Of a window's pixels from columns ``(..., P)``: along y ``(..., h, 1)`` and x ``(..., 1, w)``."""
    # from the window's centre in double precision: far from the image's corner a float32 has few digits left
    offset = (parameters[..., :2] - middle).to(scene.image.dtype)
    dy = (scene.span - offset[..., :1])[..., :, None]
    dx = (scene.span - offset[..., 1:2])[..., None, :]
    return (dy, dx) if displaced is None else (dy + displaced[0], dx + displaced[1])


def _others(scene: Scene, parameters: Tensor, middle: Tensor, displaced: Tensor | None) -> Tensor:
    displaced = None if displaced is None else displaced[:, :, None]
    distances = _distances(scene, parameters, middle[:, None], displaced)
    return summed(parameters.to(scene.image.dtype), *distances)


def _covered(scene: Scene, centre: Tensor, columns: Tensor, middle: Tensor) -> Tensor:
    """Which of a window's pixels are within the radius of other columns: ``(..., h, w)``."""
    offset = (centre[columns] - middle).to(scene.image.dtype)
    dy, dx = (scene.span - offset[..., i, None] for i in (0, 1))
    # half the width of the disk at each row, nowhere where it does not reach
    half = ((scene.radius[columns] + 0.5) ** 2)[..., None] - dy**2
    half = torch.where(half < 0, -1.0, half.sqrt())
    return dx.abs()[..., None, :] <= half[..., :, None]


def _backgrounds(scene: Scene, parameters: Tensor, centre: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
    """The shares in the background of a window's pixels, ``(m, 1 + k, h, w)``, of the column and of those coupled to
    it, and that background: the mean of those of the columns whose windows a pixel is in.
    """
    columns = torch.cat([part[:, None], scene.coupled[part]], dim=1)
    levels = parameters[columns, 4].to(scene.image.dtype)
    if columns.shape[1] == 1:
        return torch.ones_like(levels)[..., None, None], levels[..., None]
    shares = _covered(scene, centre, columns, centre[part][:, None]).to(scene.image.dtype)
    shares[:, 0] = 1.0
    shares /= shares.sum(1, keepdim=True)
    return shares, (levels[:, None] @ shares.flatten(2)).view(len(part), *shares.shape[2:])


class _Whitening:
    """``C^-1/2`` on windows: residuals through it are independent and of variance 1.

    Noise of variance v has ``v^-1/2``. An autoregressive one along the row, ``z_x = rho z_(x-1) + e``, becomes
    ``(z_x - rho z_(x-1)) / (1 - rho^2)^1/2``. An offset of variance s^2 that a row has as a whole adds ``s^2 t t^T``,
    where t is what has become of a row of ones, and ``(1 + s^2 t t^T)^-1/2 = 1 - c t t^T`` with
    ``c = (1 - (1 + s^2 t^T t)^-1/2) / (t^T t)``.
    """

    def __init__(self, variance: Tensor | None, use: Tensor, noise: Noise):
        self.correlation, self.streaks = noise.correlation_x, noise.streaks
        self.scale = use.to(torch.float32) if variance is None else use * variance.rsqrt()
        self.row: Tensor | None = None
        self.innovation: Tensor | None = None
        if self.correlation:
            follows = torch.nn.functional.pad(use[..., :-1], (1, 0)) & use
            self.innovation = use * torch.where(follows, (1 - self.correlation**2) ** -0.5, 1.0)
        if self.streaks:
            row = self._pointwise(torch.ones_like(self.scale)[:, None])
            square = (row**2).sum(-1, keepdim=True).clamp_min(1e-30)
            self.removed = (1 - (1 + self.streaks**2 * square) ** -0.5) / square
            self.row = row

    def __call__(self, values: Tensor) -> Tensor:
        """Of values ``(m, k, h, w)``, which may be overwritten."""
        values = self._pointwise(values)
        if self.row is None:
            return values
        return values - self.row * (self.removed * (self.row * values).sum(-1, keepdim=True))

    def adjoint(self, values: Tensor) -> Tensor:
        """The transposed of what a call does, of values ``(m, k, h, w)``."""
        if self.row is not None:
            values = values - self.row * (self.removed * (self.row * values).sum(-1, keepdim=True))
        if self.innovation is not None:
            values = self.innovation[:, None] * values
            values = values - self.correlation * torch.nn.functional.pad(values[..., 1:], (0, 1))
        return values * self.scale[:, None]

    def _pointwise(self, values: Tensor) -> Tensor:
        values *= self.scale[:, None]
        if self.innovation is None:
            return values
        before = torch.nn.functional.pad(values[..., :-1], (1, 0))
        return self.innovation[:, None] * (values - self.correlation * before)
