"""Rings of bonds on an image, coloured by their size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stemkit.images.containers import Images, single_image
from stemkit.plotting.drawing import LEGEND, limit_to_image, pixel_positions
from stemkit.plotting.images import show_image
from stemkit.tables import check_columns

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["show_rings"]

#: Colours of rings by size (chosen: five blue and seven red as usual for graphene; distinguishable with the common
#: colour vision deficiencies).
RING_COLORS = {3: "#f0e442", 4: "#cc79a7", 5: "#0072b2", 6: "#009e73", 7: "#d55e00", 8: "#e69f00"}
#: Colour of the outline of larger rings, which are holes or contain columns that were not found (chosen).
LARGE_COLOR = "#56b4e9"
#: Opacity of rings (chosen).
RING_OPACITY = 0.8
#: Opacity of rings of the most frequent size (chosen).
FREQUENT_RING_OPACITY = 0.18


def show_rings(
    image: Images, table: pd.DataFrame, rings: pd.DataFrame, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """Draw an image with its rings of bonds, coloured by size; the legend gives the number of each.

    Parameters
    ----------
    image : DataArray or ndarray of shape (n_y, n_x)
        As for :func:`show_columns`.
    table : DataFrame
        The columns. Positions are in nm for a calibrated image, otherwise in px.
    rings : DataFrame
        ``stemkit.structure.rings(table)``. Rings of the most frequent size are faint; those of more than 8 columns are
        only outlined.
    ax : matplotlib Axes, optional
    title : str, optional

    Returns
    -------
    matplotlib Axes
        Its coordinates are pixels.

    Raises
    ------
    ValueError
        If ``image`` is a stack, or the rings are those of another table.
    """
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgba

    check_columns("table", table, ("y", "x"), "the result of AtomDetector")
    check_columns("rings", rings, ("size", "atoms"), "rings(table)")
    atoms = rings["atoms"].explode()
    if not atoms.isin(table.index).all():
        raise ValueError("rings must be rings(table) of this table, but contain columns that are not in its index")
    ax = show_image(image, ax, title)
    one = single_image(image)
    at = pixel_positions(one, table)[:, ::-1]
    usual = rings["size"].mode().iloc[0] if len(rings) else 0
    handles = []
    for size, same in rings.groupby(rings["size"].clip(upper=max(RING_COLORS) + 1)):
        color = RING_COLORS.get(int(size))
        opacity = FREQUENT_RING_OPACITY if size == usual else RING_OPACITY
        name = f"{len(same)} of size {size}" if color else f"{len(same)} of size {_range(same['size'])}"
        drawn = PolyCollection(
            [at[table.index.get_indexer(list(atoms))] for atoms in same["atoms"]],
            facecolors=to_rgba(color, opacity) if color else "none",
            edgecolors=to_rgba(color or LARGE_COLOR, 0.9),
            linewidths=0.8,
            label=name,
        )
        handles.append(ax.add_collection(drawn, autolim=False))
    if handles:
        ax.legend(handles=handles, **LEGEND)
    limit_to_image(ax, one.shape)
    return ax


def _range(sizes: pd.Series) -> str:
    low, high = sizes.min(), sizes.max()
    return f"{low}" if low == high else f"{low} to {high}"
