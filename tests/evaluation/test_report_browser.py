"""Test the page in headless Chromium: pixels and keys. Skipped without Chromium."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from mrirecon.evaluation import compare
from mrirecon.evaluation.report.cases import About, Case, Result
from mrirecon.evaluation.report.html import write_report
from mrirecon.evaluation.report.slices import choose_depths, scaled_to

selenium = pytest.importorskip("selenium", reason="selenium is not installed: pip install 'mrirecon[test]'")
EVIL = "</script><script>window.bad=1</script><img src=x onerror='window.bad=2'><svg onload=window.bad=3>"
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update"),
    *("--disable-background-networking", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1400,1100"),
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    chromedriver = shutil.which("chromedriver")
    if not chromium or not chromedriver:
        pytest.skip("no Chromium: `apt-get install chromium chromium-driver` on Debian")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def images():
    y, x = np.mgrid[-1:1:48j, -1:1:40j]
    disc = (y**2 + x**2 < 0.7) * (1 + 0.4 * np.cos(7 * y + 3 * x))
    rng = np.random.default_rng(3)
    reference = np.abs(np.stack([disc, 0.9 * disc, 0.7 * disc, 0.8 * disc]) + 0.01 * rng.normal(size=(4, 48, 40)))
    poor = np.abs(reference + 0.15 * rng.normal(size=reference.shape))
    good = np.abs(reference + 0.03 * rng.normal(size=reference.shape))
    good[2] += 0.1 * rng.random(good[2].shape)
    return reference, poor, good


@pytest.fixture(scope="module")
def page(browser, images, tmp_path_factory):
    """Open the page of two cases once, and record its network requests and console output."""
    reference, poor, good = images
    region = np.zeros(reference.shape, int)
    region[1:3, 20:26, 15:22] = 1
    results = [
        Result(m, v, compare(v, reference, prediction="p", reference="r", kind="images"), notes=[EVIL])
        for m, v in (("zero-filled", poor), (EVIL, good))
    ]
    mask = np.random.default_rng(0).random((1, 48, 40)) < 0.3
    cases = [Case(EVIL, results, reference, "images", mask, region), Case("blind", [Result("zero-filled", poor)])]
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(path, cases, About(EVIL), full_images=True)
    browser.get(path.as_uri())
    ready(browser)
    return path


@pytest.fixture
def viewer(browser, page):
    """Return the viewer of the first case in its initial state, with the focus."""
    from selenium.webdriver.common.by import By

    browser.get(page.as_uri())
    ready(browser)
    element = browser.find_element(By.CSS_SELECTOR, "#case-0 .viewer")
    browser.execute_script("arguments[0].focus()", element)
    return element


def ready(browser):
    from selenium.webdriver.support.ui import WebDriverWait

    drawn = """
        document.querySelectorAll('.viewer').forEach(start);
        return [...viewers.values()].every((one) => one.drawn === one.view.slice && !one.waiting);"""
    WebDriverWait(browser, 20).until(lambda d: d.execute_script(drawn))


def state(browser):
    ready(browser)
    inner = "const v = viewers.get(document.querySelector('#case-0 .viewer')); return [v.view, v.flicker, v.before]"
    view, flicker, before = browser.execute_script(inner)
    return view | {"flicker": flicker, "before": before}


def pixels(browser, panel, selector="image"):
    """Return the pixels (y, x, rgb) of a panel of the first case."""
    ready(browser)
    script = """
        const v = viewers.get(document.querySelector('#case-0 .viewer'));
        const panel = arguments[1] === 'error' ? v.errors[arguments[0]] : v.panels[arguments[0]];
        return [...panel.picture.context.getImageData(0, 0, v.data.nx, v.data.ny).data];"""
    return np.array(browser.execute_script(script, panel, selector)).reshape(48, 40, 4)[..., :3]


def seen(browser, panel=0):
    """Return a hash of the canvas with zoom and outlines, and its size."""
    ready(browser)
    script = """
        const canvas = viewers.get(document.querySelector('#case-0 .viewer')).each()[arguments[0]].canvas;
        let sum = 0;
        for (const v of canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data)
            sum = (sum * 31 + v) % 1000000007;
        return [sum, canvas.width, canvas.height];"""
    return browser.execute_script(script, panel)


def test_it_loads_without_errors_or_requests_and_names_are_inert(browser, page):
    assert [e for e in browser.get_log("browser") if e["level"] in ("SEVERE", "WARNING")] == []
    messages = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    requests = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    asked = [r["request"]["url"] for r in requests if r["documentURL"] == page.as_uri()]
    assert asked
    assert {url.split(":")[0] for url in asked} <= {"file", "data"}
    assert {url for url in asked if url.startswith("file:")} == {page.as_uri()}
    assert browser.execute_script("return typeof window.bad") == "undefined"
    assert browser.execute_script("return document.scripts.length") == 3, "the pictures of two cases, and the script"
    assert browser.title == EVIL


def test_the_policy_stops_what_would_slip_through(browser, page):
    browser.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.bad = 4'; document.body.append(s);"
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.bad=5\">')"
    )
    assert browser.execute_script("return typeof window.bad") == "undefined"


def test_pictures_are_the_images(browser, viewer, images):
    reference, poor, good = images
    others = [scaled_to(v, reference) for v in (poor, good)]
    depth = choose_depths(reference, others)[0]
    at = state(browser)["slice"]
    assert at == 2, "the worst of the method, not of zero filling"
    numbered = [np.rint(v[at] / depth.step) for v in (reference, *others)]
    for panel, wanted in enumerate(numbered):
        grey = np.clip(np.round(255 * wanted / depth.white), 0, 255)
        assert np.abs(pixels(browser, panel) - grey[..., None]).max() <= 1
    error = np.abs(numbered[1] - numbered[0]) * 5 / depth.white
    shown = pixels(browser, 1, "error").sum(-1)
    assert np.corrcoef(np.minimum(error, 1).ravel(), shown.ravel())[0, 1] > 0.95


def test_slices_turn_by_keys_slider_and_wheel(browser, viewer):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.action_chains import ScrollOrigin
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    before = pixels(browser, 0)
    viewer.send_keys(Keys.HOME)
    assert state(browser)["slice"] == 0
    assert (pixels(browser, 0) != before).any()
    viewer.send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert state(browser)["slice"] == 2
    viewer.send_keys(Keys.END, Keys.ARROW_DOWN)
    assert state(browser)["slice"] == 3
    viewer.send_keys("w")
    assert state(browser)["slice"] == 2
    origin = ScrollOrigin.from_element(viewer.find_elements(By.CSS_SELECTOR, ".panel canvas")[1])
    ActionChains(browser).scroll_from_origin(origin, 0, -60).perform()
    assert state(browser)["slice"] == 1
    assert "slice 2 " in viewer.find_element(By.CSS_SELECTOR, "[name=slice-name]").text
    script = "const s = arguments[0]; s.value = 3; s.dispatchEvent(new Event('input', {bubbles: true}))"
    browser.execute_script(script, viewer.find_element(By.CSS_SELECTOR, "[name=slice]"))
    assert state(browser)["slice"] == 3


def test_the_window_is_linked_and_dragged(browser, viewer):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    before = [pixels(browser, k) for k in range(3)]
    canvas = viewer.find_elements(By.CSS_SELECTOR, ".panel.image canvas")[1]
    ActionChains(browser).move_to_element(canvas).click_and_hold().move_by_offset(-90, 40).release().perform()
    view = state(browser)
    assert view["width"] < 90
    assert view["level"] > 55
    assert all((pixels(browser, k) != before[k]).any() for k in range(3))
    viewer.send_keys("0")
    assert all((pixels(browser, k) == before[k]).all() for k in range(3))
    viewer.send_keys("[[[[")
    assert state(browser)["width"] == pytest.approx(100 / 1.1**4)
    errors = pixels(browser, 2, "error")
    viewer.send_keys("g")
    assert pixels(browser, 2, "error").sum() > errors.sum(), "ten times brighter, not five"


def test_zoom_and_pan_are_linked(browser, viewer):
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.common.by import By

    before = [seen(browser, k) for k in (0, 2)]
    viewer.send_keys("+++")
    assert state(browser)["zoom"] == pytest.approx(1.25**3)
    assert all(seen(browser, k) != was for k, was in zip((0, 2), before, strict=True))
    x = state(browser)["x"]
    canvas = viewer.find_elements(By.CSS_SELECTOR, ".panel.image canvas")[0]
    chain = ActionChains(browser).move_to_element(canvas).key_down(Keys.SHIFT).click_and_hold()
    chain.move_by_offset(-30, 0).release().key_up(Keys.SHIFT).perform()
    assert state(browser)["x"] > x
    assert state(browser)["width"] == 100, "a pan does not change the window"
    viewer.send_keys("0")
    ActionChains(browser).move_to_element(viewer.find_element(By.CSS_SELECTOR, ".tools")).perform()
    assert all(seen(browser, k) == was for k, was in zip((0, 2), before, strict=True))


def test_methods_flicker_at_one_place(browser, viewer):
    from selenium.webdriver.common.keys import Keys

    viewer.send_keys("f")
    assert state(browser)["flicker"] == 2, "the method comes first, not zero filling"
    method = seen(browser)
    viewer.send_keys(Keys.SPACE)
    assert state(browser)["flicker"] == 0
    reference = seen(browser)
    assert reference[0] != method[0]
    assert reference[1:] == method[1:]
    viewer.send_keys(Keys.SPACE)
    assert seen(browser) == method
    viewer.send_keys("2")
    view = state(browser)
    assert (view["flicker"], view["before"]) == (1, 2)
    image = seen(browser)
    viewer.send_keys("e")
    assert seen(browser) != image
    viewer.send_keys(Keys.ESCAPE)
    assert state(browser)["flicker"] is None


def test_lesions_are_outlined_and_help_lists_the_keys(browser, viewer):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    outlined = seen(browser)
    viewer.send_keys("l")
    assert seen(browser) != outlined
    viewer.send_keys("?")
    dialog = browser.find_element(By.ID, "help")
    assert dialog.is_displayed()
    assert "flicker" in dialog.text
    dialog.send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed()
    viewer.send_keys("n")
    where = "return document.activeElement.closest('.case').id"
    assert browser.execute_script(where) == "case-1"


def test_the_mouse_reads_values(browser, viewer, images):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    canvas = viewer.find_elements(By.CSS_SELECTOR, ".panel.image canvas")[0]
    ActionChains(browser).move_to_element(canvas).perform()
    text = viewer.find_element(By.CSS_SELECTOR, ".probe").text
    row, column = (int(part.split()[-1]) for part in text.split(",")[:2])
    reference = images[0]
    depth = choose_depths(reference, [])[0]
    wanted = 100 * reference[2, row, column] / (depth.white * depth.step)
    assert float(text.split("reference ")[1].split(",")[0]) == pytest.approx(wanted, abs=0.5)
