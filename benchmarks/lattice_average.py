"""The average over the translations of a lattice compared with the network: ``python benchmarks/lattice_average.py``.

sets     PSNR on the fixed sets of :mod:`stemkit.benchmark`: the network, and the gain of each variant over it, the mean
         over images with its standard error, and the largest loss
truths   planted vacancies, interstitials, substitutions, shifts, heights and edges, with standard errors
cost     CPU seconds for an image

Variants: ``periodic`` is :class:`~stemkit.PeriodicDenoiser`; ``mean of both`` is the mean of its result and that of the
network; ``translations`` is the network's result averaged over all translations, with its bias corrected; ``tested`` is
the same only where the recorded pixels are consistent with it; ``lattice="auto"`` refits columns that deviate
significantly in addition. The constants of the last two were tuned on other seeds.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import NDArray
from tqdm import tqdm

from stemkit import NoiseCalibrator, PeriodicDenoiser, SFINDenoiser
from stemkit.benchmark import scenes, scores
from stemkit.benchmark.evaluation import FIRST_SEED
from stemkit.benchmark.scenes import SETS
from stemkit.benchmark.simulated import simulated
from stemkit.benchmark.truths import TRUTHS
from stemkit.denoising import lattice_average
from stemkit.images.mode import mode_sign
from stemkit.metrics import psnr
from stemkit.parameters import MODES

DOSES = (3.0, 10.0, 30.0)
#: Electrons per pixel of the contrast, and of the level, in the images for the cost (chosen): a perfect crystal, for
#: which all steps are run.
ELECTRONS = 10.0
SHOWN = {
    ("vacancies", "contrast left"): "vacancy filled",
    ("interstitials", "height shown"): "interstitial shown",
    ("substitutions", "difference shown"): "substitution shown",
    ("shifted columns", "bias"): "shift bias",
    ("spread of heights", "slope of sublattice 1"): "slope of heights",
    ("edge", "invented beyond"): "beyond an edge",
}


@dataclass(frozen=True)
class Given:
    """An image with bright columns in both modes, and the results of two methods."""

    recorded: NDArray
    network: NDArray
    periodic: NDArray


def translations(given: Given) -> NDArray:
    recorded, network = given.recorded.astype(np.float32), given.network.astype(np.float32)
    found = lattice_average.Translations.from_images(recorded, network)
    if found is None:
        return given.network
    noise = lattice_average._Noise.from_residual(recorded - network, network)
    return lattice_average._periodic_estimate(found, noise, recorded, network)


def tested(given: Given) -> NDArray:
    before = lattice_average.CONSTANTS
    lattice_average.CONSTANTS = replace(before, refit=(1e9, 2e9))
    try:
        return combined(given)
    finally:
        lattice_average.CONSTANTS = before


def combined(given: Given) -> NDArray:
    return lattice_average.combine_with_lattice(given.recorded, given.network)


VARIANTS: dict[str, Callable[[Given], NDArray]] = {
    "network": lambda given: given.network,
    "periodic": lambda given: given.periodic,
    "mean of both": lambda given: (given.network + given.periodic) / 2,
    "translations": translations,
    "tested": tested,
    'lattice="auto"': combined,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--images", type=int, help="of each set, and repeats of each truth (default: all, and 2)")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    pd.set_option("display.width", 200)
    print(f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for part in arguments.only:
        print(f"\n{part}")
        print(PARTS[part](arguments.images).to_string(), flush=True)


def sets(n: int | None) -> pd.DataFrame:
    rows = []
    for name in SETS:
        gains = pd.DataFrame([_psnr_of(*case) for case in _images(name, n)])
        rows.append({"variant": "network, dB", "set": name, "value": f"{gains['network'].mean():.2f}"})
        for variant in list(VARIANTS)[1:]:
            gain = gains[variant] - gains["network"]
            value = f"{gain.mean():+.2f} +- {gain.sem():.2f} (least {gain.min():+.1f})"
            rows.append({"variant": variant, "set": name, "value": value})
    return pd.DataFrame(rows).pivot_table("value", "variant", "set", aggfunc="first", sort=False)


def truths(n: int | None) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    names = sorted({name for name, _ in SHOWN})
    cases = list(itertools.product(names, ("square", "honeycomb"), MODES, DOSES, range(n or 2)))
    for name, host, mode, dose, k in tqdm(cases, desc="truths"):
        planted = TRUTHS[name].record(dose, FIRST_SEED + k, host=host, mode=mode)
        noisy, sign = planted.pair["noisy"], mode_sign(mode)
        given = _given(noisy.assign_attrs(mode=mode))
        values = {label: variant(given) for label, variant in VARIANTS.items()}
        true_image = planted.pair["enhance"].values
        rows += [
            {"shows": "PSNR", "dose": dose, "variant": label, "value": psnr(enhanced, sign * true_image)}
            for label, enhanced in values.items()
        ]
        for label, enhanced in values.items():
            image = noisy.copy(data=sign * enhanced).assign_attrs(mode=mode)
            found = scores.image_maxima(image, planted.host.spacing, contrast=1.0, sign=sign)
            for score, value in TRUTHS[name].judge(planted, image * sign, found).items():
                if (name, score) in SHOWN:
                    rows.append({"shows": SHOWN[name, score], "dose": dose, "variant": label, "value": value})
    return _with_errors(pd.DataFrame(rows))


def _with_errors(table: pd.DataFrame) -> pd.DataFrame:
    """Means, and the standard error of the mean difference from the network on the same images."""
    case = table.groupby(["shows", "dose", "variant"], sort=False).cumcount()
    wide = table.assign(case=case).pivot_table("value", ["shows", "dose", "case"], "variant", sort=False)
    errors = wide.sub(wide["network"], axis=0).groupby(["shows", "dose"], sort=False).sem()
    means = wide.groupby(["shows", "dose"], sort=False).mean()
    return means.map("{:+.3f}".format) + errors.map(" ({:.3f})".format)


def cost(n: int | None) -> pd.DataFrame:
    rows = []
    for size in (256, 512, 1024):
        true_image = simulated("gold_110", "abf", shape=(size, size))[0].values
        electrons = ELECTRONS * (true_image - true_image.min()) / np.ptp(true_image) + ELECTRONS
        image = np.random.default_rng(0).poisson(electrons).astype(float)
        row: dict[str, float] = {"px": size}
        for name, lattice in (("network", "off"), ("combined", "auto")):
            denoiser = SFINDenoiser(lattice=lattice, mode="bf").fit(image)
            times = []
            for _ in range(3):
                start = time.process_time()
                denoiser.transform(image)
                times.append(time.process_time() - start)
            row[name] = min(times)
        rows.append(row | {"more": row["combined"] / row["network"] - 1})
    return pd.DataFrame(rows).set_index("px").round(3)


def _images(name: str, n: int | None) -> Iterator[tuple[xr.DataArray, NDArray]]:
    fixed = scenes(name, n)
    for i in tqdm(range(len(fixed)), desc=name):
        pair = fixed.pairs.isel(image=i)
        mode = str(pair["mode"].values) if "mode" in pair.coords else name
        pair = pair.drop_vars(("arrangement", "held_back", "mode"), errors="ignore")
        yield pair["noisy"].assign_attrs(mode=mode), pair["enhance"].values


def _given(noisy: xr.DataArray) -> Given:
    calibrated = NoiseCalibrator().fit_transform(noisy)
    made = [method.fit_transform(calibrated).values.astype(float) for method in (SFINDenoiser(), PeriodicDenoiser())]
    sign = mode_sign(noisy.attrs["mode"])
    return Given(*(sign * image for image in (noisy.values.astype(float), *made)))


def _psnr_of(noisy: xr.DataArray, true_image: NDArray) -> dict[str, float]:
    given = _given(noisy)
    return {
        label: psnr(variant(given), mode_sign(noisy.attrs["mode"]) * true_image) for label, variant in VARIANTS.items()
    }


PARTS = {"sets": sets, "truths": truths, "cost": cost}

if __name__ == "__main__":
    main()
