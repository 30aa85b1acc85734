"""The tables of the paper with our rows, and those that it lacks: one function each, from contestants to a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from stemkit.benchmark import scores
from stemkit.benchmark.contestants import Contestant
from stemkit.benchmark.cost import SIZES, cost_table
from stemkit.benchmark.entrants import SFIN_ALIKE
from stemkit.benchmark.localisation import localisation_table
from stemkit.benchmark.scenes import SETS, scenes
from stemkit.benchmark.separation import SEPARATIONS, separation_table
from stemkit.benchmark.table import DOSES, evaluate
from stemkit.columns import nearest_distances
from stemkit.metrics import psnr, psnr_8bit, ssim

__all__ = ["FULL", "QUICK", "TABLES", "Extent", "Table"]


@dataclass(frozen=True)
class Extent:
    """How much is judged.

    Parameters
    ----------
    images : int or None
        Of each set; None takes all.
    repeats : int
        Recordings of each truth, displaced crystal and image of pairs.
    doses, separations, sizes : tuple
        Of the truths and displaced crystals, the pairs of columns, and the images that cost is measured on.
    """

    images: int | None = None
    repeats: int = 2
    doses: tuple[float, ...] = DOSES
    separations: tuple[float, ...] = SEPARATIONS
    sizes: tuple[int, ...] = SIZES


FULL = Extent()
QUICK = Extent(20, 1, (3.0, 30.0), (2.0, 2.5, 3.0), (512,))


@dataclass(frozen=True)
class Table:
    """A table: what it is called, what it shows, how it is made and how it is put in short.

    Parameters
    ----------
    title, shows : str
    make : callable
        From the contestants that can be run, and the extent, to all scores.
    short : callable
        From all scores to the table that is printed, a row for each method.
    takes : callable
        Whether a contestant belongs into it.
    """

    title: str
    shows: str
    make: Callable[[Sequence[Contestant], Extent], pd.DataFrame]
    short: Callable[[pd.DataFrame], pd.DataFrame]
    takes: Callable[[Contestant], bool] = lambda row: not row.locates and not row.ablated


# --- enhancement -------------------------------------------------------------------------------------------------


def _enhancement(rows: Sequence[Contestant], extent: Extent) -> pd.DataFrame:
    return evaluate(_methods(rows), SETS, n=extent.images, calibrate=True)


def _enhancement_short(table: pd.DataFrame) -> pd.DataFrame:
    names = {"psnr": "PSNR", "ssim": "SSIM", "psnr 8-bit": "8-bit PSNR", "f1": "F1"}
    kept = table[table["score"].isin(list(names))]
    order = {f"{names[score]} {which}": None for which in kept["set"].unique() for score in names}
    wide = _by_method(kept, "value", kept["score"].map(names) + " " + kept["set"])
    return wide[[column for column in order if column in wide]].round(3)


# --- detection maps ----------------------------------------------------------------------------------------------


def _detection(rows: Sequence[Contestant], extent: Extent) -> pd.DataFrame:
    """PSNR and SSIM of the maps of columns, and F1 of their maxima."""
    methods = _methods(rows, target="detect")
    out: list[dict[str, Any]] = []
    for which in ("haadf", "bf"):
        fixed = scenes(which, extent.images)
        for i in tqdm(range(len(fixed)), desc=f"detection, {which}"):
            pair = fixed.pairs.isel(image=i)
            noisy, truth = pair["noisy"].assign_attrs(mode=which), pair["detect"].values
            true = fixed.columns[fixed.columns["image"] == i]
            if len(true) < 2 or np.ptp(truth) == 0:
                continue
            spacing = float(np.median(nearest_distances(true[["y_px", "x_px"]].to_numpy())))
            visible = scores.peaks(truth, spacing, contrast=1.0)
            for name, method in methods.items():
                shown = np.asarray(method.fit(noisy).transform(noisy).values, dtype=np.float64)
                found = scores.peaks(shown, spacing, contrast=1.0)
                found, judged = scores.visible(found, true, visible, spacing, noisy.shape)
                f1 = scores.located(found, judged, spacing).f1
                values = {"PSNR": psnr(shown, truth), "SSIM": ssim(shown, truth), "F1": f1}
                values["8-bit PSNR"] = psnr_8bit(shown, truth)
                out += [{"method": name, "set": which, "image": i, "score": k, "value": v} for k, v in values.items()]
    return pd.DataFrame(out, columns=["method", "set", "image", "score", "value"])


def _detection_short(table: pd.DataFrame) -> pd.DataFrame:
    return _by_method(table, "value", table["score"] + " " + table["set"]).round(3)


# --- super-resolution --------------------------------------------------------------------------------------------


def _separation(rows: Sequence[Contestant], extent: Extent) -> pd.DataFrame:
    sharp = _methods(rows, target="superresolve")
    methods = {"recorded": None, **{f"{name}, superresolve": method for name, method in sharp.items()}}
    enhanced = next((row for row in rows if row.name == "SFIN"), None)
    if enhanced is not None:
        methods["SFIN, enhance"] = enhanced.method()
    return separation_table(methods, separations=extent.separations, n=extent.repeats)


def _separation_short(table: pd.DataFrame) -> pd.DataFrame:
    at = [f"{s:g} sigma, dose {d:g}" for s, d in zip(table["separation"], table["dose"], strict=True)]
    return _by_method(table, "f1", at).round(3)


# --- truths ------------------------------------------------------------------------------------------------------


def _truths(rows: Sequence[Contestant], extent: Extent) -> pd.DataFrame:
    return evaluate(_methods(rows), ["truths"], n=extent.repeats, doses=extent.doses, calibrate=True)


#: What is shown of the planted truths.
SHOWN = {
    ("vacancies", "contrast left"): "vacancy filled",
    ("shifted columns", "bias"): "shift bias",
    ("spread of heights", "slope of sublattice 1"): "slope of heights",
    ("interstitials", "height shown"): "interstitial shown",
    ("edge", "invented beyond"): "beyond an edge",
    ("nothing", "columns per cell"): "in noise",
}
#: A shift's bias is shown where so many of the shifted columns are.
SEEN = 0.9


def _truths_short(table: pd.DataFrame) -> pd.DataFrame:
    named = [SHOWN.get(key, "") for key in zip(table["shows"], table["score"], strict=True)]
    kept = table.assign(what=named)
    kept = kept[kept["what"] != ""]
    at = [f"{what}, {dose:g}" for what, dose in zip(kept["what"], kept["dose"], strict=True)]
    wide = _by_method(kept, "value", at)
    # a shift is known of columns that are seen
    shifted = table[(table["shows"] == "shifted columns") & (table["score"] == "found")]
    for dose, seen in shifted.groupby("dose"):
        few = seen.groupby("method")["value"].mean() < SEEN
        wide.loc[few.index[few], f"shift bias, {dose:g}"] = np.nan
    order = [column for what in SHOWN.values() for column in wide if str(column).startswith(f"{what}, ")]
    return wide[order].round(2)


# --- localisation and cost ---------------------------------------------------------------------------------------


def _localisation(rows: Sequence[Contestant], extent: Extent) -> pd.DataFrame:
    methods = _methods([row for row in rows if not row.locates])
    locators = _methods([row for row in rows if row.locates])
    return localisation_table(methods, locators=locators, doses=extent.doses, n=extent.repeats)


def _localisation_short(table: pd.DataFrame) -> pd.DataFrame:
    at = [f"{dose:g}" for dose in table["dose"]]
    parts = [_by_method(table, score, at).add_prefix(f"{score}, ") for score in ("rms over limit", "slope", "lost")]
    return pd.concat(parts, axis=1).round(2)


def _cost(rows: Sequence[Contestant], extent: Extent) -> pd.DataFrame:
    return cost_table(rows, sizes=extent.sizes)


def _cost_short(table: pd.DataFrame) -> pd.DataFrame:
    at = [f"{px} px" for px in table["px"]]
    return pd.concat(
        [_by_method(table, what, at).add_prefix(f"{what}, ") for what in ("seconds", "GiB")], axis=1
    ).round(2)


# --- ablations ---------------------------------------------------------------------------------------------------


def _ablations(rows: Sequence[Contestant], extent: Extent) -> pd.DataFrame:
    """Scores of SFIN as it is, and without parts of its data or of itself, all trained alike."""
    return evaluate(_methods(rows), SETS, n=extent.images)


TABLES = {
    "enhancement": Table(
        "Enhancement",
        "Means over the images of each set; PSNR in dB. F1 of the maxima of the enhanced images.",
        _enhancement,
        _enhancement_short,
    ),
    "detection": Table(
        "Detection maps",
        "A spot for each column: PSNR in dB and SSIM of the maps, F1 of their maxima.",
        _detection,
        _detection_short,
        lambda row: row.learnt and not row.ablated,
    ),
    "superresolution": Table(
        "Super-resolution",
        "F1 of the maxima in images of pairs of equal columns, by their distance. Richardson-Lucy knows the probe, and "
        "has the number of iterations that the truth likes best.",
        _separation,
        _separation_short,
        lambda row: row.learnt and not row.ablated,
    ),
    "truths": Table(
        "Does it tell the truth?",
        "At doses in electrons per pixel at the brightest column; means over two crystals, HAADF and BF. Right are: a "
        "vacancy filled by 0, a shift's bias of 0 (-1: put back on the lattice; none where a tenth of the shifted "
        "columns is not seen), a slope of heights of 1, an interstitial shown by 1, no column beyond an edge, none per "
        "unit cell of noise.",
        _truths,
        _truths_short,
    ),
    "localisation": Table(
        "Localisation",
        "Least squares on the enhanced images of a crystal whose columns are all displaced: RMS error over the "
        "Cramer-Rao bound of the recorded electrons, slope of the displacements found on the true ones, part of the "
        "columns that were lost. An error below the bound is no better measurement, but a guess that prefers lattices: "
        "its slope is below 1.",
        _localisation,
        _localisation_short,
        lambda row: not row.ablated,
    ),
    "cost": Table(
        "Time and memory",
        "Of one image whose noise is known, each method in a process of its own; memory beyond what libraries take.",
        _cost,
        _cost_short,
    ),
    "ablations": Table(
        "What the data and the network bring",
        "SFIN trained alike on other data, or with a part of it switched off.",
        _ablations,
        _enhancement_short,
        lambda row: row.ablated or row.name == SFIN_ALIKE.name,
    ),
}


def _methods(rows: Sequence[Contestant], **changed: Any) -> dict[str, Any]:
    """What the rows are made of, by name."""
    return {row.name: row.method(**changed) for row in rows}


def _by_method(table: pd.DataFrame, value: str, columns: Sequence[str] | pd.Series) -> pd.DataFrame:
    """Means of a value, a row for each method, in the order in which they come."""
    named = table.assign(column=columns)
    return named.pivot_table(value, "method", "column", sort=False)
