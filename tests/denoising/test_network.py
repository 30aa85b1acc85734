"""SFINDenoiser: weights, training, results."""

import json
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.exceptions import NotFittedError

from stemkit import NoiseModel, PointwiseNoise, SFINDenoiser, STEMSynthesizer
from stemkit.denoising import known_weights, load_weights, save_weights
from stemkit.denoising.inference import enhanced_strips, tile_slices
from stemkit.denoising.weights import NetworkInfo, build
from stemkit.images import split
from stemkit.metrics import psnr
from stemkit.networks import SFIN
from stemkit.pixels.filled_image import FilledImage
from stemkit.synthesis import lattice, planar_cell, render

TINY = {"n_channels": 4, "n_blocks": 1, "downsampling": 2}
QUICK = {"max_epochs": 2, "batches_per_epoch": 2, "batch_size": 2, "crop_size": 32, "random_state": 0, "device": "cpu"}
#: A training after which a new network denoises.
SHORT = {
    "weights": None, "n_channels": 16, "n_blocks": 1, "batch_size": 4, "crop_size": 48, "lr": 5e-3, "random_state": 0,
    "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def pairs():
    noise = NoiseModel(pointwise=PointwiseNoise(readout=0.3))
    return STEMSynthesizer(
        shape=(96, 96), noise=noise, arrangements=("lattice",), spacing=(0.09, 0.16), random_state=5
    ).sample(4)


class TestShippedWeights:
    def test_enhance_without_training(self, pairs):
        denoiser = SFINDenoiser().fit(pairs["noisy"])
        assert denoiser.history_.empty
        noisy = np.mean([psnr(a, b) for a, b in zip(pairs["noisy"], pairs["enhance"], strict=True)])
        assert denoiser.score(pairs["noisy"], pairs["enhance"]) > noisy + 5

    def test_carry_the_recorded_pixels_and_the_other_maps(self, pairs):
        enhanced = SFINDenoiser().fit_transform(pairs["noisy"][0])
        np.testing.assert_array_equal(enhanced.coords["recorded"], pairs["noisy"][0])
        assert {"detect", "superresolve"} <= set(enhanced.coords)
        assert enhanced.coords["detect"].values.max() > 0.5
        made = json.loads(enhanced.attrs["stemkit"])
        assert made["step"] == "enhance"
        assert made["weights"] == load_weights("auto")[1].sha256

    def test_denoising_twice_keeps_the_first_measurement(self, pairs):
        denoiser = SFINDenoiser().fit(pairs["noisy"][0])
        twice = denoiser.transform(denoiser.transform(pairs["noisy"][0]))
        np.testing.assert_array_equal(twice.coords["recorded"], pairs["noisy"][0])

    def test_are_invariant_to_the_units_of_the_image(self, pairs):
        image = pairs["noisy"][0].astype(np.float64)
        denoiser = SFINDenoiser(mode="haadf").fit(image)
        expected = 250.0 * denoiser.transform(image) - 3000.0
        np.testing.assert_allclose(denoiser.transform(250.0 * image - 3000.0), expected, atol=250 * 1e-3)

    def test_invert_bright_field_on_input_and_output(self, pairs):
        image = pairs["noisy"][0].values
        bright = SFINDenoiser(mode="haadf").fit_transform(image)
        dark = SFINDenoiser(mode="bf").fit_transform(-image)
        np.testing.assert_allclose(dark, -bright, atol=1e-5)

    @pytest.mark.parametrize("target", ["detect", "superresolve"])
    def test_transform_returns_the_target(self, pairs, target):
        result = SFINDenoiser(target=target).fit_transform(pairs["noisy"][0])
        enhanced = SFINDenoiser().fit_transform(pairs["noisy"][0])
        np.testing.assert_allclose(result, enhanced.coords[target], atol=1e-6)
        assert {"enhance", target} <= set(result.coords)

    def test_constant_images_are_returned_unchanged(self, pairs):
        stack = pairs["noisy"][:2].copy()
        stack[1] = 3.0
        for order in ([0, 1], [1, 0]):
            result = SFINDenoiser(average_flips=True).fit_transform(stack[order])
            constant = result[order.index(1)]
            assert (constant == 3.0).all()
            assert (constant.coords["uncertainty"] == 0).all()
            assert (result[order.index(0)].coords["uncertainty"] > 0).any()

    def test_averages_over_flips_do_not_depend_on_the_orientation(self, pairs):
        image = pairs["noisy"][0]
        denoiser = SFINDenoiser(average_flips=True).fit(image)
        result = denoiser.transform(image)
        assert float((result.coords["uncertainty"] > 0).mean()) > 0.99
        # the average over all mirror images does not depend on which of them is given
        mirrored = denoiser.transform(image.copy(data=image.values[:, ::-1].copy()))
        np.testing.assert_allclose(mirrored.values[:, ::-1], result.values, atol=1e-4)

    def test_resample_images_of_spacings_beyond_the_training(self):
        noise = NoiseModel(pointwise=PointwiseNoise(readout=0.3))
        crystal = lattice(planar_cell("hexagonal"), (256, 256), spacing=60.0, angle=12.0)
        pair = STEMSynthesizer(shape=(256, 256), noise=noise, random_state=1).record(crystal)
        auto = SFINDenoiser().fit_transform(pair["noisy"][0])
        assert auto.shape == (256, 256)
        assert psnr(auto, pair["enhance"][0]) > psnr(pair["noisy"][0], pair["enhance"][0]) + 8

    def test_warn_of_spacings_beyond_the_training(self):
        def image(spacing):
            crystal = lattice(planar_cell("square"), (192, 192), spacing=spacing, sigma=0.25 * spacing)
            return render(crystal, (192, 192))[0].numpy()

        with pytest.warns(UserWarning, match='try sampling="auto"'):
            SFINDenoiser(mode="haadf", sampling=1).fit_transform(image(3.2))
        with pytest.warns(UserWarning, match="resampling does not restore"):
            SFINDenoiser(mode="haadf").fit_transform(image(2.3))

    @pytest.mark.parametrize("shape", [(33, 47), (64, 65), (101, 40)])
    def test_any_shape(self, shape):
        values = np.random.default_rng(0).normal(size=shape)
        assert SFINDenoiser(mode="haadf").fit_transform(values).shape == shape


class TestTiles:
    @pytest.mark.slow
    def test_agree_with_the_result_for_the_whole_image(self, pairs):
        image = np.tile(pairs["noisy"][0].values, (3, 3))
        whole = SFINDenoiser(mode="haadf").fit_transform(image).values
        tiled = SFINDenoiser(mode="haadf", tile_size=192).fit_transform(image).values
        scale = np.ptp(whole)
        assert np.sqrt(np.mean((tiled - whole) ** 2)) < 0.03 * scale

    def test_give_the_same_result_every_time(self, pairs):
        image = np.tile(pairs["noisy"][0].values, (2, 2))
        denoiser = SFINDenoiser(mode="haadf", tile_size=128).fit(image)
        np.testing.assert_array_equal(denoiser.transform(image), denoiser.transform(image))

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("options", "size", "number"),
        [
            ({}, (3, 2), 3),
            ({"mode": "bf"}, (3, 1), 3),
            ({"average_flips": True}, (2, 1), 1),
            ({"sampling": 0.8}, (2, 1), 1),
            ({"lattice": "auto"}, (2, 1), 1),
        ],
    )
    def test_rows_of_the_result_come_one_after_the_other(self, pairs, options, size, number):
        image = np.tile(pairs["noisy"][0].values, size)
        image[7, 9] = 1e4  # is interpolated, but not in the recorded pixels
        (image,) = split(xr.DataArray(image, dims=("y", "x")))
        denoiser = SFINDenoiser(tile_size=128, **{"mode": "haadf", **options}).fit(image)
        whole, ends = denoiser.transform(image), [0]
        for rows, strip in denoiser.strips(image):
            assert rows.start == ends[-1]
            xr.testing.assert_identical(strip, whole[rows])
            ends.append(rows.stop)
        assert ends[-1] == len(image)
        assert len(ends) > number

    @pytest.mark.slow
    def test_need_no_copies_of_the_image(self):
        def network(images):
            return images.repeat(1, 3, 1, 1)

        network.device = torch.device("cpu")
        image = np.random.default_rng(0).normal(size=(3000, 2000)).astype(np.float32)
        expected = image.copy()
        image[500, 600] = 1e4
        filled = FilledImage.of(image)
        expected[500, 600] = filled.values[0]
        tracemalloc.start()
        for rows, maps in enhanced_strips(filled, network, NetworkInfo(4, 1, 1), sign=-1, tile_size=256):
            np.testing.assert_allclose(maps["enhance"], expected[rows], atol=1e-5)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # the quantiles are found in one copy
        assert peak < 1.4 * image.nbytes

    @pytest.mark.slow
    def test_leave_no_seam(self):
        # along the lines where tiles meet, errors are what they are elsewhere
        crystal = lattice(planar_cell("hexagonal"), (448, 448), spacing=12.0, angle=12.0)
        noise = NoiseModel(pointwise=PointwiseNoise(readout=0.3))
        pair = STEMSynthesizer(shape=(448, 448), noise=noise, random_state=1).record(crystal).isel(image=0)
        tiled = SFINDenoiser(tile_size=256).fit_transform(pair["noisy"]).values - pair["enhance"].values
        starts = [tile.start for tile in tile_slices(448, 256)]
        assert len(starts) == 3
        at = [start + k for start in starts[1:] for k in (-1, 0, 1)]
        seam, all_over = np.abs(tiled[at, :]).mean(), np.abs(tiled[24:-24]).mean()
        assert seam < 1.5 * all_over
        jumps = np.abs(np.diff(tiled, axis=0)).mean(axis=1)
        assert jumps[[start - 1 for start in starts[1:]]].max() < 1.5 * np.median(jumps)


class TestTraining:
    @pytest.mark.parametrize("y", ["images", "tables", "labels"])
    def test_shipped_weights_are_not_trained_without_fine_tune(self, pairs, y):
        given = {
            "images": pairs["enhance"],
            "tables": [pd.DataFrame({"y_px": [1.0], "x_px": [2.0]})] * 4,
            "labels": np.arange(4),
        }
        denoiser = SFINDenoiser().fit(pairs["noisy"], given[y])
        assert denoiser.history_.empty
        assert denoiser.info_.sha256 == load_weights("auto")[1].sha256
        for ours, shipped in zip(denoiser.net_.parameters(), load_weights("auto")[0].parameters(), strict=True):
            assert torch.equal(ours, shipped)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("y", "outputs"), [("images", ("enhance",)), ("tables", ("enhance", "detect", "superresolve"))]
    )
    def test_a_new_network_is_trained_on_pairs_where_y_contains_images(self, pairs, y, outputs):
        given = pairs["enhance"] if y == "images" else [pd.DataFrame({"y_px": [1.0], "x_px": [2.0]})] * 4
        denoiser = SFINDenoiser(weights=None, **TINY, **QUICK).fit(pairs["noisy"], given)
        assert (len(denoiser.history_), denoiser.info_.outputs) == (2, outputs)

    def test_an_interrupted_training_leaves_the_denoiser_unfitted(self, pairs, monkeypatch):
        def interrupted(*args, **kwargs):
            raise KeyboardInterrupt

        monkeypatch.setattr("stemkit.denoising.network.train", interrupted)
        denoiser = SFINDenoiser(weights=None, **TINY, **QUICK)
        with pytest.raises(KeyboardInterrupt):
            denoiser.fit(pairs["noisy"], pairs["enhance"])
        with pytest.raises(NotFittedError):
            denoiser.transform(pairs["noisy"])

    def test_images_of_two_modes_are_not_trained_on_together(self, pairs):
        bright = pairs["noisy"][0].assign_attrs(mode="haadf")
        dark = (-bright).assign_attrs(mode="bf")
        with pytest.raises(ValueError, match="X must be images of one mode"):
            SFINDenoiser(weights=None, **TINY, **QUICK).fit([bright, dark])

    @pytest.mark.slow
    @pytest.mark.parametrize("supervised", [True, False])
    def test_fine_tuning_changes_the_weights_and_their_record(self, pairs, supervised):
        denoiser = SFINDenoiser(fine_tune=True, **QUICK).fit(pairs["noisy"], pairs["enhance"] if supervised else None)
        assert len(denoiser.history_) == 2
        module, info = load_weights("auto")
        assert not torch.equal(denoiser.net_.head_conv.weight, module.head_conv.weight)
        assert denoiser.info_.sha256 == ""
        training = denoiser.info_.training
        assert (training["epochs"], training["batch_size"]) == (2, 2)
        assert training["before"]["sha256"] == info.sha256

    def test_training_on_pairs_reduces_the_loss(self, pairs):
        denoiser = SFINDenoiser(**SHORT, max_epochs=3, batches_per_epoch=15).fit(pairs["noisy"], pairs["enhance"])
        assert list(denoiser.history_["epoch"]) == [1, 2, 3]
        assert denoiser.history_["train_loss"].iloc[-1] < 0.6 * denoiser.history_["train_loss"].iloc[0]
        assert denoiser.info_.outputs == ("enhance",)

    def test_training_on_synthetic_pairs_needs_no_truth(self, pairs):
        denoiser = SFINDenoiser(weights=None, **TINY, **QUICK).fit(pairs["noisy"])
        assert len(denoiser.history_) == 2
        assert denoiser.info_.outputs == ("enhance", "detect", "superresolve")
        assert set(denoiser.transform(pairs["noisy"]).coords) >= {"recorded", "detect", "superresolve"}

    def test_fine_tuning_uses_the_noise_of_every_image(self):
        true_image = render(lattice(planar_cell("square"), (96, 96), spacing=11.0), (96, 96))[0].numpy()
        X = [NoiseModel(pointwise=PointwiseNoise(readout=r)).apply(true_image, random_state=0) for r in (0.1, 0.5)]
        denoiser = SFINDenoiser(weights=None, mode="haadf", **TINY, **QUICK)
        source, _ = denoiser._synthesis(split(X), NetworkInfo(4, 1, 2))
        # fractions are of the brightest columns' amplitude, which the two images share
        quiet, loud = source.recipe.noise.readout.tolist()
        assert loud / quiet == pytest.approx(5, rel=0.4)

    @pytest.mark.slow
    def test_a_network_learns_dark_columns_from_a_bright_field_image(self, pairs):
        dark, truth = (-pairs[name][:1] for name in ("noisy", "enhance"))
        dark.attrs["mode"] = "bf"
        denoiser = SFINDenoiser(**SHORT, max_epochs=2, batches_per_epoch=20).fit(dark)
        # an enhanced image with bright columns would be worse than the recorded one
        assert denoiser.score(dark, truth) > psnr(dark, truth) + 3

    def test_training_resumes_from_a_checkpoint_with_its_seed(self, pairs, tmp_path):
        settings = {**TINY, **QUICK, "random_state": None, "checkpoint": tmp_path / "mine.checkpoint", "weights": None}
        first = SFINDenoiser(**{**settings, "max_epochs": 1}).fit(pairs["noisy"], pairs["enhance"])
        again = SFINDenoiser(**{**settings, "max_epochs": 1}).fit(pairs["noisy"], pairs["enhance"])
        assert first.info_.training["seed"] == again.info_.training["seed"]
        for key, value in first.net_.state_dict().items():
            assert torch.equal(value, again.net_.state_dict()[key])
        with pytest.raises(ValueError, match="must have the settings of this run"):
            SFINDenoiser(**{**settings, "target": "detect", "max_epochs": 1}).fit(pairs["noisy"], pairs["detect"])

    def test_fine_tuning_of_the_authors_weights_needs_pairs(self, pairs, tmp_path):
        torch.save(SFIN(n_channels=4, n_blocks=1).state_dict(), tmp_path / "w.pth")
        with pytest.raises(ValueError, match="give pairs to fit instead"):
            SFINDenoiser(weights=tmp_path / "w.pth", fine_tune=True, **QUICK).fit(pairs["noisy"])

    def test_another_target_of_the_shipped_network(self, pairs):
        options = {**QUICK, "max_epochs": 1, "batches_per_epoch": 4}
        denoiser = SFINDenoiser(target="detect", fine_tune=True, **options).fit(pairs["noisy"], pairs["detect"])
        assert len(denoiser.history_) == 1
        detected = denoiser.transform(pairs["noisy"])
        # spots are 1 high at columns and 0 between them
        assert np.corrcoef(detected.values.ravel(), pairs["detect"].values.ravel())[0, 1] > 0.8

    @pytest.mark.slow
    @pytest.mark.parametrize("supervised", [True, False])
    def test_the_same_seed_gives_the_same_network(self, pairs, supervised):
        y = pairs["enhance"] if supervised else None
        one, two = (SFINDenoiser(weights=None, **TINY, **QUICK).fit(pairs["noisy"], y) for _ in range(2))
        for a, b in zip(one.net_.parameters(), two.net_.parameters(), strict=True):
            assert torch.equal(a, b)

    def test_training_does_not_change_the_global_generator(self, pairs):
        torch.manual_seed(3)
        expected = torch.rand(1)
        torch.manual_seed(3)
        SFINDenoiser(weights=None, **TINY, **QUICK).fit(pairs["noisy"])
        assert torch.equal(torch.rand(1), expected)

    def test_training_prints_nothing(self, pairs, capfd):
        SFINDenoiser(weights=None, **TINY, **QUICK).fit(pairs["noisy"])
        out, err = capfd.readouterr()
        assert (out, err) == ("", "")

    def test_bright_field_pairs_are_inverted_for_the_training(self, pairs):
        noisy, true_image = -pairs["noisy"], -pairs["enhance"]
        bright = SFINDenoiser(weights=None, mode="haadf", **TINY, **QUICK).fit(
            pairs["noisy"].values, pairs["enhance"].values
        )
        dark = SFINDenoiser(weights=None, mode="bf", **TINY, **QUICK).fit(noisy.values, true_image.values)
        np.testing.assert_allclose(dark.transform(noisy.values), -bright.transform(pairs["noisy"].values), atol=1e-4)

    def test_shapes_of_pairs_must_agree(self, pairs):
        with pytest.raises(ValueError, match="one image per image of X and of its shape"):
            SFINDenoiser(fine_tune=True, **QUICK).fit(pairs["noisy"], pairs["enhance"][:, :50])


class TestParameters:
    @pytest.mark.parametrize(
        ("parameters", "match"),
        [
            ({"weights": "nothing"}, r"weights must be .*'sfin-general'"),
            ({"target": "sharpen"}, "target must be one of"),
            ({"sampling": "sometimes"}, r"sampling must be \"auto\" or a number in \(0, 1\].*'sometimes'"),
            ({"sampling": 0}, r"sampling must be .* is 0"),
            ({"sampling": 1.5}, r"sampling must be .* is 1\.5"),
            ({"sampling": True}, r"sampling must be .* is True"),
            ({"precision": "float16"}, "precision must be one of 'auto', 'float32', 'bfloat16', but is 'float16'"),
            ({"n_channels": 6}, "n_channels must be None or that of the weights"),
            ({"lr": 0.0}, "lr must be a positive number"),
            ({"max_epochs": 1.5}, "max_epochs must be an integer"),
            ({"tile_size": 8}, "tile_size must be an integer of at least 64"),
            ({"weights": None, "fine_tune": True}, "fine_tune=True needs weights"),
            ({"device": "abacus"}, "device must be"),
            ({"weights": None, "n_channels": 3}, "n_channels must be an even number"),
            ({"weights": None, "loss": "l3", **QUICK}, "loss must be one of"),
        ],
    )
    def test_errors_name_the_parameter(self, pairs, parameters, match):
        with pytest.raises(ValueError, match=match):
            SFINDenoiser(**parameters).fit(pairs["noisy"]).transform(pairs["noisy"])


class TestWeightsFiles:
    def test_files_with_the_older_name_of_the_channels_are_read(self, tmp_path):
        info = NetworkInfo(4, 1, 2)
        path = save_weights(build(info), info, tmp_path / "w.safetensors")
        with safe_open(path, framework="pt") as file:
            described = json.loads(file.metadata()["stemkit"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        described["width"] = described.pop("n_channels")
        save_file(tensors, path, metadata={"stemkit": json.dumps(described)})
        assert load_weights(path)[1].n_channels == 4

    def test_are_the_same_after_saving_and_loading(self, tmp_path):
        info = NetworkInfo(4, 1, 2, ("enhance", "detect"), "standard", (5.0, 9.0), training={"seed": 1})
        module = build(info).eval()
        path = save_weights(module, info, tmp_path / "w.safetensors")
        again, read = load_weights(path)
        assert read.training == {"seed": 1}
        assert (read.outputs, read.spacing, len(read.sha256)) == (("enhance", "detect"), (5.0, 9.0), 64)
        x = torch.randn(1, 1, 16, 16)
        # weights are stored in half precision, whose rounding is 5e-4 of a weight
        torch.testing.assert_close(again.eval()(x), module(x), atol=5e-3, rtol=5e-3)

    def test_the_authors_checkpoint(self, tmp_path, pairs):
        module = SFIN(n_channels=8, n_blocks=2)
        state = {f"module.{k}": v for k, v in module.state_dict().items()}
        torch.save({"model_state_dict": state, "epoch": 500}, tmp_path / "authors.pth")
        again, info = load_weights(tmp_path / "authors.pth")
        assert (info.n_channels, info.n_blocks, info.scaling, info.outputs) == (8, 2, "grey255", ("enhance",))
        assert torch.equal(again.tail_conv.weight, module.tail_conv.weight)
        result = SFINDenoiser(weights=str(tmp_path / "authors.pth")).fit_transform(pairs["noisy"][0])
        assert np.isfinite(result).all()

    def test_nothing_is_executed(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return (open, (str(tmp_path / "executed"), "w"))

        torch.save({"model_state_dict": Evil()}, tmp_path / "evil.pth")
        with pytest.raises(ValueError, match="tensors only"):
            load_weights(tmp_path / "evil.pth")
        assert not (tmp_path / "executed").exists()

    @pytest.mark.parametrize(("content", "match"), [(b"not safetensors", "as safetensors"), (b"", "as safetensors")])
    def test_damaged_files(self, tmp_path, content, match):
        (tmp_path / "w.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match=match):
            load_weights(tmp_path / "w.safetensors")

    def test_weights_of_another_network(self, tmp_path):
        info = NetworkInfo(4, 1, 2)
        path = save_weights(build(NetworkInfo(8, 1, 2)), info, tmp_path / "w.safetensors")
        with pytest.raises(ValueError, match="do not fit"):
            load_weights(path)

    def test_have_a_model_card_with_their_seed_and_device(self):
        for path in known_weights().values():
            assert path.stat().st_size < 3e6
            card = path.with_suffix(".md").read_text()
            info = load_weights(path)[1]
            assert f"--seed {info.training['seed']}" in card
            assert info.training["device"] in card


def test_authors_scaling_is_grey_values(pairs, tmp_path):
    """An untrained network that returns its input times 0 plus a bias shows the scaling of the output."""
    module = SFIN(n_channels=4, n_blocks=1)
    with torch.no_grad():
        module.tail_conv.weight.zero_()
        module.tail_conv.bias.fill_(255.0)
    torch.save({f"module.{k}": v for k, v in module.state_dict().items()}, tmp_path / "w.pth")
    image = xr.DataArray(pairs["noisy"][0].values * 10 + 7, dims=("y", "x"), attrs={"mode": "haadf"})
    result = SFINDenoiser(weights=tmp_path / "w.pth").fit_transform(image)
    np.testing.assert_allclose(result, float(image.max()), rtol=1e-5)
