"""Plain torch modules: they know nothing of files, xarray or scikit-learn."""

from stemkit.networks.folded import FoldedSFIN
from stemkit.networks.sfin import SFIN

__all__ = ["SFIN", "FoldedSFIN"]
