"""One image from a series of frames of the same area."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from stemkit.denoising import SFINDenoiser
from stemkit.denoising.base import Denoiser
from stemkit.estimators import ImageTransformer
from stemkit.images.containers import Images, float_dtype
from stemkit.images.lazy import is_lazy
from stemkit.images.mode import mode_sign
from stemkit.images.provenance import step_record
from stemkit.noise import ScanNoise
from stemkit.parameters import check_positive, is_number
from stemkit.series.averaging import AverageGrid
from stemkit.series.combined import Combined, combined, in_groups
from stemkit.series.directions import Group, common_grid, variance_of, without_slow_drift
from stemkit.series.frames import MIN_FRAMES, BrightFrames, Series, check_enough, read_series
from stemkit.series.jumps import ambiguity_text
from stemkit.series.refinement import Enhance, refined
from stemkit.series.result import average_image, gains_of, pixel_centers
from stemkit.series.rigid import rigid_shifts
from stemkit.series.turns import Turn, quarter_turns, scan_angles_of

__all__ = ["SeriesAligner"]

#: Sigma, px, of the Gaussian filter of the reference without a denoiser (chosen: of 0.8, 1.2 and 1.7 px, the smallest
#: error of the displacements on one simulated series of each scene).
REFERENCE_SIGMA = 1.2


class SeriesAligner(ImageTransformer):
    """Align the frames of a series and average them.

    Whole frames are aligned first, by the correlations of all pairs. Every row of every frame is then compared with the
    average of all frames; its displacement is the expectation given this measurement and the jitter, drift and hum of
    the series. The average is the least-squares estimate of the image that the recorded rows sample. Only recorded
    pixels are averaged; the enhanced average serves as the reference.

    Parameters
    ----------
    rows : bool, default=True
        Measure a displacement for each row; with False, one for each frame.
    denoiser : "auto", None or Denoiser, default="auto"
        Filter of the average with which rows are compared: ``"auto"`` is :class:`~stemkit.SFINDenoiser`, None a
        Gaussian filter, which takes about half the time.
    max_shift : float or None, default=None
        Largest displacement between consecutive frames, px. None: half of each side.
    coverage : float, default=0.5
        The average is cropped to the largest rectangle in which at least this fraction of the frames contributes to
        each pixel. 1: the area that all frames show. 0: the area that any frame shows, NaN at pixels without a frame.
    scan_angles : sequence of float or None, default=None
        Angle by which the scan of each frame is turned, degrees; they differ by multiples of 90. A frame at 90 degrees
        is ``np.rot90`` of the image at 0. None: the coordinate ``scan_angle`` of the frames, or the same for all. Scans
        at right angles show the slow drift that all frames have in common, which is then removed.
    mode : {"haadf", "bf"} or None, default=None
        Bright or dark columns; None: that of the frames, or inferred from them.
    verbose : int, default=0
        Show progress.

    Attributes
    ----------
    displacements_ : ndarray of shape (n_frames, n_y, 2)
        Along y and x, px: pixel ``(y, x)`` of frame f was recorded at ``(y, x) + displacements_[f, y]`` of the average;
        where the scan is turned by k quarter turns, at the position of the pixel in ``np.rot90(frame, -k)`` plus the
        displacement of its row. NaN for rejected frames.
    quarter_turns_ : ndarray of shape (n_frames,)
        Quarter turns of the scan of each frame relative to that of the first, 0 to 3.
    rejected_ : dict
        Reason of each rejection, by the number of the frame.
    ambiguous_ : list of Ambiguity
        Frames that may be displaced by a lattice vector: ``frames``, ``vector`` (along y and x, px) and
        ``log_likelihood`` relative to the frames as they are. Empty where cells of the lattice can be distinguished.
    scan_noise_ : ScanNoise
        Jitter, drift and hum of the frames: the prior distribution of ``displacements_``.
    noise_ratio_ : float
        Standard deviation of the pixels of the average as derived from the frames, divided by that calibrated on the
        average. It is set by ``transform``.
    mode_ : {"haadf", "bf"}
        Bright or dark columns.
    n_frames_ : int
        Number of frames of the series, rejected ones included.
    shape_ : (int, int)
        ``(n_y, n_x)`` of the average.

    Raises
    ------
    ValueError, TypeError
        By ``fit``, if X is no series, or if fewer than two of its frames match.

    Warns
    -----
    UserWarning
        If frames are rejected, or may be displaced by a lattice vector.

    See Also
    --------
    NoiseCalibrator, SFINDenoiser, AtomDetector : The next steps.

    Notes
    -----
    Displacements that all frames have in common cannot be determined: a drift that is the same in each frame shears and
    stretches the average, and the mean of the jitter of n frames, ``jitter / sqrt(n)``, remains in it.
    :class:`~stemkit.RowAligner` corrects the latter in images of a lattice. The cells of a perfect lattice cannot be
    distinguished, and at low doses hardly those of a lattice whose columns differ by a few per cent
    (``benchmarks/series.py``).

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
    >>> bool(abs(aligner.displacements_[3].mean(0) - aligner.displacements_[0].mean(0) - (3.9, -6.3)).max() < 0.3)
    True
    """

    def __init__(
        self,
        *,
        rows: bool = True,
        denoiser: Denoiser | str | None = "auto",
        max_shift: float | None = None,
        coverage: float = 0.5,
        scan_angles: Sequence[float] | None = None,
        mode: str | None = None,
        verbose: int = 0,
    ):
        self.rows = rows
        self.denoiser = denoiser
        self.max_shift = max_shift
        self.coverage = coverage
        self.scan_angles = scan_angles
        self.mode = mode
        self.verbose = verbose

    def fit(self, X: Images, y: object = None) -> Self:
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
        angles = scan_angles_of(X) if self.scan_angles is None else list(self.scan_angles)
        self.quarter_turns_ = np.array(quarter_turns(angles, series.n_frames))
        self._fit(series, self.quarter_turns_.tolist())
        return self

    def fit_transform(self, X: Images, y: object = None) -> xr.DataArray:
        """Measure the displacements and average the frames: :meth:`fit`, then :meth:`transform`."""
        return self.fit(X).transform(X)

    def transform(self, X: Images) -> xr.DataArray:
        """Average the frames that were fitted.

        Parameters
        ----------
        X : DataArray, ndarray or list of them
            The frames that :meth:`fit` was given; others raise a ValueError.

        Returns
        -------
        DataArray of shape (n_y, n_x)
            The average with the coordinates ``n_frames``, the number of frames with a row within 1 px of each pixel (0
            where the average is interpolated), and ``standard_error``, the standard error of the mean from the scatter
            of the frames (NaN for a single frame), and its noise model in ``attrs["noise"]``.
        """
        series = self.fitted_frames(X)
        mean = self._combined(series.bright, with_variance=True)
        gains = gains_of(self.displacements_[self._used], self._turns(self._used), self._frame_shape)
        grid = AverageGrid(self._origin, self.shape_)
        image, self.noise_ratio_ = average_image(
            mean, series.first, self.mode_, grid, gains, self._variance, self.scan_noise_
        )
        return image

    def apply(self, maps: xr.DataArray | NDArray) -> xr.DataArray | NDArray:
        """Average other signals of the same scan.

        Parameters
        ----------
        maps : DataArray or ndarray of shape (n_frames, ..., n_y, n_x)
            Signals of all frames that were given to :meth:`fit`, including rejected ones: maps of elements, segments
            of a detector, ...; other shapes raise a ValueError.

        Returns
        -------
        Same type as maps, of shape (..., n_y, n_x)
            Average of each signal on the pixels of the average image; NaN at pixels that no frame shows.
        """
        check_is_fitted(self, "displacements_")
        # frame by frame and map by map: those of a lazy array need not be in memory together
        values = maps.data if isinstance(maps, xr.DataArray) else np.asarray(maps)
        shape = (self.n_frames_, *self._frame_shape)
        if values.ndim < 3 or (values.shape[0], *values.shape[-2:]) != shape:
            raise ValueError(
                f"maps must have the shape (n_frames, ..., n_y, n_x) with {shape[0]} frames of {shape[1]} by "
                f"{shape[2]} px, those that were fitted, but has {values.shape}"
            )

        def mean_of(channel: tuple[int, ...]) -> Combined:
            return self._combined(lambda i: np.asarray(values[(i, *channel)]))

        means = map(mean_of, np.ndindex(values.shape[1:-2]))
        result = (
            np.stack([np.where(mean.shown, mean.values, np.nan) for mean in means])
            .reshape(*values.shape[1:-2], *self.shape_)
            .astype(float_dtype(values.dtype))
        )
        if not isinstance(maps, xr.DataArray):
            return result
        coords = {k: v for k, v in maps.coords.items() if set(v.dims) <= set(maps.dims[1:-2])}
        return xr.DataArray(result, coords, maps.dims[1:], maps.name, maps.attrs)

    def aligned(self, X: Images) -> xr.DataArray:
        """Resample each frame that was fitted and not rejected to the pixels of the average.

        Parameters
        ----------
        X : DataArray, ndarray or list of them
            The frames that :meth:`fit` was given; others raise a ValueError.

        Returns
        -------
        DataArray of shape (n_used, n_y, n_x)
            Dims ``("frame", "y", "x")``, with the numbers of the frames as the coordinate ``frame``; NaN at pixels that
            a frame does not show. These frames are for inspection: their noise is correlated along y. Frames of a lazy
            series are computed when they are needed.
        """
        series = self.fitted_frames(X)
        dtype = float_dtype(series.first.dtype)
        if is_lazy(series.first):
            values = self._aligned_lazily(series, dtype)
        else:
            values = np.empty((len(self._used), *self.shape_), dtype)
            for k, i in enumerate(self._used):
                values[k] = self._aligned(series.bright(i), i)
        coords = {"frame": self._used, **pixel_centers(series.first, AverageGrid(self._origin, self.shape_))}
        attrs = {**series.first.attrs, "mode": self.mode_, "stemkit": step_record(series.first, "align")}
        return xr.DataArray(values, coords, ("frame", "y", "x"), attrs=attrs).rename(series.first.name)

    def fitted_frames(self, X: Images) -> Series:
        """Validate the frames that were fitted, for measurements in their recorded pixels.

        Parameters
        ----------
        X : DataArray, ndarray or list of them
            The frames that :meth:`fit` was given; others raise a ValueError.

        Returns
        -------
        Series
            ``images[i]`` are the recorded pixels of frame i, ``faulty(i)`` its faulty pixels, and ``bright(i)`` its
            pixels with bright columns, in which faulty ones are interpolated.
        """
        check_is_fitted(self, "displacements_")
        series = read_series(X, self.mode_)
        self._check_same(series)
        return series

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

    def _fit(self, series: Series, turns: list[int]) -> None:
        rejected, groups = dict(series.rejected), []
        for quarters, group in in_groups(turns).items():
            numbers = [i for i in group if i in series.images]
            if numbers:
                turn = Turn(quarters, (series.first.shape[0], series.first.shape[1]))
                groups.append(self._group(series, turn, numbers))
                rejected |= groups[-1].rejected
        groups = [group for group in groups if group.numbers]
        check_enough(sum(len(group.numbers) for group in groups), series.n_frames, rejected)
        ambiguous = [one for group in groups for one in group.ambiguous]
        if len({group.turn.slow_axis for group in groups}) > 1:
            groups, further = without_slow_drift(series, groups)
            ambiguous += further
        elif len(groups) > 1 or len(set(turns)) > 1:
            warnings.warn(
                "no two scans at right angles can be used: their slow drift is not removed, and frames of the "
                f"direction of frame {groups[0].numbers[0]} alone are averaged",
                stacklevel=4,
            )
            rejected |= {i: "its scan direction has no other at right angles" for g in groups[1:] for i in g.numbers}
            groups = groups[:1]
            check_enough(len(groups[0].numbers), series.n_frames, rejected)
        self._set(series, groups, rejected)
        self.ambiguous_ = ambiguous
        if rejected:
            reasons = "; ".join(f"frame {i}: {reason}" for i, reason in sorted(rejected.items()))
            warnings.warn(f"{len(rejected)} of {series.n_frames} frames are left out: {reasons}", stacklevel=4)
        if ambiguous:
            warnings.warn(ambiguity_text(ambiguous), stacklevel=4)

    def _group(self, series: Series, turn: Turn, numbers: list[int]) -> Group:
        """Align the frames of one scan direction with each other."""
        n_rows = turn.shape[0]
        if len(numbers) == 1:
            return Group(turn, numbers, np.zeros((1, n_rows, 2)), ScanNoise())
        whole = rigid_shifts(BrightFrames(series, numbers), self.max_shift, verbose=self.verbose)
        rejected = {numbers[k]: reason for k, reason in whole.rejected.items()}
        kept = [k for k in range(len(numbers)) if k not in whole.rejected]
        used = [numbers[k] for k in kept]
        if len(used) < MIN_FRAMES:
            return Group(turn, used, np.zeros((len(used), n_rows, 2)), ScanNoise(), rejected=rejected)
        chosen, shifts = BrightFrames(series, used), whole.shifts[kept]
        found = refined(chosen, shifts - shifts.mean(0), self._enhance(chosen[0]), rows=self.rows, verbose=self.verbose)
        ambiguous = [one.numbered(dict(enumerate(numbers))) for one in whole.ambiguous]
        moved = turn.to_image(found.displacements)
        return Group(turn, used, moved, found.scan, found.variance, rejected, ambiguous)

    def _set(self, series: Series, groups: list[Group], rejected: dict[int, str]) -> None:
        self._frame_shape, self.mode_ = groups[0].turn.shape, series.mode
        members = sorted((i, g, k) for g, group in enumerate(groups) for k, i in enumerate(group.numbers))
        self._used = [i for i, *_ in members]
        turns = [groups[g].turn.quarters for _, g, _ in members]
        displacements = np.stack([groups[g].displacements[k] for _, g, k in members])
        self._digests = [series.digests[i] for i in self._used]
        grid = common_grid(displacements, turns, self._frame_shape, self.coverage)
        self._origin, self.shape_ = grid.origin, grid.shape
        self.displacements_ = np.full((series.n_frames, *displacements.shape[1:]), np.nan)
        self.displacements_[self._used] = grid.of(displacements)
        largest = max(groups, key=lambda group: len(group.numbers))
        self._variance = largest.variance or variance_of(series, groups)
        self.scan_noise_ = largest.scan
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

    def _turns(self, frames: list[int]) -> list[int]:
        return [int(turns) for turns in self.quarter_turns_[frames]]

    def _check_same(self, series: Series) -> None:
        if series.n_frames != self.n_frames_ or series.first.shape != self._frame_shape:
            raise ValueError(
                f"X must be the {self.n_frames_} frames of {self._frame_shape[0]} by {self._frame_shape[1]} px that "
                f"were fitted, but has {series.n_frames} of {series.first.shape[0]} by {series.first.shape[1]} px: fit "
                "again, or use apply for other signals"
            )
        if any(series.digests.get(i, d) != d for i, d in zip(self._used, self._digests, strict=True)):
            raise ValueError(
                "X must be the frames that were fitted, but their pixels differ: fit again, or use apply for other "
                "signals of the same scan"
            )

    def _aligned(self, bright: NDArray, frame: int) -> NDArray[np.float64]:
        """A frame resampled to the pixels of the average; NaN at pixels that it does not show."""
        grid = AverageGrid((0, 0), self.shape_)
        one = combined(lambda _: bright, self.displacements_[frame : frame + 1], self._turns([frame]), grid)
        return np.where(one.shown, mode_sign(self.mode_) * one.values, np.nan)

    def _aligned_lazily(self, series: Series, dtype: np.dtype) -> Any:
        """The aligned frames as a dask array."""
        import dask.array as da

        def block(pixels: NDArray, number: NDArray) -> NDArray:
            frame = int(number[0, 0, 0])
            return self._aligned(series.brightened(pixels[0], frame), frame)[None].astype(dtype)

        frames = da.stack([series.images[i].data for i in self._used]).rechunk((1, -1, -1))
        numbers = da.from_array(np.reshape(self._used, (-1, 1, 1)), chunks=1)
        chunks = (frames.chunks[0], *((n,) for n in self.shape_))
        _ = series.common_faults  # computed once from all frames, before the blocks need it
        return da.map_blocks(block, frames, numbers, chunks=chunks, dtype=dtype, meta=np.empty((0, 0, 0), dtype))

    def _combined(self, frames: Callable[[int], NDArray], *, with_variance: bool = False) -> Combined:
        """Average of frames, by their numbers in the series."""
        used = self._used
        return combined(
            lambda k: frames(used[k]),
            self.displacements_[used],
            self._turns(used),
            AverageGrid((0, 0), self.shape_),
            with_variance=with_variance,
        )
