"""Base classes of the estimators: what scikit-learn is told about them, and the validation of images."""

from __future__ import annotations

from typing import Any, ClassVar

import xarray as xr
from sklearn.base import BaseEstimator, TransformerMixin

from stemkit.images import Images, split, warn_if_small
from stemkit.parameters import check_mode

__all__ = ["ImageEstimator", "ImageTransformer"]


class ImageEstimator(BaseEstimator):
    """An estimator whose samples are images of any size.

    Subclasses extend ``_check_parameters``, and call it in ``fit``.
    """

    #: Whether the estimator must be fitted before it is used.
    _requires_fit: ClassVar[bool] = True

    def _check_parameters(self) -> None:
        """Raise ValueError for an invalid parameter."""
        check_mode(getattr(self, "mode", None))

    @staticmethod
    def _validated(X: Images) -> list[xr.DataArray]:
        """Images as a list of DataArrays, with a warning for small ones."""
        images = split(X)
        for image in images:
            warn_if_small(image)
        return images

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = self._requires_fit
        tags.input_tags.two_d_array = True
        tags.input_tags.three_d_array = True
        return tags


class ImageTransformer(TransformerMixin, ImageEstimator):
    """An image estimator with ``transform``."""

    #: Data types of pixels that ``transform`` preserves.
    _preserves_dtype: ClassVar[tuple[str, ...]] = ("float64", "float32")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = list(self._preserves_dtype)
        return tags
