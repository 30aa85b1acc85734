"""Whether to believe an enhanced image: range of the training, residual, uncertainty, columns, resolution."""

from stemkit.trust.assessment import Assessment, assess
from stemkit.trust.residual import ResidualTests
from stemkit.trust.ring_correlation import RingCorrelation, fourier_ring_correlation
from stemkit.trust.spread import network_uncertainty

__all__ = [
    "Assessment",
    "ResidualTests",
    "RingCorrelation",
    "assess",
    "fourier_ring_correlation",
    "network_uncertainty",
]
