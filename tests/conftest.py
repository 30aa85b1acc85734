"""Settings of all tests: the path of ``strategies.py``, and examples that are the same in every run."""

from __future__ import annotations

import contextlib
import gc
import importlib
import pkgutil
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))
gc.disable()  # until pytest_collection_finish

#: ``--hypothesis-profile fresh`` draws others in every run (or with each ``--hypothesis-seed``), ``thorough`` more too.
ALWAYS = {"deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("repeatable", derandomize=True, max_examples=30, **ALWAYS)
settings.register_profile("fresh", derandomize=False, max_examples=30, **ALWAYS)
settings.register_profile("thorough", derandomize=False, max_examples=300, **ALWAYS)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that are marked gpu where torch finds no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="torch finds no CUDA device"))


def pytest_collection_finish() -> None:
    """Load all modules: Hypothesis also draws constants of the loaded ones, which would depend on the tests before.

    What was imported is left out of garbage collections: each would look through a million objects of libraries.
    """
    import stemkit

    for module in pkgutil.walk_packages(stemkit.__path__, "stemkit."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # of optional libraries
                importlib.import_module(module.name)
    gc.freeze()
    gc.enable()
