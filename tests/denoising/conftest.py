"""Trainings of a few steps."""

import pytest


@pytest.fixture(autouse=True)
def short_validation(monkeypatch):
    """Two batches instead of eight after each epoch."""
    monkeypatch.setattr("stemkit.denoising.training.N_VALIDATION", 2)
