"""
Two scans at right angles
=========================

Slow drift shears and stretches a scan. Frames of one scan direction are distorted
alike, and so is their average. A second scan, turned by 90 degrees, is distorted along
the other axis: :class:`stemkit.SeriesAligner` finds the drift of both from their
differences.
"""

# %%
# A drifting crystal
# ------------------
# A particle drifts by 7 px along x and 4 px along y while a frame is recorded, and the
# drift slows down. The second frame is scanned at 90 degrees; it is ``np.rot90`` of the
# image.

# sphinx_gallery_thumbnail_number = 1
import matplotlib.pyplot as plt

from stemkit import (
    AtomDetector,
    NoiseModel,
    PointwiseNoise,
    ScanNoise,
    SeriesAligner,
    structure,
)
from stemkit.plotting import show_image
from stemkit.series import draw_displacements, draw_series
from stemkit.synthesis import cropped, facets, lattice, planar_cell

shape = (192, 192)
crystal = lattice(
    planar_cell("square"), shape, spacing=9.0, sigma=2.0, angle=8.0, margin=70.0
)
particle = cropped(crystal, facets((94.0, 99.0), 78.0, angle=10.0))
scan = ScanNoise(jitter=0.2, jitter_y=0.1)
true = draw_displacements(
    2, shape[0], scan=scan, drift=(4.0, -7.0), bend=(-2.0, 3.0), random_state=0
)
noise = NoiseModel(
    contrast=20.0, level=2.0, pointwise=PointwiseNoise.counted(20.0, background=2.0)
)
frames = draw_series(
    particle,
    true,
    shape=shape,
    scan_angles=[0, 90],
    noise=noise,
    pixel_size=0.02,
    random_state=1,
)

# %%
# One scan, and both
# ------------------
# The angles are in the coordinate ``scan_angle`` of the frames; otherwise they are
# given as ``SeriesAligner(scan_angles=[0, 90])``.

average = SeriesAligner(denoiser=None).fit_transform(frames)

figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.6), layout="constrained")
show_image(frames[0], axes[0], "0 degrees")
show_image(frames[1], axes[1], "90 degrees, as recorded")
show_image(average, axes[2], "average without drift")

# %%
# The lattice
# -----------
# Its vectors are 180 pm long, at 90 degrees. The lattice of one scan is wrong by far
# more than its errors, which do not contain the drift.

for name, image in (("0 degrees", frames[0]), ("average", average)):
    found = structure.fit_lattice(AtomDetector().fit_transform(image))
    lengths = " and ".join(
        f"{1e3 * length:.2f} +- {1e3 * error:.2f} pm"
        for length, error in zip(found.lengths, found.lengths_err, strict=True)
    )
    print(f"{name}: {lengths}, {found.angle:.2f} +- {found.angle_err:.2f} degrees")

plt.show()
