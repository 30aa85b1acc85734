"""Network architectures as torch modules.

- ``sfin`` is the architecture of the shipped weights, ``folded`` and ``strips`` its fast forms for inference.
- ``fcn`` and ``atomsegnet`` are baselines.
"""

from stemkit.networks.atomsegnet import AtomSegNet
from stemkit.networks.fcn import FCN
from stemkit.networks.folded import FoldedSFIN
from stemkit.networks.sfin import SFIN

__all__ = ["FCN", "SFIN", "AtomSegNet", "FoldedSFIN"]
