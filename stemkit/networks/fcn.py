"""A plain fully convolutional network."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

__all__ = ["FCN"]


class FCN(nn.Module):
    """Sequence of convolutions with batch norm and ReLU, without pooling and skip connections.

    Li et al. [1]_ compare SFIN with a network of this name, but do not describe it. This is DnCNN [2]_ without the
    residual connection.

    Parameters
    ----------
    n_outputs : int, default=1
        Output channels (maps).
    n_channels : int, default=64
        Feature channels.
    n_layers : int, default=17
        Number of 3 x 3 convolutions, including the output layer.

    References
    ----------
    .. [1] Li, Wu, Shao, Zhang, Fu, CVPR 2025, https://arxiv.org/abs/2504.02555
    .. [2] Zhang, Zuo, Chen, Meng, Zhang, "Beyond a Gaussian denoiser", IEEE Trans. Image Process. 26, 3142 (2017),
       https://doi.org/10.1109/TIP.2017.2662206
    """

    def __init__(self, n_outputs: int = 1, n_channels: int = 64, n_layers: int = 17):
        super().__init__()
        if n_channels < 1:
            raise ValueError(f"n_channels must be at least 1, but is {n_channels!r}")
        if n_layers < 2:
            raise ValueError(f"n_layers must be at least 2, but is {n_layers!r}")
        channels = [1, *[n_channels] * (n_layers - 1)]
        hidden = [
            nn.Sequential(nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU())
            for n_in, n_out in pairwise(channels)
        ]
        self.layers = nn.Sequential(*hidden, nn.Conv2d(n_channels, n_outputs, 3, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(n, 1, n_y, n_x)`` to maps ``(n, n_outputs, n_y, n_x)``."""
        maps: Tensor = self.layers(images)
        return maps
