"""
First steps: from a file to a figure
====================================

This tutorial takes about fifteen minutes and shows all steps of an analysis: a file of
the microscope is opened, its noise is measured, the image is enhanced, and the atomic
columns are measured, to answer a question: **where are selenium atoms missing?**

The file is written first, so that you can run the page as it is: tungsten
diselenide, computed with a multislice simulation (abTEM, frozen phonons), with the
noise of a real scan. The network was not trained on it. If you have a file of your own,
begin at the second step.
"""

# %%
# A file from the microscope
# --------------------------
# One of nine selenium columns of the simulated cell has one atom instead of two. The
# recorded image has twenty electrons per pixel at the brightest column, and rows that
# are displaced by jitter, drift and mains hum. It is written as a TIFF file.

# sphinx_gallery_thumbnail_number = 3
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.pipeline import Pipeline

import stemkit
from stemkit import NoiseModel, PointwiseNoise, ScanNoise
from stemkit.benchmark import simulated

true_image, truth = simulated("tungsten_diselenide", shape=(512, 512), pixel_size=0.012)
microscope = NoiseModel(
    contrast=float(np.ptp(true_image.values)),
    level=float(true_image.min()),
    scan=ScanNoise(
        amplitude=0.03, length=20.0, jitter=0.4, drift=0.4, hum=0.4, hum_period=8.3
    ),
    pointwise=PointwiseNoise.counted(20.0, background=1.0),
)
folder = Path(tempfile.mkdtemp())
stemkit.write(microscope.apply(true_image, random_state=0), folder / "WSe2.tif")

# %%
# Open the file
# -------------
# ``read`` opens files of all common microscopes. An image is an xarray DataArray that
# carries its pixel size: its coordinates are in nm. If your file lacks the pixel size,
# pass ``pixel_size=`` in nm.

image = stemkit.read(folder / "WSe2.tif")
image

# %%
from stemkit.plotting import show_image

show_image(image, title="recorded")
plt.show()

# %%
# Measure the noise
# -----------------
# ``NoiseCalibrator`` separates noise and crystal in the image itself. All later steps
# use the noise model: the enhancement, the weights of the fits, the error bars. Below,
# points are measured and lines are the fitted model.

from stemkit import NoiseCalibrator

calibrator = NoiseCalibrator()
calibrated = calibrator.fit_transform(image)
calibrator.plot()
plt.show()

# %%
# The truth of this file is known: the dose was 20 electrons per pixel, jitter, drift
# and hum were 0.4 px each, with a period of 8.3 rows. Of drift, an image contains only
# few independent values: it is the least certain of these numbers.

noise = calibrator.noise_model_
print(f"dose    {noise.dose:.1f} electrons per pixel at the brightest columns")
print(f"jitter  {noise.scan.jitter:.2f} px, independent from row to row")
print(f"drift   {noise.scan.drift:.2f} px, slow")
print(f"hum     {noise.scan.hum:.2f} px, period {noise.scan.hum_period:.2f} rows")

# %%
# Enhance the image, and measure the columns
# ------------------------------------------
# The steps are scikit-learn estimators. In a pipeline, the network enhances the image,
# the detector finds the columns in the enhanced image and measures them **in the
# recorded one**: intensities of the enhanced image are not used.

from stemkit import AtomDetector, SFINDenoiser

pipeline = Pipeline([("denoise", SFINDenoiser()), ("atoms", AtomDetector())])
enhanced = pipeline[:-1].fit_transform(calibrated)
columns = pipeline[-1].fit_transform(enhanced)
columns[["y", "x", "y_err", "x_err", "amplitude", "amplitude_err", "quality"]].head()

# %%
# Positions are in nm, with their errors; ``quality`` holds flags. ``good_columns``
# selects those whose numbers can be used with their errors: here, columns at the border
# are left out.

from stemkit.detection import good_columns
from stemkit.plotting import show_columns

good = good_columns(columns)
print(f"{len(columns)} columns, {len(good)} of them good")
part = {"y": slice(150, 350), "x": slice(150, 350)}
figure, axes = plt.subplots(1, 3, figsize=(12, 4.3), layout="constrained")
show_image(image.isel(part), axes[0], "recorded")
show_image(enhanced.isel(part), axes[1], "enhanced")
show_columns(
    image.isel(part), columns, axes[2], "columns measured in the recorded pixels"
)
plt.show()

# %%
# Are the errors correct?
# -----------------------
# The deviation of a position from the true one, divided by its stated error, must have
# a standard deviation of 1. In four configurations of frozen phonons, atoms are up to
# some pm from their mean positions; the true position is where the true image has the
# column. Rows of a scan move together: this part of the error is in ``x_jitter`` and
# ``y_jitter``, since the columns of the same rows share it.

from stemkit.metrics import match_columns

nearly_noise_free = NoiseModel(
    microscope.contrast, microscope.level, pointwise=PointwiseNoise(readout=0.002)
)
true = AtomDetector().fit_transform(nearly_noise_free.apply(true_image, random_state=1))
match = match_columns(good[["y", "x"]], true[["y", "x"]], radius=0.05)
for axis in ("y", "x"):
    found = good.iloc[match.found]
    deviation = found[axis].to_numpy() - true[axis].to_numpy()[match.true]
    stated = np.hypot(found[f"{axis}_err"], found[f"{axis}_jitter"]).to_numpy()
    print(
        f"{axis}: RMS {1e3 * deviation.std():.1f} pm, "
        f"stated {1e3 * stated.mean():.1f} pm, ratio {np.std(deviation / stated):.2f}"
    )

# %%
# Missing atoms
# -------------
# The lattice is fitted to the table. Atoms are missing in columns that are weaker than
# the neighbouring ones at the same site; the significance of the difference is stated.

from stemkit.structure import fit_lattice, weak_columns

lattice = fit_lattice(good)
print(lattice)
weak = weak_columns(good, lattice, significance=5)
weak[["y", "x", "occupancy", "occupancy_err", "significance"]].head(8)

# %%
ax = show_image(enhanced)
ax.scatter(
    weak["x"] / image.stem.pixel_size,
    weak["y"] / image.stem.pixel_size,
    s=160,
    facecolors="none",
    edgecolors="#ff2020",
    linewidths=1.6,
)
ax.set_title(f"{len(weak)} columns with missing atoms")
plt.show()

# %%
# How many are there really, and were they found?

selenium = truth[truth["weight"] < 0.9 * truth["weight"].max()]
single = selenium[selenium["weight"] < 0.75 * selenium["weight"].max()]
inside = single[
    (single[["y", "x"]].min(axis=1) > good[["y", "x"]].min().min())
    & (single[["y", "x"]].max(axis=1) < good[["y", "x"]].max().max())
]
hit = match_columns(weak[["y", "x"]], inside[["y", "x"]], radius=0.05)
print(f"{len(inside)} in this part of the crystal, {len(hit.found)} of them found,")
print(f"{len(weak) - len(hit.found)} false ones")

# %%
# Save the results
# ----------------
# The table can be exported to CSV, Parquet, ASE, OVITO, HyperSpy or napari. The
# enhanced image is saved with the recorded pixels, so that it can be measured again.

from stemkit.detection.exports import write_columns

write_columns(columns, folder / "WSe2_columns.csv")
stemkit.write(enhanced, folder / "WSe2_enhanced.nc")
sorted(path.name for path in folder.iterdir())

# %%
# The same from the command line, for a whole folder::
#
#     stemkit detect folder/ -o out/ --figure --lattice
#     stemkit report folder/ -o out/
#
# From here: the :doc:`how-to guides </how_to>` for single questions,
# :doc:`/measuring` for what the errors contain, and
# :doc:`plot_when_not_to_trust` for when an enhanced image misleads.
