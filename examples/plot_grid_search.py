"""
Choosing a network with a grid search
=====================================

The estimators of stemkit follow scikit-learn's interface, so that its tools can be
used: here :class:`~sklearn.model_selection.GridSearchCV` over the architecture of a
network that is trained from scratch.

The search is small so that this page builds fast: small images, small networks, few
training steps. It shows how a search is done, not how good a network can become.
"""

# %%
# Training pairs
# --------------
# Each image is one sample of the cross-validation. ``noisy`` and ``enhance`` are stacks
# of one length.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.model_selection import GridSearchCV

from stemkit import SFINDenoiser, STEMSynthesizer
from stemkit.metrics import psnr
from stemkit.plotting import show_image

synthesizer = STEMSynthesizer(
    shape=(64, 64),
    arrangements=("lattice",),
    spacing=(0.08, 0.14),
    pixel_size=0.01,
    random_state=3,
)
pairs = synthesizer.sample(24)
# such small images may show vacuum only: an image without contrast has no PSNR
pairs = pairs.isel(image=(np.ptp(pairs["enhance"].values, axis=(1, 2)) > 0.5))
X, y = pairs["noisy"][:12], pairs["enhance"][:12]
X_test, y_test = pairs["noisy"][12:], pairs["enhance"][12:]
print(len(X), "images for the search,", len(X_test), "test images")

# %%
# The search
# ----------
# ``weights=None`` starts from random weights, and pairs as ``fit(X, y)`` train on them.
# The score is the mean PSNR in dB of the enhanced images against their true images,
# over the images that a fold leaves out.

denoiser = SFINDenoiser(
    weights=None,
    max_epochs=3,
    batches_per_epoch=40,
    batch_size=4,
    crop_size=64,
    device="cpu",
    random_state=0,
)
search = GridSearchCV(denoiser, {"width": [8, 16], "n_blocks": [1, 2]}, cv=2)
search.fit(X, y)

table = pd.DataFrame(search.cv_results_)[
    [
        "param_width",
        "param_n_blocks",
        "mean_test_score",
        "std_test_score",
        "mean_fit_time",
    ]
]
print(table.round(2).to_string(index=False))

# %%
# The best combination is trained once more on all pairs of the search. The test images
# were not used in it.

before = np.mean(
    [
        psnr(image, truth)
        for image, truth in zip(X_test.values, y_test.values, strict=True)
    ]
)
print(search.best_params_)
print(
    f"PSNR on the test images: {before:.1f} dB recorded, "
    f"{search.score(X_test, y_test):.1f} dB enhanced"
)

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
# A real search has the same form, with larger images, ``max_epochs`` and
# ``batches_per_epoch`` in the hundreds, and a GPU, which ``device="auto"`` uses if
# there is one. Other parameters to search are ``lr`` and ``loss``.
