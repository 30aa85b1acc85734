"""Figures and pictures as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stemkit.atomic import check_place, whole_file
from stemkit.images.containers import Images, single_image
from stemkit.images.provenance import step_record
from stemkit.plotting.images import show_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["save_figure", "save_picture"]

#: Shorter side of a picture, screen pixels at least (chosen).
PICTURE_SIZE = 256
#: Resolution of a picture, dots per inch; it cancels, since the size of the figure is given in dots (chosen).
PICTURE_DPI = 100


def save_picture(image: Images, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write an image as a PNG picture with a scale bar, for display, one screen pixel per image pixel or more.

    The grey values are not intensities: they are scaled, with 0.1 % of the pixels clipped at either end.
    """
    import matplotlib.pyplot as plt

    one = single_image(image)
    n_y, n_x = one.shape
    zoom = max(1, int(np.ceil(PICTURE_SIZE / min(n_y, n_x))))
    figure = plt.figure(figsize=(zoom * n_x / PICTURE_DPI, zoom * n_y / PICTURE_DPI), dpi=PICTURE_DPI)
    try:
        show_image(one, figure.add_axes((0, 0, 1, 1)))
        text = {"stemkit": step_record(one, "picture")}
        return save_figure(figure, path, overwrite=overwrite, tight=False, text=text)
    finally:
        plt.close(figure)


def save_figure(
    figure: Figure,
    path: str | Path,
    *,
    overwrite: bool = False,
    tight: bool = True,
    dpi: float | None = None,
    text: dict[str, str] | None = None,
) -> Path:
    """Write a figure completely or not at all.

    Parameters
    ----------
    figure : matplotlib Figure
    path : path-like
        The suffix determines the format; without a suffix it is PNG.
    overwrite : bool, default=False
        Replace an existing file.
    tight : bool, default=True
        Crop the figure to what is drawn.
    dpi : float, optional
        Dots per inch; the figure's own by default.
    text : dict of str to str, optional
        Metadata of the file.

    Raises
    ------
    FileExistsError
        If the file exists and ``overwrite`` is False.
    """
    path = Path(path)
    check_place(path, overwrite)
    box = "tight" if tight else None
    with whole_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:] or "png", bbox_inches=box, dpi=dpi or "figure", metadata=text)
    return path
