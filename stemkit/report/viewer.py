"""The interactive view of an image: recorded and enhanced on either side of a divider, with the measured columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from bokeh.layouts import column
from bokeh.models import (
    BooleanFilter,
    CDSView,
    ColumnDataSource,
    CustomJS,
    DataRange1d,
    Filter,
    GlyphRenderer,
    HoverTool,
    IntersectionFilter,
    LayoutDOM,
    LinearColorMapper,
    RangeSlider,
    Slider,
)
from bokeh.plotting import figure
from numpy.typing import NDArray

from stemkit.detection import Quality
from stemkit.images.pixel_size import is_calibrated, pixel_sizes
from stemkit.plotting.flags import FLAG_STYLES, FLAG_WORDS, GOOD_STYLE
from stemkit.report.encoding import N_GRAY_LEVELS, Picture, picture
from stemkit.statistics import median_spacing

__all__ = ["View", "image_view", "transparent", "unit_edges"]

#: Bokeh's names of Matplotlib's markers.
MARKERS = {
    "o": "circle",
    "s": "square",
    "D": "diamond",
    "^": "triangle",
    "v": "inverted_triangle",
    "X": "x",
    "P": "cross",
    "p": "hex",
    "h": "hex",
}
#: Diameter of the symbols of columns, distances of nearest columns (chosen: they do not touch).
SYMBOL_DIAMETER = 0.55
#: Its lower limit, screen pixels (chosen).
MIN_SYMBOL_SIZE = 3
#: Its upper limit, screen pixels (chosen).
MAX_SYMBOL_SIZE = 22
#: Largest height of the view, screen pixels (chosen).
MAX_VIEW_HEIGHT = 760
#: Moves the divider: the pixels of the enhanced image on its right become transparent, which shows the recorded ones.
DIVIDE = """
const full = stemkit_pixels.enhanced, shown = source.data.image[0];
if (!full) return;
const [n_y, n_x] = shown.shape, cut = Math.round(cb_obj.value / 100 * n_x);
for (let row = 0; row < n_y; row++) {
    const start = row * n_x;
    shown.set(full.subarray(start, start + cut), start);
    shown.fill(0, start + cut, start + n_x);
}
source.change.emit();
"""
#: Displays the chosen range of grey levels from black to white.
BRIGHTEN = """
const [low, high] = cb_obj.value.map(v => v * 2.54), grey = i => {
    const level = Math.round(255 * Math.min(1, Math.max(0, (i - low) / Math.max(1, high - low))));
    return "#" + level.toString(16).padStart(2, "0").repeat(3);
};
mapper.palette = Array.from({length: 255}, (_, i) => grey(i));
"""
#: Gives the frame the shape of the image, whatever axes and legend need of the plot: there are no margins.
RESHAPE = """
if (plot.properties.inner_width.is_unset || plot.properties.inner_height.is_unset) return;
const height = Math.round(plot.inner_width / aspect + plot.outer_height - plot.inner_height);
if (Math.abs(height - plot.outer_height) > 1) plot.height = height;
"""
#: Scales the symbols with the distance of nearest columns on the screen.
RESIZE = """
if (plot.properties.inner_width.is_unset) return;
const distance = spacing / Math.abs(plot.x_range.end - plot.x_range.start) * plot.inner_width;
const size = Math.min(largest, Math.max(smallest, symbol * distance));
for (const {glyph, selection_glyph, nonselection_glyph} of renderers)
    for (const drawn of [glyph, selection_glyph, nonselection_glyph]) drawn.size = {value: size};
"""


@dataclass(frozen=True)
class View:
    """The view as Bokeh models, and the pictures that the page's script fills in.

    Attributes
    ----------
    layout : LayoutDOM
    source : ColumnDataSource
        The table of columns, which the view and the table share.
    pictures : dict of str to Picture
    """

    layout: LayoutDOM
    source: ColumnDataSource
    pictures: dict[str, Picture]


def image_view(
    recorded: xr.DataArray, enhanced: xr.DataArray | None, columns: pd.DataFrame, chosen: Filter | None = None
) -> View:
    """Make the view of an image.

    Parameters
    ----------
    recorded, enhanced : DataArray of shape (n_y, n_x)
    columns : DataFrame
        Its columns, with ``y_px``, ``x_px`` and ``quality``.
    chosen : bokeh Filter, optional
        Selects the columns that are drawn.
    """
    plot = _axes(recorded)
    mapper = LinearColorMapper(palette=_grays(), low=1, high=N_GRAY_LEVELS, low_color="rgba(0,0,0,0)")
    images = {"recorded": recorded} if enhanced is None else {"recorded": recorded, "enhanced": enhanced}
    pictures = {name: picture(image.values) for name, image in images.items()}
    widgets: list[LayoutDOM] = []
    for name, shown in pictures.items():
        source = _draw(plot, shown, recorded, mapper, name)
        if name == "enhanced":
            widgets.append(_divider(source))
    widgets.append(_brightness(mapper))
    source = ColumnDataSource(_drawn_columns(columns, recorded))
    _draw_columns(plot, source, columns["quality"].to_numpy(), chosen, recorded)
    return View(column(plot, *widgets, sizing_mode="stretch_width"), source, pictures)


def unit_edges(image: xr.DataArray) -> tuple[float, float, str]:
    """Height and width of a pixel, and their unit: nm, or px for an image that is not calibrated."""
    sizes = pixel_sizes(image)
    return (*sizes, "nm") if sizes is not None and is_calibrated(image) else (1.0, 1.0, "px")


def _axes(image: xr.DataArray) -> figure:
    n_y, n_x = image.shape
    height, width, unit = unit_edges(image)
    aspect = n_x * width / (n_y * height)
    plot = figure(
        x_range=DataRange1d(range_padding=0),
        y_range=DataRange1d(range_padding=0, flipped=True),
        x_axis_label=f"x ({unit})",
        y_axis_label=f"y ({unit})",
        tools="pan,wheel_zoom,box_zoom,reset,save",
        active_scroll="wheel_zoom",
        match_aspect=True,
        sizing_mode="stretch_width",
        height=MAX_VIEW_HEIGHT,
        max_width=round(MAX_VIEW_HEIGHT * aspect),
    )
    reshape = CustomJS(args={"plot": plot, "aspect": aspect}, code=RESHAPE)
    plot.js_on_change("inner_width", reshape)
    plot.js_on_change("inner_height", reshape)
    plot.grid.visible = False
    return transparent(plot)


def transparent(plot: figure) -> figure:
    """Leave the background to the page, which may be light or dark."""
    plot.background_fill_color = plot.border_fill_color = None
    return plot


def _draw(plot: figure, shown: Picture, image: xr.DataArray, mapper: LinearColorMapper, name: str) -> ColumnDataSource:
    """Draw an empty image of the right size; the page's script fills in its pixels."""
    n_y, n_x = shown.levels.shape
    height, width, _ = unit_edges(image)
    source = ColumnDataSource({"image": [np.zeros((1, 1), dtype=np.uint8)]}, name=f"pixels-{name}")
    plot.image(
        "image",
        source=source,
        x=-0.5 * width,
        y=-0.5 * height,
        dw=n_x * shown.binning * width,
        dh=n_y * shown.binning * height,
        color_mapper=mapper,
    )
    return source


def _divider(source: ColumnDataSource) -> Slider:
    slider = Slider(
        start=0,
        end=100,
        value=100,
        step=0.5,
        title="enhanced on the left, recorded on the right (% of the width)",
        name="divider",
        sizing_mode="stretch_width",
    )
    slider.js_on_change("value", CustomJS(args={"source": source}, code=DIVIDE))
    return slider


def _brightness(mapper: LinearColorMapper) -> RangeSlider:
    slider = RangeSlider(
        start=0,
        end=100,
        value=(0, 100),
        step=1,
        title="grey levels from black to white (%)",
        sizing_mode="stretch_width",
    )
    slider.js_on_change("value", CustomJS(args={"mapper": mapper}, code=BRIGHTEN))
    return slider


def _grays() -> list[str]:
    return [f"#{level:02x}{level:02x}{level:02x}" for level in np.rint(np.linspace(0, 255, N_GRAY_LEVELS)).astype(int)]


def _drawn_columns(columns: pd.DataFrame, image: xr.DataArray) -> dict[str, NDArray | list]:
    """Data of the columns: all numbers of the table, positions in the unit of the axes, and flags in words."""
    height, width, _ = unit_edges(image)
    numbers = {name: columns[name].to_numpy() for name in columns if name not in ("y", "x", "image")}
    return {
        **{name: v.astype(np.float32) if v.dtype == np.float64 else v for name, v in numbers.items()},
        "number": np.arange(len(columns)),
        "y": columns["y_px"].to_numpy() * height,
        "x": columns["x_px"].to_numpy() * width,
        "flags": [_in_words(int(flags)) for flags in columns["quality"]],
    }


def _in_words(quality: int) -> str:
    """The flags of a column, as the legend and the table's filter name them."""
    return ", ".join(words for name, words in FLAG_WORDS.items() if quality & Quality[name])


def _draw_columns(
    plot: figure, source: ColumnDataSource, quality: NDArray, chosen: Filter | None, image: xr.DataArray
) -> None:
    """Draw the columns as layers, one per flag, which the legend hides and shows."""
    left = np.ones(len(quality), dtype=bool)
    styles = {FLAG_WORDS[name]: (*style, int(Quality[name])) for name, style in FLAG_STYLES.items()}
    styles["without a flag"] = (*GOOD_STYLE, 0)
    glyphs = []
    for words, (color, marker, flag) in styles.items():
        of_layer = left & (quality & flag != 0) if flag else left
        left = left & ~of_layer
        if not of_layer.any():
            continue
        own: Filter = BooleanFilter(of_layer.tolist())
        view = CDSView(filter=own if chosen is None else IntersectionFilter(operands=[own, chosen]))
        glyphs.append(
            plot.scatter(
                "x",
                "y",
                source=source,
                view=view,
                marker=MARKERS[marker],
                size=MAX_SYMBOL_SIZE / 2,
                fill_alpha=0,
                line_color=color,
                line_width=1.5,
                selection_fill_color="#ff2020",
                selection_fill_alpha=0.6,
                nonselection_line_alpha=1.0,
                legend_label=f"{words} ({int(of_layer.sum())})",
            )
        )
    if not glyphs:
        return
    plot.add_tools(HoverTool(renderers=glyphs, tooltips=_tooltips(unit_edges(image)[2])))
    plot.legend.click_policy = "hide"
    plot.legend.title = "columns (click to hide)"
    plot.add_layout(plot.legend[0], "below")
    plot.legend.location = "top_left"
    _resize(plot, glyphs, source)


def _resize(plot: figure, glyphs: list[GlyphRenderer], source: ColumnDataSource) -> None:
    """Let the size of the symbols follow the zoom."""
    places = np.stack([source.data["y"], source.data["x"]], axis=1)
    if len(places) < 2:
        return
    arguments = {
        "plot": plot,
        "renderers": glyphs,
        "spacing": median_spacing(places),
        "symbol": SYMBOL_DIAMETER,
        "smallest": MIN_SYMBOL_SIZE,
        "largest": MAX_SYMBOL_SIZE,
    }
    callback = CustomJS(args=arguments, code=RESIZE)
    plot.js_on_change("inner_width", callback)
    plot.x_range.js_on_change("end", callback)


def _tooltips(unit: str) -> list[tuple[str, str]]:
    return [
        ("column", "@number"),
        (f"y, x ({unit})", "@y{0.0000}, @x{0.0000}"),
        (f"errors ({unit})", "@y_err{0.0000}, @x_err{0.0000}"),
        ("amplitude", "@amplitude{0.000a} ± @amplitude_err{0.000a}"),
        ("flags", "@flags"),
    ]
