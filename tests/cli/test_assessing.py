"""The line that ``stemkit enhance`` prints about an enhanced image."""

import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import xarray as xr

from stemkit.cli.assessing import assess_frames
from stemkit.trust import assessment


class Found:
    """An assessment with a warning that its line contains, and another one."""

    warnings = ("removed with the noise: rows", "dose is outside of the training: 1, trained from 2 to 3")

    def __str__(self):
        return "at the edge or outside of the training: dose 1; removed with the noise: rows"


def test_what_the_line_says_is_not_repeated(monkeypatch):
    monkeypatch.setattr(assessment, "assess", lambda *images: Found())
    said = []
    job = SimpleNamespace(path=Path("image.tif"), progress=SimpleNamespace(note=said.append))
    image = xr.DataArray(np.random.default_rng(0).normal(size=(64, 64)), dims=("y", "x"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assess_frames(job, image, 0.5 * image)
    assert said == [f"stemkit: image.tif: {Found()}"]
    assert [str(one.message) for one in caught] == [Found.warnings[1]]
