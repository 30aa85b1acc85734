"""Columns that stand close together: which of them are told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.restoration import richardson_lucy
from tqdm import tqdm

from stemkit import NoiseModel, PointwiseNoise, STEMSynthesizer
from stemkit.benchmark import scores
from stemkit.benchmark.table import Method
from stemkit.synthesis import columns_at

__all__ = ["DOSES", "SEPARATIONS", "RichardsonLucy", "pairs_of_columns", "separation_table"]

#: Distances of the two columns of a pair, in sigmas of a column. The sum of two equal Gaussians has two maxima
#: beyond 2.
SEPARATIONS = (1.5, 2.0, 2.5, 3.0, 3.5, 4.0)
#: Electrons per pixel at a lone column.
DOSES = (30.0, 300.0)
SIGMA, PITCH, SHAPE = 2.0, 26.0, (256, 256)
#: Of the columns' height.
BACKGROUND = 0.1
FIRST_SEED = 2**42


class RichardsonLucy:
    """Richardson-Lucy deconvolution, by scikit-image, of an image whose probe it knows.

    Parameters
    ----------
    iterations : int
    """

    def __init__(self, iterations: int):
        self.iterations = iterations

    def fit(self, X: xr.DataArray, y: object = None) -> RichardsonLucy:
        return self

    def transform(self, X: xr.DataArray) -> xr.DataArray:
        values = X.values.astype(np.float64)
        low = float(np.quantile(values, 0.02))
        scale = float(values.max()) - low
        psf = np.zeros((17, 17))
        psf[8, 8] = 1.0
        counts = np.maximum((values - low) / scale, 0.0)
        sharp = richardson_lucy(counts, gaussian_filter(psf, SIGMA), self.iterations, clip=False, filter_epsilon=1e-6)
        return X.copy(data=sharp)


def pairs_of_columns(separation: float, dose: float, seed: int) -> tuple[xr.DataArray, pd.DataFrame]:
    """An image of pairs of equal columns, turned at random, and their true places.

    Parameters
    ----------
    separation : float
        Distance of the two, in sigmas of a column.
    dose : float
        Electrons per pixel at a lone column.
    seed : int
    """
    rng = np.random.default_rng(seed)
    middle = [np.arange(PITCH / 2, n - PITCH / 2 + 1, PITCH) for n in SHAPE]
    centre = np.stack(np.meshgrid(*middle, indexing="ij"), axis=-1).reshape(-1, 2) + rng.uniform(-1, 1, 2)
    angle = rng.uniform(0, np.pi, len(centre))
    half = 0.5 * separation * SIGMA * np.column_stack([np.sin(angle), np.cos(angle)])
    places = np.concatenate([centre + half, centre - half])
    counts = PointwiseNoise.counted(dose, background=BACKGROUND * dose)
    noise = NoiseModel(1.0, 0.0, "haadf", pointwise=counts)
    synthesizer = STEMSynthesizer(shape=SHAPE, noise=noise, random_state=int(rng.integers(2**31)))
    pair = synthesizer.record(columns_at(places, 1.0, SIGMA)).isel(image=0)
    return pair["noisy"], pd.DataFrame(places, columns=["y_px", "x_px"])


def separation_table(
    methods: Mapping[str, Method | None],
    *,
    separations: Sequence[float] = SEPARATIONS,
    doses: Sequence[float] = DOSES,
    n: int = 2,
    verbose: bool = True,
) -> pd.DataFrame:
    """F1 of columns in what methods make of an image of pairs.

    Columns are the maxima of an image, the same for all methods; a column is found within a third of the separation.
    Richardson-Lucy deconvolution stands beside them with the number of iterations that the truth likes best.

    Returns
    -------
    DataFrame
        ``method, dose, separation`` (in sigmas), ``image, f1``.
    """
    tried = {f"Richardson-Lucy, {k}": RichardsonLucy(k) for k in (5, 10, 20, 50, 100, 200)}
    rows = []
    for dose in tqdm(doses, desc="separation", disable=not verbose):
        for separation in separations:
            for i in range(n):
                key = np.random.SeedSequence([FIRST_SEED, i, round(100 * separation), round(dose)])
                image, true = pairs_of_columns(separation, dose, int(key.generate_state(1)[0]))
                for name, method in {**methods, **tried}.items():
                    shown = image if method is None else method.fit(image).transform(image)
                    f1 = _f1(np.asarray(shown.values), true, separation * SIGMA)
                    rows.append((name, dose, separation, i, f1))
    table = pd.DataFrame(rows, columns=["method", "dose", "separation", "image", "f1"])
    deconvolved = table["method"].isin(list(tried))
    best = table[deconvolved].groupby(["dose", "separation", "method"])["f1"].mean().groupby(["dose", "separation"])
    kept = table[deconvolved].set_index(["dose", "separation", "method"]).loc[best.idxmax().tolist()].reset_index()
    return pd.concat([table[~deconvolved], kept.assign(method="Richardson-Lucy")], ignore_index=True)


def _f1(values: NDArray, true: pd.DataFrame, distance: float) -> float:
    return scores.located(scores.peaks(values, distance), true, distance).f1
