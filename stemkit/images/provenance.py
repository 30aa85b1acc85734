"""Data that an image carries from earlier steps: recorded pixels, noise model, and a record of the steps."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stemkit._version import __version__
from stemkit.images.pixel_size import PIXEL_SIZE_TOLERANCE, pixel_sizes

__all__ = [
    "RECORDED",
    "check_noise_attr",
    "digest",
    "noise_attr",
    "recorded_image",
    "step_record",
    "steps_before",
    "was_averaged",
    "was_enhanced",
]

#: Coordinate of an enhanced image with the recorded pixels.
RECORDED = "recorded"


def recorded_image(image: xr.DataArray) -> xr.DataArray:
    """The recorded image of an enhanced image; an image without recorded pixels is returned unchanged."""
    if RECORDED not in image.coords:
        return image
    recorded = image.coords[RECORDED]
    keep = {c: image.coords[c] for c in image.dims if c in image.coords}
    return xr.DataArray(recorded.values, dims=image.dims, coords=keep, attrs=image.attrs, name=image.name)


def steps_before(image: xr.DataArray) -> dict | None:
    """The record of the steps that made the image, from its attributes; None without one.

    Raises
    ------
    ValueError
        If the attribute is no record that stemkit has written.
    """
    text = image.attrs.get("stemkit")
    if not isinstance(text, str):
        return None
    try:
        made = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        made = None
    if not isinstance(made, dict):
        raise ValueError(
            f'attrs["stemkit"] must be the JSON text in which stemkit records its steps, but is {text[:60]!r}: remove '
            "this attribute"
        )
    return made


def step_record(image: xr.DataArray, step: str, **entries: Any) -> str:
    """Record of a step that is applied to the image, for the attributes of its result, with those of earlier steps."""
    made = {"stemkit": __version__, "step": step, **entries}
    before = steps_before(image)
    return json.dumps(made if before is None else made | {"previous": before})


def was_enhanced(image: xr.DataArray) -> bool:
    """Whether the provenance contains an enhancement or a picture, so that the pixels are not recorded intensities."""
    return bool({"enhance", "picture"} & _steps(image))


def was_averaged(image: xr.DataArray) -> bool:
    """Whether the image is an average of aligned frames or has aligned rows: interpolated, without its faulty pixels.

    This is known by its provenance or its number of frames per pixel.
    """
    return "n_frames" in image.coords or bool({"average", "straighten"} & _steps(image))


def _steps(image: xr.DataArray) -> set[str]:
    """Names of the steps that made the image."""
    made, names = steps_before(image), set()
    while isinstance(made, dict):
        names.add(str(made.get("step")))
        made = made.get("previous")
    return names


def noise_attr(image: xr.DataArray, noise: dict[str, Any]) -> str:
    """A noise model, as a dict, as text for the image's attributes, with the pixel size at which it is valid."""
    sizes = pixel_sizes(image)
    return json.dumps({"pixel_size": None if sizes is None else sizes[1], **noise})


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
        if not isinstance(noise, dict):
            raise TypeError(f"it is {type(noise).__name__}")
    except (TypeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(
            f'attrs["noise"] must be the JSON text of one noise model per image, but is {str(text)[:60]!r}: a stack '
            "indexed after calibration keeps the list of all its models. Calibrate after indexing"
        ) from error
    sizes = pixel_sizes(image)
    calibrated_at = noise.pop("pixel_size", None)
    now = None if sizes is None else sizes[1]
    if (calibrated_at is None) != (now is None) or (now and not np.isclose(calibrated_at, now, PIXEL_SIZE_TOLERANCE)):
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


def digest(values: NDArray) -> str:
    """Hash of the pixels, by which estimators recognise an image that they have processed."""
    return hashlib.sha1(np.ascontiguousarray(values).tobytes() + str(values.shape).encode()).hexdigest()
