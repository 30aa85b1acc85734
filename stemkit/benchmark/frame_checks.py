"""Checks of repeat frames before they are compared."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np
import xarray as xr

from stemkit.images.containers import Images, split
from stemkit.images.pixel_size import pixel_sizes, same_pixel_sizes

__all__ = ["MIN_FRAMES", "checked_frames"]

#: With two others, the noise of their mean can be estimated from their scatter.
MIN_FRAMES = 3


def checked_frames(frames: Images) -> list[xr.DataArray]:
    """Split repeat frames into images and check that they can be compared.

    Parameters
    ----------
    frames : DataArray, ndarray or list of them
        A stack with dims ``("image", "y", "x")`` or ``("frame", "y", "x")``, an array ``(n_frames, n_y, n_x)``, or a
        list of images.

    Returns
    -------
    list of DataArray
        Frames of equal size and pixel size.

    Raises
    ------
    ValueError
        If there are fewer than three, they differ in size or pixel size, one is constant or not finite, or two are
        identical.
    """
    if isinstance(frames, xr.DataArray) and "frame" in frames.dims:
        frames = frames.rename(frame="image")
    images = split(frames, name="frames")
    shapes = [image.shape for image in images]
    if len(images) < MIN_FRAMES:
        came = f"one image of {shapes[0][0]} by {shapes[0][1]} px" if len(images) == 1 else f"{len(images)} images"
        raise ValueError(
            f"frames must be at least {MIN_FRAMES} images of the same area, but is {came}: give a stack "
            "(n_frames, n_y, n_x) or a list of images"
        )
    _check_equal(shapes)
    _check_pixel_sizes([pixel_sizes(image) for image in images])
    for i, image in enumerate(images):
        if np.ptp(image.values) == 0:
            raise ValueError(f"frames[{i}] is constant, {image.values.flat[0]:g} everywhere: leave it out")
    for i, j in itertools.combinations(range(len(images)), 2):
        if np.array_equal(images[i].values, images[j].values):
            raise ValueError(
                f"frames must have independent noise, but frames[{i}] and frames[{j}] are identical: leave one out"
            )
    return images


def _check_equal(shapes: Sequence[tuple[int, ...]]) -> None:
    usual = Counter(shapes).most_common(1)[0][0]
    for i, shape in enumerate(shapes):
        if shape != usual:
            raise ValueError(
                f"frames must have equal sizes, but frames[{i}] has {shape[0]} by {shape[1]} px and most have "
                f"{usual[0]} by {usual[1]} px: crop them to a common size"
            )


def _check_pixel_sizes(sizes: Sequence[tuple[float, float] | None]) -> None:
    for i, size in enumerate(sizes):
        first = sizes[0]
        if not same_pixel_sizes(size, first):
            raise ValueError(
                f"frames must have equal pixel sizes, but frames[0] has {first} nm and frames[{i}] has {size} nm: set "
                "the pixel size with stemkit.calibrated(image, pixel_size=...) or resample the frames"
            )
