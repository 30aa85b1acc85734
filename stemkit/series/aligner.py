"""One image from a series of frames of the same area."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from stemkit._version import __version__
from stemkit.denoising import SFINDenoiser
from stemkit.denoising.base import Denoiser
from stemkit.estimators import ImageTransformer
from stemkit.images import Images, digest, float_dtype, mode_sign, pixel_sizes
from stemkit.parameters import check_positive, is_number
from stemkit.series.average_noise import noise_gain, noise_of_average
from stemkit.series.averaging import Average, Grid, average, placed, squared_residuals
from stemkit.series.extent import covered, union
from stemkit.series.frames import BrightFrames, Series, check_enough, read_series
from stemkit.series.jumps import Ambiguity
from stemkit.series.refinement import Enhance, Refined, refined
from stemkit.series.rigid import rigid_shifts

__all__ = ["SeriesAligner"]

#: Sigma, px, of the Gaussian filter of the reference without a denoiser (chosen: of 0.8, 1.2 and 1.7 px, the smallest
#: error of the displacements on one simulated series of each scene).
REFERENCE_SIGMA = 1.2
#: Rows over which displacements are averaged before the area is determined that frames have in common (chosen).
SMOOTHED_ROWS = 17


class SeriesAligner(ImageTransformer):
    """Align the frames of a series and average them.

    Whole frames are aligned first, by the correlations of all pairs; then every row of every frame is compared with the
    average of all, and its displacement is what is expected given this reading and the jitter, drift and hum of the
    series. The average is the image of which all recorded rows are samples, by least squares: recorded pixels are
    averaged, enhanced ones only serve as the reference.

    Parameters
    ----------
    rows : bool, default=True
        Measure a displacement for each row; with False, one for each frame.
    denoiser : "auto", None or Denoiser, default="auto"
        Filter of the average that rows are compared with: ``"auto"`` is :class:`~stemkit.SFINDenoiser`, None a Gaussian
        filter, which takes about half the time.
    max_shift : float or None, default=None
        Largest displacement between consecutive frames, px. None: half of each side.
    coverage : float, default=0.5
        The average is cropped to the largest rectangle in which at least this fraction of the frames contributes to
        each pixel. 1 is what all frames show; 0 is all that any frame shows, NaN where none does.
    mode : {"haadf", "bf"} or None, default=None
        Bright or dark columns; None asks the frames, and infers it where they do not say.
    verbose : bool, default=False
        Show progress.

    Attributes
    ----------
    displacements_ : ndarray of shape (n_frames, n_y, 2)
        Along y and x, px: pixel ``(y, x)`` of frame f recorded what is at ``(y, x) + displacements_[f, y]`` of the
        average. NaN for rejected frames.
    rejected_ : dict
        Reasons, by the number of the frame.
    ambiguous_ : list of Ambiguity
        Frames that may be displaced by a lattice vector: ``frames``, ``vector`` (along y and x, px) and
        ``log_likelihood`` relative to the frames as they are. Empty where cells of the lattice can be distinguished.
    scan_noise_ : ScanNoise
        Jitter, drift and hum of the frames, from which ``displacements_`` are expected.
    noise_ratio_ : float
        Standard deviation of the pixels of the average from the frames themselves over that which is calibrated on the
        average. It is set by ``transform``.
    n_frames_ : int
        Number of frames seen, rejected ones included.
    shape_ : (int, int)
        ``(n_y, n_x)`` of the average.

    Raises
    ------
    ValueError, TypeError
        From ``fit``, where X is no series, or where fewer than two of its frames match.

    Warns
    -----
    UserWarning
        Where frames are rejected, or may be displaced by a lattice vector.

    See Also
    --------
    NoiseCalibrator, SFINDenoiser, AtomDetector : the steps after it.

    Notes
    -----
    What all frames have in common cannot be determined: a drift that is the same in each frame shears and stretches the
    average, and the mean of the jitter of n frames, ``jitter / sqrt(n)``, remains in it. :class:`~stemkit.RowAligner`
    corrects the latter where there is a lattice. In a perfect lattice nothing distinguishes one cell from the next, and
    in one whose columns differ by some percent little does at low doses (``benchmarks/series.py``).

    The interpolation does not blur. Along x it is that of the Fourier series of the row, whose transfer function is 1.
    Along y cubic splines are fitted to the rows (:func:`stemkit.series.transfer_function`).

    References
    ----------
    .. [1] L. Jones et al., "Smart Align: a new tool for robust non-rigid registration of scanning microscope data",
       Adv. Struct. Chem. Imaging 1, 8 (2015), https://doi.org/10.1186/s40679-015-0008-4

    Examples
    --------
    >>> from stemkit import NoiseModel, PointwiseNoise
    >>> from stemkit.series import SeriesAligner, draw_displacements, draw_series
    >>> from stemkit.synthesis import cropped, disk, lattice, planar_cell
    >>> particle = cropped(lattice(planar_cell("square"), (64, 64), spacing=9.0), disk((30.0, 34.0), 22.0))
    >>> noise = NoiseModel(pointwise=PointwiseNoise(readout=0.1))
    >>> moved = draw_displacements(4, 64, drift=(1.3, -2.1), random_state=0)
    >>> frames = draw_series(particle, moved, shape=(64, 64), noise=noise, random_state=0)
    >>> aligner = SeriesAligner(denoiser=None).fit(frames)
    >>> bool(abs(aligner.displacements_[3].mean(0) - aligner.displacements_[0].mean(0) - (3.9, -6.3)).max() < 0.2)
    True
    """

    def __init__(
        self,
        *,
        rows: bool = True,
        denoiser: Denoiser | str | None = "auto",
        max_shift: float | None = None,
        coverage: float = 0.5,
        mode: str | None = None,
        verbose: bool = False,
    ):
        self.rows = rows
        self.denoiser = denoiser
        self.max_shift = max_shift
        self.coverage = coverage
        self.mode = mode
        self.verbose = verbose

    def fit(self, X: Images, y: object = None) -> SeriesAligner:
        """Measure the displacements.

        Parameters
        ----------
        X : DataArray, ndarray or list of them
            Recorded frames of one area: dims ``("frame", "y", "x")`` or ``("image", "y", "x")``, an array ``(n_frames,
            n_y, n_x)``, or a list.
        y : ignored

        Returns
        -------
        self
        """
        self._check_parameters()
        series = read_series(X, self.mode)
        self._fit(series)
        return self

    def fit_transform(self, X: Images, y: object = None) -> xr.DataArray | NDArray:
        """Measure the displacements and average the frames: :meth:`fit`, then :meth:`transform`."""
        return self.fit(X).transform(X)

    def transform(self, X: Images) -> xr.DataArray | NDArray:
        """Average the frames that were fitted.

        Returns
        -------
        DataArray or ndarray of shape (n_y, n_x)
            The average; an array where X is one. A DataArray has the coordinates ``n_frames``, the number of frames
            with a row within 1 px of each pixel (0 where the average is interpolated), and ``standard_error``, that of
            the mean from the scatter of the frames (NaN where there is one frame), and its noise model in
            ``attrs["noise"]``.
        """
        check_is_fitted(self, "displacements_")
        series = read_series(X, self._mode)
        self._check_same(series)
        sign = mode_sign(self._mode)
        mean = self._average(series)
        image = self._image(series, mean, sign)
        if isinstance(X, xr.DataArray) or (isinstance(X, list | tuple) and isinstance(X[0], xr.DataArray)):
            return image
        return image.values

    def apply(self, maps: xr.DataArray | NDArray) -> xr.DataArray | NDArray:
        """Average other signals of the same scan.

        Parameters
        ----------
        maps : DataArray or ndarray of shape (n_frames, ..., n_y, n_x)
            Of the frames that were fitted, rejected ones included: maps of elements, segments of a detector, ...

        Returns
        -------
        Same type as maps, of shape (..., n_y, n_x)
            On the pixels of the average; NaN where no frame shows them.
        """
        check_is_fitted(self, "displacements_")
        values = np.asarray(maps)
        shape = (self.n_frames_, *self._frame_shape)
        if values.ndim < 3 or (values.shape[0], *values.shape[-2:]) != shape:
            raise ValueError(
                f"maps must have the shape (n_frames, ..., n_y, n_x) with {shape[0]} frames of {shape[1]} by "
                f"{shape[2]} px, those that were fitted, but has {values.shape}"
            )
        channels = values.reshape(shape[0], -1, *shape[1:])
        out = [self._averaged([channels[i, k] for i in self._used]) for k in range(channels.shape[1])]
        result = np.stack(out).reshape(*values.shape[1:-2], *self.shape_).astype(float_dtype(values.dtype))
        if not isinstance(maps, xr.DataArray):
            return result
        coords = {k: v for k, v in maps.coords.items() if set(v.dims) <= set(maps.dims[1:-2])}
        return xr.DataArray(result, coords, maps.dims[1:], maps.name, maps.attrs)

    def aligned(self, X: Images) -> xr.DataArray:
        """Each of the frames that were fitted, but for rejected ones, on the pixels of the average.

        Returns
        -------
        DataArray of shape (n_used, n_y, n_x)
            Dims ``("frame", "y", "x")``, with the numbers of the frames as the coordinate ``frame``; NaN where a frame
            shows nothing. They are for looking at: their noise is correlated along y.
        """
        check_is_fitted(self, "displacements_")
        series = read_series(X, self._mode)
        self._check_same(series)
        grid, sign, out = Grid((0, 0), self.shape_), mode_sign(self._mode), []
        for i in self._used:
            one = average([placed(series.bright(i), self.displacements_[i], grid)], grid)
            out.append(np.where(one.shown, sign * one.values, np.nan))
        values = np.stack(out).astype(float_dtype(series.first.dtype))
        coords = {"frame": self._used, **self._coordinates(series.first)}
        return xr.DataArray(values, coords, ("frame", "y", "x"), series.first.name, {**series.first.attrs})

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        return tags

    # -----------------------------------------------------------------------------------------------------------------

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if not (is_number(self.coverage) and 0 <= self.coverage <= 1):
            raise ValueError(f"coverage must be a number from 0 to 1, but is {self.coverage!r}")
        check_positive("max_shift", self.max_shift, optional=True, unit="px")
        if not (self.denoiser is None or self.denoiser == "auto" or isinstance(self.denoiser, Denoiser)):
            raise ValueError(f'denoiser must be "auto", None or one of stemkit\'s denoisers, but is {self.denoiser!r}')

    def _fit(self, series: Series) -> None:
        usable = list(series.images)
        whole = rigid_shifts(BrightFrames(series, usable), self.max_shift, verbose=self.verbose)
        rejected = series.rejected | {usable[k]: reason for k, reason in whole.rejected.items()}
        check_enough(series.n_frames - len(rejected), series.n_frames, rejected)
        used = [i for i in usable if i not in rejected]
        shifts = whole.shifts[[k for k in range(len(usable)) if k not in whole.rejected]]
        chosen = BrightFrames(series, used)
        found = refined(chosen, shifts - shifts.mean(0), self._enhance(chosen[0]), rows=self.rows, verbose=self.verbose)
        self.ambiguous_ = [one.numbered(dict(enumerate(usable))) for one in whole.ambiguous]
        self._set(series, used, found, rejected)
        if rejected:
            reasons = "; ".join(f"frame {i}: {reason}" for i, reason in sorted(rejected.items()))
            warnings.warn(f"{len(rejected)} of {series.n_frames} frames are left out: {reasons}", stacklevel=4)
        if self.ambiguous_:
            warnings.warn(_described(self.ambiguous_), stacklevel=4)

    def _set(self, series: Series, used: list[int], found: Refined, rejected: dict[int, str]) -> None:
        n_y, n_x = series.first.shape
        self._used, self._mode, self._frame_shape = used, series.mode, (n_y, n_x)
        self._digests = [digest(series.images[i].values) for i in used]
        grid = union(found.displacements, self._frame_shape)
        if self.coverage > 0:
            # not the gaps between displaced rows
            smooth = ndimage.uniform_filter1d(found.displacements, SMOOTHED_ROWS, axis=1, mode="nearest")
            count = average((placed(np.zeros(self._frame_shape), moved, grid) for moved in smooth), grid).count
            grid = covered(grid, count, max(1.0, np.ceil(self.coverage * len(used) - 1e-9)))
        self._origin, self.shape_ = grid.origin, grid.shape
        self.displacements_ = np.full((series.n_frames, self._frame_shape[0], 2), np.nan)
        self.displacements_[used] = grid.of(found.displacements)
        self._variance = found.variance
        self.scan_noise_ = found.scan
        self.rejected_ = dict(sorted(rejected.items()))
        self.n_frames_ = series.n_frames

    def _enhance(self, frame: NDArray) -> Enhance:
        if self.denoiser is None:
            return lambda values: ndimage.gaussian_filter(values, REFERENCE_SIGMA)
        denoiser = SFINDenoiser(mode="haadf") if isinstance(self.denoiser, str) else clone(self.denoiser)
        if "mode" in denoiser.get_params():
            denoiser.set_params(mode="haadf")  # frames have bright columns here
        denoiser.fit(frame)
        return lambda values: np.asarray(denoiser.transform(values))

    def _check_same(self, series: Series) -> None:
        if series.n_frames != self.n_frames_ or series.first.shape != self._frame_shape:
            raise ValueError(
                f"X must be the {self.n_frames_} frames of {self._frame_shape[0]} by {self._frame_shape[1]} px that "
                f"were fitted, but has {series.n_frames} of {series.first.shape[0]} by {series.first.shape[1]} px: fit "
                "again, or use apply for other signals"
            )
        if any(
            digest(series.images[i].values) != d
            for i, d in zip(self._used, self._digests, strict=True)
            if i in series.images
        ):
            raise ValueError(
                "X must be the frames that were fitted, but their pixels differ: fit again, or use apply for other "
                "signals of the same scan"
            )

    def _average(self, series: Series) -> Average:
        grid = Grid((0, 0), self.shape_)
        return average((placed(series.bright(i), self.displacements_[i], grid) for i in self._used), grid)

    def _averaged(self, frames: Sequence[NDArray]) -> NDArray[np.float64]:
        grid = Grid((0, 0), self.shape_)
        moved = self.displacements_[self._used]
        mean = average((placed(f, d, grid) for f, d in zip(frames, moved, strict=True)), grid)
        return np.where(mean.shown, mean.values, np.nan)

    def _image(self, series: Series, mean: Average, sign: float) -> xr.DataArray:
        first = series.first
        grid = Grid((0, 0), self.shape_)
        frames = (placed(series.bright(i), self.displacements_[i], grid) for i in self._used)
        total, number = squared_residuals(frames, mean)
        scatter = total / np.maximum(number, 1e-9) / np.maximum(1 - 1 / np.maximum(mean.count, 1), 1e-9)
        gain, column_gain = noise_gain(self.displacements_[self._used], self._frame_shape)
        dtype = float_dtype(first.dtype)
        seen, several = mean.shown, mean.count > 1
        error = np.where(several, np.sqrt(gain * scatter / np.maximum(mean.count, 1)), np.nan)
        image = xr.DataArray(
            np.where(seen, sign * mean.values, np.nan).astype(dtype),
            {
                "n_frames": (("y", "x"), mean.count.astype(np.int32)),
                "standard_error": (("y", "x"), error.astype(dtype)),
            },
            ("y", "x"),
            first.name,
            {k: v for k, v in first.attrs.items() if k != "noise"} | {"mode": self._mode},
        )
        image = image.assign_coords(self._coordinates(first))
        image.attrs["stemkit"] = json.dumps(self._made(first))
        self.noise_ratio_ = float("nan")
        if seen.all() and min(self.shape_) >= 32 and np.ptp(mean.values) > 0:
            model, self.noise_ratio_ = noise_of_average(image, mean, self._variance, column_gain, self._mode)
            sizes = pixel_sizes(image)
            described = {"pixel_size": None if sizes is None else sizes[1], **model.to_dict()}
            image.attrs["noise"] = json.dumps(described)
        return image

    def _coordinates(self, frame: xr.DataArray) -> dict[str, xr.Variable]:
        """Centres of the average's pixels, nm, in the coordinates of a frame that is not displaced."""
        sizes, out = pixel_sizes(frame), {}
        for axis, dim in enumerate(("y", "x") if sizes is not None else ()):
            assert sizes is not None
            first = float(frame.coords[dim].values[0])
            place = first + (self._origin[axis] + np.arange(self.shape_[axis])) * sizes[axis]
            out[dim] = xr.Variable(dim, place, {"units": "nm"})
        return out

    def _made(self, frame: xr.DataArray) -> dict[str, Any]:
        made: dict[str, Any] = {"stemkit": __version__, "step": "average", "n_frames": len(self._used)}
        before = frame.attrs.get("stemkit")
        return made | ({"previous": json.loads(before)} if isinstance(before, str) else {})


def _described(ambiguous: list[Ambiguity]) -> str:
    """A sentence about frames that may be displaced by a lattice vector."""
    worst = max(ambiguous, key=lambda one: one.log_likelihood)
    frames = ", ".join(map(str, worst.frames[:6])) + (", ..." if len(worst.frames) > 6 else "")
    return (
        f"frame(s) {frames} may be displaced by a lattice vector, such as ({worst.vector[0]:.1f}, "
        f"{worst.vector[1]:.1f}) px along y and x: cells of the lattice can hardly be distinguished in these frames. "
        "The lattice in the average does not depend on it, but weak differences between its cells would be blurred"
    )
