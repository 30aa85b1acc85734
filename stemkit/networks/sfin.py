"""The spatial-frequency interactive network (SFIN)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["SFIN"]


class SFIN(nn.Module):
    """Residual network that processes an image in space and in frequency.

    Features are divided into two halves. The spatial half is convolved. The frequency half also passes a Fourier unit,
    a 1x1 convolution of its spectrum, whose receptive field is the whole image and in which a lattice consists of a few
    points. Each block exchanges information between the halves.

    Parameters
    ----------
    n_outputs : int, default=1
        Output channels (maps).
    n_channels : int, default=64
        Feature channels, even: half spatial, half frequency.
    n_blocks : int, default=8
        Residual blocks of two interactive blocks each.
    downsampling : {1, 2, 4}, default=1
        Factor by which the grid of the features is coarser than the image. Pixel-unshuffle and pixel-shuffle convert
        between them without loss. Height and width of the input must be multiples of it.

    Notes
    -----
    With the defaults this is the network of [1]_, 960,193 parameters, and its state dict has the keys of the
    authors' checkpoints. The convolutions that read the same features are merged into one in the forward pass.

    References
    ----------
    .. [1] Li, Wu, Shao, Zhang, Fu, CVPR 2025, https://arxiv.org/abs/2504.02555
    """

    def __init__(self, n_outputs: int = 1, n_channels: int = 64, n_blocks: int = 8, downsampling: int = 1):
        super().__init__()
        if n_channels < 2 or n_channels % 2:
            raise ValueError(f"n_channels must be an even number of channels, at least 2, but is {n_channels!r}")
        if n_blocks < 1:
            raise ValueError(f"n_blocks must be at least 1, but is {n_blocks!r}")
        if downsampling not in (1, 2, 4):
            raise ValueError(f"downsampling must be 1, 2 or 4, but is {downsampling!r}")
        self.downsampling = downsampling
        cells = downsampling**2
        self.head_conv = nn.Conv2d(cells, n_channels, 3, padding=1)
        self.body = nn.ModuleList(ResidualBlock(n_channels // 2) for _ in range(n_blocks))
        self.tail_conv = nn.Conv2d(n_channels, n_outputs * cells, 3, padding=1)

    @property
    def residual_blocks(self) -> list[ResidualBlock]:
        """The residual blocks of the body."""
        return [block for block in self.body if isinstance(block, ResidualBlock)]

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(n, 1, n_y, n_x)`` to maps ``(n, n_outputs, n_y, n_x)``."""
        x = F.pixel_unshuffle(images, self.downsampling) if self.downsampling > 1 else images
        head = self.head_conv(x)
        features = head
        for block in self.body:
            features = block(features)
        out = self.tail_conv(features + head)
        return F.pixel_shuffle(out, self.downsampling) if self.downsampling > 1 else out


class ResidualBlock(nn.Module):
    """Two interactive blocks, their input added to their output."""

    def __init__(self, half: int):
        super().__init__()
        self.conv1 = InteractiveBlock(half)
        self.conv2 = InteractiveBlock(half)

    def forward(self, features: Tensor) -> Tensor:
        return features + self.conv2(self.conv1(features))


class InteractiveBlock(nn.Module):
    """SFIB: ``l' = relu(bn(conv(l) + conv(g)))``, ``g' = relu(bn(conv(l) + FCM(g)))``."""

    def __init__(self, half: int):
        super().__init__()
        self.ffc = Interaction(half)
        self.bn_l = nn.BatchNorm2d(half)
        self.bn_g = nn.BatchNorm2d(half)

    def forward(self, features: Tensor) -> Tensor:
        # one batch norm of all channels is faster than one for each half
        both = torch.cat(self.ffc(features), dim=1)
        return F.relu(_batch_norm(both, (self.bn_l, self.bn_g)), inplace=True)


class Interaction(nn.Module):
    """The four paths between the spatial half l and the frequency half g, before normalisation."""

    def __init__(self, half: int):
        super().__init__()
        self.channels = half
        self.convl2l = nn.Conv2d(half, half, 3, padding=1)
        self.convl2g = nn.Conv2d(half, half, 3, padding=1)
        self.convg2l = nn.Conv2d(half, half, 3, padding=1)
        self.convg2g = FrequencyPath(half)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias, from_unit = self.merged()
        spatial, frequency, u = F.conv2d(features, weight, bias, padding=1).split(self.channels, dim=1)
        v = self.convg2g.fu(u).to(features.dtype)
        return spatial, frequency + F.conv2d(v, from_unit, padding=1)

    def merged(self) -> tuple[Tensor, Tensor, Tensor]:
        """The convolutions combined into two.

        Returns weight and bias of the convolution of [l, g] to l', g' and u, the Fourier unit's input, which depends on
        g only; and the weight of the convolution of the Fourier unit's output v to g'.
        """
        u_conv, merge = self.convg2g.conv1, self.convg2g.conv2
        g_to_g, from_unit = merge.weight.split(self.channels, dim=1)
        on_l = torch.cat([self.convl2l.weight, self.convl2g.weight, torch.zeros_like(u_conv.weight)])
        on_g = torch.cat([self.convg2l.weight, g_to_g, u_conv.weight])
        biases = _bias(self.convl2l) + _bias(self.convg2l), _bias(self.convl2g) + _bias(merge), _bias(u_conv)
        return torch.cat([on_l, on_g], dim=1), torch.cat(biases), from_unit


class FrequencyPath(nn.Module):
    """FCM(g): ``conv(cat[g, F(conv(g))])``; its convolutions are merged with others in :class:`Interaction`."""

    def __init__(self, half: int):
        super().__init__()
        self.conv1 = nn.Conv2d(half, half, 3, padding=1)
        self.conv2 = nn.Conv2d(2 * half, half, 3, padding=1)
        self.fu = FourierUnit(half)


class FourierUnit(nn.Module):
    """A 1x1 convolution of the spectrum and its coordinates, with alternating real and imaginary channels."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv_layer = nn.Conv2d(2 * channels + 2, 2 * channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        # half precision has too few digits for a spectrum
        with torch.autocast(x.device.type, enabled=False):
            n, c, n_y, n_x = x.shape
            spectrum = torch.fft.rfft2(x.float(), norm="ortho")
            f_y, f_x = spectrum.shape[-2:]
            parts = torch.view_as_real(spectrum).permute(0, 1, 4, 2, 3).reshape(n, 2 * c, f_y * f_x)
            # a matrix product is faster than a convolution; the coordinates are the same for all images
            weight_y, weight_x, weight = self.conv_layer.weight[:, :, 0, 0].split([1, 1, 2 * c], dim=1)
            y = torch.linspace(0, 1, f_y, device=x.device)[:, None]
            coordinates = weight_y[..., None] * y + weight_x[..., None] * torch.linspace(0, 1, f_x, device=x.device)
            mixed = torch.baddbmm(coordinates.flatten(1).expand(n, -1, -1), weight.expand(n, -1, -1), parts)
            mixed = F.relu(self.bn(mixed.view(n, 2 * c, f_y, f_x)), inplace=True)
            pairs = mixed.view(n, c, 2, f_y, f_x).permute(0, 1, 3, 4, 2).contiguous()
            return torch.fft.irfft2(torch.view_as_complex(pairs), s=(n_y, n_x), norm="ortho")


def _batch_norm(features: Tensor, norms: tuple[nn.BatchNorm2d, ...]) -> Tensor:
    """Batch norms of consecutive groups of channels, computed as one."""
    names = ("running_mean", "running_var", "weight", "bias")
    mean, variance, weight, bias = (torch.cat([getattr(norm, name) for norm in norms]) for name in names)
    first = norms[0]
    momentum = 0.0 if first.momentum is None else first.momentum
    out = F.batch_norm(features, mean, variance, weight, bias, first.training, momentum, first.eps)
    if first.training:
        sizes = [norm.num_features for norm in norms]
        for norm, new_mean, new_variance in zip(norms, mean.split(sizes), variance.split(sizes), strict=True):
            _set_statistics(norm, new_mean, new_variance)
    return out


@torch.no_grad()
def _set_statistics(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.num_batches_tracked.add_(1)


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias
