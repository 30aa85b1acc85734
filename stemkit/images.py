"""What an image is: a DataArray with pixel centres in nm, and its way through an estimator.

An image is an :class:`xarray.DataArray` with dims ``("y", "x")``, a stack has ``("image", "y", "x")``. The
coordinates ``x`` and ``y`` are pixel centres in nm; an uncalibrated image has none. Plain arrays and lists of
images of different sizes are images too: :func:`split` takes any of them apart into single DataArrays, and
:func:`join` gives results the shape of what came in.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Hashable, Sequence
from typing import TypeAlias, TypeGuard

import numpy as np
import xarray as xr
from numpy.typing import NDArray

__all__ = [
    "Images",
    "StemAccessor",
    "digest",
    "holds_images",
    "intensity_scale",
    "is_calibrated",
    "join",
    "measured_image",
    "mode_sign",
    "pad_reflect",
    "pixel_sizes",
    "resolve_mode",
    "split",
    "was_enhanced",
    "with_pixel_sizes",
]

Images: TypeAlias = "xr.DataArray | NDArray | Sequence[xr.DataArray | NDArray]"

MODES = ("haadf", "bf")
MEASURED = "measured"
#: Attributes that belong to single images: a stack carries a list of them.
PER_IMAGE_ATTRS = ("noise",)
SMALL_IMAGE = 32
#: Intensities outside the 1 % and 99 % quantiles by this part of their distance do not count for the mode (chosen).
OUTLIERS = 0.5
#: Spacings of neighbouring coordinates may differ by this fraction (files store them in single precision).
COORDINATE_TOLERANCE = 1e-3


@xr.register_dataarray_accessor("stem")
class StemAccessor:
    """What a microscopist asks of an image: ``image.stem.pixel_size``, ``.mode``, ``.measured``."""

    def __init__(self, image: xr.DataArray):
        self._image = image

    @property
    def is_calibrated(self) -> bool:
        """Whether the image carries a pixel size."""
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
        if not np.isclose(y, x, rtol=COORDINATE_TOLERANCE, atol=0):
            raise ValueError(
                f"pixel_size needs square pixels, but these are {y:.6g} nm (y) by {x:.6g} nm (x): "
                "use image.stem.pixel_sizes, or resample the image"
            )
        return x

    @property
    def pixel_sizes(self) -> tuple[float, float]:
        """Height and width of a pixel, in nm."""
        sizes = pixel_sizes(self._image)
        if sizes is None:
            raise ValueError(
                "the image has no pixel size: set it with stemkit.calibrated(image, pixel_size=...) in nm, or from a "
                "known lattice spacing with stemkit.calibrated(image, spacing=...)"
            )
        return sizes

    @property
    def mode(self) -> str | None:
        """``"haadf"``, ``"bf"``, or None where it is not known."""
        return self._image.attrs.get("mode")

    @property
    def measured(self) -> xr.DataArray:
        """The recorded pixels: the coordinate of a denoised image that holds them, or the image itself."""
        return measured_image(self._image)


def split(X: Images, *, name: str = "X") -> list[xr.DataArray]:
    """Take images apart into validated 2-D DataArrays.

    Parameters
    ----------
    X : DataArray, array-like or sequence of them
        One image ``(n_y, n_x)``, a stack ``(n_images, n_y, n_x)``, or a list of images of any sizes.
    name : str
        The parameter's name in error messages.

    Returns
    -------
    list of DataArray
        One per image, dims ``("y", "x")``, with its own coordinates and attributes.

    Raises
    ------
    ValueError, TypeError
        For anything that is not an image: wrong dims, NaN, complex, RGB, empty, uneven coordinates.
    """
    if isinstance(X, xr.DataArray):
        return _split_dataarray(X, name)
    if _is_list_of_images(X):
        images = [_single(item, f"{name}[{i}]") for i, item in enumerate(X)]
        if not images:
            raise ValueError(f"{name} is an empty list: give at least one image")
        return images
    values = _numeric(X, name)
    if values.ndim == 2:
        return [_validated(xr.DataArray(values, dims=("y", "x")), name)]
    if values.ndim == 3:
        _refuse_colour(values.shape, name)
        _refuse_empty(values.shape, name)
        return [_validated(xr.DataArray(v, dims=("y", "x")), f"{name}[{i}]") for i, v in enumerate(values)]
    raise ValueError(
        f"{name} must be one image (n_y, n_x) or a stack (n_images, n_y, n_x), but has {values.ndim} dimension(s), "
        f"shape {values.shape}. Reshape your data: a single row of pixels is array.reshape(1, -1)"
    )


def join(images: Sequence[xr.DataArray], like: Images) -> Images:
    """Give single results the container that came in: the counterpart of :func:`~stemkit.images.split`."""
    if isinstance(like, xr.DataArray):
        return images[0] if like.ndim == 2 else _stacked(images, like)
    if _is_list_of_images(like):
        return [r if isinstance(item, xr.DataArray) else r.values for r, item in zip(images, like, strict=True)]
    if len(images) == 1 and np.asarray(like).ndim == 2:
        return images[0].values
    return np.stack([image.values for image in images])


def holds_images(y: object) -> TypeGuard[Images]:
    """Whether ``y`` holds images, rather than what else a pipeline hands on: labels (one number per row) or tables."""
    if isinstance(y, xr.DataArray):
        return True
    if y is None or hasattr(y, "columns"):
        return False
    if isinstance(y, list | tuple) and any(hasattr(item, "columns") for item in y):
        return False
    return _is_list_of_images(y) or np.asarray(y).ndim > 1


def float_dtype(dtype: np.dtype) -> np.dtype:
    """The dtype of what comes out: float32 and float64 stay, everything else becomes float32."""
    return np.dtype(dtype) if dtype in (np.float32, np.float64) else np.dtype(np.float32)


def is_calibrated(image: xr.DataArray) -> bool:
    """Whether the image has a pixel size."""
    return pixel_sizes(image) is not None


def pixel_sizes(image: xr.DataArray) -> tuple[float, float] | None:
    """Height and width of a pixel in nm, or None without coordinates.

    Along an axis of a single pixel the spacing is that of the other axis.
    """
    sizes = {d: _spacing(image, d) for d in ("y", "x") if d in image.coords}
    known = [s for s in sizes.values() if s is not None]
    if not known:
        return None
    return sizes.get("y") or known[0], sizes.get("x") or known[0]


def with_pixel_sizes(image: xr.DataArray, y: float, x: float) -> xr.DataArray:
    """The image with pixel centres at multiples of the pixel's height and width (nm)."""
    for label, size in (("y", y), ("x", x)):
        if not (np.isfinite(size) and size > 0):
            raise ValueError(f"pixel_size must be a positive number of nm, but along {label} it is {size!r}")
    coords = {d: xr.Variable(d, np.arange(image.sizes[d]) * float(s), {"units": "nm"}) for d, s in (("y", y), ("x", x))}
    return image.assign_coords(coords)


def measured_image(image: xr.DataArray) -> xr.DataArray:
    """The recorded pixels behind a denoised image; an image without them is its own measurement."""
    if MEASURED not in image.coords:
        return image
    recorded = image.coords[MEASURED]
    keep = {c: image.coords[c] for c in image.dims if c in image.coords}
    return xr.DataArray(recorded.values, dims=image.dims, coords=keep, attrs=image.attrs, name=image.name)


def resolve_mode(image: xr.DataArray, mode: str | None = None) -> str:
    """The image's mode: what the caller says, else what the image says, else inferred from its skewness.

    Columns cover the smaller part of an image, so bright columns give a histogram with a tail to the right and
    dark ones a tail to the left. Inference is announced by a warning where the skewness points to bright field.
    """
    known = mode if mode is not None else image.attrs.get("mode")
    if known is not None:
        if known not in MODES:
            raise ValueError(f"mode must be one of {', '.join(map(repr, MODES))} or None, but is {known!r}")
        return known
    if _smoothed_skewness(image.values) >= -0.3:
        return "haadf"
    warnings.warn(
        'the image does not say its mode; its columns look dark, so it is taken as "bf": pass mode= to decide',
        UserWarning,
        stacklevel=3,
    )
    return "bf"


def mode_sign(mode: str) -> float:
    """+1 for bright columns (haadf), -1 for dark ones (bf): the flip at the door."""
    return -1.0 if mode == "bf" else 1.0


def intensity_scale(values: NDArray) -> tuple[float, float]:
    """Offset and scale that normalise an image: its mean and standard deviation, the extreme 0.1 % clipped.

    Both move with the image, ``f(a I + b) = a f(I) + b``, and are computed in float64. The scale of a constant
    image is 0. Faulty pixels must have been filled (:func:`stemkit.pixels.filled`): a row or an area of them is more
    than the quantiles leave out.
    """
    work = np.asarray(values, dtype=np.float64)
    low, high = np.quantile(work, [0.001, 0.999])
    clipped = np.clip(work, low, high)
    offset, scale = float(clipped.mean()), float(clipped.std())
    # rounding leaves about 1e-16 of the offset in the deviation of a constant image
    return offset, scale if scale > 1e-12 * max(abs(low), abs(high)) else 0.0


def pad_reflect(values: NDArray, before: tuple[int, int], after: tuple[int, int]) -> NDArray:
    """Continue an image beyond its border by reflection, whatever its size."""
    return np.pad(values, tuple(zip(before, after, strict=True)), mode="reflect")


def digest(values: NDArray) -> str:
    """A short text that is the same for the same pixels: estimators know by it what they have measured."""
    return hashlib.sha1(np.ascontiguousarray(values).tobytes() + str(values.shape).encode()).hexdigest()


def warn_if_small(image: xr.DataArray) -> None:
    """Say that statistics and networks are unreliable on very small images."""
    if min(image.shape) < SMALL_IMAGE:
        warnings.warn(
            f"the image is {image.shape[0]} by {image.shape[1]} px: under {SMALL_IMAGE} px there is too little to "
            "measure reliably",
            UserWarning,
            stacklevel=3,
        )


def was_enhanced(image: xr.DataArray) -> bool:
    """Whether the image says that stemkit enhanced it or drew it as a picture: it is no measurement."""
    text = image.attrs.get("stemkit")
    made = json.loads(text) if isinstance(text, str) else None
    while isinstance(made, dict):
        if made.get("step") in ("enhance", "picture"):
            return True
        made = made.get("previous")
    return False


def check_noise_attr(image: xr.DataArray, mode: str | None = None) -> dict | None:
    """The noise model an image carries, as a dict, or None.

    Raises
    ------
    ValueError
        If it was calibrated at another pixel size, where its lengths in pixels would be wrong, or in another mode.
    """
    text = image.attrs.get("noise")
    if text is None:
        return None
    try:
        noise = json.loads(text)
    except (TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f'attrs["noise"] must be the JSON text of one noise model per image, but is {str(text)[:60]!r}: a stack '
            "that is cut after calibration keeps the list of all its models. Calibrate after cutting"
        ) from error
    sizes = pixel_sizes(image)
    calibrated_at = noise.pop("pixel_size", None)
    now = None if sizes is None else sizes[1]
    if (calibrated_at is None) != (now is None) or (now and not np.isclose(calibrated_at, now, rtol=1e-3)):
        raise ValueError(
            f'attrs["noise"] was calibrated at a pixel size of {calibrated_at} nm, but the image has {now} nm: '
            "run NoiseCalibrator again on the resampled image"
        )
    if mode is not None and noise.get("mode", mode) != mode:
        raise ValueError(
            f'mode is {mode!r}, but attrs["noise"] was calibrated in mode {noise["mode"]!r}: calibrate again, with '
            f"NoiseCalibrator(mode={mode!r})"
        )
    return noise


# --- containers --------------------------------------------------------------------------------------------------


def _is_list_of_images(X: object) -> bool:
    return isinstance(X, list | tuple) and (
        len(X) == 0 or any(isinstance(i, xr.DataArray) or getattr(i, "ndim", 0) >= 2 for i in X)
    )


def _single(item: xr.DataArray | NDArray, name: str) -> xr.DataArray:
    images = split(item, name=name)
    if getattr(item, "ndim", 2) != 2:
        raise ValueError(f"{name} must be a single image (y, x) in a list of images, but has shape {np.shape(item)}")
    return images[0]


def _split_dataarray(X: xr.DataArray, name: str) -> list[xr.DataArray]:
    if X.dims == ("y", "x"):
        return [_validated(X, name)]
    if X.dims != ("image", "y", "x"):
        hint = ""
        if set(X.dims) in ({"y", "x"}, {"image", "y", "x"}):
            hint = f": reorder them with {name}.transpose(..., 'y', 'x')"
        raise ValueError(f'{name} must have dims ("y", "x") or ("image", "y", "x"), but has {X.dims}{hint}')
    _refuse_empty(X.shape, name)
    images = []
    for i in range(X.sizes["image"]):
        image = X.isel(image=i, drop=True)
        image.attrs = {k: _own(v, i, X.sizes["image"], k) for k, v in X.attrs.items()}
        images.append(_validated(image, f"{name}[{i}]"))
    return images


def _own(value: object, index: int, count: int, key: Hashable) -> object:
    """The part of a stack's attribute that belongs to one of its images."""
    if key in PER_IMAGE_ATTRS and isinstance(value, list | tuple | np.ndarray) and len(value) == count:
        return str(value[index])
    return value


def _stacked(images: Sequence[xr.DataArray], like: xr.DataArray) -> xr.DataArray:
    first = images[0]
    coords = {c: v for c, v in like.coords.items() if set(v.dims) <= {"image"} or c in like.dims}
    for label in first.coords:
        if first.coords[label].dims == ("y", "x"):
            coords[label] = (like.dims, np.stack([i.coords[label].values for i in images]))
    attrs = dict(first.attrs)
    for key in PER_IMAGE_ATTRS:
        if key in attrs:
            attrs[key] = [image.attrs[key] for image in images]
    return xr.DataArray(np.stack([i.values for i in images]), coords, like.dims, like.name, attrs)


# --- validation --------------------------------------------------------------------------------------------------


def _numeric(X: object, name: str) -> NDArray:
    if hasattr(X, "toarray"):
        raise TypeError(f"{name} is a sparse matrix: images are dense, call .toarray() first")
    if np.ma.is_masked(X):
        raise ValueError(
            f"{name} has masked pixels, and images have none: fill them first, for example by X.filled(value)"
        )
    if isinstance(X, str | os.PathLike):
        raise TypeError(f"{name} is a path: read the file first, with stemkit.read({os.fspath(X)!r})")
    values = np.asarray(X)
    if values.dtype.kind == "b":
        values = values.astype(np.uint8)
    if values.dtype == object or values.dtype.kind in "US":
        values = values.astype(np.float64)
    if values.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {name} is complex; take its magnitude or phase first")
    if values.dtype.kind not in "fiu":
        raise TypeError(f"{name} must hold numbers, but its dtype is {values.dtype}")
    return values


def _validated(image: xr.DataArray, name: str) -> xr.DataArray:
    values = _numeric(image.data if isinstance(image.data, np.ndarray) else image.values, name)
    _refuse_empty(values.shape, name)
    _refuse_not_finite(values, name)
    if values is not image.data:
        image = image.copy(data=values)
    _check_coords(image, name)
    mode = image.attrs.get("mode")
    if mode is not None and mode not in MODES:
        raise ValueError(f'{name}.attrs["mode"] must be one of {", ".join(map(repr, MODES))}, but is {mode!r}')
    return image


def _refuse_empty(shape: tuple[int, ...], name: str) -> None:
    if 0 in shape:
        raise ValueError(
            f"{name} is empty: it has {shape[0]} sample(s) and {shape[-1]} feature(s) (shape={shape}) while a minimum "
            "of 1 is required. Give at least one pixel"
        )


def _refuse_colour(shape: tuple[int, ...], name: str) -> None:
    if shape[-1] in (3, 4) and min(shape[:2]) > 4:
        raise ValueError(
            f"{name} has shape {shape}, which looks like an RGB picture: give one channel, such as {name}[..., 0]"
        )


def _refuse_not_finite(values: NDArray, name: str) -> None:
    if values.dtype.kind != "f":
        return
    bad = ~np.isfinite(values)
    if bad.any():
        y, x = (int(i) for i in np.argwhere(bad)[0])
        kind = "NaN" if np.isnan(values[y, x]) else "inf"
        raise ValueError(
            f"{name} must be finite (no NaN, no inf), but {int(bad.sum())} pixel(s) are not, the first at "
            f"y={y}, x={x} ({kind}): replace them, for example by the median of their neighbours"
        )


def _spacing(image: xr.DataArray, dim: str) -> float | None:
    centres = np.asarray(image.coords[dim].values, dtype=np.float64)
    return None if centres.size < 2 else float((centres[-1] - centres[0]) / (centres.size - 1))


def _check_coords(image: xr.DataArray, name: str) -> None:
    present = [d for d in ("y", "x") if d in image.coords]
    if len(present) == 1:
        raise ValueError(
            f"{name} has a coordinate {present[0]!r} alone: a calibrated image has both, an uncalibrated one neither"
        )
    for dim in present:
        units = image.coords[dim].attrs.get("units")
        if units != "nm":
            raise ValueError(
                f"coordinate {dim!r} of {name} must be in nm with attrs['units'] = 'nm', but has units {units!r}: "
                "set the pixel size with stemkit.calibrated(image, pixel_size=...)"
            )
        centres = np.asarray(image.coords[dim].values, dtype=np.float64)
        if centres.size < 2:
            continue
        steps = np.diff(centres)
        if not np.all(np.isfinite(steps)) or steps.min() <= 0:
            raise ValueError(f"coordinate {dim!r} of {name} must increase from pixel to pixel: sort the image by it")
        if steps.max() - steps.min() > COORDINATE_TOLERANCE * steps.mean() * 2:
            raise ValueError(
                f"coordinate {dim!r} of {name} must be evenly spaced, but its steps go from {steps.min():.6g} to "
                f"{steps.max():.6g} nm: resample the image onto an even grid"
            )


def _smoothed_skewness(values: NDArray) -> float:
    """Skewness after a light blur, which keeps columns and averages pixel noise."""
    from scipy.ndimage import gaussian_filter

    work = np.asarray(values, dtype=np.float64)
    # faulty pixels may exceed all others a thousandfold
    low, high = np.quantile(work, [0.01, 0.99])
    work = np.clip(work, low - OUTLIERS * (high - low), high + OUTLIERS * (high - low)) if high > low else work
    smooth = gaussian_filter(work, 1.5)
    smooth = smooth - _slow_part(smooth, max(4.0, min(values.shape) / 8))
    deviation = smooth.std()
    return 0.0 if deviation == 0 else float(((smooth - smooth.mean()) ** 3).mean() / deviation**3)


def _slow_part(image: NDArray, sigma: float) -> NDArray:
    """A Gaussian filter's result; wide filters work on means over blocks, an eighth of their width in size."""
    from scipy.ndimage import gaussian_filter

    block = max(1, int(sigma / 8))
    if block == 1:
        return gaussian_filter(image, sigma)
    margin = [(0, -n % block) for n in image.shape]
    padded = np.pad(image, margin, mode="edge")
    n_y, n_x = (n // block for n in padded.shape)
    coarse = gaussian_filter(padded.reshape(n_y, block, n_x, block).mean(axis=(1, 3)), sigma / block)
    return np.repeat(np.repeat(coarse, block, axis=0), block, axis=1)[: image.shape[0], : image.shape[1]]
