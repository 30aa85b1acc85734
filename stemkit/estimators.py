"""Base classes of the estimators: their tags for scikit-learn, and the validation of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any, ClassVar, TypeVar, cast

import xarray as xr
from sklearn.base import BaseEstimator, TransformerMixin

from stemkit.images.containers import Images, split, warn_if_small
from stemkit.images.lazy import LazyResults, is_lazy, lazy_images
from stemkit.parameters import MODES, check_option

__all__ = ["ImageEstimator", "ImageTransformer", "image_by_image", "loaded"]

Method = TypeVar("Method", bound=Callable[..., Any])


class ImageEstimator(BaseEstimator):
    """An estimator whose samples are images of any size.

    Subclasses extend ``_check_parameters``, and call it in ``fit``.
    """

    #: Whether the estimator must be fitted before it is used.
    _requires_fit: ClassVar[bool] = True

    def _check_parameters(self) -> None:
        """Raise ValueError for an invalid parameter."""
        check_option("mode", getattr(self, "mode", None), MODES, optional=True)

    @staticmethod
    def _validated(X: Images) -> list[xr.DataArray]:
        """Images as a list of DataArrays, with a warning for small ones; lazy images stay lazy."""
        images = lazy_images(X) if is_lazy(X) else split(X)
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


def image_by_image(joined: Callable[[Sequence[Any]], Any] | None = None) -> Callable[[Method], Method]:
    """Decorator of a method ``transform(self, X)`` that processes each image by itself.

    A lazy ``X``, a DataArray of a dask array, is given to the method image by image: dask computes them on the threads,
    processes or machines that it uses.

    Parameters
    ----------
    joined : callable, optional
        Function of the list of results. It makes the method compute them at once. Without it, results are images, and
        the method returns a lazy DataArray.
    """

    def decorate(transform: Method) -> Method:
        @wraps(transform)
        def of_any(self: Any, X: Images, *args: Any, **kwargs: Any) -> Any:
            if not is_lazy(X):
                return transform(self, X, *args, **kwargs)
            results = LazyResults(partial(transform, self), X)
            return results.joined() if joined is None else joined(results.computed())

        return cast(Method, of_any)

    return decorate


def loaded(image: xr.DataArray) -> xr.DataArray:
    """A validated image with its pixels in memory."""
    return split(image.compute())[0] if is_lazy(image) else image
