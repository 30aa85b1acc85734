"""Denoisers: estimators that enhance images."""

from stemkit.denoising.network import SFINDenoiser
from stemkit.denoising.weights import NetworkInfo, known_weights, load_weights, save_weights

__all__ = ["NetworkInfo", "SFINDenoiser", "known_weights", "load_weights", "save_weights"]
