"""
Positions with error bars
=========================

Where is a column, and how well is that known? A crystal of close pairs is recorded with few electrons, its columns are
measured, and what the error bars promise is held against the truth. Then come the flags, the residual, and the ways
out to other programs.
"""

# %%
# A crystal of dumbbells
# ----------------------
# A semiconductor like InAs along [110]: pairs of a bright and a dimmer column, 0.15 nm apart and wide enough to
# overlap. Each column stands a few picometres off its ideal place. Six faint ones are planted in the open channels, and
# one foreign column so near to another that there is no dip between the two.

# sphinx_gallery_thumbnail_number = 1
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.stats import norm

import stemkit
from stemkit import AtomDetector, NoiseCalibrator, NoiseModel, PointwiseNoise, ScanNoise, SFINDenoiser
from stemkit.detection import Quality, fitted_image, good_columns
from stemkit.detection.exports import read_columns, to_atomap, write_columns
from stemkit.metrics import match_columns
from stemkit.plotting import show_columns, show_residual

size, pixel_size, width = 384, 0.0125, 0.047  # px, nm, nm
rng = np.random.default_rng(3)


def drawn(columns, level):
    """Round Gaussians on a level: what an ideal microscope records of a table of columns."""
    pixel = np.arange(size)
    along_y, along_x = (
        np.exp(-0.5 * ((pixel - columns[d].to_numpy()[:, None]) * pixel_size / columns[["sigma"]].to_numpy()) ** 2)
        for d in ("y_px", "x_px")
    )
    return level + (along_y * columns[["amplitude"]].to_numpy()).T @ along_x


def crystal():
    """The true columns: places in px, heights in the image's units, widths in nm."""
    a, b = 0.4285 / pixel_size, 0.606 / pixel_size  # along x, and down
    i, j = (part.ravel() for part in np.meshgrid(np.arange(-1, 18), np.arange(-1, 13), indexing="ij"))
    y, x = i * b / 2 + 4, (j + i % 2 / 2) * a + 9
    channel = rng.choice(np.flatnonzero((i > 0) & (i < 13) & (j > 0) & (j < 10)), 6, replace=False)
    near = np.hypot(y - 200, x - 190).argmin()
    lattice = np.column_stack([np.r_[y, y + b / 4], np.r_[x, x]])
    lattice += rng.normal(0, 0.003 / pixel_size, lattice.shape)
    faint = np.column_stack([y + 0.625 * b, x])[channel]
    places = np.vstack([lattice, faint, lattice[near] + [0.0, 0.09 / pixel_size]])
    heights = np.repeat([1000.0, 520.0, 90.0, 700.0], [len(y), len(y), len(faint), 1])
    table = pd.DataFrame({"y_px": places[:, 0], "x_px": places[:, 1], "amplitude": heights, "sigma": width})
    return table[table[["y_px", "x_px"]].ge(-12).all(axis=1) & table[["y_px", "x_px"]].lt(size + 12).all(axis=1)]


true_columns = crystal()
microscope = NoiseModel(
    contrast=1000.0,
    level=200.0,
    scan=ScanNoise(amplitude=0.03, length=20.0, jitter=0.3),
    pointwise=PointwiseNoise.counted(30.0, background=2.0),
)
clean = stemkit.calibrated(drawn(true_columns, 200.0), pixel_size=pixel_size)
recorded = microscope.apply(clean, random_state=1)

# %%
# Measure
# -------
# The noise comes first, since it weighs the pixels. The network then shows where columns are, and the recorded pixels
# say where exactly: columns that overlap are fitted together. Ellipses are the errors of the positions, twenty times
# enlarged. Those of dim columns are larger than those of bright ones, and longer towards the partner, whose place is
# not known exactly either. Along x they hold the jitter of the rows, too. Columns with a flag are yellow.

calibrator = NoiseCalibrator()
labelled = calibrator.fit_transform(recorded)
enhanced = SFINDenoiser().fit_transform(labelled)
columns = AtomDetector().fit_transform(enhanced)

zoom = labelled.isel(y=slice(130, 270), x=slice(110, 250))
seen = columns[columns["y_px"].between(130, 269) & columns["x_px"].between(110, 249)]
fig, axes = plt.subplots(1, 2, figsize=(11, 5.6), layout="constrained")
show_columns(labelled, columns, axes[0], "columns, as measured in the recorded image")
show_columns(zoom, seen, axes[1], "their errors", error_scale=20)

# %%
# Lengths are in nm, since the image has a pixel size. ``amplitude`` is the height of a column, ``intensity`` the
# integral of its Gaussian, and each number has its error.

shown = ["y", "x", "y_err", "x_err", "x_jitter", "amplitude", "amplitude_err", "sigma", "intensity", "quality"]
good_columns(columns)[shown].head().round(4)

# %%
# What the flags mean
# -------------------
# ``quality`` is a sum of the flags of :class:`stemkit.detection.Quality`, 0 without any. A flag says which numbers of a
# column are uncertain. :func:`~stemkit.detection.good_columns` selects the columns whose position and amplitude can be
# used with their errors: faint ones are among them, and blended ones whose pair is resolved.

meanings = {
    Quality.EDGE: "within three sigmas of the border",
    Quality.FAILED: "the fit failed: the numbers are those of the start",
    Quality.ODD_SHAPE: "the residual is larger than noise, and than that of the other columns",
    Quality.WIDTH_HELD: "too faint to determine a width, which is fixed at the learnt one",
    Quality.BLENDED: "no dip between it and a neighbour",
    Quality.FAINT: "amplitude below five of its errors",
    Quality.SATURATED: "the detector was at its limit",
    Quality.FAULTY_PIXELS: "pixels near the center are no measurement and have no weight",
    Quality.GUIDED: "position held near that in the enhanced image",
}
flags = columns["quality"].to_numpy()
for flag, meaning in meanings.items():
    print(f"{flag.value:3d} {flag.name:13s} {np.count_nonzero(flags & flag.value):3d}  {meaning}")

# %%
# Away from the border there are the two that were planted side by side, and the faint ones: enough to know where they
# are, too little to know how wide.

inner = (flags != 0) & (flags & Quality.EDGE.value == 0)
named = columns.loc[inner, ["y_px", "x_px", "amplitude", "amplitude_err", "snr"]].round(1)
named.assign(flags=[Quality.names(flag) for flag in flags[inner]])

# %%
# Do the error bars hold?
# -----------------------
# The pull of a number is its error divided by its stated error. If what is stated is right, pulls have a standard
# deviation of 1 and a mean of 0. What the jitter adds to the positions stands in ``y_jitter`` and ``x_jitter``, since
# columns beside each other in the same rows share it: add it in quadrature.

match = match_columns(columns[["y_px", "x_px"]], true_columns[["y_px", "x_px"]], 4.0)
found, true = columns.iloc[match.found].reset_index(drop=True), true_columns.iloc[match.true].reset_index(drop=True)
good = found.index.isin(good_columns(found).index)
kinds = {"bright": good & (true["amplitude"] == 1000), "dim": good & (true["amplitude"] == 520)}
true = true.assign(y=true["y_px"] * pixel_size, x=true["x_px"] * pixel_size)
true["intensity"] = 2 * np.pi * true["amplitude"] * width**2

stated = {name: found[f"{name}_err"] for name in ("y", "x", "amplitude", "sigma", "intensity")}
stated |= {axis: np.hypot(found[f"{axis}_err"], found[f"{axis}_jitter"]) for axis in "yx"}
pulls = pd.DataFrame({name: (found[name] - true[name]) / error for name, error in stated.items()})

rows = {
    (kind, name): {"mean pull": pulls.loc[which, name].mean(), "deviation": pulls.loc[which, name].std()}
    for kind, which in kinds.items()
    for name in pulls
}
print(pd.DataFrame(rows).T.round(2).to_string())
for axis in "yx":
    print(f"along {axis}: off by {1e3 * (found[axis] - true[axis])[good].std():.1f} pm,", end=" ")
    print(f"stated {1e3 * np.sqrt((stated[axis][good] ** 2).mean()):.1f} pm")

# %%
fig, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
bins = np.linspace(-4.5, 4.5, 28)
for name, colour in {"y": "#31688e", "x": "#e8543f"}.items():
    axes[0].hist(pulls.loc[good, name], bins, density=True, histtype="step", linewidth=1.6, color=colour, label=name)
axes[0].plot(np.linspace(-4.5, 4.5, 181), norm.pdf(np.linspace(-4.5, 4.5, 181)), "k--", linewidth=1, label="normal")
axes[0].set(xlabel="error / stated error", ylabel="density", title="pulls of the positions")
axes[0].legend(frameon=False)
for (kind, which), colour, first in zip(kinds.items(), ("#e8543f", "#31688e"), (0, 40), strict=True):
    off, bar = (1e3 * v[which].to_numpy()[:36] for v in (found["x"] - true["x"], stated["x"]))
    axes[1].errorbar(first + np.arange(36), off, bar, fmt="o", markersize=3.5, linewidth=1, color=colour, label=kind)
axes[1].axhline(0, color="0.5", linewidth=1)
axes[1].set(xlabel="column", ylabel="error along x (pm)", title="some columns with their error bars", ylim=(-9, 9))
axes[1].legend(frameon=False, ncols=2)

# %%
# What is left
# ------------
# The columns drawn from the table, taken off the recorded image: what is left should be noise, with an RMS of 1 where
# it is counted in expected standard deviations. A column that is missing in the table is a red spot, like those along
# the right border: their centres are beyond the frame, and the table leaves such columns out.

noise = calibrator.noise_model_
model = fitted_image(columns, recorded)
expected = np.sqrt(noise.variance(model.values) + (noise.scan.amplitude * noise.contrast) ** 2)

fig, ax = plt.subplots(figsize=(6.6, 5.6), layout="constrained")
show_residual(recorded, model.values, expected, ax)

# %%
# Longish columns, and several detectors
# --------------------------------------
# ``elliptical=True`` gives each column two widths and a direction. Here columns are round: what the two differ by is
# noise, and the larger one is larger by chance. ``shared_positions=True`` is for a stack of images from several
# detectors of one scan, HAADF and ABF, say: columns have one position in all of them.

longish = AtomDetector(elliptical=True).fit_transform(enhanced)
longish = good_columns(longish)
for axis in ("major", "minor"):
    print(f"{axis}: {1e3 * longish[f'sigma_{axis}'].median():.1f} pm", end=" ")
    print(f"± {1e3 * longish[f'sigma_{axis}_err'].median():.1f} pm, true: {1e3 * width:.1f} pm")

# %%
# To other programs
# -----------------
# A CSV keeps all digits and the unit. Extended XYZ is for ASE and OVITO, in Angstrom, with y upwards.
# ``stemkit.detection.exports`` has functions for Atomap, HyperSpy, napari and ASE, too.

with tempfile.TemporaryDirectory() as folder:
    path = write_columns(columns, Path(folder) / "columns.csv")
    again = read_columns(path)
    print(f"{path.name}: {len(again)} columns in {again.attrs['unit']}")
    atoms = write_columns(columns, Path(folder) / "columns.xyz", image=recorded, species="In")
    print(f"{atoms.name}: {len(atoms.read_text().splitlines())} lines")
print("for Atomap, (x, y) in px:", to_atomap(columns)[0].round(2))
