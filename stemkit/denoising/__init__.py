"""Denoisers: estimators that enhance images.

- ``base`` is common to all denoisers.
- Without training: ``classical`` (with ``spectral`` and ``anscombe``) and ``periodic``.
- Networks: ``network`` (base class) and ``architectures``; ``weights`` and ``weight_checks`` are their files.
- Training: ``training`` with ``sources`` and ``callbacks``, on aligned frames ``frame_pairs``; ``general`` trains the
  shipped weights.
- Inference: ``inference`` with ``units``, ``sampling`` (grid of the network), ``lattice_average`` and
  ``translations`` (average over a lattice).
"""

from stemkit.denoising.architectures import AtomSegNetDenoiser, FCNDenoiser, SFINDenoiser
from stemkit.denoising.classical import ABSFDenoiser, NLMDenoiser, WienerDenoiser
from stemkit.denoising.periodic import PeriodicDenoiser
from stemkit.denoising.weights import NetworkInfo, known_weights, load_weights, save_weights

__all__ = [
    "ABSFDenoiser",
    "AtomSegNetDenoiser",
    "FCNDenoiser",
    "NLMDenoiser",
    "NetworkInfo",
    "PeriodicDenoiser",
    "SFINDenoiser",
    "WienerDenoiser",
    "known_weights",
    "load_weights",
    "save_weights",
]
