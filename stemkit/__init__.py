"""stemkit: calibrate, synthesise, enhance and measure atomic-resolution STEM images.

``import stemkit`` loads xarray (and registers ``image.stem``) but neither torch nor scikit-learn: those come with
the first estimator that is used. It sets two environment variables by which the threads of these libraries sleep while
they wait.
"""

from __future__ import annotations

import os
import sys

# Threads that wait for each other sleep instead of spinning. Each library reads its setting once, when it is loaded; a
# user's own setting is kept. On two cores at a load average of 5, `stemkit detect` on 463 x 463 px, 1024 columns, took
# 31 CPU seconds with two spinning threads, and 86 s on the clock; with these settings and one thread for NumPy's matrix
# products 6.9 and 10 s; with one thread 7.0 and 13 s (benchmarks/pipeline.py --command). On two idle cores the
# enhancement of 512 x 512 px took 0.57 s spinning, 0.64 s sleeping and 1.00 s with one thread (two runs each).
if "torch" not in sys.modules and not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
if "numpy" not in sys.modules:
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")  # workers wait 2^4 clock cycles for more work, not 2^26

import lazy_loader

from stemkit import images as images  # registers the accessor
from stemkit._version import __version__ as __version__

# names and their modules are those of the stub file __init__.pyi, and are loaded when they are used
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
