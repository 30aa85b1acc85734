"""TIFF files of stemkit as RosettaSciIO, the reader of HyperSpy, reads them."""

import numpy as np
import pytest
import xarray as xr

import stemkit
from stemkit.images.pixel_size import with_pixel_sizes


@pytest.mark.parametrize("shape", [(6, 8), (3, 6, 8)])
@pytest.mark.parametrize("sizes", [(0.02, 0.02), (1.5, 0.2)])
def test_hyperspy_reads_the_pixel_size_in_nm(tmp_path, shape, sizes):
    reader = pytest.importorskip("rsciio.tiff")
    image = xr.DataArray(
        np.arange(np.prod(shape), dtype=np.float32).reshape(shape), dims=("image", "y", "x")[-len(shape) :]
    )
    path = stemkit.write(with_pixel_sizes(image, *sizes), tmp_path / "image.tif")
    (signal,) = reader.file_reader(str(path))
    np.testing.assert_array_equal(signal["data"], image)
    assert [a["units"] for a in signal["axes"][-2:]] == ["nm", "nm"]
    assert [a["scale"] for a in signal["axes"][-2:]] == pytest.approx(sizes)
    assert stemkit.read(path).stem.pixel_sizes == pytest.approx(sizes)


def test_hyperspy_reads_no_unit_where_there_is_no_pixel_size(tmp_path):
    reader = pytest.importorskip("rsciio.tiff")
    path = stemkit.write(np.zeros((6, 8), dtype=np.float32), tmp_path / "image.tif")
    (signal,) = reader.file_reader(str(path))
    assert [a["units"] for a in signal["axes"]] == [None, None]
