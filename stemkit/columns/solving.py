"""Steps and errors from normal equations in blocks."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from stemkit.columns.equations import Blocks

__all__ = ["MOST_JOINT", "covariances", "step"]

#: Of the biconjugate gradients: those that precede a step need not be exact.
CYCLES = 20
TOLERANCE = 1e-2
#: Neighbours whose parameters are free in a column's errors, the nearest ones.
MOST_JOINT = 8
#: Columns whose errors are worked out at once.
CHUNK = 512


def step(blocks: Blocks, coupled: Tensor, damping: Tensor) -> Tensor:
    """The Levenberg-Marquardt step of n columns, ``(n, P)``: ``(F + damping diag F) step = gradient``.

    Each parameter is scaled by its own curvature, since their units differ. Where columns are coupled, by stabilised
    biconjugate gradients [1]_ with each column's own block as preconditioner: a column sees its neighbours on its own
    window and they see it on theirs, so that F is not quite symmetric.

    Parameters
    ----------
    blocks : Blocks
    coupled : Tensor of shape (n, k)
        Neighbours, filled up with n.
    damping : Tensor of shape (n,)

    References
    ----------
    .. [1] H. A. van der Vorst, SIAM J. Sci. Stat. Comput. 13, 631 (1992), https://doi.org/10.1137/0913035
    """
    blocks, coupled = _finite_blocks(blocks, coupled)
    scale = _scale(blocks.own)
    identity = torch.eye(blocks.own.shape[1], dtype=scale.dtype, device=scale.device)
    own = _scaled(blocks.own, scale) + (damping[:, None, None] + 1e-9) * identity
    inverse, info = torch.linalg.inv_ex(own)
    inverse = torch.where(((info == 0) & torch.isfinite(inverse).all((1, 2)))[:, None, None], inverse, 0.0)
    gradient = blocks.gradient * scale
    if coupled.shape[1] == 0:
        return _times(inverse, gradient) * scale
    shared = _scaled_shared(blocks.shared, scale, coupled)
    return _biconjugate_gradients(own, shared, coupled, inverse, gradient) * scale


def covariances(blocks: Blocks, coupled: Tensor, joint: int = MOST_JOINT) -> Tensor:
    """Covariance of each column's parameters, ``(n, P, P)``: with its coupled neighbours free, theirs held.

    Parameters
    ----------
    blocks : Blocks
    coupled : Tensor of shape (n, k)
        Neighbours, filled up with n.
    joint : int
        Neighbours that are free, the nearest ones.
    """
    n, p = blocks.gradient.shape
    scale = _scale(blocks.own)
    own = _scaled(blocks.own, scale)
    result = _inverse(own)
    if coupled.shape[1]:
        shared = _scaled_shared(blocks.shared, scale, coupled)
        coupled, shared = coupled[:, :joint], shared[:, :joint].contiguous()
        for part in torch.nonzero(coupled[:, 0] < n)[:, 0].split(CHUNK):
            found = _inverse(_around(own, shared, coupled, part))[:, :p, :p]
            # a neighbour that is lost leaves the column with its own
            result[part] = torch.where(torch.isfinite(found), found, result[part])
    return _scaled(result, scale)


# --- steps -------------------------------------------------------------------------------------------------------


def _finite_blocks(blocks: Blocks, coupled: Tensor) -> tuple[Blocks, Tensor]:
    """The blocks with columns that overflow standing still, and coupled to no other."""
    good = torch.isfinite(blocks.own).all((1, 2)) & torch.isfinite(blocks.gradient).all(1)
    if bool(good.all()):
        return blocks, coupled
    n, p = blocks.gradient.shape
    identity = torch.eye(p, dtype=blocks.own.dtype, device=blocks.own.device)
    with_nobody = torch.cat([good, good[:1] | True])
    apart = ~good[:, None] | ~with_nobody[coupled]
    finite = replace(
        blocks,
        own=torch.where(good[:, None, None], blocks.own, identity),
        shared=torch.where(apart[..., None, None], 0.0, blocks.shared),
        gradient=torch.where(good[:, None], blocks.gradient, 0.0),
    )
    return finite, torch.where(apart, n, coupled)


def _scale(own: Tensor) -> Tensor:
    return own.diagonal(dim1=1, dim2=2).clamp_min(1e-200).rsqrt()


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[..., None])[..., 0]


def _inverse(matrix: Tensor) -> Tensor:
    """Of symmetric matrices whose diagonal is about 1; NaN where there is none."""
    inverse, info = torch.linalg.inv_ex(matrix)
    good = (info == 0) & torch.isfinite(inverse).all((1, 2)) & (inverse.diagonal(dim1=1, dim2=2) > 0).all(1)
    return torch.where(good[:, None, None], inverse, torch.nan)


def _scaled(own: Tensor, scale: Tensor) -> Tensor:
    return own * scale[:, :, None] * scale[:, None, :]


def _scaled_shared(shared: Tensor, scale: Tensor, coupled: Tensor) -> Tensor:
    theirs = torch.cat([scale, torch.zeros_like(scale[:1])])[coupled]
    return shared * scale[:, None, :, None] * theirs[:, :, None, :]


def _biconjugate_gradients(own: Tensor, shared: Tensor, coupled: Tensor, inverse: Tensor, gradient: Tensor) -> Tensor:
    nobody = torch.zeros_like(gradient[:1])

    def product(vector: Tensor) -> Tensor:
        theirs = torch.cat([vector, nobody])[coupled]
        return _times(own, vector) + _times(shared, theirs).sum(1)

    solution = torch.zeros_like(gradient)
    rest = gradient.clone()
    shadow, direction = rest, rest
    size = start = (rest * shadow).sum()
    for _ in range(CYCLES):
        if not (rest * rest).sum() > TOLERANCE**2 * start:
            break
        ready = _times(inverse, direction)
        along = product(ready)
        length = size / (along * shadow).sum()
        half = rest - length * along
        smoothed = _times(inverse, half)
        across = product(smoothed)
        weight = (across * half).sum() / (across * across).sum().clamp_min(1e-300)
        solution = solution + length * ready + weight * smoothed
        rest = half - weight * across
        size, before = (rest * shadow).sum(), size
        direction = rest + (size / before) * (length / weight) * (direction - weight * along)
    return _finite(solution)


def _finite(values: Tensor) -> Tensor:
    return torch.where(torch.isfinite(values), values, 0.0)


def _around(own: Tensor, shared: Tensor, coupled: Tensor, part: Tensor) -> Tensor:
    """The joint matrix of each column and its coupled neighbours, ``(m, (1 + k) P, (1 + k) P)``, the column first."""
    n, p = own.shape[:2]
    nodes = torch.cat([part[:, None], coupled[part]], dim=1)
    m, size = nodes.shape
    absent = torch.eye(p, dtype=own.dtype, device=own.device)[None]
    at = torch.arange(size, device=own.device)
    total = own.new_zeros(m, size, size, p, p)
    total[:, at, at] = torch.cat([own, absent])[nodes]
    theirs = torch.cat([coupled, torch.full_like(coupled[:1], n)])[nodes]
    same = (theirs[:, :, :, None] == nodes[:, None, None, :]) & (theirs < n)[..., None]
    group, i, k, j = torch.nonzero(same, as_tuple=True)
    total[group, i, j] = shared[nodes[group, i], k]
    total = total.permute(0, 1, 3, 2, 4).reshape(m, size * p, size * p)
    return (total + total.transpose(1, 2)) / 2
