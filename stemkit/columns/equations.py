"""The normal equations of columns that are fitted together: one block for each column, one for each that overlap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from stemkit.columns.gaussians import ROUND, derivatives, projected, summed
from stemkit.columns.noise import FitNoise
from stemkit.columns.problem import FitProblem

__all__ = ["Blocks", "equations", "slopes"]

#: Values of the windows that are worked on at once: bounds the memory, and keeps it near the processor.
AT_ONCE = 2**17


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


def equations(
    problem: FitProblem, parameters: Tensor, centre: Tensor, columns: Tensor, *, with_shared: bool = True
) -> Blocks:
    """The normal equations of some columns at given parameters.

    Parameters
    ----------
    problem : FitProblem
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
    elliptical_or_bent = problem.scan is not None or parameters.shape[1] > len(ROUND)
    deep = 1 + problem.coupled.shape[1] * with_shared + problem.near.shape[1] * elliptical_or_bent

    def part(own_problem: FitProblem, some: Tensor) -> tuple[Tensor, ...]:
        return _part(own_problem, parameters, centre, some, with_shared)

    return Blocks(*_in_parts(part, problem, columns, deep))


def slopes(problem: FitProblem, parameters: Tensor, centre: Tensor, columns: Tensor) -> Tensor:
    """``J^T C^-1 r`` for backgrounds that rise by 1 per px along y and x, ``(m, 2, P)``."""

    def part(own_problem: FitProblem, some: Tensor) -> tuple[Tensor, ...]:
        weighed = _weighed(own_problem, parameters, centre, some)
        dy, dx = _distances(own_problem, parameters[some], centre[some], None)
        rise = torch.stack(torch.broadcast_tensors(dy, dx), dim=1).contiguous()
        product = weighed.whiten(rise).flatten(2) @ weighed.stacked[:, :-1].flatten(2).transpose(1, 2)
        return (product.to(torch.float64) * problem.free[some][:, None],)

    return _in_parts(part, problem, columns)[0]


# --- steps -------------------------------------------------------------------------------------------------------


def _in_parts(
    work: Callable[[FitProblem, Tensor], tuple[Tensor, ...]], problem: FitProblem, columns: Tensor, deep: int = 1
) -> tuple[Tensor, ...]:
    """What some work gives for columns, done for a few at a time, in windows no larger than these need."""
    radius = problem.radius[columns]
    parts, order = [], []
    for reach in torch.unique(radius).tolist():
        some = torch.nonzero(radius == reach)[:, 0]
        own_problem = replace(problem, reach=int(reach))
        size = max(16, AT_ONCE // ((2 * own_problem.reach + 1) ** 2 * deep))
        parts += [work(own_problem, columns[few]) for few in some.split(size)]
        order.append(some)
    back = torch.argsort(torch.cat(order))
    return tuple(torch.cat(part)[back] for part in zip(*parts, strict=True))


def _part(
    problem: FitProblem, parameters: Tensor, centre: Tensor, part: Tensor, with_shared: bool
) -> tuple[Tensor, ...]:
    others = problem.coupled[part]
    weighed = _weighed(problem, parameters, centre, part)
    stacked = weighed.stacked.flatten(2)
    product = (stacked @ stacked.transpose(1, 2)).to(torch.float64)
    free = problem.free.to(product.dtype)
    own, gradient, chi2 = product[:, :-1, :-1], product[:, :-1, -1] * free[part], product[:, -1, -1]
    own = own * free[part][:, :, None] * free[part][:, None, :]
    shared = own.new_zeros(*others.shape, *own.shape[1:])
    if with_shared and others.shape[1]:
        their = parameters[others].to(problem.image.dtype)
        displaced = None if weighed.displaced is None else weighed.displaced[:, :, None]
        distances = _distances(problem, parameters[others], centre[part][:, None], displaced)
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


def _weighed(problem: FitProblem, parameters: Tensor, centre: Tensor, part: Tensor) -> _Weighed:
    middle, dtype = centre[part], problem.image.dtype
    use = problem.used(part, middle)
    displaced = None if problem.scan is None else problem.windows(problem.scan, middle)
    shares, model = _backgrounds(problem, parameters, centre, part)
    stacked = torch.empty(len(part), parameters.shape[1] + 1, *use.shape[1:], dtype=dtype, device=use.device)
    distances = _distances(problem, parameters[part], middle, displaced)
    column, _ = derivatives(parameters[part].to(dtype), *distances, shares[:, 0], stacked[:, :-1])
    model = model + column
    if problem.near.shape[1]:
        model += _others(problem, parameters[problem.near[part]], middle, displaced)
    torch.sub(problem.windows(problem.image, middle), model, out=stacked[:, -1])
    variance = None if problem.noise.variance is None else problem.noise.variance(model)
    whiten = _Whitening(variance, use, problem.noise)
    return _Weighed(whiten(stacked), shares, displaced, whiten, use.sum((1, 2)))


def _distances(
    problem: FitProblem, parameters: Tensor, middle: Tensor, displaced: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Of a window's pixels from columns ``(..., P)``: along y ``(..., h, 1)`` and x ``(..., 1, w)``."""
    # from the window's centre in double precision: far from the image's corner a float32 has few digits left
    offset = (parameters[..., :2] - middle).to(problem.image.dtype)
    dy = (problem.span - offset[..., :1])[..., :, None]
    dx = (problem.span - offset[..., 1:2])[..., None, :]
    return (dy, dx) if displaced is None else (dy + displaced[0], dx + displaced[1])


def _others(problem: FitProblem, parameters: Tensor, middle: Tensor, displaced: Tensor | None) -> Tensor:
    displaced = None if displaced is None else displaced[:, :, None]
    distances = _distances(problem, parameters, middle[:, None], displaced)
    return summed(parameters.to(problem.image.dtype), *distances)


def _covered(problem: FitProblem, centre: Tensor, columns: Tensor, middle: Tensor) -> Tensor:
    """Which of a window's pixels are within the radius of other columns: ``(..., h, w)``."""
    offset = (centre[columns] - middle).to(problem.image.dtype)
    dy, dx = (problem.span - offset[..., i, None] for i in (0, 1))
    # half the width of the disk at each row, nowhere where it does not reach
    half = ((problem.radius[columns] + 0.5) ** 2)[..., None] - dy**2
    half = torch.where(half < 0, -1.0, half.sqrt())
    return dx.abs()[..., None, :] <= half[..., :, None]


def _backgrounds(problem: FitProblem, parameters: Tensor, centre: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
    """The shares in the background of a window's pixels, ``(m, 1 + k, h, w)``, of the column and of those coupled to
    it, and that background: the mean of those of the columns whose windows a pixel is in.
    """
    columns = torch.cat([part[:, None], problem.coupled[part]], dim=1)
    levels = parameters[columns, 4].to(problem.image.dtype)
    if columns.shape[1] == 1:
        return torch.ones_like(levels)[..., None, None], levels[..., None]
    shares = _covered(problem, centre, columns, centre[part][:, None]).to(problem.image.dtype)
    shares[:, 0] = 1.0
    shares /= shares.sum(1, keepdim=True)
    return shares, (levels[:, None] @ shares.flatten(2)).view(len(part), *shares.shape[2:])


class _Whitening:
    """``C^-1/2`` on windows: residuals through it are independent and of variance 1.

    FitNoise of variance v has ``v^-1/2``. An autoregressive one along the row, ``z_x = rho z_(x-1) + e``, becomes
    ``(z_x - rho z_(x-1)) / (1 - rho^2)^1/2``. An offset of variance s^2 that a row has as a whole adds ``s^2 t t^T``,
    where t is what has become of a row of ones, and ``(1 + s^2 t t^T)^-1/2 = 1 - c t t^T`` with
    ``c = (1 - (1 + s^2 t^T t)^-1/2) / (t^T t)``.
    """

    def __init__(self, variance: Tensor | None, use: Tensor, noise: FitNoise):
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
