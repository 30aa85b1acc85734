"""The frames of a series, checked; those that cannot be used are listed with the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TypeGuard

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stemkit.images.containers import Images, split
from stemkit.images.lazy import is_lazy
from stemkit.images.mode import mode_sign, resolve_mode
from stemkit.images.pixel_size import pixel_sizes, same_pixel_sizes
from stemkit.images.provenance import digest
from stemkit.pixels import faulty_pixels, filled

__all__ = ["MIN_FRAMES", "MIN_SIDE", "BrightFrames", "Series", "check_enough", "read_series"]

#: Smallest number of frames (derived: each is compared with another one).
MIN_FRAMES = 2
#: Shorter side of a frame, px (chosen: correlations of smaller ones are mostly noise).
MIN_SIDE = 24


@dataclass(frozen=True)
class Series:
    """Usable frames of a series: :meth:`stemkit.SeriesAligner.fitted_frames`.

    Parameters
    ----------
    images : dict of DataArray
        Recorded pixels by the number of the frame in the series, dims ``("y", "x")``. Those of a lazy series are read
        whenever they are used.
    digests : dict of str
        Hashes of their pixels, by number.
    rejected : dict of str
        Reasons, by number.
    n_frames : int
        Number of frames of the whole series.
    mode : {"haadf", "bf"}
    """

    images: dict[int, xr.DataArray]
    digests: dict[int, str]
    rejected: dict[int, str]
    n_frames: int
    mode: str
    _faults: dict[int, NDArray[np.intp]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def first(self) -> xr.DataArray:
        """The first usable frame."""
        return next(iter(self.images.values()))

    def bright(self, frame: int) -> NDArray[np.float64]:
        """Pixels of a frame, faulty ones interpolated, with bright columns.

        Pixels that are faulty in the mean of all frames, whose noise is lower, are faulty in each frame.
        """
        return self.brightened(self.images[frame].values, frame)

    def brightened(self, values: NDArray, frame: int) -> NDArray[np.float64]:
        """As :meth:`bright`, from the recorded pixels ``values`` of the frame."""
        faulty = self._own_faults(frame, values) | self.common_faults
        return filled(values, faulty).astype(np.float64) * mode_sign(self.mode)

    def faulty(self, frame: int) -> NDArray[np.bool_]:
        """Faulty pixels of a frame."""
        return self._own_faults(frame, self.images[frame].values) | self.common_faults

    def _own_faults(self, frame: int, values: NDArray) -> NDArray[np.bool_]:
        if frame not in self._faults:
            self._faults[frame] = np.flatnonzero(faulty_pixels(values))
        mask = np.zeros(values.size, dtype=bool)
        mask[self._faults[frame]] = True
        return mask.reshape(values.shape)

    @cached_property
    def common_faults(self) -> NDArray[np.bool_]:
        """Pixels that are faulty in the mean of all frames."""
        total = np.zeros(self.first.shape)
        for i, image in self.images.items():
            values = image.values
            total += filled(values, self._own_faults(i, values))
        return faulty_pixels(total)


@dataclass(frozen=True)
class BrightFrames(Sequence[NDArray]):
    """A subset of the frames of a series, each computed when it is used: they need not be in memory together."""

    series: Series
    numbers: list[int]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> NDArray[np.float64]:  # type: ignore[override]
        return self.series.bright(self.numbers[index])


def read_series(X: Images, mode: str | None = None) -> Series:
    """Validate the frames of a series.

    Parameters
    ----------
    X : DataArray, ndarray or list of them
        Dims ``("frame", "y", "x")`` or ``("image", "y", "x")``, an array ``(n_frames, n_y, n_x)``, or a list of images.
        Frames of dask arrays are read one after the other, and stay lazy.
    mode : {"haadf", "bf"} or None

    Raises
    ------
    ValueError
        If X is not a series, fewer than two of its frames can be used, or they are too small.
    TypeError
        If its pixels are not real numbers.
    """
    images, digests, rejected = {}, {}, {}
    n_frames = 0
    for i, frame in enumerate(_frames(X)):
        n_frames += 1
        try:
            image = split(frame, name=f"frame {i}")[0]
        except ValueError as error:
            rejected[i] = str(error)
            continue
        if np.ptp(image.values) == 0:
            rejected[i] = f"it is constant, {image.values.flat[0]:g} everywhere"
        else:
            images[i] = frame if _stays_lazy(frame) else image
            digests[i] = digest(image.values)
    for check in (_other_sizes, _other_pixel_sizes, partial(_copies, digests)):
        new = check(images)
        rejected |= new
        images = {i: image for i, image in images.items() if i not in new}
    check_enough(len(images), n_frames, rejected)
    first = next(iter(images.values()))
    if min(first.shape) < MIN_SIDE:
        raise ValueError(
            f"frames must have at least {MIN_SIDE} px along y and x, but have {first.shape[0]} by "
            f"{first.shape[1]} px: use larger frames"
        )
    digests = {i: digests[i] for i in images}
    return Series(images, digests, dict(sorted(rejected.items())), n_frames, resolve_mode(first, mode))


def check_enough(usable: int, n_frames: int, rejected: dict[int, str]) -> None:
    """Raise a ValueError unless there are enough usable frames."""
    if usable >= MIN_FRAMES:
        return
    if not rejected:
        came = f"{n_frames} frame(s)"
    else:
        reasons = "; ".join(f"frame {i}: {reason}" for i, reason in sorted(rejected.items()))
        came = f"{n_frames} frame(s), of which {usable} can be used ({reasons})"
    raise ValueError(
        f"X must be a series of at least {MIN_FRAMES} frames of one area that match, but has {came}: give a stack "
        "(n_frames, n_y, n_x) or a list of images"
    )


def _frames(X: Images) -> Iterator[xr.DataArray | NDArray]:
    if isinstance(X, xr.DataArray):
        if X.dims not in (("frame", "y", "x"), ("image", "y", "x")):
            raise ValueError(
                f'X must have the dims ("frame", "y", "x"), but has {X.dims}: give a series of frames, not one image; '
                "reorder dims with X.transpose(..., 'y', 'x')"
            )
        for i in range(X.shape[0]):
            frame = X[i].reset_coords(drop=True)
            # a noise model of single frames is not that of the average
            frame.attrs = {k: v for k, v in X.attrs.items() if k != "noise"}
            yield frame
    elif isinstance(X, list | tuple):
        yield from X
    else:
        values = np.asarray(X)
        if values.ndim != 3:
            raise ValueError(
                f"X must be a series of frames (n_frames, n_y, n_x), but has {values.ndim} dimension(s), shape "
                f"{values.shape}. Reshape your data: a single frame has no other to be aligned with"
            )
        yield from values


def _stays_lazy(frame: object) -> TypeGuard[xr.DataArray]:
    """Whether the pixels of a frame are read when they are needed; booleans are converted to numbers before."""
    return is_lazy(frame) and frame.ndim == 2 and frame.dtype.kind in "fiu"


def _other_sizes(images: dict[int, xr.DataArray]) -> dict[int, str]:
    if not images:
        return {}
    usual = Counter(image.shape for image in images.values()).most_common(1)[0][0]
    return {
        i: f"it has {image.shape[0]} by {image.shape[1]} px, while most have {usual[0]} by {usual[1]} px"
        for i, image in images.items()
        if image.shape != usual
    }


def _other_pixel_sizes(images: dict[int, xr.DataArray]) -> dict[int, str]:
    sizes = {i: pixel_sizes(image) for i, image in images.items()}
    if not sizes:
        return {}
    rounded = {i: None if size is None else tuple(float(f"{s:.3g}") for s in size) for i, size in sizes.items()}
    usual_rounded = Counter(rounded.values()).most_common(1)[0][0]
    usual = next(sizes[i] for i, size in rounded.items() if size == usual_rounded)
    return {
        i: f"its pixel size is {size} nm, while that of most is {usual} nm"
        for i, size in sizes.items()
        if not same_pixel_sizes(size, usual)
    }


def _copies(digests: dict[int, str], images: dict[int, xr.DataArray]) -> dict[int, str]:
    known: dict[str, int] = {}
    out = {}
    for i in images:
        first = known.setdefault(digests[i], i)
        if first != i:
            out[i] = f"it is identical to frame {first}, so that its noise is not independent"
    return out
