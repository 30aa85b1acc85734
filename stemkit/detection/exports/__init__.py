"""Tables of columns to files and to other programs and back: pandas, ASE, OVITO, Atomap, HyperSpy, napari, StatSTEM.

Other packages are optional and imported when a function that requires them is called. Positions are converted to the
convention of the other program, which every function states.
"""

from stemkit.detection.exports.atoms import to_ase
from stemkit.detection.exports.files import READABLE_TABLES, WRITABLE_TABLES, read_columns, write_columns
from stemkit.detection.exports.imports import from_atomap, from_hyperspy_markers, from_statstem
from stemkit.detection.exports.viewers import to_atomap, to_hyperspy_markers, to_napari

__all__ = [
    "READABLE_TABLES",
    "WRITABLE_TABLES",
    "from_atomap",
    "from_hyperspy_markers",
    "from_statstem",
    "read_columns",
    "to_ase",
    "to_atomap",
    "to_hyperspy_markers",
    "to_napari",
    "write_columns",
]
