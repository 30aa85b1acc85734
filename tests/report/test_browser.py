"""Pages in a browser: nothing fails, and the divider, the filter, the sorting, the zoom and the download work."""

import shutil
import time

import numpy as np
import pandas as pd
import pytest

import stemkit
from stemkit import AtomDetector
from stemkit.detection import Quality

pytest.importorskip("selenium")
write_report = pytest.importorskip("stemkit.report").write_report

BROWSER, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="neither Chromium nor Chrome with its driver is there"),
]
#: Options of a browser without a display, which looks for nothing in the network.
OPTIONS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,1000",
]
PAGE = "const page = Bokeh.documents.find(d => d.get_model_by_name('pixels-recorded'));"

FIND = "const find = type => [...page._all_models.values()].find(m => m.type === type);"
#: Elements of the table of columns, which is in a shadow tree, by a part of their class.
INSIDE = """
const root = element => { for (const child of element.querySelectorAll("*")) {
    if (`${child.className}`.includes("slick-header-column")) return element;
    const found = child.shadowRoot && root(child.shadowRoot);
    if (found) return found;
} };
const within = name => root(document).querySelectorAll(`[class*=${name}]`);
"""


@pytest.fixture(scope="module")
def columns():
    return AtomDetector().fit_transform(image())


def image():
    rng = np.random.default_rng(3)
    y, x = np.mgrid[0:96, 0:120]
    true_image = np.exp(2 * (np.cos(2 * np.pi * y / 12) + np.cos(2 * np.pi * x / 12)) - 4)
    noisy = stemkit.calibrated(100 * true_image + rng.normal(0, 6, true_image.shape), pixel_size=0.02)
    made = '{"stemkit": "0", "step": "enhance"}'
    enhanced = noisy.copy(data=100 * true_image).assign_attrs(mode="haadf", stemkit=made)
    return enhanced.assign_coords(recorded=(("y", "x"), noisy.values))


@pytest.fixture(scope="module")
def browser(columns, tmp_path_factory):
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    folder = tmp_path_factory.mktemp("browser")
    page = write_report(folder / "page.html", image(), columns)
    options = Options()
    options.binary_location = BROWSER
    for option in OPTIONS:
        options.add_argument(option)
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=Service(DRIVER)) as driver:
        driver.folder = folder
        driver.get(page.as_uri())
        until(lambda: driver.execute_script("return document.documentElement.dataset.ready"))
        yield driver


def until(condition, limit=30):
    end = time.monotonic() + limit
    while not (reached := condition()):
        assert time.monotonic() < end, "the page did not react"
        time.sleep(0.1)
    return reached


def test_nothing_fails(browser):
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


def test_the_divider_shows_the_recorded_pixels_on_its_right(browser):
    code = f"{PAGE} page.get_model_by_name('divider').value = arguments[0];"
    pixels = f"{PAGE} return Array.from(page.get_model_by_name('pixels-enhanced').data.image[0])"
    for percent in (25, 100, 50):
        browser.execute_script(code, percent)
        shown = np.array(browser.execute_script(pixels)).reshape(96, 120)
        cut = round(percent / 100 * 120)
        assert (shown[:, :cut] > 0).all()  # the enhanced image
        assert (shown[:, cut:] == 0).all()  # transparent


def test_the_view_can_be_zoomed(browser):
    code = f"{PAGE} return [...page._all_models.values()].find(m => m.type === 'Figure' && m.match_aspect)"
    before = browser.execute_script(code + ".x_range.end")
    assert before == pytest.approx(119.5 * 0.02, rel=0.3)
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
    from selenium.webdriver.common.by import By

    view = browser.find_element(By.ID, "image-view")
    ActionChains(browser).scroll_from_origin(ScrollOrigin.from_element(view, 0, -100), 0, -300).perform()
    until(lambda: browser.execute_script(code + ".x_range.end") < 0.95 * before)


def test_the_filter_and_the_download(browser, columns):
    good = stemkit.detection.good_columns(columns)
    assert 0 < len(good) < len(columns)
    click = "new (Bokeh.require('core/bokeh_events').ButtonClick)()"
    browser.execute_script(f"{PAGE} {FIND} find('Select').value = 'good columns'")
    browser.execute_script(f"{PAGE} {FIND} find('Button').trigger_event({click})")
    file = browser.folder / "image_columns.csv"
    until(file.exists)
    table = pd.read_csv(file)
    assert len(table) == len(good)
    assert np.allclose(table["y"], good["y"], atol=1e-6)
    assert np.allclose(table["x_err"], good["x_err"], rtol=1e-5)
    assert table["flags"].isna().all()


def test_a_flag_has_the_same_words_in_legend_filter_and_table(browser, columns):
    bordering = int((columns["quality"] & Quality.EDGE > 0).sum())
    assert 0 < bordering < len(columns)
    legend = browser.execute_script(f"{PAGE} {FIND} return find('Legend').items.map(item => item.label.value)")
    assert any(label.startswith("near the border (") for label in legend)
    browser.execute_script(f"{PAGE} {FIND} find('Select').value = 'near the border'")
    rows = f"{INSIDE} return [...within('slick-row')].map(row => row.textContent)"
    until(lambda: all("near the border" in row for row in browser.execute_script(rows)))
    kept = f"{PAGE} {FIND} const t = find('DataTable'); return [...t.view.filter.compute_indices(t.source)].length"
    assert browser.execute_script(kept) == bordering
    browser.execute_script(f"{PAGE} {FIND} find('Select').value = 'all columns'")


def test_a_click_on_a_title_sorts(browser):
    title = f"{INSIDE} return [...within('slick-header-column')].find(e => e.textContent.startsWith('amplitude'))"
    cells = (
        f"{INSIDE} const top = row => parseFloat(row.style.top);"
        "return [...within('slick-row')].sort((a, b) => top(a) - top(b)).map(row => "
        "row.querySelector('.l5').textContent)"
    )
    for sign in (1, -1):
        browser.execute_script(title).click()
        until(lambda sign=sign: (np.diff([float(t) for t in browser.execute_script(cells)]) * sign >= 0).all())
