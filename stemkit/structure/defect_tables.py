"""Tables of point defects: the discoveries, and the results of all columns and empty sites."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stemkit.structure.tables import column_positions

__all__ = ["by_column", "by_missing_site", "discoveries"]

#: Columns of the tables of results, in this order.
RESULTS = ["expected", "change", "change_err", "fraction", "significance", "p_value"]


def discoveries(table: pd.DataFrame, missing: pd.DataFrame, found: pd.DataFrame, by: str) -> pd.DataFrame:
    """Table of the defects, most significant first."""
    found = found.sort_values("p_value", kind="stable")
    row, place = found["row"].to_numpy(), found["place"].to_numpy()
    at_column = row >= 0
    position = np.empty((len(found), 2))
    position[at_column] = table[["y", "x"]].to_numpy(dtype=np.float64)[row[at_column]]
    position[~at_column] = missing[["y", "x"]].to_numpy(dtype=np.float64)[place[~at_column]]
    labels = table.index.to_numpy()[np.maximum(row, 0)].astype(object)
    labels[~at_column] = None
    result = pd.DataFrame({"kind": found["kind"].to_numpy(), "y": position[:, 0], "x": position[:, 1]})
    result["column"] = pd.Series(labels, dtype=object).convert_dtypes()
    result["site"] = found["site"].to_numpy()
    result.attrs["unit"] = column_positions(table).unit
    return result.assign(**_results(found, by))


def _results(tests: pd.DataFrame, by: str) -> dict[str, NDArray]:
    names = {"value": by, "error": f"{by}_err"} | {name: name for name in RESULTS}
    names |= {name: name for name in ("q_value", "probability", "detectable")}
    return {new: tests[old].to_numpy() for old, new in names.items()}


def by_column(table: pd.DataFrame, tests: pd.DataFrame, by: str, reason: NDArray) -> pd.DataFrame:
    """Results of all columns, with the index of the table."""
    own = tests[tests["row"] >= 0].set_index("row").reindex(range(len(table)))
    reason = np.where(own["p_value"].notna(), "", np.where(reason == "", "not in the crystal", reason))
    result = table[["y", "x"]].assign(kind=own["kind"].fillna("").to_numpy(), **_results(own, by), reason=reason)
    result.attrs = {"unit": column_positions(table).unit}
    return result


def by_missing_site(missing: pd.DataFrame, tests: pd.DataFrame, by: str) -> pd.DataFrame:
    """Results of all sites without a column, with the index of ``missing``."""
    own = tests[tests["row"] < 0].set_index("place").reindex(range(len(missing)))
    reason = np.where(own["p_value"].notna(), "", "not measured: image and detector are required")
    return missing.assign(kind=own["kind"].fillna("").to_numpy(), **_results(own, by), reason=reason)
