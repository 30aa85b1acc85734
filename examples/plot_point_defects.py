"""
Point defects
=============

Vacancies, lighter and heavier atoms, adatoms and interstitials are single sites of a
crystal that differ from the others. In an image with thousands of sites noise alone
makes some of them look different, so that the number of sites has to be accounted for.
And what is not found may be absent, or not visible at this dose: that is the detection
limit.
"""

# %%
# A sheet with four kinds of defects
# ----------------------------------
# A honeycomb of bright and dim columns, such as MoS2 in plan view. Some bright columns
# are lighter atoms (as vanadium for molybdenum), some dim columns lack one of two
# atoms, or both, some have an additional atom, and a few atoms are between the columns.

# sphinx_gallery_thumbnail_number = 1
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import stemkit
from stemkit import AtomDetector, NoiseCalibrator, NoiseModel, PointwiseNoise
from stemkit.metrics import match_columns
from stemkit.plotting import show_defects, show_detection_limit, show_image
from stemkit.structure import fit_lattice, point_defects

size, pixel_size, width, constant = 320, 0.0125, 0.045, 0.316  # px, nm, nm, nm
changes = {
    "lighter atom": 0.45,
    "one of two atoms": 0.5,
    "both atoms": 0.0,
    "additional atom": 1.6,
}
rng = np.random.default_rng(3)

cell = np.mgrid[-20:21, -20:21].reshape(2, -1).T
middle = size / 2 * pixel_size
bright = cell @ [[constant * np.sqrt(3) / 2, constant / 2], [0, constant]] + middle
dim = np.add(bright, [constant / np.sqrt(3), 0])
true = pd.DataFrame(np.concatenate([bright, dim]), columns=["y", "x"])
true["amplitude"] = np.repeat([1000.0, 420.0], len(cell))
true["change"] = ""
extent = size * pixel_size
inside = ((true[["y", "x"]] > 0.5) & (true[["y", "x"]] < extent - 0.5)).all(axis=1)
is_bright = true["amplitude"] == 1000
for name, factor in changes.items():
    kind = is_bright == (name == "lighter atom")
    possible = true.index[inside & (true["change"] == "") & kind]
    chosen = rng.choice(possible, 4, replace=False)
    true.loc[chosen, "amplitude"] *= factor
    true.loc[chosen, "change"] = name
between = true[inside & is_bright].sample(3, random_state=1)[["y", "x"]]
between = (between - [constant / np.sqrt(3), 0]).assign(amplitude=500.0)
true = pd.concat([true, between.assign(change="atom between")], ignore_index=True)
near = ((true[["y", "x"]] > -0.2) & (true[["y", "x"]] < extent + 0.2)).all(axis=1)
true = true[near].reset_index(drop=True)

pixel = np.arange(size) * pixel_size
along_y, along_x = (
    np.exp(-0.5 * ((pixel - true[[d]].to_numpy()) / width) ** 2) for d in ("y", "x")
)
true_image = 100.0 + (along_y * true[["amplitude"]].to_numpy()).T @ along_x
noise = NoiseModel(
    contrast=1000.0, level=100.0, pointwise=PointwiseNoise.counted(8.0, background=2.0)
)
recorded = noise.apply(
    stemkit.calibrated(true_image, pixel_size=pixel_size), random_state=4
)

# %%
# All sites are tested
# --------------------
# :func:`~stemkit.structure.point_defects` compares each column with the neighbours of
# its sublattice, measures the brightness at sites without a column, and tests the
# columns that are on no site. ``q_value`` is adjusted for the number of tests: among
# all defects that are listed, one in twenty is false at most, on average.

image = NoiseCalibrator().fit_transform(recorded)
detector = AtomDetector()
columns = detector.fit_transform(image)
lattice = fit_lattice(columns)
result = point_defects(columns, lattice, image, detector)
print(result)

fig, axes = plt.subplots(1, 2, figsize=(12, 6), layout="constrained")
show_image(recorded, axes[0], "recorded")
show_defects(recorded, result.defects, axes[1], "point defects")

# %%
# ``fraction`` is the brightness divided by the expected one, ``probability`` that of a
# defect. The last column is the truth, which a recorded image does not have.

defects = result.defects.copy()
match = match_columns(defects[["y", "x"]], true[["y", "x"]], 0.06)
defects.loc[match.found, "truth"] = true["change"].to_numpy()[match.true]
defects[
    ["kind", "y", "x", "fraction", "significance", "q_value", "probability", "truth"]
].round(3)

# %%
# Kinds are what the image shows. A weak column may be a lighter atom or a column with a
# missing atom, a strong one a heavier atom or an adatom on it: the image does not
# distinguish them if their brightness is the same.
#
# What the image could have shown
# -------------------------------
# ``detectable`` is the smallest change of the brightness that is found with a
# probability of 90 %, as a fraction of the brightness. A missing atom of the dim
# columns is a change by 50 %. At most of these columns that is below the limit: it may
# be found, but where the list does not have it, it may still be there.

fig, axes = plt.subplots(
    1, 2, figsize=(12, 5.4), layout="constrained", width_ratios=(1.15, 1)
)
show_detection_limit(recorded, result.columns, axes[0], "detection limit")
of_site = result.columns.assign(site=lattice.site).query("site >= 0")
for site, name in ((0, "bright columns"), (1, "dim columns")):
    axes[1].hist(
        100 * of_site.loc[of_site["site"] == site, "detectable"],
        np.arange(0, 100, 2),
        label=name,
        alpha=0.8,
    )
axes[1].axvline(50, color="k", linestyle="--", linewidth=1, label="one of two atoms")
axes[1].set(xlabel="smallest change that is found (%)", ylabel="columns")
axes[1].legend(frameon=False)

# %%
# How many of each kind are in the list:

changed = true[true["change"] != ""]
is_found = changed.index.isin(match.true)
changed.assign(found=is_found).groupby("change")["found"].agg(["sum", "count"])
