"""Distributions of crystals, specimens and noise from which images are drawn."""

from __future__ import annotations

from dataclasses import dataclass

from stemkit.noise.drawing import NoiseParameters

__all__ = ["ARRANGEMENTS", "Recipe"]

Range = tuple[float, float]

#: Kinds of specimens; the position is their number in :attr:`stemkit.synthesis.batches.Batch.arrangement`.
ARRANGEMENTS = (
    "lattice",
    "moire",
    "grains",
    "twin",
    "phases",
    "dislocation",
    "particle",
    "random",
    "sparse",
)


@dataclass(frozen=True)
class Recipe:
    """Distribution of images; lengths in px, amplitudes as fractions of the contrast.

    Parameters
    ----------
    arrangements : tuple of str
        Subset of ``"lattice"``; two crystals in one image: ``"moire"``, ``"grains"``, ``"twin"``, ``"phases"``;
        ``"dislocation"``, ``"particle"``; ``"random"`` (amorphous) and ``"sparse"`` (single atoms). Lattices are drawn
        six times as often as each of the others.
    spacing : (float, float)
        Range of the distance of nearest columns, log-uniform.
    width : (float, float)
        Range of an image's column width (sigma) as a fraction of the spacing; that of each species varies around it.
    vacancies, embedded, shifts : float
        Largest fraction of columns that are missing, substituted or displaced from their site; each image has a
        fraction between 0 and this.
    clusters, interstitials, islands, strain : float
        Fraction of images with a cluster of substituted columns, with interstitials, with vacuum adjacent to the
        specimen, with strain.
    thickness, spread : float
        Largest relative variation of the columns' height across an image, and largest relative standard deviation of
        the height in one species; the latter is small in most images.
    dark : float
        Fraction of bright-field images, whose columns are dips that differ less in depth than the columns of dark field
        do in height, and are wider for heavy columns.
    support : float
        Largest amplitude of the specimen's smooth signal in addition to the columns: a wedge, a film, patches of
        contamination. That of film and patches is four times this.
    empty : float
        Fraction of images without columns.
    noise : NoiseParameters or None
        Parameters ``(n_models,)`` of noise models, one of which is selected for each image; None draws new ones.
    """

    arrangements: tuple[str, ...] = ARRANGEMENTS
    spacing: Range = (7.0, 32.0)
    width: Range = (0.13, 0.28)
    vacancies: float = 0.06
    embedded: float = 0.1
    shifts: float = 0.1
    clusters: float = 0.1
    interstitials: float = 0.1
    islands: float = 0.25
    strain: float = 0.3
    thickness: float = 0.4
    spread: float = 0.3
    dark: float = 0.4
    support: float = 0.5
    empty: float = 0.0
    noise: NoiseParameters | None = None
