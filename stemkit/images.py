"""Images as DataArrays with pixel centres in nm: validation, containers, pixel size and mode.

An image is an :class:`xarray.DataArray` with dims ``("y", "x")``, a stack has ``("image", "y", "x")``. The
coordinates ``x`` and ``y`` are pixel centres in nm; an uncalibrated image has none. Estimators also accept plain
arrays and lists of images of different sizes: :func:`split` converts each of them to a list of DataArrays, and
:func:`join` converts results to the container of the input.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeGuard

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stemkit.image_checks import (
    COORDINATE_TOLERANCE,
    check_mode,
    check_not_colour,
    check_not_empty,
    numeric,
    validated,
)
from stemkit.image_checks import MODES as MODES

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

#: Coordinate of a denoised image with the recorded pixels.
MEASURED = "measured"
#: Attributes of single images; in a stack they are lists with one element per image.
PER_IMAGE_ATTRS = ("noise",)
#: Shorter side of an image below which a warning is given, px (chosen).
SMALL_IMAGE = 32
#: Relative tolerance between the pixel size of an image and that of its noise model (chosen).
NOISE_TOLERANCE = 1e-3
#: Quantiles at which intensities are clipped before an image is normalised (chosen).
NORMALIZATION_QUANTILES = (0.001, 0.999)
#: Standard deviation of an image in units of its largest absolute intensity that is rounding error (chosen: rounding
#: leaves about 1e-16).
ROUNDING = 1e-12


@dataclass(frozen=True)
class ModeConstants:
    """Constants of the inference of the mode from the skewness of an image."""

    #: Largest skewness of an image with dark columns (chosen).
    skewness: float = -0.3
    #: Quantiles that define the range of intensities (chosen).
    quantiles: tuple[float, float] = (0.01, 0.99)
    #: Margin beyond the range at which intensities are clipped, in units of the range (chosen).
    margin: float = 0.5
    #: Sigma of the Gaussian filter that reduces the noise of pixels, px (chosen: narrower than a column).
    noise_sigma: float = 1.5
    #: Sigma of the Gaussian filter whose result is the background: fraction of the shorter side (chosen).
    background_fraction: float = 1 / 8
    #: Smallest sigma of that filter, px (chosen: wider than a column).
    background_sigma: float = 4.0


MODE = ModeConstants()


@xr.register_dataarray_accessor("stem")
class StemAccessor:
    """Accessor of the properties of an image: ``image.stem.pixel_size``, ``.mode``, ``.measured``."""

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
        if not np.isclose(y, x, rtol=COORDINATE_TOLERANCE, atol=0):
            raise ValueError(
                f"pixel_size requires square pixels, but they are {y:.6g} nm (y) by {x:.6g} nm (x): "
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
        """``"haadf"``, ``"bf"``, or None if it is not known."""
        return self._image.attrs.get("mode")

    @property
    def measured(self) -> xr.DataArray:
        """The recorded image: that of a denoised image, or the image itself."""
        return measured_image(self._image)


def split(X: Images, *, name: str = "X") -> list[xr.DataArray]:
    """Validate images and convert them to a list of 2-D DataArrays.

    Parameters
    ----------
    X : DataArray, array-like or sequence of them
        One image ``(n_y, n_x)``, a stack ``(n_images, n_y, n_x)``, or a list of images of any sizes.
    name : str
        The parameter's name in error messages.

    Returns
    -------
    list of DataArray
        One per image, dims ``("y", "x")``, with the coordinates and attributes of the image.

    Raises
    ------
    ValueError, TypeError
        If ``X`` is not an image: other dims, NaN, complex, RGB or empty arrays, unevenly spaced coordinates.
    """
    if isinstance(X, xr.DataArray):
        return _split_dataarray(X, name)
    if _is_list_of_images(X):
        images = [_single(item, f"{name}[{i}]") for i, item in enumerate(X)]
        if not images:
            raise ValueError(f"{name} is an empty list: give at least one image")
        return images
    values = numeric(X, name)
    if values.ndim == 2:
        return [validated(xr.DataArray(values, dims=("y", "x")), name)]
    if values.ndim == 3:
        check_not_colour(values.shape, name)
        check_not_empty(values.shape, name)
        return [validated(xr.DataArray(v, dims=("y", "x")), f"{name}[{i}]") for i, v in enumerate(values)]
    raise ValueError(
        f"{name} must be one image (n_y, n_x) or a stack (n_images, n_y, n_x), but has {values.ndim} dimension(s), "
        f"shape {values.shape}. Reshape your data: for a single row of pixels use array.reshape(1, -1)"
    )


def join(images: Sequence[xr.DataArray], like: Images) -> Images:
    """Convert a list of results to the container of the input, the inverse of :func:`~stemkit.images.split`."""
    if isinstance(like, xr.DataArray):
        return images[0] if like.ndim == 2 else _stacked(images, like)
    if _is_list_of_images(like):
        return [r if isinstance(item, xr.DataArray) else r.values for r, item in zip(images, like, strict=True)]
    if len(images) == 1 and np.asarray(like).ndim == 2:
        return images[0].values
    return np.stack([image.values for image in images])


def holds_images(y: object) -> TypeGuard[Images]:
    """Whether ``y`` contains images; a pipeline also passes labels (one number per row) and tables."""
    if isinstance(y, xr.DataArray):
        return True
    if y is None or hasattr(y, "columns"):
        return False
    if isinstance(y, list | tuple) and any(hasattr(item, "columns") for item in y):
        return False
    return _is_list_of_images(y) or np.asarray(y).ndim > 1


def float_dtype(dtype: np.dtype) -> np.dtype:
    """Data type of results: float32 and float64 are kept, all other types become float32."""
    return np.dtype(dtype) if dtype in (np.float32, np.float64) else np.dtype(np.float32)


def is_calibrated(image: xr.DataArray) -> bool:
    """Whether the image has a pixel size."""
    return pixel_sizes(image) is not None


def pixel_sizes(image: xr.DataArray) -> tuple[float, float] | None:
    """Height and width of a pixel in nm, or None without coordinates.

    The pixel size along an axis with a single pixel is that of the other axis.
    """
    sizes = {d: _spacing(image, d) for d in ("y", "x") if d in image.coords}
    known = [s for s in sizes.values() if s is not None]
    if not known:
        return None
    return sizes.get("y") or known[0], sizes.get("x") or known[0]


def with_pixel_sizes(image: xr.DataArray, y: float, x: float) -> xr.DataArray:
    """The image with pixel centres at multiples of the height ``y`` and the width ``x`` of a pixel, nm."""
    for label, size in (("y", y), ("x", x)):
        if not (np.isfinite(size) and size > 0):
            raise ValueError(f"pixel_size must be a positive number of nm, but along {label} it is {size!r}")
    coords = {d: xr.Variable(d, np.arange(image.sizes[d]) * float(s), {"units": "nm"}) for d, s in (("y", y), ("x", x))}
    return image.assign_coords(coords)


def measured_image(image: xr.DataArray) -> xr.DataArray:
    """The recorded image of a denoised image; an image without recorded pixels is returned unchanged."""
    if MEASURED not in image.coords:
        return image
    recorded = image.coords[MEASURED]
    keep = {c: image.coords[c] for c in image.dims if c in image.coords}
    return xr.DataArray(recorded.values, dims=image.dims, coords=keep, attrs=image.attrs, name=image.name)


def resolve_mode(image: xr.DataArray, mode: str | None = None) -> str:
    """The mode: the parameter, else the image's attribute, else inferred from the skewness of the intensities.

    Columns cover less than half of an image, so the distribution of intensities has a tail to the right for bright
    columns and to the left for dark columns. If bright field is inferred, a warning is given.
    """
    known = mode if mode is not None else image.attrs.get("mode")
    if known is not None:
        check_mode(known, "mode")
        return known
    if _smoothed_skewness(image.values) >= MODE.skewness:
        return "haadf"
    warnings.warn(
        'the image has no mode and its columns look dark, so the mode is taken as "bf": pass mode= to set it',
        UserWarning,
        stacklevel=3,
    )
    return "bf"


def mode_sign(mode: str) -> float:
    """+1 for bright columns (haadf), -1 for dark columns (bf), whose sign is inverted on input and output."""
    return -1.0 if mode == "bf" else 1.0


def intensity_scale(values: NDArray) -> tuple[float, float]:
    """Offset and scale that normalise an image: mean and standard deviation with 0.1 % clipped at either end.

    For an image ``a I + b`` they are ``a offset + b`` and ``|a| scale``. They are computed in float64; the scale of a
    constant image is 0. Faulty pixels must have been filled (:func:`stemkit.pixels.filled`), since a faulty row or area
    exceeds the clipped fraction.
    """
    work = np.asarray(values, dtype=np.float64)
    low, high = np.quantile(work, NORMALIZATION_QUANTILES)
    clipped = np.clip(work, low, high)
    offset, scale = float(clipped.mean()), float(clipped.std())
    return offset, scale if scale > ROUNDING * max(abs(low), abs(high)) else 0.0


def pad_reflect(values: NDArray, before: tuple[int, int], after: tuple[int, int]) -> NDArray:
    """Pad an image by reflection, by any number of pixels."""
    return np.pad(values, tuple(zip(before, after, strict=True)), mode="reflect")


def digest(values: NDArray) -> str:
    """Hash of the pixels, by which estimators recognise an image that they have processed."""
    return hashlib.sha1(np.ascontiguousarray(values).tobytes() + str(values.shape).encode()).hexdigest()


def warn_if_small(image: xr.DataArray) -> None:
    """Warn of an image too small for reliable statistics and networks."""
    if min(image.shape) < SMALL_IMAGE:
        warnings.warn(
            f"the image is {image.shape[0]} by {image.shape[1]} px: results are unreliable under "
            f"{SMALL_IMAGE} px, use a larger image",
            UserWarning,
            stacklevel=3,
        )


def was_enhanced(image: xr.DataArray) -> bool:
    """Whether the provenance contains an enhancement or a picture, so that the pixels are not recorded intensities."""
    text = image.attrs.get("stemkit")
    made = json.loads(text) if isinstance(text, str) else None
    while isinstance(made, dict):
        if made.get("step") in ("enhance", "picture"):
            return True
        made = made.get("previous")
    return False


def check_noise_attr(image: xr.DataArray, mode: str | None = None) -> dict | None:
    """The noise model in an image's attributes, as a dict, or None.

    Raises
    ------
    ValueError
        If the attribute is not the JSON of one noise model, or if it was calibrated at another pixel size, so that its
        lengths in px are not valid, or in another mode.
    """
    text = image.attrs.get("noise")
    if text is None:
        return None
    try:
        noise = json.loads(text)
    except (TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f'attrs["noise"] must be the JSON text of one noise model per image, but is {str(text)[:60]!r}: a stack '
            "indexed after calibration keeps the list of all its models. Calibrate after indexing"
        ) from error
    sizes = pixel_sizes(image)
    calibrated_at = noise.pop("pixel_size", None)
    now = None if sizes is None else sizes[1]
    if (calibrated_at is None) != (now is None) or (now and not np.isclose(calibrated_at, now, rtol=NOISE_TOLERANCE)):
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


def _spacing(image: xr.DataArray, dim: str) -> float | None:
    centres = np.asarray(image.coords[dim].values, dtype=np.float64)
    return None if centres.size < 2 else float((centres[-1] - centres[0]) / (centres.size - 1))


# --- containers --------------------------------------------------------------------------------------------------


def _is_list_of_images(X: object) -> bool:
    return isinstance(X, list | tuple) and (
        len(X) == 0 or any(isinstance(i, xr.DataArray) or getattr(i, "ndim", 0) >= 2 for i in X)
    )


def _single(item: xr.DataArray | NDArray, name: str) -> xr.DataArray:
    images = split(item, name=name)
    if getattr(item, "ndim", 2) != 2:
        raise ValueError(f"{name} must be an image (n_y, n_x) in a list of images, but has shape {np.shape(item)}")
    return images[0]


def _split_dataarray(X: xr.DataArray, name: str) -> list[xr.DataArray]:
    if X.dims == ("y", "x"):
        return [validated(X, name)]
    if X.dims != ("image", "y", "x"):
        hint = ""
        if set(X.dims) in ({"y", "x"}, {"image", "y", "x"}):
            hint = f": reorder them with {name}.transpose(..., 'y', 'x')"
        raise ValueError(f'{name} must have dims ("y", "x") or ("image", "y", "x"), but has {X.dims}{hint}')
    check_not_empty(X.shape, name)
    images = []
    for i in range(X.sizes["image"]):
        image = X.isel(image=i, drop=True)
        image.attrs = {k: _attribute_of_one(v, i, X.sizes["image"], k) for k, v in X.attrs.items()}
        images.append(validated(image, f"{name}[{i}]"))
    return images


def _attribute_of_one(value: object, index: int, count: int, key: Hashable) -> object:
    """An attribute of one image of a stack."""
    if key in PER_IMAGE_ATTRS and isinstance(value, list | tuple | np.ndarray) and len(value) == count:
        return str(value[index])
    return value


def _stacked(images: Sequence[xr.DataArray], like: xr.DataArray) -> xr.DataArray:
    """Stack images with the coordinates of another stack, and with maps and attributes of the images."""
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


# --- mode -------------------------------------------------------------------------------------------------------


def _smoothed_skewness(values: NDArray) -> float:
    """Skewness of the intensities without background, and with pixel noise reduced by a narrow filter."""
    from scipy.ndimage import gaussian_filter

    from stemkit.filters import wide_gaussian

    work = np.asarray(values, dtype=np.float64)
    # a faulty pixel may exceed all others a thousandfold
    low, high = np.quantile(work, MODE.quantiles)
    margin = MODE.margin * (high - low)
    work = np.clip(work, low - margin, high + margin) if high > low else work
    smooth = gaussian_filter(work, MODE.noise_sigma)
    smooth = smooth - wide_gaussian(smooth, max(MODE.background_sigma, min(values.shape) * MODE.background_fraction))
    std = smooth.std()
    return 0.0 if std == 0 else float(((smooth - smooth.mean()) ** 3).mean() / std**3)
