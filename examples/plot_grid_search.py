"""
Choosing a method with a grid search
====================================

The estimators of stemkit follow the rules of scikit-learn, so that its tools apply:
here :class:`~sklearn.model_selection.GridSearchCV` over the denoiser of a pipeline,
judged by the columns that are found with it, and over the architecture of a network
that is trained from scratch.

The searches are tiny so that this page builds in a minute: small images, small
networks, few steps of training. They show how a search is done, not how good a method
is.
"""

# %%
# Images with their truth
# -----------------------
# Each image is one sample of the cross-validation. ``noisy`` and ``enhance`` are stacks
# of one length, ``tables`` is a list of tables with the true columns of each image.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline

from stemkit import (
    AtomDetector,
    NLMDenoiser,
    NoiseCalibrator,
    SFINDenoiser,
    STEMSynthesizer,
    WienerDenoiser,
)
from stemkit.metrics import psnr
from stemkit.plotting import show_image

synthesizer = STEMSynthesizer(
    shape=(64, 64),
    arrangements=("lattice",),
    spacing=(0.08, 0.14),
    pixel_size=0.01,
    random_state=3,
)
pairs, true_columns = synthesizer.sample(24, return_columns=True)
# a small frame may contain only the vacuum next to an island: an image without
# contrast has no PSNR
shown = np.flatnonzero(np.ptp(pairs["enhance"].values, axis=(1, 2)) > 0.5)
pairs, tables = (
    pairs.isel(image=shown),
    [true_columns[true_columns["image"] == i] for i in shown],
)
X, y = pairs["noisy"][:12], pairs["enhance"][:12]
X_test, y_test = pairs["noisy"][12:], pairs["enhance"][12:]
print(len(X), "images to search with,", len(X_test), "left aside")

# %%
# The denoiser of a pipeline
# --------------------------
# The score of a pipeline is that of its last step: the F1 of the columns that
# :class:`~stemkit.AtomDetector` finds, matched with the true ones within a third of the
# spacing. The other steps ignore these ``y``; the weights that ship are used as they
# are. ``"passthrough"`` finds columns in the recorded image alone.

pipeline = Pipeline(
    [
        ("noise", NoiseCalibrator()),
        ("denoise", SFINDenoiser()),
        ("atoms", AtomDetector()),
    ]
)
methods = {
    "SFIN": SFINDenoiser(),
    "Wiener": WienerDenoiser(),
    "NLM": NLMDenoiser(),
    "none": "passthrough",
}
comparison = GridSearchCV(pipeline, {"denoise": list(methods.values())}, cv=2)
comparison.fit(X[:6], tables[:6])

scores = pd.DataFrame(comparison.cv_results_)[
    ["mean_test_score", "std_test_score", "mean_score_time"]
]
print(scores.set_axis(list(methods)).round(2).to_string())

# %%
# The pipeline with the best denoiser is fitted once more, on all images of the search,
# and cross-validated on others.

print(
    cross_val_score(comparison.best_estimator_, X_test[:4], tables[12:16], cv=2).round(
        2
    )
)

# %%
# The architecture of a network
# -----------------------------
# ``weights=None`` starts from random weights, and ``fit(X, y)`` with true images as
# ``y`` trains on these pairs. The score is the mean PSNR in dB of the enhanced images,
# each against its own truth, over the images that a fold leaves out.

denoiser = SFINDenoiser(
    weights=None,
    max_epochs=3,
    batches_per_epoch=40,
    batch_size=4,
    crop_size=64,
    device="cpu",
    random_state=0,
)
search = GridSearchCV(denoiser, {"n_channels": [8, 16], "n_blocks": [1, 2]}, cv=2)
search.fit(X, y)

table = pd.DataFrame(search.cv_results_)[
    [
        "param_n_channels",
        "param_n_blocks",
        "mean_test_score",
        "std_test_score",
        "mean_fit_time",
    ]
]
print(table.round(2).to_string(index=False))

# %%
# The best combination is trained once more, on all of the pairs of the search. The
# images left aside took no part in any of it.

before = np.mean(
    [
        psnr(image, truth)
        for image, truth in zip(X_test.values, y_test.values, strict=True)
    ]
)
print(search.best_params_)
after = search.score(X_test, y_test)
print(f"PSNR on the test images: {before:.1f} dB recorded, {after:.1f} dB enhanced")

# %%
enhanced = search.best_estimator_.transform(X_test)
fig, axes = plt.subplots(1, 3, figsize=(10, 3.65), layout="constrained")
for ax, (title, stack) in zip(
    axes,
    {"recorded": X_test, "enhanced": enhanced, "truth": y_test}.items(),
    strict=True,
):
    show_image(stack[0], ax, title)

# %%
# A search in earnest has the same form, with larger images, ``max_epochs`` and
# ``batches_per_epoch`` in the hundreds, and a GPU, which ``device="auto"`` takes where
# there is one. Other parameters worth a search are ``lr`` and ``loss``.
