from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SIGMAS, displacements, seeds

from stemkit import NoiseModel, ScanNoise

axes = st.sampled_from([("x", 1, ""), ("y", 0, "_y")])


@settings(max_examples=12)
@given(
    axes, st.floats(0.1, 1.0), st.floats(0.1, 1.0), st.floats(1.0, 6.0), st.floats(0.1, 1.0), st.floats(1.5, 9.0), seeds
)
def test_drawn_displacements_have_the_stated_autocovariance(axis, jitter, drift, rows, hum, period, seed):
    name, index, suffix = axis
    scan = ScanNoise(
        **{f"jitter{suffix}": jitter, f"drift{suffix}": drift, f"hum{suffix}": hum}, drift_rows=rows, hum_period=period
    )
    shape = (2000, 12)
    found = displacements(NoiseModel(scan=scan), shape, seed, index)[20:-20, 6]
    rms = scan.displacement if name == "x" else scan.displacement_y
    n = len(found)
    # variance of an estimated covariance (Bartlett 1946), and that of a sine over a broken number of periods
    broken = hum**2 / 2 * period / (2 * math.pi * n) * 4
    scatter = math.sqrt(
        2 * (jitter**4 + drift**4 * math.sqrt(2 * math.pi) * max(rows, 1.0) + jitter**2 * rms**2 * 4) / n
    )
    for lag in (0, 1, 2, 5, 9):
        together = float((found[lag:] * found[: n - lag]).mean())
        assert abs(together - scan.autocovariance(lag, name)) < SIGMAS * scatter + broken
    assert scan.autocovariance(0, name) == pytest.approx(rms**2)
    # nothing of it is on the other axis, where the drawing displaces by less than rounding
    other = displacements(NoiseModel(scan=scan), (40, 12), seed, 1 - index)
    assert np.abs(other).max() < 1e-9


def test_old_descriptions_are_still_read():
    old = {"scan": {"amplitude": 0.1, "length": "inf", "jitter": 0.2, "jitter_length": 7.0, "jitter_y": 0.3}}
    model = NoiseModel.from_dict(json.loads(json.dumps(old)))
    assert model.scan == ScanNoise(0.1, math.inf, 0.2, 7.0, 0.3)
    assert model.scan.displacement == pytest.approx(0.2)
    new = ScanNoise(0.1, 9.0, 0.2, 7.0, 0.3, 0.4, 0.5, 6.0, 0.7, 0.8, 9.0, 0.05, 2.0)
    assert NoiseModel.from_dict(json.loads(json.dumps(NoiseModel(scan=new).to_dict()))).scan == new
    assert set(asdict(new).values()) == set(NoiseModel(scan=new).to_dict()["scan"].values())


@pytest.mark.parametrize(
    ("what", "match"),
    [
        ({"drift": -0.1}, "drift of ScanNoise must be a number of at least 0"),
        ({"drift_y": math.inf}, "drift_y of ScanNoise must be a number of at least 0"),
        ({"drift_rows": 0.0}, "drift_rows of ScanNoise must be a positive number"),
        ({"hum": math.nan}, "hum of ScanNoise must be a number of at least 0"),
        ({"hum_y": -1.0}, "hum_y of ScanNoise must be a number of at least 0"),
        ({"hum_period": math.inf}, "hum_period of ScanNoise must be a positive number"),
        ({"short_amplitude": -1.0}, "short_amplitude of ScanNoise must be a number of at least 0"),
        ({"short_length": -1.0}, "short_length of ScanNoise must be at least 0"),
    ],
)
def test_impossible_numbers_are_refused(what, match):
    with pytest.raises(ValueError, match=match):
        ScanNoise(**what)


def test_the_axis_of_an_autocovariance_is_x_or_y():
    with pytest.raises(ValueError, match="axis must be 'x' or 'y', but is 'z'"):
        ScanNoise().autocovariance([0, 1], "z")
