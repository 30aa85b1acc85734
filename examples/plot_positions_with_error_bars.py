"""
Positions with error bars
=========================

The columns of a crystal of close pairs, recorded with few electrons, are measured, and
their stated errors are compared with the true ones. The page also shows the flags, the
residual, and exports to other programs.
"""

# %%
# A crystal of dumbbells
# ----------------------
# A semiconductor like InAs along [110]: pairs of a bright and a fainter column, which
# overlap at a distance of 0.15 nm. Each column is displaced from its ideal site by a
# few picometres. Six faint columns are added in the open channels, and one column so
# close to another that there is no minimum between the two.

# sphinx_gallery_thumbnail_number = 1
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.stats import norm

import stemkit
from stemkit import (
    AtomDetector,
    NoiseCalibrator,
    NoiseModel,
    PointwiseNoise,
    ScanNoise,
    SFINDenoiser,
)
from stemkit.detection import Quality, fitted_image, good_columns
from stemkit.detection.exports import read_columns, to_atomap, write_columns
from stemkit.metrics import match_columns
from stemkit.plotting import show_columns, show_residual

size, pixel_size, width = 384, 0.0125, 0.047  # px, nm, nm
rng = np.random.default_rng(3)


def drawn(columns, level):
    """True image of a table of columns: round Gaussians on a constant level."""
    pixel = np.arange(size)
    along_y, along_x = (
        np.exp(
            -0.5
            * (
                (pixel - columns[d].to_numpy()[:, None])
                * pixel_size
                / columns[["sigma"]].to_numpy()
            )
            ** 2
        )
        for d in ("y_px", "x_px")
    )
    return level + (along_y * columns[["amplitude"]].to_numpy()).T @ along_x


def crystal():
    """The true columns: positions in px, heights in the image's units, widths in nm."""
    a, b = 0.4285 / pixel_size, 0.606 / pixel_size  # along x and y
    i, j = (
        part.ravel()
        for part in np.meshgrid(np.arange(-1, 18), np.arange(-1, 13), indexing="ij")
    )
    y, x = i * b / 2 + 4, (j + i % 2 / 2) * a + 9
    channel = rng.choice(
        np.flatnonzero((i > 0) & (i < 13) & (j > 0) & (j < 10)), 6, replace=False
    )
    near = np.hypot(y - 200, x - 190).argmin()
    lattice = np.column_stack([np.r_[y, y + b / 4], np.r_[x, x]])
    lattice += rng.normal(0, 0.003 / pixel_size, lattice.shape)
    faint = np.column_stack([y + 0.625 * b, x])[channel]
    places = np.vstack([lattice, faint, lattice[near] + [0.0, 0.09 / pixel_size]])
    heights = np.repeat([1000.0, 520.0, 90.0, 700.0], [len(y), len(y), len(faint), 1])
    table = pd.DataFrame(
        {
            "y_px": places[:, 0],
            "x_px": places[:, 1],
            "amplitude": heights,
            "sigma": width,
        }
    )
    return table[
        table[["y_px", "x_px"]].ge(-12).all(axis=1)
        & table[["y_px", "x_px"]].lt(size + 12).all(axis=1)
    ]


true_columns = crystal()
microscope = NoiseModel(
    contrast=1000.0,
    level=200.0,
    scan=ScanNoise(amplitude=0.03, length=20.0, jitter=0.3),
    pointwise=PointwiseNoise.counted(30.0, background=2.0),
)
true_image = stemkit.calibrated(drawn(true_columns, 200.0), pixel_size=pixel_size)
recorded = microscope.apply(true_image, random_state=1)

# %%
# Measure
# -------
# The noise is calibrated first, since it determines the weights of the pixels. The
# network then finds columns, and fits to the recorded pixels measure them; columns that
# overlap are fitted together. The ellipses are the errors of the positions, twenty
# times enlarged. They are larger for faint columns than for bright ones, and longer
# towards the partner, whose position is uncertain, too. Along x they include the jitter
# of the rows. Columns with a flag are yellow.

calibrator = NoiseCalibrator()
labeled = calibrator.fit_transform(recorded)
enhanced = SFINDenoiser().fit_transform(labeled)
columns = AtomDetector().fit_transform(enhanced)

zoom = labeled.isel(y=slice(130, 270), x=slice(110, 250))
seen = columns[columns["y_px"].between(130, 269) & columns["x_px"].between(110, 249)]
fig, axes = plt.subplots(1, 2, figsize=(11, 5.6), layout="constrained")
show_columns(labeled, columns, axes[0], "columns measured in the recorded image")
show_columns(zoom, seen, axes[1], "their errors", error_scale=20)

# %%
# Lengths are in nm, since the image has a pixel size. ``amplitude`` is the height of a
# column, ``intensity`` the integral of its Gaussian, and each number has its error.

shown = [
    "y",
    "x",
    "y_err",
    "x_err",
    "x_jitter",
    "amplitude",
    "amplitude_err",
    "sigma",
    "intensity",
    "quality",
]
good_columns(columns)[shown].head().round(4)

# %%
# What the flags mean
# -------------------
# ``quality`` is a sum of the flags of :class:`stemkit.detection.Quality`, 0 without
# any. A flag says which numbers of a column are uncertain.
# :func:`~stemkit.detection.good_columns` selects the columns whose position and
# amplitude can be used with their errors: faint ones are among them, and blended ones
# whose pair is resolved.

meanings = {
    Quality.EDGE: "within three sigmas of the border",
    Quality.FAILED: "the fit failed: the numbers are its starting values",
    Quality.ODD_SHAPE: "larger residual than the noise and the other columns",
    Quality.WIDTH_FIXED: "too faint to determine a width: fixed at the learnt one",
    Quality.BLENDED: "no minimum between it and a neighbour",
    Quality.FAINT: "amplitude below five of its errors",
    Quality.SATURATED: "the detector was at its limit",
    Quality.FAULTY_PIXELS: "pixels near the centre are faulty and have no weight",
    Quality.GUIDED: "position restricted to that in the enhanced image",
}
flags = columns["quality"].to_numpy()
for flag, meaning in meanings.items():
    print(
        f"{flag.value:3d} {flag.name:13s} "
        f"{np.count_nonzero(flags & flag.value):3d}  {meaning}"
    )

# %%
# Away from the border, these are the two close columns and the faint ones, whose
# positions can be measured but not their widths.

inner = (flags != 0) & (flags & Quality.EDGE.value == 0)
named = columns.loc[inner, ["y_px", "x_px", "amplitude", "amplitude_err", "snr"]].round(
    1
)
named.assign(flags=[Quality.describe(flag) for flag in flags[inner]])

# %%
# Are the errors correct?
# -----------------------
# The pull of a measurement is its error divided by its stated error. If the stated
# errors are correct, pulls have a mean of 0 and a standard deviation of 1. The
# contribution of the jitter to the positions is in ``y_jitter`` and ``x_jitter``, since
# columns in the same rows share it: add it in quadrature.

match = match_columns(columns[["y_px", "x_px"]], true_columns[["y_px", "x_px"]], 4.0)
found, true = (
    columns.iloc[match.found].reset_index(drop=True),
    true_columns.iloc[match.true].reset_index(drop=True),
)
good = found.index.isin(good_columns(found).index)
kinds = {
    "bright": good & (true["amplitude"] == 1000),
    "faint": good & (true["amplitude"] == 520),
}
true = true.assign(y=true["y_px"] * pixel_size, x=true["x_px"] * pixel_size)
true["intensity"] = 2 * np.pi * true["amplitude"] * width**2

stated = {
    name: found[f"{name}_err"] for name in ("y", "x", "amplitude", "sigma", "intensity")
}
stated |= {
    axis: np.hypot(found[f"{axis}_err"], found[f"{axis}_jitter"]) for axis in "yx"
}
pulls = pd.DataFrame(
    {name: (found[name] - true[name]) / error for name, error in stated.items()}
)

rows = {
    (kind, name): {
        "mean": pulls.loc[which, name].mean(),
        "std": pulls.loc[which, name].std(),
    }
    for kind, which in kinds.items()
    for name in pulls
}
print(pd.DataFrame(rows).T.round(2).to_string())
for axis in "yx":
    print(
        f"along {axis}: error {1e3 * (found[axis] - true[axis])[good].std():.1f} pm,",
        end=" ",
    )
    print(f"stated {1e3 * np.sqrt((stated[axis][good] ** 2).mean()):.1f} pm")

# %%
fig, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
bins = np.linspace(-4.5, 4.5, 28)
for name, color in {"y": "#31688e", "x": "#e8543f"}.items():
    axes[0].hist(
        pulls.loc[good, name],
        bins,
        density=True,
        histtype="step",
        linewidth=1.6,
        color=color,
        label=name,
    )
axes[0].plot(
    np.linspace(-4.5, 4.5, 181),
    norm.pdf(np.linspace(-4.5, 4.5, 181)),
    "k--",
    linewidth=1,
    label="normal",
)
axes[0].set(
    xlabel="error / stated error", ylabel="density", title="pulls of the positions"
)
axes[0].legend(frameon=False)
for (kind, which), color, first in zip(
    kinds.items(), ("#e8543f", "#31688e"), (0, 40), strict=True
):
    off, bar = (
        1e3 * v[which].to_numpy()[:36] for v in (found["x"] - true["x"], stated["x"])
    )
    axes[1].errorbar(
        first + np.arange(36),
        off,
        bar,
        fmt="o",
        markersize=3.5,
        linewidth=1,
        color=color,
        label=kind,
    )
axes[1].axhline(0, color="0.5", linewidth=1)
axes[1].set(
    xlabel="column",
    ylabel="error along x (pm)",
    title="columns with their stated errors",
    ylim=(-9, 9),
)
axes[1].legend(frameon=False, ncols=2)

# %%
# The residual
# ------------
# The recorded image minus the model of the columns in the table should be noise, with
# an RMS of 1 in units of the expected standard deviation. A column that is missing in
# the table is a red spot, such as those at the right border, whose centres are outside
# the image and therefore not in the table.

noise = calibrator.noise_model_
model = fitted_image(columns, recorded)
expected = np.sqrt(
    noise.variance(model.values) + (noise.scan.amplitude * noise.contrast) ** 2
)

fig, ax = plt.subplots(figsize=(6.6, 5.6), layout="constrained")
show_residual(recorded, model.values, expected, ax)

# %%
# Elliptical columns and several detectors
# ----------------------------------------
# ``elliptical=True`` measures two widths and a direction of each column. Here columns
# are round: the difference of the widths is noise. ``shared_positions=True`` is for a
# stack of images from several detectors of one scan, such as HAADF and ABF: each column
# has one position in all of them.

elliptical = AtomDetector(elliptical=True).fit_transform(enhanced)
elliptical = good_columns(elliptical)
for axis in ("major", "minor"):
    print(f"{axis}: {1e3 * elliptical[f'sigma_{axis}'].median():.1f} pm", end=" ")
    print(
        f"± {1e3 * elliptical[f'sigma_{axis}_err'].median():.1f} pm, "
        f"true: {1e3 * width:.1f} pm"
    )

# %%
# Exports
# -------
# CSV files contain all digits and the unit. Extended XYZ is for ASE and OVITO, in
# angstrom, with y upwards. ``stemkit.detection.exports`` also has functions for Atomap,
# HyperSpy, napari and ASE.

with tempfile.TemporaryDirectory() as folder:
    path = write_columns(columns, Path(folder) / "columns.csv")
    again = read_columns(path)
    print(f"{path.name}: {len(again)} columns in {again.attrs['unit']}")
    atoms = write_columns(
        columns, Path(folder) / "columns.xyz", image=recorded, species="In"
    )
    print(f"{atoms.name}: {len(atoms.read_text().splitlines())} lines")
print("for Atomap, (x, y) in px:", to_atomap(columns)[0].round(2))
