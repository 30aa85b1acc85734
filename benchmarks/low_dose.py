"""Detection of columns at low doses: ``python benchmarks/low_dose.py [--images N]``.

F1 of the maxima of the shipped network, and of the detector's table, on lattices whose brightest columns have 1 to 300
electrons per pixel (matched within a third of the spacing, columns at least 5 px from the border). ``error`` is the
robust RMS error per axis of the network's positions in column widths. ``good`` is the number of columns without a flag,
``pull`` the robust standard deviation of their position errors relative to the stated ones, ``rms pull`` the ordinary
one and ``above 4`` the fraction of coordinates that are wrong by more than four stated errors; ``guided`` and ``guided
pull`` are those of the guided columns.
"""

from __future__ import annotations

import argparse
import math
import warnings

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stemkit import AtomDetector, NoiseCalibrator, NoiseModel, PointwiseNoise, SFINDenoiser, STEMSynthesizer
from stemkit.detection import Quality
from stemkit.detection.candidates import network_candidates
from stemkit.detection.normalized_image import NormalizedImage
from stemkit.metrics import match_columns
from stemkit.statistics import median_spacing

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
    means = pd.DataFrame([scores for scores, _ in figures]).mean().to_dict()
    pulls = pd.concat([pull for _, pull in figures])
    is_guided = pulls["quality"].to_numpy() & Quality.GUIDED > 0
    of_good, of_guided = (pull_figures(pulls[k]) for k in (pulls["quality"].to_numpy() == 0, is_guided))
    return (
        {"dose": dose, **means}
        | dict(zip(("good", "pull", "rms pull", "above 4"), of_good, strict=True))
        | {"guided": of_guided[0], "guided pull": of_guided[1]}
    )


def pull_figures(pulls: pd.DataFrame) -> tuple[int, float, float, float]:
    """Number of columns, robust and ordinary standard deviation of their pulls, and the fraction above 4 in size."""
    values = pulls[["y", "x"]].to_numpy().ravel()
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return 0, math.nan, math.nan, math.nan
    return (
        len(pulls),
        NORMAL * float(np.median(np.abs(values))),
        float(values.std()),
        float((np.abs(values) > 4).mean()),
    )


def one(image, truth: pd.DataFrame) -> tuple[dict[str, float], pd.DataFrame]:
    true = truth[["y_px", "x_px"]].to_numpy()
    spacing = median_spacing(true)
    enhanced = SFINDenoiser(mode="haadf").fit_transform(NoiseCalibrator().fit_transform(image))
    detector = AtomDetector().fit(enhanced)
    table = detector.transform(enhanced)
    width = detector.width_ / image.stem.pixel_size
    shown = network_candidates(NormalizedImage.from_image(enhanced, None), spacing, width)
    assert shown is not None
    found = table[["y_px", "x_px"]].to_numpy()
    maxima = score(shown.positions, true, spacing / 3)
    ours = score(found, true, spacing / 3)
    index, partner = matched_inside(found, true, spacing / 3)
    pulls = (found[index] - true[partner]) / table[["y_px_err", "x_px_err"]].to_numpy()[index]
    of_network, of_true = matched_inside(shown.positions, true, spacing / 3)
    error = NORMAL * float(np.median(np.abs(shown.positions[of_network] - true[of_true]))) / width
    scores = {"maxima": maxima[2], "table": ours[2], "precision": ours[0], "recall": ours[1], "error": error}
    quality = table["quality"].to_numpy()[index]
    return scores, pd.DataFrame({"quality": quality, "y": pulls[:, 0], "x": pulls[:, 1]})


def score(found: NDArray, true: NDArray, radius: float) -> tuple[float, float, float]:
    """Precision, recall and F1 of the columns that are away from the border; their partners may be nearer to it."""
    match = match_columns(found, true, radius)
    is_found, is_true = np.zeros(len(found), dtype=bool), np.zeros(len(true), dtype=bool)
    is_found[match.found] = is_true[match.true] = True
    precision, recall = is_found[is_inside(found)].mean(), is_true[is_inside(true)].mean()
    return float(precision), float(recall), float(2 * precision * recall / (precision + recall))


def matched_inside(found: NDArray, true: NDArray, radius: float) -> tuple[NDArray, NDArray]:
    """Numbers of matched columns away from the border, and of their partners."""
    match = match_columns(found, true, radius)
    inside = is_inside(true[match.true])
    return np.asarray(match.found)[inside], np.asarray(match.true)[inside]


def is_inside(places: NDArray) -> NDArray[np.bool_]:
    return ((places > BORDER) & (places < SIZE - 1 - BORDER)).all(axis=1)


if __name__ == "__main__":
    main()
