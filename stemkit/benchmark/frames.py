"""Methods compared on repeat frames of the same area, whose truth is unknown."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from tqdm import tqdm

from stemkit import NoiseCalibrator
from stemkit.benchmark import frame_scores
from stemkit.benchmark.alignment import Alignment, align_frames
from stemkit.benchmark.evaluation import Method
from stemkit.benchmark.frame_checks import checked_frames
from stemkit.benchmark.frame_scores import Moments
from stemkit.benchmark.methods import RECORDED, MethodSpec, compared_methods
from stemkit.benchmark.rings import ring_ceiling
from stemkit.benchmark.smoothing import GaussianFilter, best_sigma
from stemkit.images.containers import Images
from stemkit.images.mode import resolve_mode
from stemkit.images.pixel_size import pixel_sizes
from stemkit.trust.rings import Rings, resolution, threshold_curve

__all__ = ["CEILING", "OTHERS", "FrameComparison", "compare_frames", "repeat_frames"]

#: Estimators by name, a sequence of them, or rows of the tables; None: all methods that need no training.
Denoisers: TypeAlias = Mapping[str, Method | None] | Sequence[Method] | Sequence[MethodSpec] | None
#: Names of rows that are no methods.
CEILING = "ceiling"
OTHERS = "mean of the others"
#: Name of the row of a Gaussian filter.
GAUSSIAN = "Gaussian, best sigma"
#: Scores from second moments, in the order of ``_estimates``.
MOMENT_SCORES = ("correlation", "correlation with truth", "mse", "snr dB")


@dataclass(frozen=True)
class FrameComparison:
    """Scores, curves and images of methods on repeat frames.

    Attributes
    ----------
    scores : DataFrame
        ``method, score, value, standard_error``: means over frames. The scores are

        - ``correlation``: Pearson correlation of the enhanced frame with the mean of the others. That of the method
          ``"ceiling"`` is the correlation of the true image with that mean;
        - ``correlation with truth``: ``correlation`` divided by the ceiling, an estimate of the correlation of the
          enhanced frame with the true image [1]_;
        - ``mse``: unbiased mean squared error against the true image, in squared units of the frames;
        - ``snr dB``: ``10 log10(variance of the true image / mse)``, both unbiased; NaN where ``mse`` is not positive;
        - ``resolution nm``, or ``resolution px`` without a pixel size: where the Fourier ring correlation with the mean
          of the others crosses the threshold;
        - ``seconds``: of wall-clock time per frame.

        Standard errors are those of the jackknife over frames, for the expected score of a frame recorded under the
        same conditions; on average they are not too small. Most of them is common to all methods, so that differences
        between methods are more precise. That of ``mse`` and ``snr dB`` is NaN for three frames, that of ``seconds``
        always.
    frame_scores : DataFrame
        ``method, frame, score, value``: ``correlation`` and ``mse`` of each enhanced frame.
    curves : DataFrame
        ``method, frequency, correlation, standard_error``: Fourier ring correlation with the mean of the others, by
        frequency per nm, or per px without a pixel size. ``"ceiling"`` is that of the true image, ``"half-bit"`` or
        ``"1/7"`` the threshold; they have no standard error. The ceiling is NaN where the frames do not correlate
        significantly.
    shifts : DataFrame
        ``frame, y_px, x_px, correlation``: as in :class:`~stemkit.benchmark.alignment.Alignment`.
    images : dict of str to DataArray
        The common area in the first frame, ``(n_y, n_x)``: recorded, denoised by each method, mean of the others.
    threshold : str
        Threshold of the Fourier ring correlation, as given.

    References
    ----------
    .. [1] C. Spearman, Am. J. Psychol. 15, 72 (1904), https://doi.org/10.2307/1412159
    """

    scores: pd.DataFrame
    frame_scores: pd.DataFrame
    curves: pd.DataFrame
    shifts: pd.DataFrame
    images: dict[str, xr.DataArray]
    threshold: str


def repeat_frames(
    frames: Images,
    denoisers: Denoisers = None,
    *,
    max_shift: float | None = None,
    mode: str | None = None,
    threshold: str = "half-bit",
    calibrate: bool = True,
    verbose: bool = True,
) -> pd.DataFrame:
    """Compare methods on repeat frames of the same area, whose truth is unknown.

    Each method denoises each frame alone. The result is compared with the mean of the other recorded frames, whose
    noise is independent of it. For Fourier ring correlations and images use :func:`compare_frames`, which has the same
    parameters.

    Parameters
    ----------
    frames : DataArray, ndarray or list of them
        At least three recorded frames: a stack ``(n_frames, n_y, n_x)`` with dims ``("image", "y", "x")`` or
        ``("frame", "y", "x")``, or a list of images of equal size. Frames that were denoised, interpolated from each
        other or averaged have dependent noise and must not be given.
    denoisers : mapping of str to estimator, sequence of estimators or of MethodSpec, optional
        Each is fitted to each frame anew; None in a mapping stands for the recorded frame, which is always compared.
        Default: the methods of ``stemkit benchmark --external`` that need no training. To a sequence of MethodSpec, and
        to the default, the Gaussian filter is added whose width gives the highest correlation on these frames.
    max_shift : float, optional
        Largest shift between two frames along each axis, px. Default: a quarter of the shorter side.
    mode : {"haadf", "bf"}, optional
        Default: that of the frames, else inferred from their mean.
    threshold : {"half-bit", "1/7"}
        Threshold of the Fourier ring correlation (``stemkit.trust.rings.threshold_curve``).
    calibrate : bool
        Measure the noise of each frame with :class:`~stemkit.NoiseCalibrator` before it is denoised, once for all
        methods. ``seconds`` are without it.
    verbose : bool
        Show progress.

    Returns
    -------
    DataFrame
        ``method, score, value, standard_error``: ``FrameComparison.scores``.

    Raises
    ------
    ValueError
        If there are fewer than three frames, they differ in size or pixel size, one is constant or not finite, two are
        identical, they do not show the same area or do not overlap, or a method returns another shape.

    Notes
    -----
    Frames are aligned by translations (:func:`~stemkit.benchmark.alignment.align_frames`), which are determined from
    the recorded frames and are the same for all methods. The enhanced frame is not interpolated: the other frames are
    moved onto its pixels. Distortions that differ between frames (drift within a frame, jitter) count as noise;
    distortions that all frames share count as part of the true image.

    Examples
    --------
    >>> import numpy as np
    >>> from stemkit.benchmark import repeat_frames
    >>> y, x = np.mgrid[:96, :96]
    >>> true_image = np.sin(y / 2) + np.sin(x / 2) + np.hypot(y - 40, x - 50) / 20
    >>> frames = true_image + np.random.default_rng(0).normal(size=(4, 96, 96))
    >>> table = repeat_frames(frames, {}, mode="haadf", calibrate=False, verbose=False)
    >>> table.loc[table["score"] == "correlation", "method"].tolist()
    ['recorded', 'ceiling']
    """
    return compare_frames(
        frames,
        denoisers,
        max_shift=max_shift,
        mode=mode,
        threshold=threshold,
        calibrate=calibrate,
        verbose=verbose,
    ).scores


def compare_frames(
    frames: Images,
    denoisers: Denoisers = None,
    *,
    max_shift: float | None = None,
    mode: str | None = None,
    threshold: str = "half-bit",
    calibrate: bool = True,
    verbose: bool = True,
) -> FrameComparison:
    """:func:`stemkit.benchmark.repeat_frames` with Fourier ring correlations, shifts, scores of each frame and images.

    Returns
    -------
    FrameComparison
    """
    threshold_curve(np.ones(1), threshold)
    images = checked_frames(frames)
    values = np.stack([np.asarray(image.values, dtype=np.float64) for image in images])
    alignment = align_frames(values, max_shift=max_shift, verbose=verbose)
    images = _with_common_mode(images, values, mode)
    methods = _methods(denoisers, values, alignment)
    if calibrate:
        images = [NoiseCalibrator().fit_transform(i) for i in tqdm(images, desc="noise", disable=not verbose)]
    denoised, seconds = _denoised(methods, images, verbose)
    return _compared(images, values, alignment, denoised, seconds, threshold)


# --- input -----------------------------------------------------------------------------------------------------------


def _with_common_mode(images: list[xr.DataArray], values: NDArray, mode: str | None) -> list[xr.DataArray]:
    """Frames with the given mode, or that of their mean."""
    common = resolve_mode(images[0].copy(data=values.mean(axis=0)), mode)
    return [image.assign_attrs(mode=common) for image in images]


def _methods(denoisers: Denoisers, frames: NDArray, alignment: Alignment) -> dict[str, Method | None]:
    rows = compared_methods(external=True) if denoisers is None else denoisers
    if not isinstance(rows, Mapping) and rows and all(isinstance(row, MethodSpec) for row in rows):
        return _created(cast("Sequence[MethodSpec]", rows), frames, alignment)
    named = dict(rows) if isinstance(rows, Mapping) else _by_class(cast("Sequence[Method]", rows))
    taken = {CEILING, OTHERS} & set(named)
    if taken:
        raise ValueError(f"denoisers must not be named {', '.join(sorted(taken))}: rename them")
    if not any(method is None for method in named.values()):
        return {RECORDED: None, **named}
    return named


def _created(rows: Sequence[MethodSpec], frames: NDArray, alignment: Alignment) -> dict[str, Method | None]:
    """Methods that return an image and can be run, with the best Gaussian filter after the recorded frame."""
    available = [row for row in rows if not (row.unavailable or row.is_locator or row.is_ablation)]
    recorded = {row.name: row.create() for row in available if not row.import_path}
    gaussian = {GAUSSIAN: GaussianFilter(best_sigma(frames, alignment))}
    return {**recorded, **gaussian, **{row.name: row.create() for row in available if row.import_path}}


def _by_class(denoisers: Sequence[Method]) -> dict[str, Method | None]:
    """Estimators by the names of their classes, numbered if there are several of a class."""
    classes = [type(denoiser).__name__ for denoiser in denoisers]
    names = [n if classes.count(n) == 1 else f"{n} {classes[:k].count(n) + 1}" for k, n in enumerate(classes)]
    return dict(zip(names, denoisers, strict=True))


# --- denoising ---------------------------------------------------------------------------------------------------


def _denoised(
    methods: Mapping[str, Method | None], images: Sequence[xr.DataArray], verbose: bool
) -> tuple[dict[str, NDArray], dict[str, float]]:
    """Enhanced frames ``(n_frames, n_y, n_x)`` and seconds per frame, by method."""
    denoised, seconds = {}, {}
    progress = tqdm(total=len(methods) * len(images), desc="denoising", disable=not verbose)
    with progress:
        for name, method in methods.items():
            progress.set_postfix_str(name)
            start, results = time.perf_counter(), []
            for image in images:
                results.append(_denoised_frame(name, method, image))
                progress.update()
            denoised[name], seconds[name] = np.stack(results), (time.perf_counter() - start) / len(images)
    return denoised, seconds


def _denoised_frame(name: str, method: Method | None, image: xr.DataArray) -> NDArray[np.float64]:
    result: Any = image if method is None else method.fit(image).transform(image)
    values = np.asarray(getattr(result, "values", result), dtype=np.float64)
    if values.shape != image.shape:
        raise ValueError(f"{name} must return an image of shape {image.shape}, but returns shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must return finite values, but {int((~np.isfinite(values)).sum())} pixels are not")
    return values


# --- scores ------------------------------------------------------------------------------------------------------


def _compared(
    images: list[xr.DataArray],
    values: NDArray,
    alignment: Alignment,
    denoised: dict[str, NDArray],
    seconds: dict[str, float],
    threshold: str,
) -> FrameComparison:
    n, sizes = len(values), pixel_sizes(images[0])
    rings = Rings(alignment.area, sizes or (1.0, 1.0))
    moments, curves = _moments_and_curves(values, alignment, denoised, rings)
    covariance = Moments.from_stacks(alignment.on_grid_of(i, values) for i in range(n)).covariance.mean(axis=0)
    first = alignment.on_grid_of(0, values)
    ceiling_curve = ring_ceiling(rings, first, n - 1)
    limit = threshold_curve(rings.n_independent, threshold)
    unit = "resolution px" if sizes is None else "resolution nm"

    scores: list[tuple[str, str, float, float]] = []
    for name in denoised:
        scores += [(name, *row) for row in _moment_scores(moments[name], covariance)]
        scores.append((name, unit, *_resolution(rings.frequency, curves[name], limit)))
        scores.append((name, "seconds", seconds[name], np.nan))
    scores.append((CEILING, "correlation", *_ceiling(covariance)))
    return FrameComparison(
        pd.DataFrame(scores, columns=["method", "score", "value", "standard_error"]),
        _frame_scores(moments),
        _curve_table(rings.frequency, curves, {CEILING: ceiling_curve, threshold: limit}),
        _shift_table(alignment),
        _shown(images[0], first, alignment, denoised),
        threshold,
    )


def _moments_and_curves(
    values: NDArray, alignment: Alignment, denoised: Mapping[str, NDArray], rings: Rings
) -> tuple[dict[str, Moments], dict[str, NDArray]]:
    """Second moments, and ring correlations ``(n_frames, n_rings)``, by method."""
    moments: dict[str, list[Moments]] = {name: [] for name in denoised}
    curves: dict[str, list[NDArray]] = {name: [] for name in denoised}
    for i in range(len(values)):
        stack = alignment.on_grid_of(i, values)
        others = rings.transform(np.delete(stack, i, axis=0).mean(axis=0))
        for name, results in denoised.items():
            stack[i] = results[i][alignment.crop(i)]
            moments[name].append(Moments.from_stacks([stack]))
            curves[name].append(rings.correlation(rings.transform(stack[i]), others))
    joined = {
        name: Moments(np.concatenate([m.second for m in each]), np.concatenate([m.covariance for m in each]))
        for name, each in moments.items()
    }
    return joined, {name: np.stack(each) for name, each in curves.items()}


def _estimates(moments: Moments, recorded: NDArray, frames: Sequence[int]) -> NDArray[np.float64]:
    """``MOMENT_SCORES`` of a subset of the frames."""
    others = {i: [j for j in frames if j != i] for i in frames}
    found = float(np.mean([frame_scores.correlation_with_mean(moments.covariance[i], i, others[i]) for i in frames]))
    limit = float(frame_scores.ceiling(recorded, frames, len(frames) - 1))
    error = _mean_squared_error(moments, others)
    variance = float(frame_scores.signal_variance(recorded[np.ix_(list(frames), list(frames))]))
    snr = 10 * np.log10(variance / error) if variance > 0 and error > 0 else np.nan
    return np.array([found, found / limit if limit > 0 else np.nan, error, snr])


def _mean_squared_error(moments: Moments, others: Mapping[int, list[int]]) -> float:
    if any(len(each) < 2 for each in others.values()):
        return float("nan")
    return float(np.mean([frame_scores.mean_squared_error(moments.second[i], i, each) for i, each in others.items()]))


def _moment_scores(moments: Moments, recorded: NDArray) -> list[tuple[str, float, float]]:
    n = len(recorded)
    values = _estimates(moments, recorded, range(n))
    errors = frame_scores.jackknife_error(lambda frames: _estimates(moments, recorded, frames), n)
    return [(s, float(v), float(e)) for s, v, e in zip(MOMENT_SCORES, values, errors, strict=True)]


def _ceiling(recorded: NDArray) -> tuple[float, float]:
    n = len(recorded)
    error = frame_scores.jackknife_error(lambda frames: frame_scores.ceiling(recorded, frames, n - 1), n)
    return float(frame_scores.ceiling(recorded, range(n), n - 1)), float(error)


def _resolution(frequency: NDArray, curves: NDArray, limit: NDArray) -> tuple[float, float]:
    def of_frames(frames: Sequence[int]) -> float:
        return resolution(frequency, curves[list(frames)].mean(axis=0), limit)

    return of_frames(range(len(curves))), float(frame_scores.jackknife_error(of_frames, len(curves)))


# --- tables ------------------------------------------------------------------------------------------------------


def _frame_scores(moments: Mapping[str, Moments]) -> pd.DataFrame:
    rows = []
    for name, each in moments.items():
        for i in range(len(each.second)):
            others = [j for j in range(len(each.second)) if j != i]
            rows.append(
                (name, i, "correlation", float(frame_scores.correlation_with_mean(each.covariance[i], i, others)))
            )
            rows.append((name, i, "mse", frame_scores.mean_squared_error(each.second[i], i, others)))
    return pd.DataFrame(rows, columns=["method", "frame", "score", "value"])


def _curve_table(frequency: NDArray, curves: Mapping[str, NDArray], drawn: Mapping[str, NDArray]) -> pd.DataFrame:
    parts = [(name, each.mean(axis=0), each.std(axis=0, ddof=1) / np.sqrt(len(each))) for name, each in curves.items()]
    parts += [(name, curve, np.full(curve.shape, np.nan)) for name, curve in drawn.items()]
    columns = ["frequency", "correlation", "standard_error"]
    tables = [
        pd.DataFrame(dict(zip(columns, (frequency, curve, error), strict=True))).assign(method=name)
        for name, curve, error in parts
    ]
    return pd.concat(tables, ignore_index=True)[["method", *columns]]


def _shift_table(alignment: Alignment) -> pd.DataFrame:
    y, x = alignment.shifts.T
    table = {"frame": np.arange(len(y)), "y_px": y, "x_px": x, "correlation": alignment.correlations}
    return pd.DataFrame(table)


def _shown(
    image: xr.DataArray, first: NDArray, alignment: Alignment, denoised: Mapping[str, NDArray]
) -> dict[str, xr.DataArray]:
    y, x = alignment.crop(0)
    area = image.isel(y=y, x=x).astype(np.float64)
    shown = {name: area.copy(data=results[0][y, x]) for name, results in denoised.items()}
    return {**shown, OTHERS: area.copy(data=first[1:].mean(axis=0))}
