"""Synthetic images: where columns are, what they look like, what is drawn, and the estimator that hands it out."""

from stemkit.synthesis.recipe import Recipe
from stemkit.synthesis.synthesizer import STEMSynthesizer

__all__ = ["Recipe", "STEMSynthesizer"]
