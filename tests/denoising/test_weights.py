"""Files of weights from anybody: what does not fit is refused before memory is allocated, and nothing is executed."""

import json
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stemkit import SFINDenoiser
from stemkit.denoising import load_weights, save_weights
from stemkit.denoising.weights import NetworkInfo, build

resource = pytest.importorskip("resource")

INFO = NetworkInfo(4, 1, 2)
DESCRIPTION = {"n_channels": 4, "n_blocks": 1, "downsampling": 2, "outputs": ["enhance"]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "w.safetensors"


def state():
    tensors = build(INFO).state_dict()
    return {key: value for key, value in tensors.items() if not key.endswith("num_batches_tracked")}


def written(path, changes=None, tensors=None, text=None):
    """A file with the description, of which some entries are changed, and the tensors."""
    described = {**DESCRIPTION, **(changes or {})}
    save_file(state() if tensors is None else tensors, path, metadata={"stemkit": text or json.dumps(described)})
    return path


def test_the_unchanged_file_is_valid(path):
    module, info = load_weights(written(path))
    assert (info.n_channels, info.outputs, module.downsampling) == (4, ("enhance",), 2)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"n_channels": 10**12}, "an integer from 1 to 1024 as n_channels, but it is 1000000000000"),
        ({"n_channels": 3}, "describe a network that can't be built: n_channels must be an even number"),
        ({"n_channels": True}, "as n_channels, but it is True"),
        ({"n_channels": "4"}, "as n_channels, but it is '4'"),
        ({"n_channels": [4]}, r"as n_channels, but it is \[4\]"),
        ({"n_blocks": 10**9}, "an integer from 1 to 128 as n_blocks"),
        ({"n_blocks": -1}, "as n_blocks, but it is -1"),
        ({"downsampling": 3}, "describe a network that can't be built: downsampling must be 1, 2 or 4"),
        ({"downsampling": 0.5}, "an integer from 1 to 4 as downsampling"),
        ({"outputs": []}, "as outputs"),
        ({"outputs": "enhance"}, "as outputs, but it is 'enhance'"),
        ({"outputs": ["enhance"] * 2}, "a list of different names"),
        ({"outputs": [["enhance"]]}, "as outputs"),
        ({"scaling": "grey"}, "as scaling, but it is 'grey'"),
        ({"scaling": {}}, "as scaling"),
        ({"spacing": [5.0]}, "as spacing"),
        ({"spacing": [9.0, 5.0]}, "two ascending positive numbers as spacing"),
        ({"spacing": "59"}, "as spacing, but it is '59'"),
        ({"spacing": [1.0, float("inf")]}, "as spacing"),
        ({"training": []}, "a dictionary as training"),
        ({"training": {"epochs": "3"}}, "a number as epochs of a training"),
        ({"training": {"device": 3}}, "a text as device of a training"),
        ({"training": {"crop_sizes": 3}}, "a list of numbers as crop_sizes"),
        ({"training": {"before": "x"}}, "a dictionary as the record of a training, but it is 'x'"),
        ({"architecture": "unet"}, "architecture must be 'sfin' or one of"),
        ({"architecture": None}, "a text as architecture"),
        ({"extra": 1}, r"have a description with the entries \['extra'\]: they"),
    ],
)
def test_descriptions_that_are_refused(path, changes, match):
    with pytest.raises(ValueError, match=match) as caught:
        load_weights(written(path, changes))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "[]", "3", "null", '"x"', "{}"])
def test_descriptions_that_are_none(path, text):
    with pytest.raises(ValueError, match=r"have a description|must have a dictionary") as caught:
        load_weights(written(path, text=text))
    assert str(path) in str(caught.value)


def test_a_long_history_of_trainings(path):
    record = {"epochs": 1}
    for _ in range(60):
        record = {"before": record}
    with pytest.raises(ValueError, match="at most 50 trainings"):
        load_weights(written(path, {"training": record}))


def test_a_network_that_is_larger_than_the_file_takes_no_memory(path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="do not fit the network that the file describes"):
        load_weights(written(path, {"n_channels": 1024, "n_blocks": 128}))
    # such a network has 15,000 million weights
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_other_data_types(path, dtype):
    tensors = state()
    tensors["tail_conv.weight"] = tensors["tail_conv.weight"].to(dtype)
    with pytest.raises(ValueError, match=r"must be floating-point numbers, but some are \["):
        load_weights(written(path, tensors=tensors))


def test_missing_additional_and_reshaped_tensors(path):
    without, more, turned = state(), {**state(), "x.weight": torch.ones(1)}, state()
    del without["tail_conv.weight"]
    turned["tail_conv.weight"] = turned["tail_conv.weight"].transpose(0, 1).contiguous()
    with pytest.raises(ValueError, match=r"1 of its tensors are missing \(tail_conv.weight\), and 0"):
        load_weights(written(path, tensors=without))
    with pytest.raises(ValueError, match=r"0 of its .*, and 1 are not part of it \(x.weight\)"):
        load_weights(written(path, tensors=more))
    with pytest.raises(ValueError, match=r"head_conv.weight must have shape \(4, 4, 3, 3\), but has \(1,\)"):
        load_weights(written(path, tensors={**turned, "head_conv.weight": torch.ones(1)}))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_neither_written_nor_loaded(path, value):
    module = build(INFO)
    with torch.no_grad():
        module.tail_conv.weight[0, 0, 0, 0] = value
    with pytest.raises(ValueError, match=r"1 of 144 values of tail_conv.weight are not: the training diverged"):
        save_weights(module, INFO, path)
    assert not path.exists()
    tensors = {key: value for key, value in module.state_dict().items() if not key.endswith("tracked")}
    with pytest.raises(ValueError, match=r"must be finite, but 1 of 144 values of tail_conv.weight"):
        load_weights(written(path, tensors=tensors))


def test_weights_too_large_for_half_precision_are_not_written(path):
    module = build(INFO)
    with torch.no_grad():
        module.tail_conv.weight.fill_(1e6)
    with pytest.raises(ValueError, match=r"144 of 144 values of tail_conv.weight"):
        save_weights(module, INFO, path)


def test_negative_variances(path):
    tensors = state()
    key = next(key for key in tensors if key.endswith("running_var"))
    tensors[key] = -tensors[key]
    with pytest.raises(ValueError, match="variances of at least 0"):
        load_weights(written(path, tensors=tensors))


def test_an_image_with_an_infinite_result_is_refused(path):
    tensors = {key: torch.full_like(value, 1e38) if value.ndim == 4 else value for key, value in state().items()}
    denoiser = SFINDenoiser(weights=written(path, tensors=tensors))
    image = np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32)
    with pytest.raises(ValueError, match="the network's output must be finite, but "):
        denoiser.fit_transform(image)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ([1, 2], "a dictionary of tensors"),
        ({}, "a dictionary of tensors"),
        ({"model_state_dict": 3}, "a dictionary of tensors"),
        ({"head_conv.weight": 3}, "a tensor with a name"),
        ({3: torch.ones(1)}, "a tensor with a name"),
        ({"head_conv.weight": torch.ones(4, dtype=torch.int32)}, "dense floating-point tensors"),
        ({"head_conv.weight": torch.eye(4).to_sparse()}, "dense floating-point tensors"),
        ({"head_conv.weight": torch.tensor(1.0)}, "as n_channels, but it is 0"),
        ({"head_conv.weight": torch.ones(4, 1, 3, 3)}, "as n_blocks, but it is 0"),
        ({"other": torch.ones(1)}, "must be of an SFIN"),
        ({"head_conv.weight": torch.ones(1).expand(10**6, 10**6)}, "as n_channels, but it is 1000000"),
    ],
)
def test_checkpoints_that_are_refused(tmp_path, content, match):
    path = tmp_path / "w.pth"
    torch.save(content, path)
    with pytest.raises(ValueError, match=match) as caught:
        load_weights(path)
    assert str(path) in str(caught.value)


def test_views_that_are_larger_than_their_file(tmp_path):
    tensors = {**build(NetworkInfo(4, 1)).state_dict(), "tail_conv.weight": torch.ones(1).expand(10**6, 10**6)}
    torch.save(tensors, tmp_path / "w.pth")
    with pytest.raises(
        ValueError, match=r"tail_conv.weight must have shape \(1, 4, 3, 3\), but has \(1000000, 1000000\)"
    ):
        load_weights(tmp_path / "w.pth")


def test_a_compressed_checkpoint(tmp_path):
    torch.save({"head_conv.weight": torch.zeros(10**6)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))
    with pytest.raises(ValueError, match="bytes declare 4000"):
        load_weights(tmp_path / "w.pth")


def test_damaged_files(path):
    content = written(path).read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        changed = bytearray(content[: int(rng.integers(len(content))) if rng.random() < 0.3 else None])
        for at in rng.integers(0, min(len(changed), 3000), 5):
            changed[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        refused += refusal(path) is not None
    assert refused > 40


def refusal(path):
    """The message of the refusal, which has the path; None if the weights are loaded."""
    try:
        load_weights(path)
    except ValueError as error:
        return str(error)[: str(error).index(str(path)) + 1]
    return None
