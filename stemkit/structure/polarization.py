"""Polarisation from displacements and Born effective charges."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from stemkit.parameters import check_positive
from stemkit.tables import check_columns

__all__ = ["polarization"]

#: Elementary charge times pm divided by nm3, uC/cm2 (derived: 1.602176634e-19 C, exact in the SI).
CHARGE_DENSITY = 1.602176634e-2
VECTORS = ["displacement_y", "displacement_x"]
ERRORS = ["displacement_y_err", "displacement_x_err"]


def polarization(displacements: pd.DataFrame, born_charge: float | ArrayLike, cell_volume: float) -> pd.DataFrame:
    """Convert displacements into the polarisation.

    Parameters
    ----------
    displacements : DataFrame
        Result of :func:`cage_displacements`, :func:`mean_displacements` or :func:`interface_profile`, in pm.
    born_charge : float or array-like of shape (2,) or (2, 2)
        Born effective charge of the displacement, elementary charges: a number, those along (y, x), or the tensor.
    cell_volume : float
        Volume per displaced column and period of the crystal along the beam, nm3: that of the unit cell of a
        perovskite.

    Returns
    -------
    DataFrame
        The displacements with ``polarization_y, polarization_x`` and ``*_err``, uC/cm2. Errors are NaN if those of the
        displacements are; they do not contain those of charge and volume.

    Raises
    ------
    ValueError
        If the displacements are not in pm, or charge or volume are impossible.

    Notes
    -----
    ``P = e Z* u / V`` with the charge ``Z*`` that moves with the displacement u [1]_. The Born charges of a cell sum to
    zero, so that only relative displacements count. If oxygen, which the image does not show, is displaced by ``f u``
    from the cage, ``Z* = Z_B + f Z_O``, where Z_O is the sum over the oxygen atoms of the cell.

    References
    ----------
    .. [1] Resta, Rev. Mod. Phys. 66, 899 (1994), https://doi.org/10.1103/RevModPhys.66.899

    Examples
    --------
    >>> import pandas as pd
    >>> from stemkit.structure import polarization
    >>> displacements = pd.DataFrame({"displacement_y": [0.0], "displacement_x": [10.0]})
    >>> float(polarization(displacements, born_charge=7, cell_volume=0.064)["polarization_x"].iloc[0].round(2))
    17.52
    """
    check_positive("cell_volume", cell_volume, unit="nm3")
    check_columns("displacements", displacements, VECTORS, "the result of cage_displacements")
    unit = displacements.attrs.get("units", {}).get("displacement_y", "pm")
    if unit != "pm":
        raise ValueError(
            f"displacements must be in pm, but are in {unit}: measure the columns in an image with a pixel size"
        )
    tensor = _tensor(born_charge) * CHARGE_DENSITY / cell_volume
    vectors = displacements[VECTORS].to_numpy(dtype=np.float64)
    errors = displacements.reindex(columns=ERRORS).to_numpy(dtype=np.float64)
    names = ["polarization_y", "polarization_x", "polarization_y_err", "polarization_x_err"]
    values = np.column_stack([vectors @ tensor.T, np.sqrt(errors**2 @ tensor.T**2)])
    result = displacements.assign(**dict(zip(names, values.T, strict=True)))
    result.attrs["units"] = displacements.attrs.get("units", {}) | dict.fromkeys(names, "uC/cm2")
    return result


def _tensor(born_charge: float | ArrayLike) -> NDArray[np.float64]:
    charge = np.asarray(born_charge, dtype=np.float64)
    if charge.shape not in ((), (2,), (2, 2)) or not np.isfinite(charge).all():
        raise ValueError(
            "born_charge must be a number, two numbers (y, x) or a (2, 2) tensor of elementary charges, but is "
            f"{born_charge!r}"
        )
    return charge if charge.ndim == 2 else charge * np.eye(2)
