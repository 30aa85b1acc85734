"""Figures: images with a scale bar, their atomic columns, labels and residuals, and PNG pictures."""

from stemkit.plotting.columns import COLUMN_COLOR, FLAGGED_COLOR, LABEL_COLORS, compare, show_columns, show_labels
from stemkit.plotting.drawing import scale_bar_length
from stemkit.plotting.files import save_figure, save_picture
from stemkit.plotting.images import show_image, show_residual

__all__ = [
    "COLUMN_COLOR",
    "FLAGGED_COLOR",
    "LABEL_COLORS",
    "compare",
    "save_figure",
    "save_picture",
    "scale_bar_length",
    "show_columns",
    "show_image",
    "show_labels",
    "show_residual",
]
