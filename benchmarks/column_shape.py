"""Synthetic columns compared with multislice simulations: ``python benchmarks/column_shape.py``.

The simulated crystals of ``stemkit.benchmark`` are fitted, without noise, with the columns of the synthesis: round
Gaussians on a constant (``one``), and each with a second, wider one (``two``). The misfit is the RMS of the residual
relative to the standard deviation of the image. Heights of the kinds of columns are relative to the highest, as is the
sum of ``Z**1.7`` along the column; widths are in pm, and relative to that of the highest.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize

from stemkit.benchmark import simulated
from stemkit.benchmark.simulated import SIMULATED

#: Pixel size, nm (chosen).
PIXEL_SIZE = 0.02
SHAPE = (96, 96)
#: Pixels next to the border that are left out (chosen).
MARGIN = 12
#: First value of the column width, nm (chosen).
FIRST_WIDTH = 0.045
#: Least ratio of the widths of the second and the first Gaussian (chosen).
LEAST_RATIO = 1.3


def main() -> None:
    rows = []
    for name in SIMULATED:
        for signal in ("haadf", "abf", "bf"):
            image, columns = simulated(name, signal, shape=SHAPE, pixel_size=PIXEL_SIZE)
            values = image.values if signal == "haadf" else -image.values
            rows += figures(name, signal, values, columns)
    with pd.option_context("display.width", 200, "display.max_rows", None):
        print(pd.DataFrame(rows).to_string(index=False, float_format="{:.3g}".format, na_rep="-"))


def figures(name: str, signal: str, values: NDArray, columns: pd.DataFrame) -> list[dict[str, object]]:
    positions = columns[["y_px", "x_px"]].to_numpy()
    kind = columns["weight"].round(0).rank(method="dense", ascending=False).astype(int).to_numpy() - 1
    weight = columns.groupby(kind)["weight"].first().to_numpy()
    one, heights, widths = fitted(values, positions, kind, tails=False)
    two, *_ = fitted(values, positions, kind, tails=True)
    highest = int(np.argmax(np.abs(heights)))
    return [
        {
            "crystal": name if k == 0 else "",
            "signal": signal if k == 0 else "",
            "misfit one %": 100 * one if k == 0 else np.nan,
            "misfit two %": 100 * two if k == 0 else np.nan,
            "kind": k,
            "height": heights[k] / abs(heights[highest]),
            "Z^1.7": weight[k] / weight[highest],
            "sigma pm": 1e3 * PIXEL_SIZE * widths[k],
            "relative width": widths[k] / widths[highest],
        }
        for k in range(len(weight))
    ]


def fitted(values: NDArray, positions: NDArray, kind: NDArray, *, tails: bool) -> tuple[float, NDArray, NDArray]:
    """Misfit, heights and widths of each kind of column: a search over the widths, linear in the heights."""
    y, x = (np.arange(n) for n in values.shape)
    kinds = range(kind.max() + 1)
    inner = tuple(slice(MARGIN, n - MARGIN) for n in values.shape)

    def drawn(sigma: float, k: int) -> NDArray:
        ours = positions[kind == k]
        along_y, along_x = (np.exp(-0.5 * ((p - c[:, None]) / sigma) ** 2) for p, c in zip((y, x), ours.T, strict=True))
        return along_y.T @ along_x

    def solve(logs: NDArray) -> tuple[float, NDArray]:
        sigmas = np.exp(logs[: len(kinds)])
        parts = [drawn(sigmas[k], k) for k in kinds]
        if tails:
            parts += [drawn(sigmas[k] * (LEAST_RATIO + np.exp(logs[-1])), k) for k in kinds]
        design = np.stack([part[inner].ravel() for part in parts] + [np.ones(values[inner].size)], axis=1)
        found, *_ = np.linalg.lstsq(design, values[inner].ravel(), rcond=None)
        rest = values[inner].ravel() - design @ found
        return float(rest.std() / values[inner].std()), found

    start = np.append(np.full(len(kinds), np.log(FIRST_WIDTH / PIXEL_SIZE)), [0.0] * tails)
    best = optimize.minimize(lambda p: solve(p)[0], start, method="Nelder-Mead", options={"maxiter": 400})
    misfit, found = solve(best.x)
    return misfit, found[: len(kinds)], np.exp(best.x[: len(kinds)])


if __name__ == "__main__":
    main()
