"""The tables of ``stemkit benchmark``: how each is computed, and how it is summarised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from tqdm import tqdm

from stemkit.benchmark import scores
from stemkit.benchmark.cost import SIZES, cost_table
from stemkit.benchmark.evaluation import DOSES, Method, evaluate
from stemkit.benchmark.localization import localization_table
from stemkit.benchmark.methods import RECORDED, MethodSpec
from stemkit.benchmark.scenes import SETS, scenes
from stemkit.benchmark.separation import SEPARATIONS, separation_table
from stemkit.benchmark.trained import SFIN_SAME_TRAINING
from stemkit.metrics import psnr, psnr_8bit, ssim
from stemkit.statistics import median_spacing

__all__ = ["FULL", "QUICK", "TABLES", "Extent", "Table"]


@dataclass(frozen=True)
class Extent:
    """Number of images and conditions in the tables.

    Parameters
    ----------
    images : int or None
        Images of each fixed set; None takes all.
    repeats : int
        Recordings of each planted structure, displaced crystal and image of pairs.
    doses : tuple of float
        Doses of planted structures and displaced crystals, electrons per pixel at the brightest column.
    separations : tuple of float
        Distances of the columns of a pair, in column widths.
    sizes : tuple of int
        Edges of the images for time and memory, px.
    """

    images: int | None = None
    repeats: int = 2
    doses: tuple[float, ...] = DOSES
    separations: tuple[float, ...] = SEPARATIONS
    sizes: tuple[int, ...] = SIZES


#: Images and repetitions of the printed tables.
FULL = Extent()
#: The same for a run of minutes (chosen).
QUICK = Extent(images=20, repeats=1, doses=(3.0, 30.0), separations=(2.0, 2.5, 3.0), sizes=(512,))


def _is_denoiser(row: MethodSpec) -> bool:
    return not row.is_locator and not row.is_ablation


def _is_network(row: MethodSpec) -> bool:
    return row.is_network and not row.is_ablation


@dataclass(frozen=True)
class Table:
    """A table of the benchmark.

    Parameters
    ----------
    title : str
    description : str
        Printed below the title.
    compute : callable
        Function of the methods that can be run and the extent; returns all scores, one per row.
    summarize : callable
        Function of all scores; returns the printed table, a row for each method.
    includes : callable
        Whether a method belongs in the table. Default: all that return an image, without the ablations.
    """

    title: str
    description: str
    compute: Callable[[Sequence[MethodSpec], Extent], pd.DataFrame]
    summarize: Callable[[pd.DataFrame], pd.DataFrame]
    includes: Callable[[MethodSpec], bool] = _is_denoiser


# --- enhancement -------------------------------------------------------------------------------------------------

#: Names of scores in the printed table.
ENHANCEMENT_SCORES = {"psnr": "PSNR", "ssim": "SSIM", "psnr 8-bit": "8-bit PSNR", "f1": "F1"}


def _enhancement(rows: Sequence[MethodSpec], extent: Extent) -> pd.DataFrame:
    return evaluate(_created(rows), SETS, n=extent.images, calibrate=True)


def _summarize_enhancement(table: pd.DataFrame) -> pd.DataFrame:
    selected = table[table["score"].isin(list(ENHANCEMENT_SCORES))]
    columns = [f"{score} {each}" for each in selected["set"].unique() for score in ENHANCEMENT_SCORES.values()]
    wide = _by_method(selected, "value", selected["score"].map(ENHANCEMENT_SCORES) + " " + selected["set"])
    return wide[[column for column in columns if column in wide]].round(3)


# --- detection maps ----------------------------------------------------------------------------------------------


def _detection(rows: Sequence[MethodSpec], extent: Extent) -> pd.DataFrame:
    """PSNR and SSIM of the detection maps, and F1 of their maxima."""
    methods = _created(rows, target="detect")
    out: list[dict[str, Any]] = []
    for mode in ("haadf", "bf"):
        fixed = scenes(mode, extent.images)
        for i in tqdm(range(len(fixed)), desc=f"detection, {mode}"):
            pair = fixed.pairs.isel(image=i)
            columns = fixed.columns[fixed.columns["image"] == i]
            if len(columns) < 2 or np.ptp(pair["detect"].values) == 0:
                continue
            for name, method in methods.items():
                values = _map_scores(method, pair["noisy"].assign_attrs(mode=mode), pair["detect"].values, columns)
                out += [{"method": name, "set": mode, "image": i, "score": k, "value": v} for k, v in values.items()]
    return pd.DataFrame(out, columns=["method", "set", "image", "score", "value"])


def _map_scores(method: Method, noisy: xr.DataArray, truth: np.ndarray, columns: pd.DataFrame) -> dict[str, float]:
    """Scores of the detection map of one image."""
    spacing = median_spacing(columns[["y_px", "x_px"]].to_numpy())
    result = np.asarray(method.fit(noisy).transform(noisy).values, dtype=np.float64)
    in_truth, in_result = (scores.image_maxima(image, spacing, contrast=1.0) for image in (truth, result))
    judged = scores.select_judged(in_result, columns, in_truth, spacing, noisy.shape)
    return {
        "PSNR": psnr(result, truth),
        "SSIM": ssim(result, truth),
        "F1": scores.match_tables(judged.found, judged.true, spacing).f1,
        "8-bit PSNR": psnr_8bit(result, truth),
    }


def _summarize_detection(table: pd.DataFrame) -> pd.DataFrame:
    return _by_method(table, "value", table["score"] + " " + table["set"]).round(3)


# --- super-resolution --------------------------------------------------------------------------------------------


def _separation(rows: Sequence[MethodSpec], extent: Extent) -> pd.DataFrame:
    maps = _created(rows, target="superresolve")
    methods = {RECORDED: None, **{f"{name}, superresolve": method for name, method in maps.items()}}
    enhanced = next((row for row in rows if row.name == "SFIN"), None)
    if enhanced is not None:
        methods["SFIN, enhance"] = enhanced.create()
    return separation_table(methods, separations=extent.separations, n=extent.repeats)


def _summarize_separation(table: pd.DataFrame) -> pd.DataFrame:
    at = [f"{s:g} sigma, dose {d:g}" for s, d in zip(table["separation"], table["dose"], strict=True)]
    return _by_method(table, "f1", at).round(3)


# --- planted structures ------------------------------------------------------------------------------------------

#: Printed names of the scores of planted structures, by the structure and the score.
PRINTED_TRUTHS = {
    ("vacancies", "contrast left"): "vacancy filled",
    ("shifted columns", "bias"): "shift bias",
    ("spread of heights", "slope of sublattice 1"): "slope of heights",
    ("interstitials", "height shown"): "interstitial shown",
    ("edge", "invented beyond"): "beyond an edge",
    ("nothing", "columns per cell"): "in noise",
}
#: The bias of shifts is printed if at least this fraction of the shifted columns is found (chosen).
MIN_FOUND = 0.9


def _truths(rows: Sequence[MethodSpec], extent: Extent) -> pd.DataFrame:
    return evaluate(_created(rows), ["truths"], n=extent.repeats, doses=extent.doses, calibrate=True)


def _summarize_truths(table: pd.DataFrame) -> pd.DataFrame:
    names = [PRINTED_TRUTHS.get(key) for key in zip(table["shows"], table["score"], strict=True)]
    selected = table.assign(printed=names).dropna(subset="printed")
    at = [f"{name}, {dose:g}" for name, dose in zip(selected["printed"], selected["dose"], strict=True)]
    wide = _by_method(selected, "value", at)
    # the columns that are found are a biased sample if many are lost
    shifted = table[(table["shows"] == "shifted columns") & (table["score"] == "found")]
    for dose, found in shifted.groupby("dose"):
        is_low = found.groupby("method")["value"].mean() < MIN_FOUND
        wide.loc[is_low.index[is_low], f"shift bias, {dose:g}"] = np.nan
    order = [column for name in PRINTED_TRUTHS.values() for column in wide if str(column).startswith(f"{name}, ")]
    return wide[order].round(2)


# --- localisation and cost ---------------------------------------------------------------------------------------


def _localization(rows: Sequence[MethodSpec], extent: Extent) -> pd.DataFrame:
    methods = _created([row for row in rows if not row.is_locator])
    locators = _created([row for row in rows if row.is_locator])
    return localization_table(methods, locators=locators, doses=extent.doses, n=extent.repeats)


def _summarize_localization(table: pd.DataFrame) -> pd.DataFrame:
    return _side_by_side(table, ("rms over limit", "slope", "lost"), [f"{dose:g}" for dose in table["dose"]])


def _cost(rows: Sequence[MethodSpec], extent: Extent) -> pd.DataFrame:
    return cost_table(rows, sizes=extent.sizes)


def _summarize_cost(table: pd.DataFrame) -> pd.DataFrame:
    return _side_by_side(table, ("seconds", "GiB"), [f"{px} px" for px in table["px"]])


# --- ablations ---------------------------------------------------------------------------------------------------


def _ablations(rows: Sequence[MethodSpec], extent: Extent) -> pd.DataFrame:
    return evaluate(_created(rows), SETS, n=extent.images)


def _is_in_ablations(row: MethodSpec) -> bool:
    return row.is_ablation or row.name == SFIN_SAME_TRAINING.name


#: All tables by name, in the order in which they are made.
TABLES = {
    "enhancement": Table(
        "Enhancement",
        "Means over the images of each set; PSNR in dB. F1 of the maxima of the enhanced images.",
        _enhancement,
        _summarize_enhancement,
    ),
    "detection": Table(
        "Detection maps",
        "PSNR in dB and SSIM of the maps, which have a spot at each column, and F1 of their maxima.",
        _detection,
        _summarize_detection,
        _is_network,
    ),
    "superresolution": Table(
        "Super-resolution",
        "F1 of the maxima in images of pairs of equal columns, by their distance in column widths. Richardson-Lucy "
        "deconvolution is given the exact probe, and the number of iterations with the highest F1.",
        _separation,
        _summarize_separation,
        _is_network,
    ),
    "truths": Table(
        "Planted structures",
        "By dose in electrons per pixel at the brightest column; means over two crystals, HAADF and BF. Correct "
        "values: vacancy filled 0; shift bias 0 (-1: the column is drawn on its lattice site; empty if more than a "
        "tenth of the shifted columns is not found); slope of heights 1; interstitial shown 1; columns beyond an edge "
        "0; columns per unit cell in noise 0.",
        _truths,
        _summarize_truths,
    ),
    "localisation": Table(
        "Localisation",
        "Least-squares fits to the enhanced images of a crystal with randomly displaced columns: RMS error relative "
        "to the Cramer-Rao bound of the recorded electrons, slope of the fitted on the true displacements, and "
        "fraction of columns that were lost. An error below the bound is not a better measurement, but a bias towards "
        "the lattice: its slope is below 1.",
        _localization,
        _summarize_localization,
        lambda row: not row.is_ablation,
    ),
    "cost": Table(
        "Time and memory",
        "One image with known noise, each method in its own process; peak memory beyond that of the libraries.",
        _cost,
        _summarize_cost,
    ),
    "ablations": Table(
        "Ablations of training data and network",
        "SFIN with the same training, on other data, or with a part of the network disabled.",
        _ablations,
        _summarize_enhancement,
        _is_in_ablations,
    ),
}


def _created(rows: Sequence[MethodSpec], **changed: Any) -> dict[str, Any]:
    """Estimators by name."""
    return {row.name: row.create(**changed) for row in rows}


def _by_method(table: pd.DataFrame, value: str, columns: Sequence[str] | pd.Series) -> pd.DataFrame:
    """Means of a value, a row for each method, in order of appearance."""
    named = table.assign(column=columns)
    return named.pivot_table(value, "method", "column", sort=False)


def _side_by_side(table: pd.DataFrame, values: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """Means of several values, a row for each method."""
    parts = [_by_method(table, value, columns).add_prefix(f"{value}, ") for value in values]
    return pd.concat(parts, axis=1).round(2)
