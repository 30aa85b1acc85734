"""Scores of any method on all sets, as a tidy table."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
import xarray as xr
from tqdm import tqdm

from stemkit import NoiseCalibrator
from stemkit._version import __version__
from stemkit.benchmark import scores
from stemkit.benchmark.scenes import SETS, scenes
from stemkit.benchmark.truths import HOSTS, TRUTHS
from stemkit.compute import describe_device, resolve_device
from stemkit.images.mode import mode_sign
from stemkit.metrics import psnr, psnr_8bit, ssim
from stemkit.parameters import MODES
from stemkit.statistics import median_spacing

__all__ = ["ColumnFinder", "Method", "evaluate", "summary"]

#: Doses of the planted structures, electrons per pixel at the brightest column (chosen).
DOSES = (3.0, 10.0, 30.0)
#: Recordings of each planted structure by default (chosen).
RECORDINGS = 2
#: Seeds from here on are for planted structures: those of training are below 2**32.
FIRST_SEED = 2**41
#: Columns of the table of scores.
COLUMNS = ["method", "set", "image", "shows", "crystal", "mode", "dose", "held_back", "score", "value"]


class Method(Protocol):
    """A denoiser: an estimator with scikit-learn's ``fit`` and ``transform`` for an image."""

    def fit(self, X: xr.DataArray, y: object = None) -> Any:
        """Learn from an image."""

    def transform(self, X: xr.DataArray) -> xr.DataArray:
        """The enhanced image."""
        ...


class ColumnFinder(Protocol):
    """An estimator whose ``transform`` finds columns and returns a table with ``y_px`` and ``x_px``."""

    def fit(self, X: xr.DataArray, y: object = None) -> Any:
        """Learn from an image."""

    def transform(self, X: xr.DataArray) -> pd.DataFrame:
        """The table of columns."""
        ...


def evaluate(
    methods: Mapping[str, Method | None],
    sets: Iterable[str] = (*SETS, "truths"),
    *,
    n: int | None = None,
    doses: Sequence[float] = DOSES,
    calibrate: bool = False,
    detector: ColumnFinder | None = None,
    verbose: bool = True,
) -> pd.DataFrame:
    """Score methods on the fixed sets and on planted structures.

    Parameters
    ----------
    methods : mapping of str to estimator
        By name. Each is fitted to each image (networks with shipped weights load them) and returns the enhanced
        image. None stands for the recorded image.
    sets : iterable of {"haadf", "bf", "simulated", "truths"}
        Fixed sets of :func:`~stemkit.benchmark.scenes`; ``"truths"`` are the planted structures.
    n : int, optional
        Number of images of each set, and of recordings of each planted structure in each crystal, mode and dose.
        Default: all images, and 2 recordings.
    doses : sequence of float
        Doses of the planted structures: electrons per pixel at the brightest column.
    calibrate : bool
        Calibrate the noise of each image once with :class:`~stemkit.NoiseCalibrator`, for all methods. The score
        ``seconds`` does not include it.
    detector : estimator, optional
        Finds columns in the enhanced images, such as :class:`~stemkit.AtomDetector`. Default: the maxima above a fifth
        of the image's range (:func:`stemkit.benchmark.scores.image_maxima`). The detector is given the enhanced image
        alone, without the recorded pixels.
    verbose : bool
        Show progress.

    Returns
    -------
    DataFrame
        One row per score: ``method, set, image, shows, crystal, mode, dose, held_back, score, value``. ``crystal`` and
        ``dose`` are empty except for planted structures. ``attrs`` has the versions and the device.

    Raises
    ------
    ValueError
        If a set is unknown.

    Examples
    --------
    >>> from stemkit.benchmark import evaluate
    >>> table = evaluate({"recorded": None}, ["haadf"], n=2, verbose=False)
    >>> table["score"].unique().tolist()
    ['psnr', 'psnr 8-bit', 'ssim', 'f1', 'precision', 'recall', 'rms px', 'seconds']
    """
    sets = list(sets)
    unknown = set(sets) - {*SETS, "truths"}
    if unknown:
        raise ValueError(
            f"sets must contain {', '.join([*SETS, 'truths'])} only, but contains {', '.join(sorted(unknown))}"
        )
    options = _Options(calibrate, detector, verbose)
    rows: list[dict[str, Any]] = []
    for name in sets:
        if name == "truths":
            rows += _truth_rows(methods, RECORDINGS if n is None else n, doses, options)
        else:
            rows += _scene_rows(methods, name, n, options)
    table = pd.DataFrame(rows, columns=COLUMNS)
    table.attrs.update(_provenance())
    return table


def summary(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Average scores over images.

    Parameters
    ----------
    table : DataFrame
        As returned by :func:`evaluate`.

    Returns
    -------
    scenes : DataFrame
        PSNR (dB), SSIM, F1 and RMS error of positions (px), by set, whether held back, and method.
    truths : DataFrame
        Scores of each planted structure, by mode, dose and method: means over crystals and recordings.

    Examples
    --------
    >>> from stemkit.benchmark import evaluate, summary
    >>> scenes, truths = summary(evaluate({"recorded": None}, ["haadf"], n=2, verbose=False))
    >>> scenes.index.names
    FrozenList(['set', 'held_back', 'method'])
    """
    planted = table["set"] == "truths"
    kept = table[~planted & table["score"].isin(["psnr", "ssim", "f1", "rms px"])]
    scenes = kept.pivot_table("value", ["set", "held_back", "method"], "score", sort=False)
    truths = table[planted].pivot_table("value", ["shows", "score", "method"], ["mode", "dose"], sort=False)
    return scenes, truths


# --- steps -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Options:
    calibrate: bool
    detector: ColumnFinder | None
    verbose: bool


def _scene_rows(
    methods: Mapping[str, Method | None], name: str, n: int | None, options: _Options
) -> list[dict[str, Any]]:
    fixed = scenes(name, n)
    rows = []
    for i in tqdm(range(len(fixed)), desc=name, disable=not options.verbose):
        pair = fixed.pairs.isel(image=i)
        mode = str(pair["mode"].values) if "mode" in pair.coords else name
        labels = {"set": name, "image": i, "shows": str(pair["arrangement"].values), "crystal": "", "mode": mode}
        labels |= {"dose": float("nan"), "held_back": bool(pair["held_back"])}
        true = fixed.columns[fixed.columns["image"] == i]
        pair = pair.drop_vars(("arrangement", "held_back", "mode"), errors="ignore")
        noisy = _calibrated(pair["noisy"].assign_attrs(mode=mode), options)
        for label, method in methods.items():
            values = _scene_scores(method, noisy, pair["enhance"], true, options)
            rows += [{"method": label, **labels, "score": k, "value": v} for k, v in values.items()]
    return rows


def _scene_scores(
    method: Method | None, noisy: xr.DataArray, true_image: xr.DataArray, true: pd.DataFrame, options: _Options
) -> dict[str, float]:
    enhanced, seconds = _enhanced(method, noisy)
    values = {
        "psnr": psnr(enhanced, true_image),
        "psnr 8-bit": psnr_8bit(enhanced, true_image),
        "ssim": ssim(enhanced, true_image),
    }
    if len(true) > 1:
        values |= _detection_scores(enhanced, true_image, true, options.detector)
    return {**values, "seconds": seconds}


def _truth_rows(
    methods: Mapping[str, Method | None], n: int, doses: Sequence[float], options: _Options
) -> list[dict[str, Any]]:
    rows = []
    cases = list(itertools.product(TRUTHS.values(), HOSTS, MODES, doses, range(n)))
    for truth, host, mode, dose, k in tqdm(cases, desc="truths", disable=not options.verbose):
        planted = truth.record(dose, FIRST_SEED + k, host=host, mode=mode)
        noisy = _calibrated(planted.pair["noisy"], options)
        labels = {"set": "truths", "image": k, "shows": truth.name, "crystal": host, "mode": mode, "dose": dose}
        for label, method in methods.items():
            enhanced, _ = _enhanced(method, noisy)
            found = _columns(enhanced, planted.host.spacing, options.detector, contrast=1.0)
            values = truth.judge(planted, enhanced * mode_sign(mode), found)
            rows += [{"method": label, **labels, "held_back": True, "score": s, "value": v} for s, v in values.items()]
    return rows


def _detection_scores(
    enhanced: xr.DataArray, true_image: xr.DataArray, true: pd.DataFrame, detector: ColumnFinder | None
) -> dict[str, float]:
    spacing = median_spacing(true[["y_px", "x_px"]].to_numpy())
    true_maxima = scores.image_maxima(true_image, spacing, sign=mode_sign(enhanced.attrs["mode"]))
    found = _columns(enhanced, spacing, detector)
    judged = scores.select_judged(found, true, true_maxima, spacing, enhanced.shape)
    if len(judged.true) == 0:
        return {}
    match = scores.match_tables(judged.found, judged.true, spacing)
    values = {"f1": match.f1, "precision": match.precision, "recall": match.recall}
    return values | {"rms px": float(np.mean(match.rms)) if len(match.found) else float("nan")}


def _calibrated(noisy: xr.DataArray, options: _Options) -> xr.DataArray:
    return NoiseCalibrator().fit_transform(noisy) if options.calibrate else noisy


def _enhanced(method: Method | None, noisy: xr.DataArray) -> tuple[xr.DataArray, float]:
    """The enhanced image without the recorded pixels and other maps, and the seconds that it took."""
    start = time.perf_counter()
    image = noisy if method is None else method.fit(noisy).transform(noisy)
    seconds = time.perf_counter() - start
    bare = noisy.copy(data=np.asarray(image.values, dtype=np.float64))
    bare.attrs = {"mode": noisy.attrs["mode"]}
    return bare, seconds


def _columns(
    image: xr.DataArray, spacing: float, detector: ColumnFinder | None, contrast: float | None = None
) -> pd.DataFrame:
    if detector is None:
        return scores.image_maxima(image, spacing, contrast=contrast, sign=mode_sign(image.attrs["mode"]))
    return detector.fit(image).transform(image)


def _provenance() -> dict[str, Any]:
    return {
        "stemkit": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": describe_device(resolve_device("auto")),
        "threads": torch.get_num_threads(),
        "first_seed": FIRST_SEED,
    }
