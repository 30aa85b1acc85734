"""Reading and writing of images, :func:`read` and :func:`write`; one module per family of formats."""

from stemkit.io.hyperspy_signals import from_hyperspy, to_hyperspy
from stemkit.io.reading import READABLE, DatasetInfo, datasets, read
from stemkit.io.writing import WRITABLE, write

__all__ = ["READABLE", "WRITABLE", "DatasetInfo", "datasets", "from_hyperspy", "read", "to_hyperspy", "write"]
