"""Detection of columns at low doses: ``python benchmarks/low_dose.py [--images N]``.

F1 of the maxima of the shipped network, and of the detector's table, on lattices whose brightest columns have 1 to 300
electrons per pixel (matched within a third of the spacing, columns at least 5 px from the border). ``error`` is the
robust RMS error per axis of the network's positions in column widths; ``pull`` is the robust standard deviation of the
table's position errors relative to the stated ones, ``rms pull`` the ordinary one, which outliers dominate.
"""

from __future__ import annotations

import argparse
import math
import warnings

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stemkit import AtomDetector, NoiseCalibrator, NoiseModel, PointwiseNoise, SFINDenoiser, STEMSynthesizer
from stemkit.columns import nearest_distances
from stemkit.detection.candidates import network_candidates
from stemkit.detection.normalized_image import NormalizedImage
from stemkit.metrics import match_columns

DOSES = (1, 2, 3, 5, 10, 30, 100, 300)
#: Edge of the images, px (chosen).
SIZE = 256
#: Columns closer than this to the border, px, are left out (chosen).
BORDER = 5
#: Electrons per pixel without a column (chosen).
DARK = 0.3
#: Ratio of standard deviation and median absolute value of a normal distribution of mean 0 (derived).
NORMAL = 1.4826


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print(pd.DataFrame([row(dose, arguments.images) for dose in DOSES]).round(3).to_string(index=False))


def row(dose: float, n: int) -> dict[str, float]:
    counted = PointwiseNoise(math.sqrt(DARK / dose), 1 / dose, kind="poisson")
    noise = NoiseModel(contrast=1.0, level=0.0, mode="haadf", pointwise=counted)
    synthesizer = STEMSynthesizer(
        mode="haadf", arrangements=("lattice",), noise=noise, shape=(SIZE, SIZE), random_state=7
    )
    pairs, columns = synthesizer.sample(n, return_columns=True)
    figures = [one(pairs["noisy"][i], columns[columns["image"] == i]) for i in range(n)]
    pulls = np.concatenate([pull for _, pull in figures])
    means = pd.DataFrame([scores for scores, _ in figures]).mean().to_dict()
    return {"dose": dose, **means, "pull": NORMAL * float(np.median(np.abs(pulls))), "rms pull": float(pulls.std())}


def one(image, truth: pd.DataFrame) -> tuple[dict[str, float], NDArray]:
    true = truth[["y_px", "x_px"]].to_numpy()
    spacing = float(np.median(nearest_distances(true)))
    enhanced = SFINDenoiser(mode="haadf").fit_transform(NoiseCalibrator().fit_transform(image))
    detector = AtomDetector().fit(enhanced)
    table = detector.transform(enhanced)
    width = detector.width_ / image.stem.pixel_size
    shown = network_candidates(NormalizedImage.from_image(enhanced, None), spacing, width)
    assert shown is not None
    true, maxima = inside(true), inside(shown.positions)
    table = table[is_inside(table[["y_px", "x_px"]].to_numpy())]
    of_network = match_columns(maxima, true, spacing / 3)
    match = match_columns(table[["y_px", "x_px"]], true, spacing / 3)
    found = table.iloc[match.found]
    off = found[["y_px", "x_px"]].to_numpy() - true[match.true]
    pulls = (off / found[["y_px_err", "x_px_err"]].to_numpy()).ravel()
    error = np.abs(maxima[of_network.found] - true[of_network.true]) / width
    scores = {"maxima": of_network.f1, "table": match.f1, "precision": match.precision, "recall": match.recall}
    return scores | {"error": NORMAL * float(np.median(error))}, pulls[np.isfinite(pulls)]


def is_inside(places: NDArray) -> NDArray[np.bool_]:
    return ((places > BORDER) & (places < SIZE - 1 - BORDER)).all(axis=1)


def inside(places: NDArray) -> NDArray:
    return places[is_inside(places)]


if __name__ == "__main__":
    main()
