from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import seeds
from torch.nn import functional

from stemkit.networks import SFIN, FoldedSFIN, strips


def naive(state: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """The network in evaluation, one published equation a line, from the names of its weights alone."""

    def conv(name, x):
        weight = state[f"{name}.weight"]
        return functional.conv2d(x, weight, state.get(f"{name}.bias"), padding=weight.shape[-1] // 2)

    def norm(name, x):
        keys = ("running_mean", "running_var", "weight", "bias")
        mean, var, weight, bias = (state[f"{name}.{k}"][:, None, None] for k in keys)
        return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias

    def fourier(name, u):
        spectrum = torch.fft.rfft2(u, norm="ortho")
        n, c, n_y, n_x = spectrum.shape
        channels = [torch.linspace(0, 1, n_y)[:, None].expand(n_y, n_x).repeat(n, 1, 1)]
        channels += [torch.linspace(0, 1, n_x)[None, :].expand(n_y, n_x).repeat(n, 1, 1)]
        for k in range(c):
            channels += [spectrum[:, k].real, spectrum[:, k].imag]
        mixed = torch.relu(norm(f"{name}.bn", conv(f"{name}.conv_layer", torch.stack(channels, dim=1))))
        return torch.fft.irfft2(torch.complex(mixed[:, 0::2], mixed[:, 1::2]), s=u.shape[-2:], norm="ortho")

    def fcm(name, g):
        v = fourier(f"{name}.fu", conv(f"{name}.conv1", g))
        return conv(f"{name}.conv2", torch.cat([g, v], dim=1))

    def sfib(name, low, g):
        to_l = conv(f"{name}.ffc.convl2l", low) + conv(f"{name}.ffc.convg2l", g)
        to_g = conv(f"{name}.ffc.convl2g", low) + fcm(f"{name}.ffc.convg2g", g)
        return torch.relu(norm(f"{name}.bn_l", to_l)), torch.relu(norm(f"{name}.bn_g", to_g))

    head = conv("head_conv", images)
    low, g = head.chunk(2, dim=1)
    for i in range(1 + max(int(k.split(".")[1]) for k in state if k.startswith("body."))):
        inner_l, inner_g = sfib(f"body.{i}.conv2", *sfib(f"body.{i}.conv1", low, g))
        low, g = low + inner_l, g + inner_g
    return conv("tail_conv", torch.cat([low, g], dim=1) + head)


def trained(seed: int, **architecture) -> SFIN:
    """A network in evaluation, with running statistics and scales that are not those of a new one."""
    torch.manual_seed(seed)
    net = SFIN(**architecture).eval()
    for name, value in net.state_dict().items():
        if name.endswith("running_mean") or (".bn" in name and name.endswith("bias")):
            value.copy_(0.3 * torch.randn_like(value))
        elif name.endswith("running_var") or (".bn" in name and name.endswith("weight")):
            value.copy_(0.5 + torch.rand_like(value))
    return net


@settings(max_examples=12)
@given(st.sampled_from([2, 6, 12]), st.integers(1, 3), st.integers(1, 3), st.integers(3, 21), st.integers(3, 21), seeds)
@torch.no_grad()
def test_merged_convolutions_are_the_published_network(n_channels, n_blocks, n_outputs, n_y, n_x, seed):
    net = trained(seed, n_channels=n_channels, n_blocks=n_blocks, n_outputs=n_outputs)
    images = torch.randn(2, 1, n_y, n_x)
    expected = naive(net.state_dict(), images)
    assert expected.shape == (2, n_outputs, n_y, n_x)
    assert net(images).std() > 0
    torch.testing.assert_close(net(images), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@settings(max_examples=12)
@given(
    st.sampled_from([2, 6, 12]), st.integers(1, 3), st.sampled_from([1, 2, 4]), st.integers(2, 9), st.integers(2, 9),
    st.integers(1, 3), seeds,
)  # fmt: skip
def test_folded_for_inference_it_is_the_same_network(
    n_channels, n_blocks, downsampling, cells_y, cells_x, n_images, seed
):
    net = trained(seed, n_outputs=2, n_channels=n_channels, n_blocks=n_blocks, downsampling=downsampling)
    images = torch.randn(n_images, 1, downsampling * cells_y, downsampling * cells_x)
    with torch.no_grad():
        expected = net(images)
    before = images.clone()
    assert torch.allclose(FoldedSFIN(net)(images), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert torch.equal(images, before)


@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("threads", [1, 3])
def test_folded_it_works_on_parts_of_an_image(monkeypatch, rows, threads):
    monkeypatch.setattr(strips, "STRIP", 1)
    monkeypatch.setattr(strips, "MIN_ROWS", rows)
    net = trained(1, n_outputs=2, n_channels=8, n_blocks=2, downsampling=2)
    images = torch.randn(1, 1, 22, 30)
    with torch.no_grad():
        expected = net(images)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        given = FoldedSFIN(net)(images)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_folded_it_gives_the_same_with_any_number_of_threads(monkeypatch, dtype):
    monkeypatch.setattr(strips, "STRIP", 2**14)
    monkeypatch.setattr(strips, "MIN_ROWS", 3)
    network = FoldedSFIN(trained(2, n_channels=8, n_blocks=2, downsampling=2), dtype)
    images = torch.randn(1, 1, 62, 54)
    before, given = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            given.append(network(images))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(given[0], given[1])
    assert torch.equal(given[0], given[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_folded_in_strips_it_is_the_same_as_at_once(dtype):
    network = FoldedSFIN(trained(3, n_outputs=2, n_channels=8, n_blocks=2), dtype)
    images = torch.randn(1, 1, 41, 34)
    with torch.inference_mode():
        expected = network._maps_at_once(images)
    given = network(images)
    assert float((given - expected).std() / expected.std()) < (1e-6 if dtype == torch.float32 else 0.01)


def test_folded_it_no_longer_follows_the_network():
    net = trained(0, n_channels=4, n_blocks=1)
    network, images = FoldedSFIN(net), torch.randn(1, 1, 8, 8)
    before = network(images)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert torch.equal(network(images), before)


def test_folded_in_bfloat16_it_is_nearly_the_same():
    net = trained(0, n_outputs=3, n_channels=16, n_blocks=3, downsampling=2)
    images = torch.randn(1, 1, 48, 64)
    with torch.no_grad():
        expected = net(images)
    given = FoldedSFIN(net, torch.bfloat16)(images)
    assert given.dtype == torch.float32
    assert float((given - expected).std() / expected.std()) < 0.02


@torch.no_grad()
def test_the_default_is_the_published_network():
    net = trained(0)
    images = torch.rand(1, 1, 24, 31)
    expected = naive(net.state_dict(), images)
    torch.testing.assert_close(net(images), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@torch.no_grad()
def test_coarse_features_are_the_same_network_between_shuffles():
    net = trained(1, n_channels=8, n_blocks=2, n_outputs=2, downsampling=2)
    images = torch.randn(1, 1, 10, 14)
    coarse = torch.stack([images[:, 0, y::2, x::2] for y in (0, 1) for x in (0, 1)], dim=1)
    features = naive(net.state_dict(), coarse)
    expected = torch.zeros(1, 2, 10, 14)
    for k in range(2):
        for y in (0, 1):
            for x in (0, 1):
                expected[:, k, y::2, x::2] = features[:, 4 * k + 2 * y + x]
    torch.testing.assert_close(net(images), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_number_of_parameters():
    assert sum(p.numel() for p in SFIN().parameters()) == 960_193


def test_keys_are_those_of_the_authors_checkpoints():
    bn = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    parts = {f"bn_{h}": bn for h in "lg"} | {"ffc.convg2g.fu.bn": bn, "ffc.convg2g.fu.conv_layer": {"weight"}}
    convs = ("convl2l", "convl2g", "convg2l", "convg2g.conv1", "convg2g.conv2")
    parts |= {f"ffc.{c}": {"weight", "bias"} for c in convs}
    blocks = {
        f"body.{i}.conv{j}.{part}.{leaf}" for i in range(8) for j in (1, 2) for part, ls in parts.items() for leaf in ls
    }
    ends = {f"{end}_conv.{leaf}" for end in ("head", "tail") for leaf in ("weight", "bias")}
    state = SFIN().state_dict()
    assert set(state) == blocks | ends
    assert state["body.0.conv1.ffc.convg2g.fu.conv_layer.weight"].shape == (64, 66, 1, 1)
    assert state["body.7.conv2.ffc.convg2g.conv2.weight"].shape == (32, 64, 3, 3)
    assert state["head_conv.weight"].shape == (64, 1, 3, 3)
    assert state["tail_conv.weight"].shape == (1, 64, 3, 3)


@settings(max_examples=15)
@given(st.sampled_from([1, 2, 4]), st.integers(2, 6), st.integers(2, 6), st.integers(1, 3), st.integers(1, 3))
@torch.no_grad()
def test_maps_have_the_size_of_the_image(downsampling, cells_y, cells_x, n_images, n_outputs):
    net = SFIN(n_outputs, n_channels=4, n_blocks=1, downsampling=downsampling).eval()
    shape = (cells_y * downsampling, cells_x * downsampling)
    assert net(torch.zeros(n_images, 1, *shape)).shape == (n_images, n_outputs, *shape)


def test_every_weight_has_a_gradient():
    torch.manual_seed(0)
    net = SFIN(n_channels=8, n_blocks=2)
    net(torch.randn(4, 1, 16, 16)).square().mean().backward()
    still = [name for name, p in net.named_parameters() if p.grad is None or not bool(p.grad.abs().max() > 0)]
    assert still == []


@torch.no_grad()
def test_batch_norms_of_both_halves_are_computed_as_one():
    torch.manual_seed(0)
    block = SFIN(n_channels=6, n_blocks=1).residual_blocks[0].conv1.train()
    features = torch.randn(3, 6, 10, 12)
    separate = copy.deepcopy(block)
    found = block(features)
    halves = separate.ffc(features)
    expected = torch.cat(
        [norm(h).relu() for norm, h in zip((separate.bn_l, separate.bn_g), halves, strict=True)], dim=1
    )
    torch.testing.assert_close(found, expected)
    for name, value in separate.state_dict().items():
        torch.testing.assert_close(block.state_dict()[name], value, msg=name)
    assert block.bn_g.num_batches_tracked == 1


def test_images_of_a_batch_are_independent():
    net = trained(2, n_channels=8, n_blocks=2)
    images = torch.randn(3, 1, 12, 12)
    torch.testing.assert_close(net(images)[1:2], net(images[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ({"n_channels": 7}, "n_channels must be an even number of channels, at least 2, but is 7"),
        ({"n_channels": 0}, "n_channels must be an even number"),
        ({"n_blocks": 0}, "n_blocks must be at least 1, but is 0"),
        ({"downsampling": 3}, "downsampling must be 1, 2 or 4, but is 3"),
    ],
)
def test_impossible_architectures_are_refused(architecture, message):
    with pytest.raises(ValueError, match=message):
        SFIN(**architecture)


def test_sizes_that_do_not_fit_the_coarse_grid_are_refused():
    with pytest.raises(RuntimeError, match="divisible by downscale_factor"):
        SFIN(n_channels=4, n_blocks=1, downsampling=2)(torch.zeros(1, 1, 7, 8))
