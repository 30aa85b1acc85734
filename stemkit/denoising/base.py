"""What all denoisers share: images in, images out, the recorded pixels beside them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

import stemkit
from stemkit.images import (
    MEASURED,
    Images,
    check_noise_attr,
    float_dtype,
    holds_images,
    join,
    measured_image,
    resolve_mode,
    split,
    warn_if_small,
)
from stemkit.metrics import psnr
from stemkit.noise import NoiseCalibrator, NoiseModel
from stemkit.pixels import faulty_pixels, filled

__all__ = ["Denoiser", "Enhancer", "noise_of", "without_faults"]

#: From an image and its mode to maps of its shape by name, the enhanced image among them.
Enhancer = Callable[[xr.DataArray, str], dict[str, NDArray]]


class Denoiser(TransformerMixin, BaseEstimator):
    """An estimator whose ``transform`` enhances images.

    A denoiser says with ``_enhancer`` how an image is enhanced; that images come back as what they came as, carry their
    recorded pixels, and are scored, is here.
    """

    #: The map that ``transform`` returns.
    target = "enhance"
    mode: str | None

    def fit(self, X: Images, y: object = None) -> Self:
        """Check the parameters and the images; what the filter needs to know it takes from each image it transforms.

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
        images = split(X)
        for image in images:
            warn_if_small(image)
        self.n_images_ = len(images)
        return self

    def transform(self, X: Images) -> Images:
        """Enhance images.

        Returns
        -------
        Same type, dims, coordinates and units as ``X``
            DataArrays carry the recorded pixels as the coordinate ``measured``, and other maps where there are any.
            Faulty pixels are interpolated before the image is enhanced; ``measured`` has them as they were recorded.
        """
        check_is_fitted(self, "n_images_")
        self._check_parameters()
        enhancer = self._enhancer()
        return join([self._enhanced(image, enhancer) for image in split(X)], X)

    def score(self, X: Images, y: Images) -> float:
        """Mean PSNR (dB) of the transformed images against the truth.

        Images whose truth is constant have no PSNR and are left out, with a warning; NaN where none is left, and
        where y holds no images.
        """
        if not holds_images(y):
            warnings.warn("y holds no images: there is no truth to score against", stacklevel=2)
            return float("nan")
        pairs = list(zip(split(self.transform(X)), split(y, name="y"), strict=True))
        scores = [psnr(result.values, truth.values) for result, truth in pairs if np.ptp(truth.values) > 0]
        if len(scores) < len(pairs):
            warnings.warn(f"{len(pairs) - len(scores)} image(s) with constant truth have no PSNR", stacklevel=2)
        return float(np.mean(scores)) if scores else float("nan")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.non_deterministic = False
        return tags

    # --- what a denoiser says ------------------------------------------------------------------------------------

    def _enhancer(self) -> Enhancer:
        raise NotImplementedError

    def _check_parameters(self) -> None:
        """Raise ValueError for a parameter that can't be."""

    def _made_with(self) -> dict[str, Any]:
        """What an enhanced image says of how it was made."""
        return {"method": type(self).__name__}

    # -------------------------------------------------------------------------------------------------------------

    def _enhanced(self, image: xr.DataArray, enhancer: Enhancer) -> xr.DataArray:
        warn_if_small(image)
        mode = resolve_mode(image, self.mode)
        return self._carrying(image, enhancer(without_faults(image), mode), mode)

    def _carrying(self, image: xr.DataArray, maps: dict[str, NDArray], mode: str) -> xr.DataArray:
        dtype = float_dtype(image.dtype)
        out = image.copy(data=maps[self.target].astype(dtype))
        made: dict[str, Any] = {
            "stemkit": stemkit.__version__,
            "step": "enhance",
            "target": self.target,
            **self._made_with(),
        }
        before = image.attrs.get("stemkit")
        if isinstance(before, str):
            made["previous"] = json.loads(before)
        out.attrs = {**image.attrs, "mode": mode, "stemkit": json.dumps(made)}
        recorded = measured_image(image).values.copy()
        # what transform returns is no map beside it; but a map in another's place must not be taken for the image
        others = {
            k: v.astype(np.float32, copy=False) for k, v in maps.items() if k != "enhance" or self.target != "enhance"
        }
        return out.assign_coords({MEASURED: (image.dims, recorded), **{k: (image.dims, v) for k, v in others.items()}})


def without_faults(image: xr.DataArray) -> xr.DataArray:
    """The image with its faulty pixels interpolated, the recorded ones as its coordinate ``measured``; the image itself
    where it has none.
    """
    faulty = faulty_pixels(image.values)
    if not faulty.any():
        return image
    recorded = measured_image(image).values
    return image.copy(data=filled(image.values, faulty)).assign_coords({MEASURED: (image.dims, recorded)})


def noise_of(image: xr.DataArray, mode: str | None) -> NoiseModel:
    """The noise that an image says it has, or that is measured in it."""
    known = check_noise_attr(image, mode)
    return NoiseModel.from_dict(known) if known else NoiseCalibrator(mode=mode).fit(image).noise_model_
