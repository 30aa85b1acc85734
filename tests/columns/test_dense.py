"""Tests of lattices whose columns overlap on all sides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from strategies import seeds

from stemkit.columns import ColumnFits, fit_columns
from stemkit.columns.batched_levenberg_marquardt import BatchedLevenbergMarquardt

SIGMA, BACKGROUND, N_COLUMNS = 3.0, 0.3, 14


def dense_lattice(
    spacing: float, noise: float, seed: int, tail: float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """An image of a square lattice of two kinds of columns, the positions ``(n, 2)``, px, and the true parameters.

    ``spacing``: in widths; ``tail``: fraction of the amplitude of a second Gaussian of twice the width.
    """
    rng = np.random.default_rng(seed)
    step = spacing * SIGMA
    size = int((N_COLUMNS + 2) * step)
    index = np.mgrid[0:N_COLUMNS, 0:N_COLUMNS].reshape(2, -1).T
    places = (index + 1.5) * step + rng.normal(0, 0.05 * SIGMA, index.shape)
    sigma = SIGMA * np.where(index.sum(axis=1) % 2, 1.0, 1.1)
    amplitude = np.where(index[:, 0] % 2, 1.0, 0.7)
    y, x = np.mgrid[0:size, 0:size]
    image = BACKGROUND + rng.normal(0, noise, (size, size))
    for place, width, height in zip(places, sigma, amplitude, strict=True):
        square = -0.5 * ((y - place[0]) ** 2 + (x - place[1]) ** 2) / width**2
        image += height * ((1 - tail) * np.exp(square) + tail * np.exp(square / 4))
    truth = {"y": places[:, 0], "x": places[:, 1], "amplitude": amplitude, "sigma": sigma}
    return image, places, truth | {"intensity": 2 * np.pi * amplitude * sigma**2}


def pulls(fits: ColumnFits, truth: dict[str, NDArray], spacing: float) -> dict[str, NDArray[np.float64]]:
    """Errors of the columns inside the lattice, in stated errors."""
    margin = 2.5 * spacing * SIGMA
    last = truth["y"].max() + truth["y"].min()
    inside = (fits.positions > margin).all(axis=1) & (fits.positions < last - margin).all(axis=1) & ~fits.failed
    assert inside.sum() > 80
    return {name: ((getattr(fits, name) - true) / getattr(fits, f"{name}_err"))[inside] for name, true in truth.items()}


@pytest.mark.slow
@settings(max_examples=8)
@given(st.floats(3.05, 3.4), st.floats(0.003, 0.05), seeds)
def test_errors_are_the_stated_ones(spacing, noise, seed):
    """With windows of 2.5 sigmas, errors of intensities were up to nine stated ones at 3 sigmas."""
    image, places, truth = dense_lattice(spacing, noise, seed)
    found = pulls(fit_columns(image, places, SIGMA, variance=noise**2), truth, spacing)
    for name in ("y", "x"):
        assert 0.75 < found[name].std() < 1.3, name
    for name in ("amplitude", "sigma", "intensity"):
        assert 0.7 < found[name].std() < 1.6, name
        assert abs(np.median(found[name])) < 0.6, name


@pytest.mark.slow
@pytest.mark.parametrize(("spacing", "tail"), [(3.0, 0.0), (3.3, 0.0), (3.3, 0.1)])
def test_more_steps_do_not_change_the_fits(spacing, tail):
    """Columns with tails do not fit the model, as in averages of many frames: their fits converge nevertheless."""
    image, places, _ = dense_lattice(spacing, 0.005, 1, tail)
    few, many = (fit_columns(image, places, SIGMA, variance=0.005**2, iterations=n) for n in (40, 120))
    for name in ("y", "x", "amplitude", "sigma", "intensity"):
        change = np.abs(getattr(few, name) - getattr(many, name)) / getattr(many, f"{name}_err")
        assert np.quantile(change[~many.failed], 0.9) < 0.25, name


@pytest.mark.slow
def test_both_implementations_agree(monkeypatch):
    image, places, _ = dense_lattice(3.2, 0.02, 3)
    compiled = fit_columns(image, places, SIGMA, variance=0.02**2)
    monkeypatch.setattr("stemkit.columns.fitting.CompiledLevenbergMarquardt", BatchedLevenbergMarquardt)
    batched = fit_columns(image, places, SIGMA, variance=0.02**2)
    for name in ("y", "x", "amplitude", "sigma"):
        change = np.abs(getattr(batched, name) - getattr(compiled, name)) / getattr(compiled, f"{name}_err")
        assert np.quantile(change, 0.9) < 0.25, name
