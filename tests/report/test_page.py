"""Pages: what they contain, what they say, and what is refused."""

import base64
import html
import io
import json
import re
import zlib

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from PIL import Image
from scipy import ndimage

pytest.importorskip("bokeh")

import stemkit
from stemkit import AtomDetector, NoiseModel, PointwiseNoise, ScanNoise
from stemkit.report import Section, write_index, write_report
from stemkit.report.charts import _extent, _maxima, _power
from stemkit.report.encoding import gray_levels, picture
from stemkit.report.noise_words import noise_sentences
from stemkit.report.table import _format

SPACING, PIXEL = 12.0, 0.02


def crystal(seed=0, size=96):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size]
    sites = np.arange(SPACING / 2, size, SPACING)
    true_image = sum(np.exp(-((y - v) ** 2 + (x - u) ** 2) / (2 * 2.2**2)) for v in sites for u in sites)
    image = stemkit.calibrated(100 * true_image + rng.normal(0, 5, true_image.shape), pixel_size=PIXEL)
    return image.assign_attrs(mode="haadf", source="square <crystal>.tif")


@pytest.fixture(scope="module")
def found():
    image = crystal()
    return image, AtomDetector().fit_transform(image)


@pytest.fixture(scope="module")
def page(found, tmp_path_factory):
    image, columns = found
    table = pd.DataFrame({"vector": ["a", "b"], "length (nm)": [0.24, 0.24]})
    path = tmp_path_factory.mktemp("pages") / "crystal_report.html"
    return write_report(
        path,
        image,
        columns,
        faults=["3 pixels are hot & bright"],
        sections=[Section("Polarisation", ["The mean is 5 pm."], tables={"lattice": table})],
        command="stemkit report 'square <crystal>.tif'",
    )


def test_needs_nothing_from_outside(page):
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"<script[^>]+src=", text)
    elements = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', elements) == []


def test_says_what_was_measured(page, found):
    _, columns = found
    text = html.unescape(page.read_text(encoding="utf-8"))
    assert f"{len(columns)} columns" in text
    assert "20 pm" in text  # the pixel size
    assert float(re.search(r"([\d.]+) nm apart", text)[1]) == pytest.approx(SPACING * PIXEL, rel=0.02)
    assert "3 pixels are hot & bright" in text
    assert "The mean is 5 pm." in text


def test_the_scripts_are_compressed(page):
    address = re.search(r'id="scripts">([^<]+)<', page.read_text(encoding="utf-8"))[1]
    script = zlib.decompress(base64.b64decode(address)).decode()
    assert "Bokeh" in script
    assert "pixels-recorded" in script  # the names of the view, and the page's own code that looks for them
    assert len(address) < 0.5 * len(script)
    assert page.stat().st_size < 1.2e6  # Bokeh alone has 2 MB


def test_names_are_escaped(page):
    text = page.read_text(encoding="utf-8")
    assert "<crystal>" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert "square &lt;crystal&gt;.tif" in text


def test_the_picture_is_the_image(page, found):
    address = json.loads(re.search(r"stemkit_pictures = (\{.*?\});", page.read_text(encoding="utf-8"))[1])["recorded"]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("L"), dtype=float)
    values = found[0].values
    assert shown.shape == values.shape
    assert np.corrcoef(shown.ravel(), values.ravel())[0, 1] > 0.999


def test_existing_pages_are_kept(page, found):
    before = page.read_bytes()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_report(page, *found)
    assert page.read_bytes() == before


def test_a_stack_and_another_table_are_refused(found, tmp_path):
    image, columns = found
    with pytest.raises(ValueError, match="for each image of a stack"):
        write_report(tmp_path / "a.html", image.expand_dims("image"), columns)
    with pytest.raises(ValueError, match="columns must be the result of AtomDetector, but lacks snr"):
        write_report(tmp_path / "a.html", image, columns.drop(columns="snr"))
    assert not list(tmp_path.iterdir())


def test_the_assessment_is_a_section(found, tmp_path):
    image, columns = found
    smooth = ndimage.gaussian_filter(image.values, 1.5)
    made = '{"stemkit": "0", "step": "enhance"}'
    enhanced = image.copy(data=smooth).assign_attrs(stemkit=made).assign_coords(recorded=(image.dims, image.values))
    assessment = stemkit.assess(image, enhanced, columns)
    page = write_report(tmp_path / "page.html", enhanced, columns, assessment=assessment)
    text = html.unescape(page.read_text(encoding="utf-8"))
    assert "Can it be believed?" in text
    assert str(assessment)[1:] in text
    assert all(sentence in text for sentence in assessment.warnings)
    assert len(assessment.warnings)  # a Gaussian filter removes more than noise
    assert "<td>lattice</td>" in text


def test_an_image_without_columns_or_pixel_size(tmp_path):
    noise = np.random.default_rng(1).normal(0, 1, (64, 80))
    image = xr.DataArray(noise, dims=("y", "x"), attrs={"mode": "haadf"})
    columns = AtomDetector(significance=6).fit_transform(image)
    text = write_report(tmp_path / "noise.html", image, columns[:0]).read_text(encoding="utf-8")
    assert "0 columns, 0 good" in text
    assert "unknown: lengths are in px" in text


def test_the_index_lists_the_pages_of_the_folder(page, found, tmp_path):
    write_report(tmp_path / "b & c.html", *found, title="b & c", faults=["a fault"])
    (tmp_path / "other.html").write_text("<html>another page</html>")
    index = write_index(tmp_path)
    write_index(tmp_path)  # the index does not list itself
    text = index.read_text(encoding="utf-8")
    assert re.findall(r'<a href="([^"]+)">([^<]+)</a>', text) == [("b%20%26%20c.html", "b &amp; c")]
    assert "a fault" in text
    assert f"<td>{len(found[1])}</td>" in text
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="contains none"):
        write_index(tmp_path / "empty")


def test_large_images_are_averaged():
    values = np.arange(2050 * 1200, dtype=float).reshape(2050, 1200)
    shown = picture(values)
    assert (shown.binning, shown.levels.shape) == (3, (683, 400))
    means = values[:2049].reshape(683, 3, 400, 3).mean(axis=(1, 3))
    assert np.corrcoef(shown.levels.ravel(), means.ravel())[0, 1] > 0.9999


def test_grey_levels_leave_the_transparent_one_free():
    levels = gray_levels(np.array([[np.nan, -1.0], [0.5, 2.0]]), (0.0, 1.0))
    assert levels.tolist() == [[1, 1], [128, 255]]
    assert gray_levels(np.zeros((2, 2))).tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("webp", [True, False])
def test_figures_keep_their_colours(webp, monkeypatch):
    import matplotlib.pyplot as plt

    from stemkit.report import encoding

    monkeypatch.setattr(encoding.features, "check", lambda name: webp)
    noise = np.random.default_rng(0).normal(0, 1, (200, 200))
    figure, ax = plt.subplots(figsize=(5, 5))
    ax.imshow(noise, cmap="gray")
    ax.plot([20, 180], [100, 100], color="#00aa66", linewidth=6)
    address = encoding.figure_uri(figure)
    plt.close(figure)
    assert address.startswith(f"data:image/{'webp' if webp else 'jpeg'};base64,")
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB"), dtype=float)
    is_green = np.abs(shown - [0x00, 0xAA, 0x66]).max(axis=2) < 20
    # the line is 1280 / 5 / 72 * 6 = 21 px wide
    assert is_green.sum() > 5000
    assert len(address) < 1e6


def test_figures_are_small():
    """A page has up to six figures, and a script of 0.7 MB, in 4 MB."""
    import matplotlib.pyplot as plt

    from stemkit.report import encoding

    y, x = np.mgrid[:1024, :1024]
    noise = np.cos(x / 4) * np.cos(y / 4) + np.random.default_rng(0).normal(0, 0.3, (1024, 1024))
    figure, ax = plt.subplots(figsize=(5, 5))
    ax.imshow(noise, cmap="gray")
    address = encoding.figure_uri(figure)
    plt.close(figure)
    assert len(address) < 4 / 3 * encoding.MAX_FIGURE_BYTES + 100
    assert max(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).size) > 700


@pytest.mark.parametrize("webp", [True, False])
def test_pictures_keep_their_grey_levels(webp, monkeypatch):
    from stemkit.report import encoding

    monkeypatch.setattr(encoding.features, "check", lambda name: webp)
    levels = np.arange(1, 256, dtype=np.uint8)[None] * np.ones((90, 1), dtype=np.uint8)
    uri = encoding.Picture(levels, 1).uri
    shown = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("L")
    np.testing.assert_array_equal(np.asarray(shown), levels)


def test_spectra_keep_the_spots():
    y, x = np.mgrid[0:600, 0:600]
    power = _power(np.cos(2 * np.pi * x / 6) + np.cos(2 * np.pi * y / 10))
    assert _extent(power) == pytest.approx(1.4 / 6, rel=0.05)  # 1.4 times the highest frequency
    reduced = _maxima(power)
    assert reduced.shape == (200, 200)
    assert reduced.max() == power.max()


def test_noise_in_words():
    model = NoiseModel(
        pointwise=PointwiseNoise.counted(50.0, background=10.0), scan=ScanNoise(jitter=0.5, hum=0.3, hum_period=7.0)
    )
    text = " ".join(noise_sentences(model, pixel_size=0.01))
    # sqrt(10) / 50, and sqrt(10 / 50^2 + 1 / 50)
    assert "6.3% of the contrast in the background and 15.5% at the brightest columns" in text
    assert "50 electrons per pixel" in text
    assert "5e+03 per Å²" in text
    assert "0.5 px (5 pm) along x" in text
    assert "period of 7 rows" in text
    assert "no displacement" in " ".join(noise_sentences(NoiseModel()))


@pytest.mark.parametrize(("error", "form"), [(138.0, "0"), (1.2, "0.0"), (0.03, "0.000"), (np.nan, "0.000")])
def test_amplitudes_have_the_decimals_of_their_errors(error, form):
    assert _format(pd.Series([error, error, error])) == form
