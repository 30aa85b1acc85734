"""Residuals of enhanced images: ``python benchmarks/residuals.py FOLDER -o FIGURES``.

For each image of a folder, a figure of the recorded image, the enhanced image and the residual, which should contain no
lattice, and a line of a table:

contrast kept   slope of the recorded on the enhanced intensities, both without slow variation: 1 if the residual does
                not correlate with the specimen, above 1 if contrast was removed
lattice left    autocorrelation of the residual at the lattice vectors of the image, as a fraction of its variance
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, shift

import stemkit
from stemkit import SFINDenoiser
from stemkit.io.reading import READABLE
from stemkit.periodicity import find_periodicity
from stemkit.plotting import show_image

#: Sigma of the Gaussian filter that defines slow variation, px (chosen).
SLOW = 30.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("residuals"))
    parser.add_argument("--weights", default="auto")
    arguments = parser.parse_args()
    mpl.use("agg")
    arguments.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for path in sorted(p for p in arguments.folder.iterdir() if p.suffix in READABLE):
        image = stemkit.read(path)
        image = image[0] if image.ndim == 3 else image
        start = time.perf_counter()
        enhanced = SFINDenoiser(weights=arguments.weights).fit_transform(image)
        rows.append({"file": path.name, **judged(image, enhanced), "s": time.perf_counter() - start})
        figure(image, enhanced).savefig(arguments.output / f"{path.stem}.png", dpi=70)
        plt.close("all")
    print(pd.DataFrame(rows).round(3).to_string(index=False))


def judged(image: xr.DataArray, enhanced: xr.DataArray) -> dict[str, float]:
    recorded, shown = _fast(image.values), _fast(enhanced.values)
    rest = recorded - shown
    vectors = find_periodicity(image.values).vectors
    left = float("nan")
    if vectors is not None:
        left = max(float((rest * shift(rest, v, mode="wrap", order=3)).mean() / rest.var()) for v in vectors)
    return {"contrast kept": float((recorded * shown).sum() / (shown**2).sum()), "lattice left": left}


def figure(image: xr.DataArray, enhanced: xr.DataArray) -> plt.Figure:
    drawn, axes = plt.subplots(1, 3, figsize=(30, 10.6), layout="constrained")
    show_image(image, axes[0], "recorded")
    show_image(enhanced, axes[1], "enhanced")
    show_image(image.values.astype(float) - enhanced.values, axes[2], "recorded - enhanced")
    return drawn


def _fast(values: NDArray) -> NDArray:
    values = np.asarray(values, dtype=float)
    return values - gaussian_filter(values, SLOW, mode="reflect")


if __name__ == "__main__":
    main()
