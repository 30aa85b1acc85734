"""stemkit: calibrate, synthesise, enhance and measure atomic-resolution STEM images.

``import stemkit`` loads xarray (and registers ``image.stem``) but neither torch nor scikit-learn: those come with
the first estimator that is used.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

# Threads that wait for each other sleep instead of spinning. Each library reads its setting once, when it is loaded; a
# user's own setting is kept. On two cores at a load average of 5, `stemkit detect` on 463 x 463 px, 1024 columns, took
# 31 CPU seconds with two spinning threads, and 86 s on the clock; with these settings and one thread for NumPy's matrix
# products 6.9 and 10 s; with one thread 7.0 and 13 s (benchmarks/pipeline.py --command). On two idle cores the
# enhancement of 512 x 512 px took 0.57 s spinning, 0.64 s sleeping and 1.00 s with one thread (two runs each).
if "torch" not in sys.modules and not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
if "numpy" not in sys.modules:
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")  # workers wait 2^4 clock cycles for more work, not 2^26

from stemkit import images as _images  # noqa: F401  (registers the accessor)
from stemkit._version import __version__ as __version__

if TYPE_CHECKING:
    from stemkit.denoising import ABSFDenoiser as ABSFDenoiser
    from stemkit.denoising import AtomSegNetDenoiser as AtomSegNetDenoiser
    from stemkit.denoising import FCNDenoiser as FCNDenoiser
    from stemkit.denoising import NLMDenoiser as NLMDenoiser
    from stemkit.denoising import PeriodicDenoiser as PeriodicDenoiser
    from stemkit.denoising import SFINDenoiser as SFINDenoiser
    from stemkit.denoising import WienerDenoiser as WienerDenoiser
    from stemkit.detection import AtomDetector as AtomDetector
    from stemkit.io import datasets as datasets
    from stemkit.io import read as read
    from stemkit.io import write as write
    from stemkit.noise import BackgroundNoise as BackgroundNoise
    from stemkit.noise import Digitization as Digitization
    from stemkit.noise import NoiseCalibrator as NoiseCalibrator
    from stemkit.noise import NoiseModel as NoiseModel
    from stemkit.noise import PointwiseNoise as PointwiseNoise
    from stemkit.noise import RowAligner as RowAligner
    from stemkit.noise import ScanNoise as ScanNoise
    from stemkit.periodicity import calibrated as calibrated
    from stemkit.synthesis import STEMSynthesizer as STEMSynthesizer

_HOMES = {
    "read": "stemkit.io",
    "write": "stemkit.io",
    "datasets": "stemkit.io",
    "calibrated": "stemkit.periodicity",
    "NoiseCalibrator": "stemkit.noise",
    "RowAligner": "stemkit.noise",
    "NoiseModel": "stemkit.noise",
    "BackgroundNoise": "stemkit.noise",
    "ScanNoise": "stemkit.noise",
    "PointwiseNoise": "stemkit.noise",
    "Digitization": "stemkit.noise",
    "STEMSynthesizer": "stemkit.synthesis",
    "SFINDenoiser": "stemkit.denoising",
    "FCNDenoiser": "stemkit.denoising",
    "AtomSegNetDenoiser": "stemkit.denoising",
    "WienerDenoiser": "stemkit.denoising",
    "ABSFDenoiser": "stemkit.denoising",
    "NLMDenoiser": "stemkit.denoising",
    "PeriodicDenoiser": "stemkit.denoising",
    "AtomDetector": "stemkit.detection",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    try:
        return importlib.import_module(f"stemkit.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"stemkit.{name}":
            raise
        raise AttributeError(f"module 'stemkit' has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return __all__
