"""Where columns are found in what methods make of an image, beside what the electrons allow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import NDArray
from tqdm import tqdm

from stemkit import AtomDetector, NoiseModel, PointwiseNoise, STEMSynthesizer
from stemkit.benchmark import scores
from stemkit.benchmark.table import DOSES, Method
from stemkit.benchmark.truths import BORDER, ELECTRONS, HOSTS, SHAPE
from stemkit.columns import fit_columns
from stemkit.detection import Quality

__all__ = ["displaced_crystal", "localisation_table"]

#: Deviation of the columns' displacements along each axis, px: a method that draws a lattice does not know them.
DISPLACED = 0.5
#: A fit that ends further away from a column, px, is another's.
LOST = 3.0
FIRST_SEED = 2**43
#: From an image and places (y, x), px, to where columns are near them.
Locator = Callable[[xr.DataArray, NDArray], NDArray]
#: Row of what stemkit does: found in the network's image, measured on the recorded pixels.
MEASURED = "measured on the recorded pixels"


def displaced_crystal(dose: float, seed: int) -> tuple[xr.DataArray, NDArray, NDArray, NDArray]:
    """A recorded crystal of two sublattices whose columns all stand beside their places.

    Returns
    -------
    image : DataArray
    true, ideal : ndarray of shape (n, 2)
        Where columns away from the border are, and where they would be without displacement, (y, x) in px.
    height : ndarray of shape (n,)
        In parts of the brightest one's.
    """
    host = HOSTS["square"]
    rng = np.random.default_rng(seed)
    columns = host.columns(rng.random(2).tolist())
    moved = replace(
        columns,
        y=columns.y + torch.as_tensor(rng.normal(0, DISPLACED, columns.y.shape)),
        x=columns.x + torch.as_tensor(rng.normal(0, DISPLACED, columns.x.shape)),
    )
    counts = PointwiseNoise.counted(dose, background=ELECTRONS["haadf"] * dose)
    noise = NoiseModel(1.0, 0.0, "haadf", pointwise=counts)
    synthesizer = STEMSynthesizer(shape=SHAPE, noise=noise, random_state=int(rng.integers(2**31)))
    image = synthesizer.record(moved).isel(image=0)["noisy"]
    true, ideal = moved.places[0].numpy(), columns.places[0].numpy()
    inner = columns.present[0].numpy() & ((ideal > BORDER) & (ideal < np.array(SHAPE) - 1 - BORDER)).all(axis=1)
    return image, true[inner], ideal[inner], columns.amplitude[0].numpy()[inner]


def localisation_table(
    methods: Mapping[str, Method | None],
    *,
    locators: Mapping[str, Locator] | None = None,
    doses: Sequence[float] = DOSES,
    n: int = 2,
    verbose: bool = True,
) -> pd.DataFrame:
    """Errors of positions that least squares find in the images that methods give.

    A Gaussian with a background is fitted to each column, all weights alike, from where a perfect lattice would have
    it: a fit that goes nowhere knows nothing of the displacement. Beside them stands what stemkit does:
    :class:`~stemkit.AtomDetector` on the recorded pixels, weighted by their noise; and what other functions find there,
    ``locators``, from the recorded image and the same places.

    Returns
    -------
    DataFrame
        ``method, dose, image``; ``rms px`` per axis; ``rms over limit``, in parts of the Cramer-Rao bound of each
        column's electrons; ``slope`` of the displacements that were found on the true ones, 1 for the truth, 0 for a
        perfect lattice; ``lost``, the part of columns whose fit failed or went elsewhere.
    """
    rows = []
    sigma = HOSTS["square"].sigma
    for dose in tqdm(doses, desc="localisation", disable=not verbose):
        for i in range(n):
            seed = int(np.random.SeedSequence([FIRST_SEED, i, round(dose)]).generate_state(1)[0])
            image, true, ideal, height = displaced_crystal(dose, seed)
            limit = np.array([scores.photon_limit(dose * h, background=ELECTRONS["haadf"] * dose) for h in height])
            found = {
                name: _fitted(image if method is None else method.fit(image).transform(image), ideal, sigma)
                for name, method in methods.items()
            }
            found |= {name: locate(image, ideal) for name, locate in (locators or {}).items()}
            found[MEASURED] = _measured(image, ideal)
            rows += [(name, dose, i, *_errors(places, true, ideal, limit)) for name, places in found.items()]
    return pd.DataFrame(rows, columns=["method", "dose", "image", "rms px", "rms over limit", "slope", "lost"])


def _fitted(image: xr.DataArray, near: NDArray, sigma: float) -> NDArray:
    fits = fit_columns(np.asarray(image.values, dtype=np.float64), near, sigma)
    return np.where(fits.failed[:, None], np.nan, np.column_stack([fits.y, fits.x]))


def _measured(image: xr.DataArray, near: NDArray) -> NDArray:
    table = AtomDetector().fit(image).measure(image, near)
    failed = (table["quality"].to_numpy() & Quality.FAILED) > 0
    return np.where(failed[:, None], np.nan, table[["y_px", "x_px"]].to_numpy())


def _errors(places: NDArray, true: NDArray, ideal: NDArray, limit: NDArray) -> tuple[float, float, float, float]:
    error = places - true
    kept = np.isfinite(error).all(axis=1) & (np.hypot(*error.T) < LOST)
    if not kept.any():
        return float("nan"), float("nan"), float("nan"), 1.0
    rms = float(np.sqrt((error[kept] ** 2).mean()))
    over = float(np.sqrt(((error[kept] / limit[kept, None]) ** 2).mean()))
    shown, asked = ((p - ideal)[kept].ravel() for p in (places, true))
    return rms, over, float((shown @ asked) / (asked @ asked)), float(1 - kept.mean())
