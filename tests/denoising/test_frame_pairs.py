"""Training on aligned frames."""

import json

import numpy as np
import pytest
import torch
import xarray as xr

from stemkit import NoiseModel, PointwiseNoise, SFINDenoiser
from stemkit.compute import torch_generator
from stemkit.denoising.frame_pairs import FRACTION, FrameSource, MixedSource, is_aligned, without_gaps
from stemkit.denoising.sources import TrainingBatch
from stemkit.denoising.weights import NetworkInfo
from stemkit.images import intensity_scale
from stemkit.synthesis import lattice, planar_cell, render

SIZE, CONTRAST, LEVEL = 96, 20.0, 5.0
CPU = torch.device("cpu")
OUTPUTS = ("enhance", "detect", "superresolve")
QUICK = {"max_epochs": 1, "batches_per_epoch": 1, "batch_size": 4, "crop_size": 32, "device": "cpu", "random_state": 0}
TINY = {"weights": None, "n_channels": 4, "n_blocks": 1, "downsampling": 2}


def specimen():
    columns = lattice(planar_cell("square"), (SIZE, SIZE), spacing=9.0, angle=5.0)
    return LEVEL + CONTRAST * render(columns, (SIZE, SIZE))[0].double().numpy()


def frames_of(n, *, sign=1.0):
    """Frames of counted electrons with a gap at the borders of some."""
    noise = NoiseModel(CONTRAST, LEVEL, pointwise=PointwiseNoise.counted(CONTRAST, background=LEVEL))
    values = np.stack([noise.apply(specimen(), random_state=i) for i in range(n)])
    values[0, :6], values[1, :, -4:] = np.nan, np.nan
    attrs = {"mode": "haadf" if sign > 0 else "bf", "stemkit": json.dumps({"step": "align"})}
    return xr.DataArray(sign * values, dims=("frame", "y", "x"), attrs=attrs)


def source_of(frames, size=32):
    return FrameSource(frames.values, CONTRAST, NetworkInfo(4, 1, 2), OUTPUTS, 8, size, CPU)


def test_pairs_are_a_frame_and_the_mean_of_the_others():
    frames, source = frames_of(4), source_of(frames_of(4), SIZE)
    values, seen = np.nan_to_num(frames.values), np.isfinite(frames.values)
    pairs = []
    for i in range(4):
        n_others = seen.sum(0) - seen[i]
        others = (values.sum(0) - values[i]) / n_others
        pairs += [(values[i], others, seen[i]), (others, values[i], seen[i])]
    batch = source.draw(torch_generator(0, CPU), 16)
    assert batch.squared_error.all()
    assert batch.targets.shape == batch.weight.shape == (16, 3, SIZE, SIZE)
    assert (batch.weight[:, 1:] == 0).all()
    found = set()
    for noisy, target, weight, unit in zip(
        batch.inputs[:, 0].numpy(),
        batch.targets[:, 0].numpy(),
        batch.weight[:, 0].numpy(),
        batch.error_unit,
        strict=True,
    ):
        scale = CONTRAST / float(unit)
        mask, matches = weight > 0, []
        for k, (first, second, valid) in enumerate(pairs):
            for flips in [(), (0,), (1,), (0, 1)]:
                a, b, v = (np.flip(one, flips) for one in (first, second, valid))
                offset = np.median(a[v] - scale * noisy[v])
                same = np.array_equal(v, mask) and np.allclose(a[v], offset + scale * noisy[v], atol=1e-3)
                if same and np.allclose(b[v], offset + scale * target[v], atol=1e-3):
                    matches.append((k, offset, intensity_scale(first[valid] if k % 2 == 0 else first)))
        assert len(matches) == 1
        k, offset, units = matches[0]
        assert (offset, scale) == pytest.approx(units, rel=1e-3)
        found.add(k)
    assert len(found) > 4


def test_the_noise_of_input_and_target_is_independent():
    source = source_of(frames_of(5), SIZE)
    batch = source.draw(torch_generator(1, CPU), 40)
    true_image = specimen()
    noise = np.sqrt(true_image.mean())
    assert source.noise == pytest.approx(noise, rel=0.03)
    products = []
    for noisy, target, unit in zip(
        batch.inputs[:, 0].numpy(), batch.targets[:, 0].numpy(), batch.error_unit, strict=True
    ):
        scale = CONTRAST / float(unit)
        flips = [(), (0,), (1,), (0, 1)]
        best = max(flips, key=lambda f: np.corrcoef(np.flip(true_image, f).ravel(), noisy.ravel())[0, 1])
        flipped = np.flip(true_image, best)
        inner = (slice(8, -8),) * 2
        errors = [(scale * part - flipped)[inner] for part in (noisy, target)]
        products.append(np.corrcoef(*(e.ravel() for e in errors))[0, 1])
    assert np.abs(products).max() < 5 / (SIZE - 16)


def test_pixels_that_only_one_frame_shows_have_no_weight():
    frames = frames_of(2)
    frames.values[1, 40:60, 40:60] = np.nan
    batch = source_of(frames, SIZE).draw(torch_generator(0, CPU), 8)
    assert torch.isfinite(batch.inputs).all()
    assert torch.isfinite(batch.targets).all()
    n_gaps = (~np.isfinite(frames.values)).any(0).sum()
    assert ((batch.weight[:, 0] == 0).sum((1, 2)) == int(n_gaps)).all()


class Constant:
    """A source of images of one value."""

    batch_size, target_names = 8, OUTPUTS

    def __init__(self, value):
        self.value, self.fingerprint, self.validation_source = value, str(value), self

    def draw(self, generator, n):
        maps = torch.full((n, 3, 4, 4), self.value)
        return TrainingBatch(maps[:, :1], maps, torch.ones(n), torch.ones_like(maps), torch.zeros(n, dtype=torch.bool))


@pytest.mark.parametrize(("n", "second"), [(8, 6), (4, 3), (1, 1), (2, 2)])
def test_batches_are_of_both_sources(n, second):
    batch = MixedSource(Constant(0.0), Constant(1.0), 0.75).draw(torch_generator(0, CPU), n)
    assert len(batch.inputs) == n
    assert float(batch.inputs.mean(dim=(1, 2, 3)).sum()) == second
    assert batch.weight.shape == batch.targets.shape
    assert not batch.squared_error.any()
    assert 0 < FRACTION < 1


class TestFit:
    def test_aligned_frames_are_recognised_by_their_provenance(self):
        frames = frames_of(3)
        assert is_aligned(frames)
        assert not is_aligned(frames.assign_attrs(stemkit=json.dumps({"step": "average"})))
        assert not is_aligned(frames.drop_attrs())
        assert not is_aligned(frames[:1])
        assert not is_aligned(frames[0])
        assert not is_aligned(frames.values)
        assert np.isfinite(without_gaps(frames)).all()

    @pytest.mark.parametrize("sign", [1.0, -1.0])
    def test_the_network_is_trained_on_them(self, sign):
        frames = frames_of(3, sign=sign)
        enhanced = SFINDenoiser(fine_tune=True, **QUICK).fit(frames).transform(frames[2])
        assert np.corrcoef(np.ravel(enhanced), sign * specimen().ravel())[0, 1] > 0.9

    @pytest.mark.slow
    def test_the_same_frames_give_the_same_network_and_others_do_not(self):
        frames = frames_of(3)
        own = SFINDenoiser(**TINY, **QUICK).fit(frames)
        again = SFINDenoiser(**TINY, **QUICK).fit(frames)
        stack = SFINDenoiser(**TINY, **QUICK).fit(without_gaps(frames).drop_attrs().assign_attrs(mode=frames.mode))
        assert torch.equal(own.net_.head_conv.weight, again.net_.head_conv.weight)
        assert not torch.equal(own.net_.head_conv.weight, stack.net_.head_conv.weight)

    def test_gaps_of_other_frames_are_an_error(self):
        with pytest.raises(ValueError, match="finite"):
            SFINDenoiser(fine_tune=True, **QUICK).fit(frames_of(3).drop_attrs())

    @pytest.mark.filterwarnings("ignore:the image is 24 by 32 px:UserWarning")
    def test_narrow_frames_only_have_synthetic_pairs(self):
        frames = frames_of(3)[:, :24, 8:40]
        assert len(SFINDenoiser(**TINY, **QUICK).fit(frames).history_) == 1
