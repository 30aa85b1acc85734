"""The networks that SFIN is compared with."""

import pytest
import torch
from torch import nn

from stemkit.networks import FCN, AtomSegNet


@pytest.mark.parametrize("n_outputs", [1, 3])
@pytest.mark.parametrize("network", [FCN, AtomSegNet])
def test_maps_have_the_image_s_size(network, n_outputs):
    module = network(n_outputs, 4).eval()
    assert module(torch.randn(2, 1, 36, 44)).shape == (2, n_outputs, 36, 44)


@pytest.mark.parametrize("network", [FCN, AtomSegNet])
def test_every_weight_has_a_gradient(network):
    torch.manual_seed(0)
    module = network(2, 4)
    module(torch.randn(2, 1, 32, 32)).square().mean().backward()
    # a bias before a batch norm changes nothing
    weights = {name: p for name, p in module.named_parameters() if p.dim() == 4}
    assert all(p.grad.abs().sum() > 0 for p in weights.values())


def test_the_receptive_field_of_fcn_is_that_of_its_layers():
    torch.manual_seed(0)
    module = FCN(1, 4, n_layers=5).eval()
    image = torch.randn(1, 1, 31, 31, requires_grad=True)
    module(image)[0, 0, 15, 15].backward()
    assert sum(isinstance(m, nn.Conv2d) for m in module.modules()) == 5
    seen = torch.nonzero(image.grad[0, 0])
    assert (seen - 15).abs().max() <= 5
    assert (seen - 15).abs().max() >= 4


def test_atomsegnet_stays_within_its_range():
    torch.manual_seed(0)
    maps = AtomSegNet(1, 4, output_range=(-2.0, 3.0))(100 * torch.randn(2, 1, 32, 32))
    assert maps.min() >= -2
    assert maps.max() <= 3


@pytest.mark.parametrize(
    ("network", "arguments", "message"),
    [
        (FCN, {"n_layers": 1}, "n_layers must be at least 2, but is 1"),
        (FCN, {"n_channels": 0}, "n_channels must be at least 1, but is 0"),
        (AtomSegNet, {"n_channels": 0}, "n_channels must be at least 1, but is 0"),
        (AtomSegNet, {"output_range": (1.0, 0.0)}, "output_range must rise"),
    ],
)
def test_errors_name_the_parameter(network, arguments, message):
    with pytest.raises(ValueError, match=message):
        network(**arguments)
