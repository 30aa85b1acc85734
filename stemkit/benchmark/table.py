"""Any method on all sets: a tidy table of scores."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
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
from stemkit.columns import nearest_distances
from stemkit.compute import describe_device, resolve_device
from stemkit.images import MODES, mode_sign
from stemkit.metrics import psnr, psnr_8bit, ssim

__all__ = ["Detector", "Method", "evaluate", "summary"]

#: Doses of the truth tests, electrons per pixel at the brightest column, and the seed of each recording.
DOSES = (3.0, 10.0, 30.0)
FIRST_SEED = 2**41
COLUMNS = ["method", "set", "image", "shows", "crystal", "mode", "dose", "held_back", "score", "value"]


class Method(Protocol):
    """What is judged: anything with scikit-learn's ``fit`` and ``transform`` for an image."""

    def fit(self, X: xr.DataArray, y: object = None) -> Any: ...

    def transform(self, X: xr.DataArray) -> xr.DataArray: ...


class Detector(Protocol):
    """What finds columns: anything with ``fit`` and ``transform`` that gives a table with ``y_px`` and ``x_px``."""

    def fit(self, X: xr.DataArray, y: object = None) -> Any: ...

    def transform(self, X: xr.DataArray) -> pd.DataFrame: ...


def evaluate(
    methods: Mapping[str, Method | None],
    sets: Iterable[str] = (*SETS, "truths"),
    *,
    n: int | None = None,
    doses: Sequence[float] = DOSES,
    calibrate: bool = False,
    detector: Detector | None = None,
    verbose: bool = True,
) -> pd.DataFrame:
    """Judge methods on the fixed sets.

    Parameters
    ----------
    methods : mapping of str to estimator
        By name; each is fitted to every image anew (shipped networks load their weights), and gives the enhanced
        image. None stands for the recorded image itself.
    sets : iterable of {"haadf", "bf", "simulated", "truths"}
    n : int, optional
        Images of each set, and recordings of each truth in each crystal, mode and dose; all, and 2, by default.
    doses : sequence of float
        Of the truths: electrons per pixel at the brightest column.
    calibrate : bool
        Calibrate each image once, with :class:`~stemkit.NoiseCalibrator`, before the methods see it: those that ask
        for the noise find it. ``seconds`` are without it.
    detector : estimator, optional
        What finds columns in the images that methods give, such as :class:`~stemkit.AtomDetector`. None: the maxima
        above a fifth of the image's range, :func:`stemkit.benchmark.scores.peaks`, the same for all methods. Either is
        given the bare image, without the recorded pixels.
    verbose : bool
        Show progress.

    Returns
    -------
    DataFrame
        One row per score: ``method, set, image, shows, crystal, mode, dose, held_back, score, value``; a truth's
        crystal and dose are empty in the other sets. In ``attrs`` what it was made with.

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
        raise ValueError(f"sets must be of {', '.join([*SETS, 'truths'])}, but has {', '.join(sorted(unknown))}")
    rows: list[dict[str, Any]] = []
    for name in sets:
        if name == "truths":
            rows += _truths(methods, 2 if n is None else n, doses, calibrate, detector, verbose)
        else:
            rows += _scenes(methods, name, n, calibrate, detector, verbose)
    table = pd.DataFrame(rows, columns=COLUMNS)
    table.attrs.update(_made_with())
    return table


def summary(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What ``evaluate`` gave, in short: means over images.

    Parameters
    ----------
    table : DataFrame

    Returns
    -------
    scenes : DataFrame
        PSNR (dB), SSIM, F1 and RMS error of positions (px), by set, whether held back, and method.
    truths : DataFrame
        What became of each planted truth, by mode, dose and method: means over crystals and recordings.

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


def _scenes(
    methods: Mapping[str, Method | None],
    name: str,
    n: int | None,
    calibrate: bool,
    detector: Detector | None,
    verbose: bool,
) -> list[dict[str, Any]]:
    fixed = scenes(name, n)
    rows = []
    about: dict[str, Any]
    for i in tqdm(range(len(fixed)), desc=name, disable=not verbose):
        pair = fixed.pairs.isel(image=i)
        mode = str(pair["mode"].values) if "mode" in pair.coords else name
        about = {"set": name, "image": i, "shows": str(pair["arrangement"].values), "crystal": "", "mode": mode}
        about |= {"dose": float("nan"), "held_back": bool(pair["held_back"])}
        pair = pair.drop_vars(("arrangement", "held_back", "mode"), errors="ignore")
        noisy, clean = pair["noisy"].assign_attrs(mode=mode), pair["enhance"]
        true = fixed.columns[fixed.columns["image"] == i]
        spacing = _spacing(true) if len(true) > 1 else float("nan")
        if len(true) > 1:
            shown = scores.peaks(clean, spacing, sign=mode_sign(mode))
        recorded = NoiseCalibrator().fit_transform(noisy) if calibrate else noisy
        for label, method in methods.items():
            enhanced, seconds = _enhanced(method, recorded)
            values = {"psnr": psnr(enhanced, clean), "psnr 8-bit": psnr_8bit(enhanced, clean)}
            values["ssim"] = ssim(enhanced, clean)
            if len(true) > 1:
                values |= _detection(_columns(enhanced, spacing, detector), true, shown, spacing, noisy.shape)
            values["seconds"] = seconds
            rows += [{"method": label, **about, "score": k, "value": v} for k, v in values.items()]
    return rows


def _truths(
    methods: Mapping[str, Method | None],
    n: int,
    doses: Sequence[float],
    calibrate: bool,
    detector: Detector | None,
    verbose: bool,
) -> list[dict[str, Any]]:
    rows = []
    cases = list(itertools.product(TRUTHS.values(), HOSTS, MODES, doses, range(n)))
    for truth, host, mode, dose, k in tqdm(cases, desc="truths", disable=not verbose):
        planted = truth.record(dose, FIRST_SEED + k, host=host, mode=mode)
        spacing, noisy = planted.host.spacing, planted.pair["noisy"]
        recorded = NoiseCalibrator().fit_transform(noisy) if calibrate else noisy
        for label, method in methods.items():
            enhanced, _ = _enhanced(method, recorded)
            found = _columns(enhanced, spacing, detector, contrast=1.0)
            about = {"set": "truths", "image": k, "shows": truth.name, "crystal": host, "mode": mode, "dose": dose}
            values = truth.judge(planted, enhanced * mode_sign(mode), found)
            rows += [{"method": label, **about, "held_back": True, "score": s, "value": v} for s, v in values.items()]
    return rows


def _detection(
    found: pd.DataFrame, true: pd.DataFrame, shown: pd.DataFrame, spacing: float, shape: tuple[int, ...]
) -> dict[str, float]:
    found, judged = scores.visible(found, true, shown, spacing, shape)
    if len(judged) == 0:
        return {}
    match = scores.located(found, judged, spacing)
    values = {"f1": match.f1, "precision": match.precision, "recall": match.recall}
    return values | {"rms px": float(np.mean(match.rms)) if len(match.found) else float("nan")}


def _enhanced(method: Method | None, noisy: xr.DataArray) -> tuple[xr.DataArray, float]:
    """What a method gives, without what it carries along, and how long it took."""
    start = time.perf_counter()
    image = noisy if method is None else method.fit(noisy).transform(noisy)
    seconds = time.perf_counter() - start
    bare = noisy.copy(data=np.asarray(image.values, dtype=np.float64))
    bare.attrs = {"mode": noisy.attrs["mode"]}
    return bare, seconds


def _columns(
    image: xr.DataArray, spacing: float, detector: Detector | None, contrast: float | None = None
) -> pd.DataFrame:
    if detector is None:
        return scores.peaks(image, spacing, contrast=contrast, sign=mode_sign(image.attrs["mode"]))
    return detector.fit(image).transform(image)


def _spacing(true: pd.DataFrame) -> float:
    return float(np.median(nearest_distances(true[["y_px", "x_px"]].to_numpy())))


def _made_with() -> dict[str, Any]:
    return {
        "stemkit": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": describe_device(resolve_device("auto")),
        "threads": torch.get_num_threads(),
        "first_seed": FIRST_SEED,
    }
