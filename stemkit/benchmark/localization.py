"""Errors of positions in enhanced images, relative to the Cramér-Rao bound of the recorded electrons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import NDArray
from tqdm import tqdm

from stemkit import AtomDetector, NoiseModel, PointwiseNoise, STEMSynthesizer
from stemkit.benchmark import scores
from stemkit.benchmark.evaluation import DOSES, Method
from stemkit.benchmark.truths import BORDER, HOSTS, RELATIVE_BACKGROUND, SHAPE
from stemkit.columns import fit_columns
from stemkit.detection import Quality

__all__ = ["DisplacedCrystal", "displaced_crystal", "localization_table"]

#: Standard deviation of the columns' random displacements along each axis, px (chosen).
DISPLACEMENT_STD = 0.5
#: A fit that ends farther than this from the true position, px, counts as lost (chosen).
LOST_DISTANCE = 3.0
#: Name of the crystal among ``HOSTS``.
HOST = "square"
#: Seeds from here on are for this table: those of training are below 2**32.
FIRST_SEED = 2**43
#: Function of an image and first positions (y, x), px, that returns refined positions.
Locator = Callable[[xr.DataArray, NDArray], NDArray]
#: Row of stemkit's own measurement.
MEASURED = "measured on the recorded pixels"


@dataclass(frozen=True)
class DisplacedCrystal:
    """A recorded crystal with randomly displaced columns; columns near the border are left out.

    Attributes
    ----------
    image : DataArray of shape (n_y, n_x)
        Recorded image.
    true : ndarray of shape (n, 2)
        Positions of the columns (y, x), px.
    ideal : ndarray of shape (n, 2)
        Their sites in the perfect lattice (y, x), px.
    amplitudes : ndarray of shape (n,)
        Amplitudes relative to that of the brightest columns.
    """

    image: xr.DataArray
    true: NDArray[np.float64]
    ideal: NDArray[np.float64]
    amplitudes: NDArray[np.float64]


def displaced_crystal(dose: float, seed: int) -> DisplacedCrystal:
    """Simulate a crystal of two sublattices whose columns are displaced by 0.5 px RMS along each axis.

    Parameters
    ----------
    dose : float
        Electrons per pixel at the brightest column.
    seed : int

    Returns
    -------
    DisplacedCrystal
    """
    rng = np.random.default_rng(seed)
    columns = HOSTS[HOST].columns(rng.random(2).tolist())
    moved = replace(
        columns,
        y=columns.y + torch.as_tensor(rng.normal(0, DISPLACEMENT_STD, columns.y.shape)),
        x=columns.x + torch.as_tensor(rng.normal(0, DISPLACEMENT_STD, columns.x.shape)),
    )
    counts = PointwiseNoise.counted(dose, background=RELATIVE_BACKGROUND["haadf"] * dose)
    noise = NoiseModel(1.0, 0.0, "haadf", pointwise=counts)
    synthesizer = STEMSynthesizer(shape=SHAPE, noise=noise, random_state=int(rng.integers(2**31)))
    image = synthesizer.record(moved).isel(image=0)["noisy"]
    true, ideal = moved.places[0].numpy(), columns.places[0].numpy()
    inner = columns.present[0].numpy() & ((ideal > BORDER) & (ideal < np.array(SHAPE) - 1 - BORDER)).all(axis=1)
    return DisplacedCrystal(image, true[inner], ideal[inner], columns.amplitude[0].numpy()[inner])


def localization_table(
    methods: Mapping[str, Method | None],
    *,
    locators: Mapping[str, Locator] | None = None,
    doses: Sequence[float] = DOSES,
    n: int = 2,
    verbose: bool = True,
) -> pd.DataFrame:
    """Errors of positions from least-squares fits to enhanced images.

    A Gaussian with a background is fitted to each column, with equal weights, starting at the site of the perfect
    lattice: a fit that does not move has no information on the displacement. For comparison, columns are measured on
    the recorded pixels, by :class:`~stemkit.AtomDetector` with weights from the noise and by `locators`.

    Parameters
    ----------
    methods : mapping of str to estimator
        As in :func:`~stemkit.benchmark.evaluate`.
    locators : mapping of str to callable, optional
        Functions of the recorded image and the sites (y, x), px, that return positions.
    doses : sequence of float
        Electrons per pixel at the brightest column.
    n : int
        Images at each dose.
    verbose : bool
        Show progress.

    Returns
    -------
    DataFrame
        ``method, dose, image`` and

        - ``rms px``: RMS error per axis;
        - ``rms over limit``: RMS error relative to the Cramér-Rao bound of each column's electrons;
        - ``slope`` of the fitted on the true displacements: 1 is correct, 0 is that of a perfect lattice;
        - ``lost``: fraction of columns whose fit failed or ended at another column.
    """
    rows = []
    for dose in tqdm(doses, desc="localisation", disable=not verbose):
        for i in range(n):
            seed = int(np.random.SeedSequence([FIRST_SEED, i, round(dose)]).generate_state(1)[0])
            crystal = displaced_crystal(dose, seed)
            positions = _all_positions(crystal, methods, locators or {})
            limit = _error_limits(crystal, dose)
            rows += [
                {"method": k, "dose": dose, "image": i, **_errors(p, crystal, limit)} for k, p in positions.items()
            ]
    return pd.DataFrame(rows, columns=["method", "dose", "image", "rms px", "rms over limit", "slope", "lost"])


def _all_positions(
    crystal: DisplacedCrystal, methods: Mapping[str, Method | None], locators: Mapping[str, Locator]
) -> dict[str, NDArray]:
    """Positions by method, NaN where a fit failed."""
    image, ideal = crystal.image, crystal.ideal
    enhanced = {k: image if method is None else method.fit(image).transform(image) for k, method in methods.items()}
    return {
        **{name: _fitted(each, ideal) for name, each in enhanced.items()},
        **{name: locate(image, ideal) for name, locate in locators.items()},
        MEASURED: _measured(image, ideal),
    }


def _error_limits(crystal: DisplacedCrystal, dose: float) -> NDArray[np.float64]:
    background = RELATIVE_BACKGROUND["haadf"] * dose
    return np.array([scores.position_error_limit(dose * h, background=background) for h in crystal.amplitudes])


def _fitted(image: xr.DataArray, start: NDArray) -> NDArray:
    fits = fit_columns(np.asarray(image.values, dtype=np.float64), start, HOSTS[HOST].sigma)
    return np.where(fits.failed[:, None], np.nan, fits.positions)


def _measured(image: xr.DataArray, start: NDArray) -> NDArray:
    table = AtomDetector().fit(image).measure(image, start)
    failed = (table["quality"].to_numpy() & Quality.FAILED) > 0
    return np.where(failed[:, None], np.nan, table[["y_px", "x_px"]].to_numpy())


def _errors(positions: NDArray, crystal: DisplacedCrystal, limit: NDArray) -> dict[str, float]:
    error = positions - crystal.true
    kept = np.isfinite(error).all(axis=1) & (np.hypot(*error.T) < LOST_DISTANCE)
    if not kept.any():
        return {"rms px": np.nan, "rms over limit": np.nan, "slope": np.nan, "lost": 1.0}
    fitted, true = ((each - crystal.ideal)[kept].ravel() for each in (positions, crystal.true))
    return {
        "rms px": float(np.sqrt((error[kept] ** 2).mean())),
        "rms over limit": float(np.sqrt(((error[kept] / limit[kept, None]) ** 2).mean())),
        "slope": float((fitted @ true) / (true @ true)),
        "lost": float(1 - kept.mean()),
    }
