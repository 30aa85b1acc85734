"""Normal equations of columns that are fitted together, as batched tensors on any device.

Each column has a diagonal block, and an off-diagonal block for each of its coupled neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from stemkit.columns.gaussians import ROUND, derivatives, projected, summed
from stemkit.columns.problem import FitProblem
from stemkit.columns.whitening import Whitening

__all__ = ["NormalEquations", "normal_equations", "ramp_projections"]

#: Number of pixels of all windows that are computed at once (chosen: bounds the memory, and fits into caches).
PIXELS_PER_BATCH = 2**17
#: Smallest number of columns that are computed at once (chosen).
MIN_BATCH = 16


@dataclass
class NormalEquations:
    """Normal equations of a Gauss-Newton step of m columns with P parameters and k coupled neighbours each.

    J is the Jacobian of a column, r its residual and C the covariance of the noise, all on the column's window.

    Parameters
    ----------
    own : Tensor of shape (m, P, P)
        Diagonal blocks ``J^T C^-1 J``.
    shared : Tensor of shape (m, k, P, P)
        Off-diagonal blocks ``J^T C^-1 J_neighbour``.
    gradient : Tensor of shape (m, P)
        ``J^T C^-1 r``.
    chi2 : Tensor of shape (m,)
        ``r^T C^-1 r``.
    pixels : Tensor of shape (m,)
        Number of valid pixels of the window.
    """

    own: Tensor
    shared: Tensor
    gradient: Tensor
    chi2: Tensor
    pixels: Tensor

    def take(self, which: Tensor) -> NormalEquations:
        """The equations of some of the columns."""
        return NormalEquations(*(getattr(self, f.name)[which] for f in fields(self)))

    def put(self, which: Tensor, others: NormalEquations) -> None:
        """Replace the equations of some of the columns."""
        for f in fields(self):
            getattr(self, f.name)[which] = getattr(others, f.name)


def normal_equations(
    problem: FitProblem, parameters: Tensor, center: Tensor, columns: Tensor, *, with_shared: bool = True
) -> NormalEquations:
    """The normal equations of some columns at given parameters.

    Parameters
    ----------
    problem : FitProblem
    parameters : Tensor of shape (n + 1, P)
        The last row stands for an absent neighbour.
    center : Tensor of shape (n + 1, 2)
        Central pixels of the windows.
    columns : Tensor of shape (m,)
        Indices.
    with_shared : bool
        Whether to compute ``shared``, which takes half of the time where columns overlap; otherwise it is zero.

    Returns
    -------
    NormalEquations
    """
    not_separable = problem.scan is not None or parameters.shape[1] > len(ROUND)
    depth = 1 + problem.coupled.shape[1] * with_shared + problem.near.shape[1] * not_separable

    def compute(batch_problem: FitProblem, batch: Tensor) -> tuple[Tensor, ...]:
        return _batch_equations(batch_problem, parameters, center, batch, with_shared)

    return NormalEquations(*_in_batches(compute, problem, columns, depth))


def ramp_projections(problem: FitProblem, parameters: Tensor, center: Tensor, columns: Tensor) -> Tensor:
    """Projections ``(m, 2, P + 3)`` of backgrounds r with a slope of 1 per px along y and x.

    They are ``J^T C^-1 r``, then ``r^T C^-1`` times the residual and times both backgrounds.
    """

    def compute(batch_problem: FitProblem, batch: Tensor) -> tuple[Tensor, ...]:
        windows = _whitened_windows(batch_problem, parameters, center, batch)
        dy, dx = _offsets(batch_problem, parameters[batch], center[batch], None)
        ramps = torch.stack(torch.broadcast_tensors(dy, dx), dim=1).contiguous()
        whitened = windows.whiten(ramps).flatten(2)
        fields = torch.cat([windows.stacked.flatten(2), whitened], dim=1)
        product = (whitened @ fields.transpose(1, 2)).to(torch.float64)
        product[:, :, :-3] *= problem.free[batch][:, None]
        return (product,)

    return _in_batches(compute, problem, columns)[0]


# --- steps -------------------------------------------------------------------------------------------------------


def _in_batches(
    compute: Callable[[FitProblem, Tensor], tuple[Tensor, ...]], problem: FitProblem, columns: Tensor, depth: int = 1
) -> tuple[Tensor, ...]:
    """Apply a function to batches of columns with windows of the same size, and concatenate the results."""
    radius = problem.radius[columns]
    results, order = [], []
    for reach in torch.unique(radius).tolist():
        same_size = torch.nonzero(radius == reach)[:, 0]
        batch_problem = replace(problem, reach=int(reach))
        size = max(MIN_BATCH, PIXELS_PER_BATCH // ((2 * batch_problem.reach + 1) ** 2 * depth))
        results += [compute(batch_problem, columns[batch]) for batch in same_size.split(size)]
        order.append(same_size)
    original = torch.argsort(torch.cat(order))
    return tuple(torch.cat(result)[original] for result in zip(*results, strict=True))


def _batch_equations(
    problem: FitProblem, parameters: Tensor, center: Tensor, batch: Tensor, with_shared: bool
) -> tuple[Tensor, ...]:
    """The fields of :class:`NormalEquations` for a batch of columns."""
    neighbors = problem.coupled[batch]
    windows = _whitened_windows(problem, parameters, center, batch)
    stacked = windows.stacked.flatten(2)
    product = (stacked @ stacked.transpose(1, 2)).to(torch.float64)
    free = problem.free.to(product.dtype)
    own, gradient, chi2 = product[:, :-1, :-1], product[:, :-1, -1] * free[batch], product[:, -1, -1]
    own = own * free[batch][:, :, None] * free[batch][:, None, :]
    shared = own.new_zeros(*neighbors.shape, *own.shape[1:])
    if with_shared and neighbors.shape[1]:
        neighbor_parameters = parameters[neighbors].to(problem.image.dtype)
        displaced = None if windows.displaced is None else windows.displaced[:, :, None]
        offsets = _offsets(problem, parameters[neighbors], center[batch][:, None], displaced)
        weighted = windows.whiten.adjoint(windows.stacked[:, :-1])
        shared = projected(neighbor_parameters, *offsets, windows.shares[:, 1:], weighted).to(own.dtype)
        shared = shared * free[batch][:, None, :, None] * free[neighbors][:, :, None, :]
    return own, shared, gradient, chi2, windows.pixels


@dataclass
class _Windows:
    """Whitened derivatives and residual of m columns on their windows.

    Parameters
    ----------
    stacked : Tensor of shape (m, P + 1, h, w)
        Derivatives by the parameters, and the residual last.
    shares : Tensor of shape (m, 1 + k, h, w)
        Weights of the backgrounds of the column and of its coupled neighbours in that of a pixel.
    displaced : Tensor of shape (2, m, h, w) or None
        Displacement of the beam, px.
    whiten : Whitening
    pixels : Tensor of shape (m,)
        Number of valid pixels.
    """

    stacked: Tensor
    shares: Tensor
    displaced: Tensor | None
    whiten: Whitening
    pixels: Tensor


def _whitened_windows(problem: FitProblem, parameters: Tensor, center: Tensor, batch: Tensor) -> _Windows:
    middle, dtype = center[batch], problem.image.dtype
    used = problem.used(batch, middle)
    displaced = None if problem.scan is None else problem.windows(problem.scan, middle)
    shares, model = _backgrounds(problem, parameters, center, batch)
    stacked = torch.empty(len(batch), parameters.shape[1] + 1, *used.shape[1:], dtype=dtype, device=used.device)
    offsets = _offsets(problem, parameters[batch], middle, displaced)
    column, _ = derivatives(parameters[batch].to(dtype), *offsets, shares[:, 0], stacked[:, :-1])
    model = model + column
    if problem.near.shape[1]:
        model += _neighbor_model(problem, parameters[problem.near[batch]], middle, displaced)
    torch.sub(problem.windows(problem.image, middle), model, out=stacked[:, -1])
    variance = None if problem.noise.variance is None else problem.noise.variance(model)
    if problem.weight is not None:
        # pixels without a weight are not used
        variance = (1.0 if variance is None else variance) / problem.windows(problem.weight, middle).clamp_min(1e-12)
    whiten = Whitening(variance, used, problem.noise)
    return _Windows(whiten(stacked), shares, displaced, whiten, used.sum((1, 2)))


def _offsets(
    problem: FitProblem, parameters: Tensor, middle: Tensor, displaced: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Offsets of a window's pixels from columns ``(..., P)``: along y ``(..., h, 1)`` and x ``(..., 1, w)``."""
    # relative to the middle of the window, in double precision: single precision has few digits for a whole image
    offset = (parameters[..., :2] - middle).to(problem.image.dtype)
    dy = (problem.span - offset[..., :1])[..., :, None]
    dx = (problem.span - offset[..., 1:2])[..., None, :]
    return (dy, dx) if displaced is None else (dy + displaced[0], dx + displaced[1])


def _neighbor_model(problem: FitProblem, parameters: Tensor, middle: Tensor, displaced: Tensor | None) -> Tensor:
    displaced = None if displaced is None else displaced[:, :, None]
    offsets = _offsets(problem, parameters, middle[:, None], displaced)
    return summed(parameters.to(problem.image.dtype), *offsets)


def _inside_windows(problem: FitProblem, center: Tensor, columns: Tensor, middle: Tensor) -> Tensor:
    """Which of a window's pixels are also in the windows of other columns, ``(..., h, w)``."""
    offset = (center[columns] - middle).to(problem.image.dtype)
    dy, dx = (problem.span - offset[..., i, None] for i in (0, 1))
    # half the length of each row of the disk; negative outside
    half = ((problem.radius[columns] + 0.5) ** 2)[..., None] - dy**2
    half = torch.where(half < 0, -1.0, half.sqrt())
    return dx.abs()[..., None, :] <= half[..., :, None]


def _backgrounds(problem: FitProblem, parameters: Tensor, center: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Background of a window's pixels, ``(m, h, w)``, the mean of those of the columns whose windows contain the pixel,
    and the weights in it of the column and of its coupled neighbours, ``(m, 1 + k, h, w)``, which come first.
    """
    columns = torch.cat([batch[:, None], problem.coupled[batch]], dim=1)
    levels = parameters[columns, 4].to(problem.image.dtype)
    if columns.shape[1] == 1:
        return torch.ones_like(levels)[..., None, None], levels[..., None]
    shares = _inside_windows(problem, center, columns, center[batch][:, None]).to(problem.image.dtype)
    shares[:, 0] = 1.0
    shares /= shares.sum(1, keepdim=True)
    return shares, (levels[:, None] @ shares.flatten(2)).view(len(batch), *shares.shape[2:])
