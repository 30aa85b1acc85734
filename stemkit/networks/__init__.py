"""Network architectures as torch modules."""

from stemkit.networks.atomsegnet import AtomSegNet
from stemkit.networks.fcn import FCN
from stemkit.networks.folded import FoldedSFIN
from stemkit.networks.sfin import SFIN

__all__ = ["FCN", "SFIN", "AtomSegNet", "FoldedSFIN"]
