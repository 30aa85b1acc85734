"""Figures: images with a scale bar, columns, labels, vectors, counts, residuals, assessments, and PNG pictures.

- One module per subject: ``images``, ``columns``, ``sites``, ``vectors``, ``counts``, ``grains``, ``rings`` and
  ``assessments``.
- ``drawing`` and ``flags`` contain what they share; ``files`` writes figures and pictures.
"""

from stemkit.plotting.assessments import show_assessment
from stemkit.plotting.columns import compare, show_columns, show_labels
from stemkit.plotting.counts import show_counts, show_mixture
from stemkit.plotting.files import save_figure, save_picture
from stemkit.plotting.grains import show_grains
from stemkit.plotting.images import show_image, show_residual
from stemkit.plotting.rings import show_rings
from stemkit.plotting.sites import show_defects, show_detection_limit, show_names
from stemkit.plotting.vectors import direction_colors, show_displacements

__all__ = [
    "compare",
    "direction_colors",
    "save_figure",
    "save_picture",
    "show_assessment",
    "show_columns",
    "show_counts",
    "show_defects",
    "show_detection_limit",
    "show_displacements",
    "show_grains",
    "show_image",
    "show_labels",
    "show_mixture",
    "show_names",
    "show_residual",
    "show_rings",
]
