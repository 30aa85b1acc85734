"""
Columns that move from frame to frame
=====================================

An average shows what all frames have in common. Atoms that hop or vanish are measured
frame by frame: :func:`stemkit.series.link_columns` recognises each column in all
frames, and states how far it has moved, with an error.
"""

# %%
# A series in which two columns change
# ------------------------------------
# A flake with a hexagonal lattice is scanned eight times, with 40 electrons per pixel
# at its columns. A heavy atom on top of it hops after the third and after the sixth
# frame, and a column of the flake is lost after the fifth. The flake drifts, and rows
# are displaced by jitter.

# sphinx_gallery_thumbnail_number = 1
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from stemkit import (
    AtomDetector,
    NoiseCalibrator,
    NoiseModel,
    PointwiseNoise,
    ScanNoise,
    SeriesAligner,
)
from stemkit.detection import good_columns
from stemkit.plotting import show_image
from stemkit.series import (
    draw_displacements,
    draw_series,
    link_columns,
    measure_frames,
)
from stemkit.synthesis import (
    columns_at,
    cropped,
    disk,
    lattice,
    nearest,
    planar_cell,
    removed,
    superposed,
)

shape, n_frames, spacing, pixel_size = (144, 144), 8, 16.0, 0.02
cell = planar_cell("hexagonal")
layer = lattice(cell, shape, spacing=spacing, sigma=2.2, margin=40.0)
flake = cropped(layer, disk((70.0, 74.0), 58.0))
place = flake.places[0, nearest(flake, [(52.0, 96.0)])[0]][0].numpy()
# the centres of the triangles around a column are spacing / 3^(1/2) away from it
angles = np.radians([30, 90, 150])
hollows = place + spacing / 3**0.5 * np.column_stack([np.sin(angles), np.cos(angles)])
hollow_of_frame = hollows[[0, 0, 0, 1, 1, 1, 2, 2]]
lost = nearest(flake, [(90.0, 50.0)])

true = draw_displacements(
    n_frames,
    shape[0],
    scan=ScanNoise(jitter=0.3, jitter_y=0.2),
    drift=(1.5, -2.0),
    random_state=0,
)
noise = NoiseModel(40.0, 8.0, pointwise=PointwiseNoise.counted(40.0, background=8.0))
recorded = []
for i in range(n_frames):
    specimen = flake if i <= 4 else removed(flake, lost)
    atom = columns_at(hollow_of_frame[[i]], amplitude=1.3, sigma=2.2, spacing=spacing)
    recorded.append(
        draw_series(
            superposed(specimen, atom),
            true[i : i + 1],
            shape=shape,
            noise=noise,
            pixel_size=pixel_size,
            random_state=i,
        )
    )
frames = xr.concat(recorded, "frame")

# %%
# Every frame alone, and links between them
# -----------------------------------------
# Whole frames are aligned (``rows=False``), which is enough for hops of this length.
# The columns of each frame are measured on its own, and the displacements of the frames
# move them to the pixels of the average. The jitter of the rows remains, as a scatter
# that all columns have in addition to their errors: it is estimated and added.
# From one frame to the next, a column may move by up to ``max_distance``, here 0.22 nm:
# the hops are 0.18 nm long.

aligner = SeriesAligner(rows=False, denoiser=None).fit(frames)
average = aligner.transform(frames)
tables = AtomDetector().fit_transform(NoiseCalibrator().fit_transform(frames))
linked = link_columns(
    good_columns(tables), max_distance=0.22, displacements=aligner.displacements_
)
hops = linked[linked["significance"] > 5]
print(
    hops[["frame", "column", "dy", "dx", "dy_err", "dx_err", "significance"]]
    .round(3)
    .to_string(index=False)
)
print("scatter of all columns (y, x), nm:", np.round(linked.attrs["scatter"], 4))

# %%
# The atom in each frame, and how significantly the columns have moved: those that stay
# should have the Rayleigh distribution, which exceeds 3.4 in 3 of 1000 cases.

(atom,) = hops["column"].unique()
track = linked[linked["column"] == atom]
figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.6), layout="constrained")
top, edge = (int(v) - 24 for v in track[["y_px", "x_px"]].median())
part = average[top : top + 48, edge : edge + 48]
show_image(part, left, "average, and the atom in each frame")
y, x = track["y_px"] - top, track["x_px"] - edge
left.plot(x, y, "-", color="#e69f00", linewidth=1)
points = left.scatter(x, y, c=track["frame"], cmap="autumn", edgecolors="k", zorder=3)
figure.colorbar(points, ax=left, label="frame", shrink=0.8)
others = linked.loc[linked["column"] != atom, "significance"].dropna()
right.hist(others, bins=25, density=True, color="#56b4e9", label="other columns")
value = np.linspace(0, 5, 200)
right.plot(value, value * np.exp(-(value**2) / 2), "k", label="Rayleigh distribution")
right.set(xlabel="significance of the displacement", ylabel="density", xlim=(0, 5))
right.legend()

# %%
# A column that vanishes
# ----------------------
# Whether there is a column at a known position in each frame is answered by a fit of
# its height alone, in :func:`stemkit.series.measure_frames`.

columns = AtomDetector().fit_transform(average)
heights = measure_frames(frames, columns, aligner, fix_positions=True)
first = heights[heights["frame"] < 5].groupby("column")["amplitude"].mean()
last = heights[heights["frame"] >= 5].groupby("column")["amplitude"].mean()
vanished = (last - first).idxmin()
usual = good_columns(columns)["amplitude"].median()

figure, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
for label, number in {"the column that is lost": vanished, "another": 10}.items():
    one = heights[heights["column"] == number]
    ax.errorbar(
        one["frame"],
        one["amplitude"] / usual,
        one["amplitude_err"] / usual,
        fmt="o-",
        capsize=3,
        label=label,
    )
ax.axhline(0, color="0.7", linewidth=0.8)
ax.set(xlabel="frame", ylabel="height / median height")
ax.legend()
plt.show()
