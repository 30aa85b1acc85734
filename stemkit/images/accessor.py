"""The accessor ``image.stem``."""

from __future__ import annotations

import numpy as np
import xarray as xr

from stemkit.images.pixel_size import PIXEL_SIZE_TOLERANCE, is_calibrated, pixel_sizes
from stemkit.images.provenance import recorded_image

__all__ = ["StemAccessor"]


@xr.register_dataarray_accessor("stem")
class StemAccessor:
    """Accessor of the properties of an image: ``image.stem.pixel_size``, ``.mode``, ``.recorded``."""

    def __init__(self, image: xr.DataArray):
        self._image = image

    @property
    def is_calibrated(self) -> bool:
        """Whether the image has a pixel size."""
        return is_calibrated(self._image)

    @property
    def pixel_size(self) -> float:
        """Edge of the square pixels, in nm.

        Raises
        ------
        ValueError
            If the image is not calibrated, or its pixels are not square.
        """
        y, x = self.pixel_sizes
        if not np.isclose(y, x, rtol=PIXEL_SIZE_TOLERANCE, atol=0):
            raise ValueError(
                f"pixel_size requires square pixels, but they are {y:.6g} nm (y) by {x:.6g} nm (x): "
                "use image.stem.pixel_sizes, or resample the image"
            )
        return x

    @property
    def pixel_sizes(self) -> tuple[float, float]:
        """Height and width of a pixel, in nm.

        Raises
        ------
        ValueError
            If the image is not calibrated.
        """
        sizes = pixel_sizes(self._image)
        if sizes is None:
            raise ValueError(
                "the image has no pixel size: set it with stemkit.calibrated(image, pixel_size=...) in nm, or from a "
                "known lattice repeat with stemkit.calibrated(image, lattice_repeat=...)"
            )
        return sizes

    @property
    def mode(self) -> str | None:
        """``"haadf"``, ``"bf"``, or None if it is not known."""
        return self._image.attrs.get("mode")

    @property
    def recorded(self) -> xr.DataArray:
        """The recorded image: that of an enhanced image, or the image itself."""
        return recorded_image(self._image)
