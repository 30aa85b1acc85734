"""Reading and writing of images, :func:`read` and :func:`write`; one module per family of formats.

- ``reading`` and ``writing`` choose the format; ``file_dataset`` is the result type of the modules of the formats.
- ``folders``, ``lazy`` and ``choosing`` handle series of files, dask arrays and files with several datasets.
- ``calibration``, ``units``, ``signals`` and ``attributes`` interpret metadata; ``checks`` refuses damaged files.
"""

from stemkit.io.hyperspy_signals import from_hyperspy, to_hyperspy
from stemkit.io.reading import DatasetInfo, datasets, read
from stemkit.io.writing import write

__all__ = ["DatasetInfo", "datasets", "from_hyperspy", "read", "to_hyperspy", "write"]
