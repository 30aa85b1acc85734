"""Denoisers: estimators that enhance images."""

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
