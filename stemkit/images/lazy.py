"""Images whose pixels are read or computed when they are needed: DataArrays of dask arrays."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stemkit.images.checks import check_structure
from stemkit.images.containers import PER_IMAGE_ATTRS, unstacked

__all__ = ["LazyResults", "is_lazy", "lazy_images"]

#: Edge of the image on which the kind of a result is determined, px (chosen: large enough for all estimators).
TEMPLATE_EDGE = 64
#: Period of the lattice in that image, px (chosen: that of a typical column spacing).
TEMPLATE_PERIOD = 8.0


def is_lazy(X: object) -> TypeGuard[xr.DataArray]:
    """Whether ``X`` is a DataArray whose pixels are a dask array."""
    return isinstance(X, xr.DataArray) and X.chunks is not None


def lazy_images(X: xr.DataArray, name: str = "X") -> list[xr.DataArray]:
    """The images of a lazy DataArray, which stay lazy; all is checked but the values of pixels.

    Raises
    ------
    ValueError, TypeError
        If the dims, the shape, the data type or the coordinates are not those of images.
    """
    images = list(unstacked(X, name))
    check_structure(images[0], name)  # the others have the same
    return images


@dataclass(frozen=True)
class _Task:
    """A function of one image, with the coordinates and attributes that all images have in common.

    It is a separate dask task, so that workers do not receive it, and the weights of a network, with each image.
    """

    work: Callable[[xr.DataArray], Any]
    coords: Mapping[str, xr.Variable]
    attrs: Mapping[str, Any]
    name: Any
    maps: tuple[str, ...]

    def image(self, values: NDArray, own_attrs: Mapping[str, Any], maps: tuple[NDArray, ...]) -> xr.DataArray:
        """One image from its pixels, its own attributes and its maps."""
        coords = {**self.coords, **{k: (("y", "x"), v) for k, v in zip(self.maps, maps, strict=True)}}
        return xr.DataArray(values, coords, ("y", "x"), self.name, {**self.attrs, **own_attrs})


class LazyResults:
    """Results of a function of each image, which dask computes image by image when they are needed.

    Parameters
    ----------
    work : callable
        Function of an image with dims ``("y", "x")``. It is pickled where dask computes in other processes.
    X : DataArray
        A lazy image, stack or series.

    Attributes
    ----------
    results : dask array of object, shape (n_images, 1, 1)
        The results, one per block.
    """

    def __init__(self, work: Callable[[xr.DataArray], Any], X: xr.DataArray):
        import dask.array as da
        from dask.delayed import delayed

        self.X, self._first = X, next(unstacked(X, "X"))
        check_structure(self._first, "X")
        n = 1 if X.ndim == 2 else len(X)
        maps = tuple(str(c) for c in X.coords if X.coords[c].dims == X.dims)
        axes = {d: X.coords[d].variable for d in ("y", "x") if d in X.coords}
        self._own = [_own_attrs(X.attrs, i, n) for i in range(n)]
        attrs = {k: v for k, v in X.attrs.items() if k not in self._own[0]}
        self._task = _Task(work, axes, attrs, X.name, maps)
        own = np.empty((n, 1, 1), dtype=object)
        own[:, 0, 0] = self._own
        pixels = [_by_image(X.coords[c].data if c else X.data) for c in ("", *maps)]
        self.results = da.map_blocks(
            _result,
            pixels[0],
            da.from_array(own, chunks=1),
            *pixels[1:],
            task=delayed(self._task, traverse=False),
            chunks=((1,) * n, (1,), (1,)),
            dtype=object,
            meta=np.empty((0, 0, 0), dtype=object),
        )

    def computed(self) -> list[Any]:
        """The results, computed now."""
        return list(self.results.compute().ravel())

    def joined(self) -> xr.DataArray:
        """Results that are images, as a lazy DataArray of the dims of ``X``.

        Only attributes that are measured in the image are computed now: the mode, in the first image, if ``X`` has
        none, and a noise model in each.
        """
        like, X = self._template(), self.X
        names = [str(c) for c in like.coords if like.coords[c].dims == ("y", "x")]
        coords = {c: v for c, v in X.coords.items() if set(v.dims) <= set(X.dims[:-2]) or c in X.dims}
        coords |= {c: (X.dims, self._pixels(c, like.coords[c].dtype)) for c in names}
        attrs = dict(like.attrs)
        for key in PER_IMAGE_ATTRS:
            if key in attrs and X.ndim == 3:
                attrs[key] = self._attribute(key, attrs[key])
            elif key in attrs:
                (attrs[key],) = self._attribute(key, attrs[key])
        return xr.DataArray(self._pixels(None, like.dtype), coords, X.dims, attrs=attrs).rename(X.name)

    def _template(self) -> xr.DataArray:
        """An image like the results, with their attributes: of a small image if nothing is measured in the images."""
        if "mode" not in self._first.attrs:
            first: xr.DataArray = self.results[:1].compute()[0, 0, 0]
            return first
        values = _lattice((TEMPLATE_EDGE, TEMPLATE_EDGE)).astype(self.X.dtype)
        task, maps = self._task, (values,) * len(self._task.maps)
        axes = {d: v[:TEMPLATE_EDGE] for d, v in task.coords.items() if v.size >= TEMPLATE_EDGE}
        small = _Task(task.work, axes if len(axes) == len(task.coords) else {}, task.attrs, task.name, task.maps)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result: xr.DataArray = task.work(small.image(values, self._own[0], maps))
        return result

    def _attribute(self, key: str, example: Any) -> list[Any]:
        """An attribute of each result: that of its image, or computed where the function measures it."""
        if self._first.attrs.get(key) == example:
            return [own.get(key, example) for own in self._own]
        return [result for (result,) in self._map(_attribute_of, (1, 1), object, key=key).compute()[:, 0]]

    def _pixels(self, name: str | None, dtype: np.dtype) -> Any:
        shape = self.X.shape[-2:]
        pixels = self._map(_pixels_of, shape, dtype, of=name)
        return pixels if self.X.ndim == 3 else pixels[0]

    def _map(self, function: Callable[..., NDArray], shape: tuple[int, ...], dtype: Any, **options: Any) -> Any:
        chunks = (self.results.chunks[0], *((n,) for n in shape))
        meta = np.empty((0, 0, 0), dtype=dtype)
        return self.results.map_blocks(function, **options, chunks=chunks, dtype=dtype, meta=meta)


def _own_attrs(attrs: Mapping[Any, Any], index: int, count: int) -> dict[str, Any]:
    """Attributes that an image of a stack does not share with the others."""
    lists = (k for k in PER_IMAGE_ATTRS if isinstance(attrs.get(k), list | tuple | np.ndarray))
    return {k: str(attrs[k][index]) for k in lists if len(attrs[k]) == count}


def _by_image(pixels: Any) -> Any:
    """A stack of whole images, one per block."""
    import dask.array as da

    stack = da.asarray(pixels if pixels.ndim == 3 else pixels[None])
    return stack.rechunk((1, -1, -1))


def _lattice(shape: tuple[int, int]) -> NDArray[np.float64]:
    """A noisy lattice of bright columns between 0 and 100."""
    y, x = (np.cos(2 * np.pi * np.arange(n) / TEMPLATE_PERIOD) for n in shape)
    noise = np.random.default_rng(0).normal(0.0, 2.0, shape)
    return np.asarray((10.0 + 20.0 * np.add.outer(y, x).clip(0) ** 2 + noise).clip(0.0, 100.0))


# --- tasks -------------------------------------------------------------------------------------------------------


def _result(values: NDArray, own: NDArray, *maps: NDArray, task: _Task) -> NDArray:
    packed = np.empty((1, 1, 1), dtype=object)
    packed[0, 0, 0] = task.work(task.image(values[0], own[0, 0, 0], tuple(m[0] for m in maps)))
    return packed


def _pixels_of(packed: NDArray, of: str | None) -> NDArray:
    result = packed[0, 0, 0]
    return np.asarray((result if of is None else result.coords[of]).values[None])


def _attribute_of(packed: NDArray, key: str) -> NDArray:
    out = np.empty((1, 1, 1), dtype=object)
    out[0, 0, 0] = packed[0, 0, 0].attrs[key]
    return out
