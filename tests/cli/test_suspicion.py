"""Notes about suspicious columns."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from stemkit import NoiseModel, ScanNoise
from stemkit.cli.suspicion import column_summary, notes
from stemkit.detection import Quality

DETECTOR = SimpleNamespace(calibrated_=False, spacing_=10.0, width_=2.5, significance=2.5)


def columns(n=100, flags=0, n_flagged=0, residual=1.0):
    """A square lattice of columns, ``n_flagged`` of them with flags."""
    side = int(np.sqrt(n))
    y, x = np.mgrid[:side, :side].reshape(2, -1) * 10.0 + 20
    quality = np.where(np.arange(len(y)) < n_flagged, flags, 0)
    error = np.full(len(y), 0.05)
    table = pd.DataFrame(
        {"image": 0, "y": y, "x": x, "y_px": y, "x_px": x, "y_err": error, "x_err": error}
        | {"y_px_err": error, "x_px_err": error, "sigma": 2.5, "quality": quality}
    )
    table.attrs["residual"] = residual
    return table


def shown(jitter=0.0, **attrs):
    noise = json.dumps(NoiseModel(contrast=1.0, scan=ScanNoise(jitter=jitter)).to_dict())
    return xr.DataArray(np.zeros((140, 140)), dims=("y", "x"), attrs={"noise": noise, "mode": "haadf"} | attrs)


def note(table, image=None):
    found = notes(table, DETECTOR, shown() if image is None else image, Path("image.tif"))
    assert len(found) <= 1
    return found[0] if found else ""


def test_summary_counts_flags():
    table = columns(flags=Quality.EDGE | Quality.FAINT, n_flagged=7)
    assert column_summary(table) == "100 columns, 93 good (7 near the border, 7 faint)"


@pytest.mark.parametrize("flag", [0, Quality.EDGE, Quality.SATURATED])
def test_good_columns_and_the_border_are_not_suspicious(flag):
    assert note(columns(flags=flag, n_flagged=40)) == ""


def test_few_suspicious_columns_are_not_noteworthy():
    assert note(columns(flags=Quality.FAINT, n_flagged=5)) == ""
    assert note(columns(flags=Quality.FAINT, n_flagged=6)).startswith("note: 6 of 100 columns inside the image (6%)")


def test_faint_columns_a_larger_significance():
    text = note(columns(flags=Quality.FAINT | Quality.GUIDED, n_flagged=20))
    assert "20 of 100 columns" in text
    assert "20 faint, 20 with a constrained position" in text
    assert text.endswith("Try --significance 5, which leaves out the faintest")


def test_displaced_rows_straightening_unless_that_was_done():
    table = columns(flags=Quality.FAILED, n_flagged=20)
    assert "stemkit straighten image.tif and measure its result, since rows are displaced by 1 px" in note(
        table, shown(jitter=1.0)
    )
    assert "straighten" not in note(table, shown(jitter=0.2))
    for step in ("straighten", "average"):
        assert "straighten" not in note(table, shown(jitter=1.0, stemkit=f'{{"step": "{step}"}}'))


def test_columns_that_are_two_parts_of_one():
    table = columns()
    table.loc[:9, ["y_px", "y"]] += 6.0  # towards the next row
    table.loc[:9, ["x_px", "x"]] += 0.5
    text = note(table)
    assert "20 nearer to a neighbour than 0.6 of the usual distance" in text
    assert "--spacing and --width, if the estimates are wrong: they are 10 and 2.5 px" in text


def test_resolved_pairs_are_not_suspicious_but_unresolved_ones_are():
    table = columns(flags=Quality.BLENDED, n_flagged=60)
    assert note(table) == ""
    table.loc[:59, ["y_px_err", "x_px_err"]] = 3.0
    assert "60 blended with a neighbour" in note(table)


def test_residuals_well_above_the_noise():
    assert "the residuals are 7.5 times the noise" in note(columns(residual=7.5))


def test_no_columns():
    assert "no columns were found. The search was for columns of sigma 2.5 px (spacing: 10 px)" in note(columns()[:0])
