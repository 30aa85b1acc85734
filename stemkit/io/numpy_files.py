"""NPY files: pixels without metadata."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stemkit.images import is_calibrated
from stemkit.io.recorded import Recorded, recorded

__all__ = ["load", "save"]


def load(path: Path) -> list[Recorded]:
    """Load the array of an NPY file; pickled objects raise a ValueError."""
    values = np.load(path, allow_pickle=False)
    if not isinstance(values, np.ndarray):
        values.close()
        raise ValueError("the file is an NPZ archive: save one array with numpy.save")
    return [recorded(values, colour=_looks_coloured(values))]


def save(image: xr.DataArray, path: Path, provenance: str) -> None:
    """Write the pixels; the format can't store the provenance."""
    del provenance
    if is_calibrated(image):
        warnings.warn(
            "an NPY file contains only the pixels, so the pixel size is lost: write .tif or .nc to keep it",
            UserWarning,
            stacklevel=4,
        )
    with path.open("wb") as file:
        np.save(file, image.values, allow_pickle=False)


def _looks_coloured(values: NDArray) -> bool:
    return values.ndim == 3 and values.dtype == np.uint8 and values.shape[-1] in (3, 4) and min(values.shape[:2]) > 16
