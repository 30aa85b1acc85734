"""Assessment of an enhanced image: range of the training, residual, uncertainty, columns, resolution.

- ``assessment`` combines one module per question: ``training_range``, ``residual`` (with ``expected_noise``,
  ``displaced_rows`` and ``column_field``), ``spread`` (uncertainty), ``columns`` (significance).
- ``ring_correlation`` compares two recordings, with ``rings``.
"""

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
