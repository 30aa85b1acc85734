"""Base classes of the denoisers: conversion of images, provenance, score."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from stemkit.estimators import ImageTransformer, image_by_image
from stemkit.images.containers import Images, float_dtype, holds_images, join, split
from stemkit.images.mode import resolve_mode
from stemkit.images.provenance import RECORDED, recorded_image, step_record, was_averaged
from stemkit.metrics import psnr
from stemkit.pixels.filled_image import FilledImage

__all__ = ["Denoiser", "Enhancer", "StatelessDenoiser", "without_faults"]

#: Function of an image and its mode that returns maps of the image's shape by name, including ``"enhance"``.
Enhancer = Callable[[xr.DataArray, str], dict[str, NDArray]]


class Denoiser(ImageTransformer):
    """An estimator whose ``transform`` enhances images.

    Subclasses implement ``fit``, and ``_maps`` or ``_enhancer``. This class returns images of the type of the input,
    attaches the recorded pixels and computes the score.
    """

    mode: str | None

    @image_by_image()
    def transform(self, X: Images) -> Images:
        """Enhance images.

        Parameters
        ----------
        X : DataArray, ndarray or list of them
            ``(n_y, n_x)`` or ``(n_images, n_y, n_x)``.

        Returns
        -------
        DataArray or list of DataArray
            Same dims, coordinates and units as ``X``, with the recorded pixels as the coordinate ``recorded``, and
            further maps, if any, as further coordinates. Faulty pixels are interpolated before the image is enhanced,
            but not in ``recorded``. Of a dask array, the result is one, too.
        """
        check_is_fitted(self)
        self._check_parameters()
        enhancer = self._enhancer()
        return join([self._enhanced(image, enhancer) for image in self._validated(X)], X)

    def score(self, X: Images, y: Images) -> float:
        """Mean PSNR (dB) of the transformed images against true images.

        Parameters
        ----------
        X : DataArray, ndarray or list of them
            Recorded images.
        y : like X
            True images, or the true ``target`` maps, of the same shapes.

        Returns
        -------
        float
            Images with constant truth have no PSNR and are omitted with a warning. The score is NaN if all are omitted
            or if ``y`` contains no images.
        """
        if not holds_images(y):
            warnings.warn("y contains no images: the score is NaN. Pass the true images as y", stacklevel=2)
            return float("nan")
        pairs = list(zip(split(self.transform(X)), split(y, name="y"), strict=True))
        scores = [psnr(result.values, truth.values) for result, truth in pairs if np.ptp(truth.values) > 0]
        if len(scores) < len(pairs):
            warnings.warn(
                f"{len(pairs) - len(scores)} image(s) with constant truth have no PSNR and are omitted", stacklevel=2
            )
        return float(np.mean(scores)) if scores else float("nan")

    # --- for subclasses ------------------------------------------------------------------------------------------

    def _maps(self, image: xr.DataArray, mode: str) -> dict[str, NDArray]:
        """Maps of the image's shape by name, including ``"enhance"``."""
        raise NotImplementedError

    @property
    def _target(self) -> str:
        """The map that ``transform`` returns."""
        return "enhance"

    def _enhancer(self) -> Enhancer:
        """The function that is applied to each image."""
        return self._maps

    def _made_with(self) -> dict[str, Any]:
        """Entries of the provenance record in ``attrs["stemkit"]``."""
        return {"method": type(self).__name__}

    # -------------------------------------------------------------------------------------------------------------

    def _enhanced(self, image: xr.DataArray, enhancer: Enhancer) -> xr.DataArray:
        mode = resolve_mode(image, self.mode)
        return self._with_maps(image, enhancer(without_faults(image), mode), mode)

    def _with_maps(self, image: xr.DataArray, maps: dict[str, NDArray], mode: str) -> xr.DataArray:
        dtype = float_dtype(image.dtype)
        out = image.copy(data=maps[self._target].astype(dtype, copy=False))
        made = step_record(image, "enhance", target=self._target, **self._made_with())
        out.attrs = {**image.attrs, "mode": mode, "stemkit": made}
        recorded = recorded_image(image).values.copy()
        # "enhance" is a coordinate only where transform returns another map
        others = {
            k: v.astype(np.float32, copy=False) for k, v in maps.items() if k != "enhance" or self._target != "enhance"
        }
        return out.assign_coords({RECORDED: (image.dims, recorded), **{k: (image.dims, v) for k, v in others.items()}})


class StatelessDenoiser(Denoiser):
    """A denoiser that estimates all it needs from each image: ``fit`` only validates."""

    _requires_fit = False

    def fit(self, X: Images, y: object = None) -> Self:
        """Check the parameters and the images.

        Parameters
        ----------
        X : DataArray, ndarray or list of them
            ``(n_y, n_x)`` or ``(n_images, n_y, n_x)``.
        y : ignored

        Returns
        -------
        self
        """
        self._check_parameters()
        self._validated(X)
        return self


def without_faults(image: xr.DataArray) -> xr.DataArray:
    """Interpolate faulty pixels and keep the recorded ones as the coordinate ``recorded``.

    An image without faulty pixels is returned itself.
    """
    filled = FilledImage.of(image.values, averaged=was_averaged(image))
    if len(filled.places) == 0:
        return image
    recorded = recorded_image(image).values
    return image.copy(data=np.array(filled)).assign_coords({RECORDED: (image.dims, recorded)})
