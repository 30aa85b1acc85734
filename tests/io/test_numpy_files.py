"""NPY, NPZ, MAT and plain HDF5 files, written by NumPy, SciPy and h5py."""

import h5py
import numpy as np
import pytest
from scipy.io import savemat

import stemkit
from stemkit.io import hdf5_heaps

IMAGE = np.random.default_rng(2).normal(size=(30, 40))


def as_npz(path, **arrays):
    np.savez(path, **arrays)


def as_mat73(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = np.asarray(values).T


@pytest.mark.parametrize(("write", "name"), [(as_npz, "a.npz"), (savemat, "a.mat"), (as_mat73, "a.mat")])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16, np.uint8])
def test_arrays_by_name(write, name, dtype, tmp_path):
    path = tmp_path / name
    arrays = {"first": (IMAGE * 9).astype(dtype), "second": (IMAGE * 7).astype(dtype), "positions": IMAGE[:, :2]}
    if write is savemat:
        write(path, {**arrays, "pixel_size_nm": 0.02, "text": "abc"})
    else:
        write(path, **arrays, pixel_size_nm=0.02)
    image = stemkit.read(path, dataset="second")
    assert image.dims == ("y", "x")
    assert image.dtype == dtype
    np.testing.assert_array_equal(image.values, arrays["second"])
    assert image.stem.pixel_size == pytest.approx(0.02)
    listed = {d.name: d.content for d in stemkit.datasets(path)}
    assert listed["first"] == "image"
    assert listed["positions"] == "a table of 30 rows and 2 columns"
    with pytest.warns(UserWarning, match="contains 2 images and .*'first'.* is read"):
        stemkit.read(path)


def test_hdf5_by_path(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["scan/raw"] = IMAGE
        file["scan/energies"] = IMAGE[0]
        file["elsewhere"] = h5py.ExternalLink("/etc/passwd", "/a")
        file["again"] = h5py.SoftLink("/scan")
        file["scan/loop"] = file["scan"]
    image = stemkit.read(tmp_path / "a.h5")
    assert image.attrs["dataset"] == "scan/raw"
    np.testing.assert_array_equal(image.values, IMAGE)


@pytest.mark.parametrize("suffix", ["h5", "hspy", "nc"])
def test_pixels_in_other_files_are_not_read(suffix, tmp_path):
    (tmp_path / "raw.bin").write_bytes(IMAGE.tobytes())
    with h5py.File(tmp_path / f"a.{suffix}", "w") as file:
        name = "Experiments/a/data" if suffix == "hspy" else "a"
        file.create_dataset(name, IMAGE.shape, IMAGE.dtype, external=[(str(tmp_path / "raw.bin"), 0, IMAGE.nbytes)])
    with pytest.raises(ValueError, match="can't read"):
        stemkit.read(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("suffix", ["h5", "hspy", "nc", "emd", "mat"])
def test_links_to_other_files_are_not_followed(suffix, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["Experiments/a/data"] = file["a"] = IMAGE
        file["Data/Image/0/Data"] = IMAGE[..., None]
    names = {"hspy": "Experiments", "emd": "Data"}
    with h5py.File(tmp_path / f"a.{suffix}", "w") as file:
        file["a"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/a")
        if suffix in names:
            file[names[suffix]] = h5py.ExternalLink(str(tmp_path / "other.h5"), names[suffix])
    with pytest.raises(ValueError, match="can't read"):
        stemkit.read(tmp_path / f"a.{suffix}")


def test_pixels_that_were_never_written(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("a", (30, 40), "f4", chunks=(10, 40))
        data[:10] = IMAGE[:10]
    with pytest.raises(ValueError, match="2 of 3 blocks of its pixels were never written"):
        stemkit.read(tmp_path / "a.h5")


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_pickles_are_not_executed(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    if suffix == "npy":
        np.save(path, np.array([[{}]]), allow_pickle=True)
    else:
        np.savez(path, a=np.array([[{}]]), allow_pickle=True)
    with pytest.raises(ValueError, match="pickled objects, which are not read"):
        stemkit.read(path)


def test_extended_precision_becomes_double(tmp_path):
    values = IMAGE.astype(np.longdouble)
    np.save(tmp_path / "a.npy", values)
    image = stemkit.read(tmp_path / "a.npy")
    assert image.dtype == np.float64
    np.testing.assert_array_equal(image.values, IMAGE)
    for suffix in ("tif", "nc", "hspy"):
        with pytest.warns(UserWarning, match="written as float64"):
            stemkit.write(values, tmp_path / f"b.{suffix}")
        np.testing.assert_array_equal(stemkit.read(tmp_path / f"b.{suffix}").values, IMAGE)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_an_offset_that_cost_the_resolution_is_announced(dtype, tmp_path):
    offset = 1e9 if dtype == np.float32 else 2e4
    np.save(tmp_path / "a.npy", (IMAGE * 100 + offset).astype(dtype))
    with pytest.warns(UserWarning, match=r"numbers are (64|16) apart: their resolution was lost"):
        stemkit.read(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", (IMAGE * 100).astype(dtype))
    assert stemkit.read(tmp_path / "a.npy").dtype == dtype


@pytest.mark.parametrize("large", [False, True])
def test_a_heap_on_which_the_hdf5_library_would_loop(large, tmp_path, make, monkeypatch):
    monkeypatch.setattr(hdf5_heaps, "_MAX_SEARCHED_BYTES", 0 if large else 2**30)
    path = make.velox(tmp_path / "a.emd", {"HAADF": (IMAGE * 1000).astype(np.int16)[..., None]})
    assert stemkit.read(path).shape == IMAGE.shape
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL")
    size = int.from_bytes(content[heap + 8 : heap + 16], "little")
    position = heap + 16
    while int.from_bytes(content[position : position + 2], "little"):  # the free space has the index 0
        position += 16 + -(-int.from_bytes(content[position + 8 : position + 16], "little") // 8) * 8
    assert position < heap + size
    content[position : position + 16] = bytes(16)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="has an object without a size"):
        stemkit.read(path)


@pytest.mark.parametrize("chunks", [None, (100, 300)])
def test_heaps_are_searched_outside_the_pixels(chunks, tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5_heaps, "_MAX_SEARCHED_BYTES", 0)
    values = np.frombuffer(b"GCOL\1\0\0\0" * 300_000, np.uint8).reshape(1000, 2400)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a", data=values, chunks=chunks)
        file.attrs["text"] = "a text"
    np.testing.assert_array_equal(stemkit.read(tmp_path / "a.h5").values, values)
