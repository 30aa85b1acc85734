"""Resolution of pairs of columns by their distance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import pandas as pd
import xarray as xr
from scipy.ndimage import gaussian_filter
from skimage.restoration import richardson_lucy
from tqdm import tqdm

from stemkit import NoiseModel, PointwiseNoise, STEMSynthesizer
from stemkit.benchmark import scores
from stemkit.benchmark.evaluation import Method
from stemkit.synthesis import columns_at

__all__ = ["DOSES", "SEPARATIONS", "RichardsonLucy", "pairs_of_columns", "separation_table"]

#: Distances of the two columns of a pair, in column widths (chosen). The sum of two equal Gaussians has two maxima
#: beyond 2.
SEPARATIONS = (1.5, 2.0, 2.5, 3.0, 3.5, 4.0)
#: Electrons per pixel at a single column (chosen).
DOSES = (30.0, 300.0)
#: Column width (sigma), px (chosen).
SIGMA = 2.0
#: Distance of the pairs from each other, px (chosen).
PITCH = 26.0
#: Shape of the images, px (chosen).
SHAPE = (256, 256)
#: Background as a fraction of the height of a column (chosen).
BACKGROUND_FRACTION = 0.1
#: Seeds from here on are for this table: those of training are below 2**32.
FIRST_SEED = 2**42
#: Numbers of iterations of the deconvolution (chosen), of which the one with the highest F1 is reported.
DECONVOLUTION_ITERATIONS = (5, 10, 20, 50, 100, 200)
#: Edge of the point spread function, px (chosen: 8 px, four column widths, on each side of its centre).
PSF_SIZE = 17
#: Quantile of the image that is subtracted before deconvolution (chosen).
SUBTRACTED_QUANTILE = 0.02
#: Divisions by less than this are left out (chosen).
FILTER_EPSILON = 1e-6


class RichardsonLucy:
    """Richardson-Lucy deconvolution by scikit-image with the true probe.

    Parameters
    ----------
    iterations : int
    """

    def __init__(self, iterations: int):
        self.iterations = iterations

    def fit(self, X: xr.DataArray, y: object = None) -> Self:
        """Return the method itself, which has no parameters to fit."""
        return self

    def transform(self, X: xr.DataArray) -> xr.DataArray:
        """The deconvolved image."""
        values = X.values.astype(np.float64)
        low = float(np.quantile(values, SUBTRACTED_QUANTILE))
        scale = float(values.max()) - low
        psf = np.zeros((PSF_SIZE, PSF_SIZE))
        psf[PSF_SIZE // 2, PSF_SIZE // 2] = 1.0
        counts = np.maximum((values - low) / scale, 0.0)
        probe = gaussian_filter(psf, SIGMA)
        return X.copy(data=richardson_lucy(counts, probe, self.iterations, clip=False, filter_epsilon=FILTER_EPSILON))


def pairs_of_columns(separation: float, dose: float, seed: int) -> tuple[xr.DataArray, pd.DataFrame]:
    """Simulate an image of pairs of equal columns at random angles.

    Parameters
    ----------
    separation : float
        Distance of the two columns, in column widths.
    dose : float
        Electrons per pixel at a single column.
    seed : int

    Returns
    -------
    image : DataArray of shape (256, 256)
    columns : DataFrame
        True positions ``y_px, x_px``.
    """
    rng = np.random.default_rng(seed)
    middle = [np.arange(PITCH / 2, n - PITCH / 2 + 1, PITCH) for n in SHAPE]
    center = np.stack(np.meshgrid(*middle, indexing="ij"), axis=-1).reshape(-1, 2) + rng.uniform(-1, 1, 2)
    angle = rng.uniform(0, np.pi, len(center))
    half = 0.5 * separation * SIGMA * np.column_stack([np.sin(angle), np.cos(angle)])
    positions = np.concatenate([center + half, center - half])
    counts = PointwiseNoise.counted(dose, background=BACKGROUND_FRACTION * dose)
    noise = NoiseModel(1.0, 0.0, "haadf", pointwise=counts)
    synthesizer = STEMSynthesizer(shape=SHAPE, noise=noise, random_state=int(rng.integers(2**31)))
    pair = synthesizer.record(columns_at(positions, 1.0, SIGMA)).isel(image=0)
    return pair["noisy"], pd.DataFrame(positions, columns=["y_px", "x_px"])


def separation_table(
    methods: Mapping[str, Method | None],
    *,
    separations: Sequence[float] = SEPARATIONS,
    doses: Sequence[float] = DOSES,
    n: int = 2,
    verbose: bool = True,
) -> pd.DataFrame:
    """F1 of the columns in enhanced images of pairs.

    Columns are the maxima of the image, found the same way for all methods, and matched within a third of the
    separation. Richardson-Lucy deconvolution is included with the number of iterations that has the highest F1 at each
    dose and separation.

    Parameters
    ----------
    methods : mapping of str to estimator
        As in :func:`~stemkit.benchmark.evaluate`.
    separations : sequence of float
        Distances of the pairs, column widths.
    doses : sequence of float
        Electrons per pixel at a single column.
    n : int
        Images of each separation and dose.
    verbose : bool
        Show progress.

    Returns
    -------
    DataFrame
        ``method, dose, separation, image, f1``.
    """
    deconvolutions = {f"Richardson-Lucy, {k}": RichardsonLucy(k) for k in DECONVOLUTION_ITERATIONS}
    rows = []
    for dose in tqdm(doses, desc="separation", disable=not verbose):
        for separation in separations:
            for i in range(n):
                key = np.random.SeedSequence([FIRST_SEED, i, round(100 * separation), round(dose)])
                image, true = pairs_of_columns(separation, dose, int(key.generate_state(1)[0]))
                for name, method in {**methods, **deconvolutions}.items():
                    result = image if method is None else method.fit(image).transform(image)
                    found = scores.image_maxima(np.asarray(result.values), separation * SIGMA)
                    rows.append((name, dose, separation, i, scores.match_tables(found, true, separation * SIGMA).f1))
    table = pd.DataFrame(rows, columns=["method", "dose", "separation", "image", "f1"])
    return _with_best_deconvolution(table, table["method"].isin(list(deconvolutions)))


def _with_best_deconvolution(table: pd.DataFrame, is_deconvolution: pd.Series) -> pd.DataFrame:
    by_case = ["dose", "separation"]
    tried, others = table[is_deconvolution], table[~is_deconvolution]
    best = tried.groupby([*by_case, "method"])["f1"].mean().groupby(by_case).idxmax()
    kept = tried.set_index([*by_case, "method"]).loc[best.tolist()].reset_index()
    return pd.concat([others, kept.assign(method="Richardson-Lucy")], ignore_index=True)
