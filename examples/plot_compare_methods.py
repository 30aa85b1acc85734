"""
Compare methods
===============

Filters, non-local means, the periodic average and the network are applied to the same
images: a simulated perfect crystal, and crystals with vacancies.
"""

# %%
# A multislice image (abTEM) of gallium nitride along [11-20], recorded with five
# electrons per pixel at its columns.
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from stemkit import (
    ABSFDenoiser,
    NLMDenoiser,
    NoiseCalibrator,
    NoiseModel,
    PeriodicDenoiser,
    PointwiseNoise,
    SFINDenoiser,
    WienerDenoiser,
)
from stemkit.benchmark import simulated
from stemkit.benchmark.truths import TRUTHS
from stemkit.metrics import psnr

perfect, _ = simulated("gallium_nitride_11-20", "haadf", pixel_size=0.012)
level, contrast = float(perfect.min()), float(np.ptp(perfect.values))
noise = NoiseModel(
    contrast, level, "haadf", pointwise=PointwiseNoise.counted(5.0, background=0.5)
)
recorded = NoiseCalibrator().fit_transform(noise.apply(perfect, random_state=0))

methods = {
    "ABSF": ABSFDenoiser(),
    "Wiener": WienerDenoiser(),
    "non-local means": NLMDenoiser(),
    "periodic": PeriodicDenoiser(),
    "SFIN": SFINDenoiser(),
}
enhanced = {name: method.fit_transform(recorded) for name, method in methods.items()}


def show(images, truth, title):
    """Show a part of each image, on the grey scale of the true image."""
    _, axes = plt.subplots(
        1, len(images), figsize=(2 * len(images), 2.4), layout="constrained"
    )
    low, high = float(truth.min()), float(truth.max())
    for ax, (name, image) in zip(axes, images.items(), strict=True):
        ax.imshow(np.asarray(image)[64:160, 64:160], cmap="gray", vmin=low, vmax=high)
        ax.set(title=f"{name}\n{title(image)}", xticks=[], yticks=[])


show(
    {"recorded": recorded, **enhanced, "truth": perfect},
    perfect,
    lambda image: "" if image is perfect else f"{psnr(image, perfect):.1f} dB",
)

# %%
# The calibrated noise is stored in the attributes of the image, where methods that need
# it find it. For a perfect crystal, the average over its periods is best, since
# everything in it repeats; this is what :class:`~stemkit.PeriodicDenoiser` presupposes.
# The network does not. Kilaas's filters (ABSF and Wiener) keep the noise at the
# frequencies of the crystal, everywhere in the image.
#
# A vacancy does not repeat. Two crystals of the benchmark have vacancies in the fainter
# sublattice, which should stay empty:
vacancies = TRUTHS["vacancies"]
left = {name: [] for name in methods}
for host in ("square", "honeycomb"):
    planted = vacancies.record(5.0, seed=1, host=host)
    noisy = NoiseCalibrator().fit_transform(planted.pair["noisy"])
    shown = {name: method.fit_transform(noisy) for name, method in methods.items()}
    for name, image in shown.items():
        no_columns = pd.DataFrame(columns=["y_px", "x_px"])
        scores = vacancies.judge(planted, image, no_columns)
        left[name].append(scores["contrast left"])
for name, values in left.items():
    print(f"{name:>16}: contrast at vacancies {np.mean(values):5.2f} (correct: 0)")

truth = planted.pair["enhance"]
show({"recorded": noisy, **shown, "truth": truth}, truth, lambda image: "")

# %%
# A filter of the spectrum fills vacancies: a structure at a single position is spread
# over all frequencies, where the filter treats it as noise.
#
# A single crystal is not sufficient for a comparison.
# :func:`stemkit.benchmark.evaluate` scores any methods on all fixed sets and planted
# structures, and ``stemkit benchmark`` prints all tables (:doc:`/benchmark`). A method
# of your own needs ``fit`` and ``transform``::
#
#     stemkit benchmark --quick --add my_package:MyDenoiser
