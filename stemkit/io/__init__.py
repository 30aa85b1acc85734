"""Reading and writing of images, :func:`read` and :func:`write`; one module per family of formats."""

from stemkit.io.reading import READABLE, DatasetInfo, datasets, read
from stemkit.io.writing import WRITABLE, write

__all__ = ["READABLE", "WRITABLE", "DatasetInfo", "datasets", "read", "write"]
