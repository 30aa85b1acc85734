"""
Compare methods
===============

Which method should an image be enhanced with? It depends on what is asked. Here filters, patches and the network have
the same images before them: a perfect crystal, of physics that none of them knows, and a crystal with vacancies.
"""

# %%
# A multislice image (abTEM) of gallium nitride along [11-20], recorded with five electrons per pixel at its columns.
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
from stemkit.benchmark import TRUTHS, simulated
from stemkit.metrics import psnr

perfect, _ = simulated("gallium_nitride_11-20", "haadf", pixel_size=0.012)
level, contrast = float(perfect.min()), float(np.ptp(perfect.values))
noise = NoiseModel(contrast, level, "haadf", pointwise=PointwiseNoise.counted(5.0, background=0.5))
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
    """A part of each image, on the truth's grey scale."""
    _, axes = plt.subplots(1, len(images), figsize=(2 * len(images), 2.4), layout="constrained")
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
# The calibrated noise is on the image, where the methods that need it find it. A perfect crystal is best served by
# averaging over its own periods: nothing in it is lost, and :class:`~stemkit.PeriodicDenoiser` knows nothing else. The
# network gets by without that knowledge. Kilaas's filters keep the noise in the crystal's own frequencies, all over the
# image.
#
# A vacancy is what does not repeat. Two crystals of the benchmark have some in the fainter sublattice; an empty place
# should stay empty:
vacancies = TRUTHS["vacancies"]
left = {name: [] for name in methods}
for host in ("square", "honeycomb"):
    planted = vacancies.record(5.0, seed=1, host=host)
    noisy = NoiseCalibrator().fit_transform(planted.pair["noisy"])
    shown = {name: method.fit_transform(noisy) for name, method in methods.items()}
    for name, image in shown.items():
        left[name].append(vacancies.judge(planted, image, pd.DataFrame(columns=["y_px", "x_px"]))["contrast left"])
for name, values in left.items():
    print(f"{name:>16}: {np.mean(values):5.2f} of a column's contrast left where there is none")

truth = planted.pair["enhance"]
show({"recorded": noisy, **shown, "truth": truth}, truth, lambda image: "")

# %%
# A filter of the spectrum can't leave a vacancy empty: what is at one place only is spread over all frequencies, which
# it takes for noise.
#
# One crystal decides nothing. :func:`stemkit.benchmark.evaluate` judges any methods on all of the fixed sets and
# planted truths, ``stemkit benchmark`` prints all tables; :doc:`/benchmark` has the last ones. A method of your own
# takes part where it has ``fit`` and ``transform``::
#
#     stemkit benchmark --quick --add my_package:MyDenoiser
