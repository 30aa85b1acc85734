"""Images as DataArrays with pixel centres in nm: validation, containers, pixel size and mode.

An image is an :class:`xarray.DataArray` with dims ``("y", "x")``, a stack has ``("image", "y", "x")``. The
coordinates ``x`` and ``y`` are pixel centres in nm; an uncalibrated image has none. Estimators also accept plain
arrays and lists of images of different sizes: :func:`split` converts each of them to a list of DataArrays, and
:func:`join` converts results to the container of the input.
"""

from stemkit.images.accessor import StemAccessor
from stemkit.images.containers import Images, float_dtype, holds_images, join, single_image, split, warn_if_small
from stemkit.images.intensities import intensity_scale, pad_reflect
from stemkit.images.lazy import LazyResults, is_lazy, lazy_images
from stemkit.images.mode import mode_sign, resolve_mode
from stemkit.images.pixel_size import is_calibrated, pixel_sizes, same_pixel_sizes, with_pixel_sizes
from stemkit.images.provenance import (
    RECORDED,
    check_noise_attr,
    digest,
    recorded_image,
    steps_before,
    was_averaged,
    was_enhanced,
)
from stemkit.parameters import MODES

__all__ = [
    "MODES",
    "RECORDED",
    "Images",
    "LazyResults",
    "StemAccessor",
    "check_noise_attr",
    "digest",
    "float_dtype",
    "holds_images",
    "intensity_scale",
    "is_calibrated",
    "is_lazy",
    "join",
    "lazy_images",
    "mode_sign",
    "pad_reflect",
    "pixel_sizes",
    "recorded_image",
    "resolve_mode",
    "same_pixel_sizes",
    "single_image",
    "split",
    "steps_before",
    "warn_if_small",
    "was_averaged",
    "was_enhanced",
    "with_pixel_sizes",
]
