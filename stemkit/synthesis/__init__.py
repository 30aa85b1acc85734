"""Synthetic images: where columns are, what they look like, what is drawn, and the estimator that hands it out."""

from stemkit.synthesis.arrangements import *  # noqa: F403
from stemkit.synthesis.arrangements import __all__ as _arrangements
from stemkit.synthesis.recipe import Recipe
from stemkit.synthesis.rendering import blurred, render, through_probe
from stemkit.synthesis.synthesizer import STEMSynthesizer

__all__ = [*_arrangements, "Recipe", "STEMSynthesizer", "blurred", "render", "through_probe"]
