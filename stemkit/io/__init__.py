"""Reading and writing of images, :func:`read` and :func:`write`; one module per family of formats."""

from stemkit.io.hyperspy_signals import from_hyperspy, to_hyperspy
from stemkit.io.reading import DatasetInfo, datasets, read
from stemkit.io.writing import write

__all__ = ["DatasetInfo", "datasets", "from_hyperspy", "read", "to_hyperspy", "write"]
