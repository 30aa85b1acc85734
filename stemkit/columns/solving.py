"""Steps and covariances from the normal equations, as batched tensors on any device."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from stemkit.columns.equations import NormalEquations

__all__ = ["MAX_CYCLES", "MAX_JOINT", "TOLERANCE", "covariances", "damped_step"]

#: Largest number of iterations of the biconjugate gradients (chosen: a step need not be exact).
MAX_CYCLES = 20
#: Norm of their residual at convergence, relative to that of the gradient (chosen).
TOLERANCE = 1e-2
#: Largest number of neighbours whose parameters are free in the errors of a column, the nearest ones (chosen).
MAX_JOINT = 14
#: Added to the unit diagonal of each scaled block before its inversion (chosen).
RIDGE = 1e-9
#: Number of columns whose covariances are computed at once (chosen: bounds the memory).
COLUMNS_PER_BATCH = 512


def damped_step(equations: NormalEquations, coupled: Tensor, damping: Tensor) -> Tensor:
    """The Levenberg-Marquardt step of n columns, ``(n, P)``: ``(F + damping diag F) step = gradient``.

    Each parameter is scaled by its own curvature, since their units differ. Where columns are coupled, by stabilised
    biconjugate gradients [1]_ with the diagonal blocks as preconditioner: the off-diagonal block of a column is
    computed on its own window and that of its neighbour on the neighbour's, so that F is not exactly symmetric.

    Parameters
    ----------
    equations : NormalEquations
    coupled : Tensor of shape (n, k)
        Indices of the neighbours, padded with n.
    damping : Tensor of shape (n,)

    References
    ----------
    .. [1] H. A. van der Vorst, SIAM J. Sci. Stat. Comput. 13, 631 (1992), https://doi.org/10.1137/0913035
    """
    equations, coupled = _finite_equations(equations, coupled)
    scale = _scale(equations.own)
    identity = torch.eye(equations.own.shape[1], dtype=scale.dtype, device=scale.device)
    own = _scaled(equations.own, scale) + (damping[:, None, None] + RIDGE) * identity
    inverse, info = torch.linalg.inv_ex(own)
    inverse = torch.where(((info == 0) & torch.isfinite(inverse).all((1, 2)))[:, None, None], inverse, 0.0)
    gradient = equations.gradient * scale
    if coupled.shape[1] == 0:
        return _times(inverse, gradient) * scale
    shared = _scaled_shared(equations.shared, scale, coupled)
    return _biconjugate_gradients(own, shared, coupled, inverse, gradient) * scale


def covariances(equations: NormalEquations, coupled: Tensor, joint: int = MAX_JOINT) -> Tensor:
    """Covariance of each column's parameters, ``(n, P, P)``, with those of its nearest coupled neighbours free.

    Parameters
    ----------
    equations : NormalEquations
    coupled : Tensor of shape (n, k)
        Indices of the neighbours, padded with n.
    joint : int
        Largest number of neighbours whose parameters are free.
    """
    n, p = equations.gradient.shape
    scale = _scale(equations.own)
    own = _scaled(equations.own, scale)
    result = _inverse(own)
    if coupled.shape[1]:
        shared = _scaled_shared(equations.shared, scale, coupled)
        coupled, shared = coupled[:, :joint], shared[:, :joint].contiguous()
        for batch in torch.nonzero(coupled[:, 0] < n)[:, 0].split(COLUMNS_PER_BATCH):
            found = _inverse(_joint_matrices(own, shared, coupled, batch))[:, :p, :p]
            # without an inverse of the joint matrix, the covariance with all neighbours fixed stays
            result[batch] = torch.where(torch.isfinite(found), found, result[batch])
    return _scaled(result, scale)


# --- steps -------------------------------------------------------------------------------------------------------


def _finite_equations(equations: NormalEquations, coupled: Tensor) -> tuple[NormalEquations, Tensor]:
    """The equations with those of columns that overflow replaced by the identity, and coupled to no other."""
    good = torch.isfinite(equations.own).all((1, 2)) & torch.isfinite(equations.gradient).all(1)
    if bool(good.all()):
        return equations, coupled
    n, p = equations.gradient.shape
    identity = torch.eye(p, dtype=equations.own.dtype, device=equations.own.device)
    with_placeholder = torch.cat([good, good[:1] | True])
    abatch = ~good[:, None] | ~with_placeholder[coupled]
    finite = replace(
        equations,
        own=torch.where(good[:, None, None], equations.own, identity),
        shared=torch.where(abatch[..., None, None], 0.0, equations.shared),
        gradient=torch.where(good[:, None], equations.gradient, 0.0),
    )
    return finite, torch.where(abatch, n, coupled)


def _scale(own: Tensor) -> Tensor:
    return own.diagonal(dim1=1, dim2=2).clamp_min(1e-200).rsqrt()


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[..., None])[..., 0]


def _inverse(matrix: Tensor) -> Tensor:
    """Inverse of symmetric matrices with a diagonal of about 1; NaN where they are not positive definite."""
    inverse, info = torch.linalg.inv_ex(matrix)
    good = (info == 0) & torch.isfinite(inverse).all((1, 2)) & (inverse.diagonal(dim1=1, dim2=2) > 0).all(1)
    return torch.where(good[:, None, None], inverse, torch.nan)


def _scaled(own: Tensor, scale: Tensor) -> Tensor:
    return own * scale[:, :, None] * scale[:, None, :]


def _scaled_shared(shared: Tensor, scale: Tensor, coupled: Tensor) -> Tensor:
    neighbors = torch.cat([scale, torch.zeros_like(scale[:1])])[coupled]
    return shared * scale[:, None, :, None] * neighbors[:, :, None, :]


def _biconjugate_gradients(own: Tensor, shared: Tensor, coupled: Tensor, inverse: Tensor, gradient: Tensor) -> Tensor:
    """Solution ``(n, P)``; the symbols are those of van der Vorst (1992), see :func:`damped_step`."""
    placeholder = torch.zeros_like(gradient[:1])

    def product(vector: Tensor) -> Tensor:
        neighbors = torch.cat([vector, placeholder])[coupled]
        return _times(own, vector) + _times(shared, neighbors).sum(1)

    solution = torch.zeros_like(gradient)
    residual = gradient.clone()
    shadow, direction = residual, residual
    rho = start = (residual * shadow).sum()
    for _ in range(MAX_CYCLES):
        if not (residual * residual).sum() > TOLERANCE**2 * start:
            break
        direction_hat = _times(inverse, direction)
        v = product(direction_hat)
        alpha = rho / (v * shadow).sum()
        half_residual = residual - alpha * v
        residual_hat = _times(inverse, half_residual)
        t = product(residual_hat)
        omega = (t * half_residual).sum() / (t * t).sum().clamp_min(1e-300)
        solution = solution + alpha * direction_hat + omega * residual_hat
        residual = half_residual - omega * t
        rho, rho_before = (residual * shadow).sum(), rho
        direction = residual + (rho / rho_before) * (alpha / omega) * (direction - omega * v)
    return _finite(solution)


def _finite(values: Tensor) -> Tensor:
    return torch.where(torch.isfinite(values), values, 0.0)


def _joint_matrices(own: Tensor, shared: Tensor, coupled: Tensor, batch: Tensor) -> Tensor:
    """The joint matrix of each column and its coupled neighbours, ``(m, (1 + k) P, (1 + k) P)``, the column first."""
    n, p = own.shape[:2]
    nodes = torch.cat([batch[:, None], coupled[batch]], dim=1)
    m, size = nodes.shape
    absent = torch.eye(p, dtype=own.dtype, device=own.device)[None]
    at = torch.arange(size, device=own.device)
    total = own.new_zeros(m, size, size, p, p)
    total[:, at, at] = torch.cat([own, absent])[nodes]
    neighbors = torch.cat([coupled, torch.full_like(coupled[:1], n)])[nodes]
    same = (neighbors[:, :, :, None] == nodes[:, None, None, :]) & (neighbors < n)[..., None]
    group, i, k, j = torch.nonzero(same, as_tuple=True)
    total[group, i, j] = shared[nodes[group, i], k]
    total = total.permute(0, 1, 3, 2, 4).reshape(m, size * p, size * p)
    return (total + total.transpose(1, 2)) / 2
