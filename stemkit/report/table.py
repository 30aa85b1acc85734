"""The table of columns of a page: sorted by a click, filtered, downloaded; a selected row is marked in the image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd
from bokeh.layouts import column, row
from bokeh.models import (
    Button,
    CDSView,
    ColumnDataSource,
    CustomJS,
    CustomJSFilter,
    DataTable,
    InlineStyleSheet,
    LayoutDOM,
    NumberFormatter,
    Select,
    Spinner,
    TableColumn,
)

from stemkit.detection import good_columns
from stemkit.plotting.flags import FLAG_WORDS

__all__ = ["ColumnFilter", "column_filter", "column_table"]

#: Titles and number formats of the columns of the table, in their order; ``{unit}`` is that of positions, and
#: ``{amplitude}`` has the decimals of the errors.
SHOWN = {
    "number": ("column", "0"),
    "y": ("y ({unit})", "0.0000"),
    "x": ("x ({unit})", "0.0000"),
    "y_err": ("y error", "0.0000"),
    "x_err": ("x error", "0.0000"),
    "amplitude": ("amplitude", "{amplitude}"),
    "amplitude_err": ("error", "{amplitude}"),
    "sigma": ("sigma ({unit})", "0.0000"),
    "snr": ("signal to noise", "0.0"),
    "q_value": ("q-value", "0.000"),
    "flags": ("flags", ""),
}
#: Choices in addition to the single flags.
EVERY = "all columns"
GOOD = "good columns"
FLAGGED = "columns with a flag"
#: Height of the table, screen pixels (chosen).
TABLE_HEIGHT = 420
#: Least width of the table, screen pixels (chosen); it scrolls on narrower pages.
MIN_TABLE_WIDTH = 820
#: Colours of the table and of its controls, those of the page.
COLORS = """
:host { color: var(--text); }
.bk-input, select.bk-input { color: var(--text); background-color: var(--card); border-color: var(--line); }
.bk-slick-row, .bk-even, .bk-odd, .bk-slick-header-column, .slick-row, .even, .odd, .slick-header-column,
.slick-cell, .bk-slick-cell { background: var(--page); color: var(--text); border-color: var(--line); }
.slick-row.odd, .bk-slick-row.bk-odd { background: var(--card); }
.slick-row.odd .slick-cell, .bk-slick-row.bk-odd .bk-slick-cell { background: var(--card); }
.slick-cell.selected, .bk-slick-cell.bk-selected { background: #b3202c !important; color: #ffffff; }
"""
#: Rows that the filter keeps.
FILTER = """
const {flags, good, snr} = source.data, choice = chosen.value, kept = [];
for (let i = 0; i < flags.length; i++) {
    const matches = choice === every || (choice === only_good ? good[i] : choice === flagged ? flags[i] !== "" :
        flags[i].split(", ").includes(choice));
    if (matches && !(snr[i] < least.value)) kept.push(i);
}
return kept;
"""
#: Writes the rows that the filter keeps as CSV.
DOWNLOAD = """
const {good, flags, snr} = source.data, names = Object.keys(source.data).filter(name => name !== "index");
const rows = view.filter.compute_indices(source), lines = [names.join(",")];
for (const i of rows) {
    lines.push(names.map(name => typeof source.data[name][i] === "string" ? `"${source.data[name][i]}"` :
        source.data[name][i]).join(","));
}
const link = document.createElement("a");
link.href = URL.createObjectURL(new Blob([lines.join("\\n") + "\\n"], {type: "text/csv"}));
link.download = file;
link.click();
URL.revokeObjectURL(link.href);
"""


@dataclass(frozen=True)
class ColumnFilter:
    """The choice of columns that the table and the view show."""

    filter: CustomJSFilter
    chosen: Select
    least: Spinner


def column_filter() -> ColumnFilter:
    """Make the filter of the columns; :func:`column_table` connects it to their source."""
    chosen = Select(title="show", value=EVERY, options=[EVERY, GOOD, FLAGGED, *FLAG_WORDS.values()], width=240)
    least = Spinner(title="minimum signal-to-noise ratio", low=0, value=0, step=1, width=160)
    chosen.stylesheets = least.stylesheets = [InlineStyleSheet(css=COLORS)]
    arguments = {
        "chosen": chosen,
        "least": least,
        "every": EVERY,
        "only_good": GOOD,
        "flagged": FLAGGED,
    }
    return ColumnFilter(CustomJSFilter(args=arguments, code=FILTER), chosen, least)


def column_table(
    table: pd.DataFrame, source: ColumnDataSource, selection: ColumnFilter, unit: str, name: str
) -> LayoutDOM:
    """Make the table of columns.

    Parameters
    ----------
    table : DataFrame
    source : ColumnDataSource
        Columns as displayed by the view.
    selection : ColumnFilter
    unit : str
        Unit of positions.
    name : str
        Name of the file that is downloaded.
    """
    source.data["good"] = table.index.isin(good_columns(table).index) if len(table) else []
    view = CDSView(filter=selection.filter)
    amplitude = _format(table["amplitude_err"]) if "amplitude_err" in table else "0.000a"
    shown = [
        TableColumn(
            field=field,
            title=title.format(unit=unit),
            width=240 if field == "flags" else 85,
            **(
                {"formatter": NumberFormatter(format=form.format(amplitude=amplitude), text_align="right")}
                if form
                else {}
            ),
        )
        for field, (title, form) in SHOWN.items()
        if field in source.data
    ]
    drawn = DataTable(
        source=source,
        view=view,
        columns=shown,
        index_position=None,
        height=TABLE_HEIGHT,
        sizing_mode="stretch_width",
        min_width=MIN_TABLE_WIDTH,
        reorderable=False,
        stylesheets=[InlineStyleSheet(css=COLORS)],
    )
    changed = CustomJS(args={"source": source}, code="source.change.emit()")
    for widget in (selection.chosen, selection.least):
        widget.js_on_change("value", changed)
    download = Button(label="Download these rows as CSV", button_type="primary", width=220, align="end")
    download.js_on_event("button_click", CustomJS(args={"source": source, "view": view, "file": name}, code=DOWNLOAD))
    return column(
        row(selection.chosen, selection.least, download, sizing_mode="stretch_width", styles={"flex-wrap": "wrap"}),
        drawn,
        sizing_mode="stretch_width",
    )


def _format(errors: pd.Series) -> str:
    """Number format with the decimals in which the median error has two significant digits."""
    middle = float(errors.median())
    decimals = max(0, 1 - math.floor(math.log10(middle))) if middle > 0 and math.isfinite(middle) else 3
    return "0." + "0" * decimals if decimals else "0"
