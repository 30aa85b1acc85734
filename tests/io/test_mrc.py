"""MRC files written by mrcfile, the library of the format's authors."""

import mrcfile
import numpy as np
import pytest

import stemkit

RNG = np.random.default_rng(4)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint16, np.float32, np.float16])
@pytest.mark.parametrize("stack", [False, True])
def test_modes(dtype, stack, tmp_path):
    values = (RNG.normal(size=(3, 20, 30) if stack else (20, 30)) * 40).astype(dtype)
    if dtype == np.uint16:
        values = values % 999
    with mrcfile.new(tmp_path / "a.mrc", data=values) as file:
        file.voxel_size = (0.1, 0.2, 1.0)  # angstrom, x y z
        if stack:
            file.set_image_stack()
    image = stemkit.read(tmp_path / "a.mrc")
    assert image.dims == ("image", "y", "x")[0 if stack else 1 :]
    assert image.dtype == dtype
    np.testing.assert_array_equal(image.values, values)
    assert image.stem.pixel_sizes == pytest.approx((0.02, 0.01))


def test_mode_0_of_imod_without_its_flag_is_unsigned(tmp_path):
    values = RNG.integers(0, 255, (20, 30)).astype(np.uint8)
    mrcfile.new(tmp_path / "a.mrc", data=values.view(np.int8)).close()
    content = bytearray((tmp_path / "a.mrc").read_bytes())
    content[152:160] = np.array([1146047817, 0], "<i4").tobytes()
    (tmp_path / "a.mrc").write_bytes(content)
    np.testing.assert_array_equal(stemkit.read(tmp_path / "a.mrc").values, values)


def test_big_endian(tmp_path):
    header = np.zeros(256, ">i4")
    header[:4] = 7, 5, 1, 6
    values = RNG.integers(0, 60000, (5, 7)).astype(">u2")
    (tmp_path / "a.mrc").write_bytes(header.tobytes() + values.tobytes())
    image = stemkit.read(tmp_path / "a.mrc")
    np.testing.assert_array_equal(image.values, values)
    assert image.dtype == np.uint16


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((7, 5, -1, 2), "must be positive"),
        ((0, 5, 1, 2), "must be positive"),
        ((7, 5, 1, 9), "its mode must be one of 0, 1, 2"),
        ((70000, 50000, 9, 2), r"declares 126,000,000,000 bytes of pixels, but the file contains 140"),
    ],
)
def test_wrong_headers(numbers, text, tmp_path, make):
    path = make.mrc(tmp_path / "a.mrc", np.ones((5, 7), np.float32), None)
    content = bytearray(path.read_bytes())
    content[:16] = np.array(numbers, "<i4").tobytes()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=text):
        stemkit.read(path)
