"""Files to images and back: :func:`read` and :func:`write`, in front of a module per family of formats."""

from stemkit.io.reading import READABLE, DatasetInfo, datasets, read
from stemkit.io.writing import WRITABLE, write

__all__ = ["READABLE", "WRITABLE", "DatasetInfo", "datasets", "read", "write"]
