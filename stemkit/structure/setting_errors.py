"""Scale, rotation and strain of an image relative to a crystal, with errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stemkit.structure.crystal_settings import Setting, rotation
from stemkit.structure.lattice import Lattice

__all__ = ["Deformation", "deformation"]

#: Relative step of the numerical derivatives (chosen: rounding and curvature are negligible).
STEP = 1e-5


@dataclass(frozen=True)
class Deformation:
    """Scale, rotation and strain of the image of a crystal, with standard deviations.

    Parameters
    ----------
    scale, scale_err : float
        Measured per true length: 1 for a correct pixel size, or px per nm for a table in px.
    rotation, rotation_err : float
        Direction of the crystal's projected vector a, degrees from +x towards +y, which points downwards.
    strain, strain_err : float
        Ratio of the largest to the smallest change of length, less 1: strain of the specimen and distortion by drift.
    """

    scale: float
    scale_err: float
    rotation: float
    rotation_err: float
    strain: float
    strain_err: float

    def text(self, unit: str) -> str:
        """In words, for a table in this unit."""
        if unit == "px":
            size, error = 1 / self.scale, self.scale_err / self.scale**2
            text = f"pixel size {size:.5g} ± {error:.1g} nm"
        else:
            text = f"lengths {self.scale:.4f} ± {self.scale_err:.1g} of the crystal's"
        return f"{text}, strained by {100 * self.strain:.2g} ± {100 * self.strain_err:.1g} %"


def deformation(lattice: Lattice, setting: Setting) -> Deformation:
    """Deformation of a setting, with first-order propagation of the covariance of the lattice vectors."""
    # the transform follows the vectors of the lattice linearly: transform = inverse @ vectors
    inverse = setting.transform @ np.linalg.inv(lattice.vectors)
    values = _values(setting.transform)
    slopes = np.empty((3, 2, 2))
    step = STEP * float(lattice.lengths.mean())
    for vector in range(2):
        for axis in range(2):
            changed = lattice.vectors.copy()
            changed[vector, axis] += step
            difference = _values(inverse @ changed) - values
            difference[1] = (difference[1] + 180) % 360 - 180
            slopes[:, vector, axis] = difference / step
    errors = np.sqrt(np.einsum("kia,aij,kja->k", slopes, lattice.covariance, slopes))
    pairs = np.column_stack([values, errors]).ravel().tolist()
    return Deformation(*pairs)


def _values(transform: NDArray) -> NDArray[np.float64]:
    first, second = np.linalg.svd(transform, compute_uv=False)
    return np.array([np.sqrt(first * second), float(rotation(transform)), first / second - 1])
