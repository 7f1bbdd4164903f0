"""The page in a real browser: it draws, downloads, copies, and stays within a phone."""

import csv
import io
import time

import pytest
from tests.unit.plots import synthetic

from curvescope.report import write_report

HOSTILE = '<script>document.title = "owned"</script><img src=x onerror=alert(1)>$x_{'


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write_report(
        synthetic.all_results(),
        tmp_path_factory.mktemp("page"),
        title="MLP 64-32-10 on digits",
        command="curvescope analyze mlp --data digits --loss cross_entropy --k 10",
        environment={"python": "3.11.2", "packages": {"torch": "2.13.0"}},
        config={"model": "mlp", "k": 10},
        checks={"loss": 0.3123, "accuracy": 0.9123},
    )


def downloaded(browser, name):
    path = browser.downloads / name
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if path.exists() and path.stat().st_size:
            return path.read_text(encoding="utf-8")
        time.sleep(0.05)
    raise AssertionError(f"{name} was not downloaded")


def pasted(browser):
    """What a paste into a fresh text area gives: the clipboard as a user sees it."""
    browser.script(
        "const area = document.createElement('textarea');"
        "area.id = 'paste'; area.style.position = 'fixed'; area.style.top = 0;"
        "document.body.append(area); area.focus();"
    )
    from selenium.webdriver.common.keys import Keys

    area = browser.find("#paste")
    area.send_keys(Keys.CONTROL, "v")
    return area.get_property("value")


def click(browser, selector):
    element = browser.find(selector)
    browser.script("arguments[0].scrollIntoView({block: 'center'})", element)
    element.click()


def wait_for_status(browser, text):
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if browser.find("#status").get_property("textContent") == text:
            return
        time.sleep(0.05)
    raise AssertionError(browser.find("#status").get_property("textContent"))


def read_rows(text, delimiter=","):
    return list(csv.DictReader(io.StringIO(text), delimiter=delimiter))


def background(browser):
    return browser.script("return getComputedStyle(document.body).backgroundColor")


def line_colour(browser):
    return browser.script(
        "const line = document.querySelector("
        "'#result-effective_dimension .wide svg path[style*=figure-blue]');"
        "return getComputedStyle(line).stroke"
    )


@pytest.mark.parametrize("width", [None, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_opens_without_a_word_on_the_console(browser, page, width, scheme):
    browser.open(page, width=width, scheme=scheme)

    assert browser.errors() == []
    assert browser.driver.title == "MLP 64-32-10 on digits"


@pytest.mark.parametrize(("width", "variant"), [(None, "wide"), (390, "narrow")])
def test_every_figure_is_drawn_in_one_variant(browser, page, width, variant):
    browser.open(page, width=width)

    sizes = browser.script(
        "return Array.from(document.querySelectorAll('.drawing')).map(d => {"
        "const box = d.querySelector('svg').getBoundingClientRect();"
        "return [d.className, box.width, box.height, d.querySelectorAll('path').length]"
        "})"
    )
    shown = [size for size in sizes if size[1] > 0]

    assert len(shown) == 4
    assert all(variant in name for name, *_ in shown)
    assert all(w > 250 and h > 150 and paths > 10 for _, w, h, paths in shown)


@pytest.mark.parametrize("width", [None, 390])
def test_the_text_of_figures_is_large_enough_to_read(browser, page, width):
    browser.open(page, width=width)

    heights = browser.script(
        "return Array.from(document.querySelectorAll('.drawing svg text'))"
        ".filter(t => t.getBoundingClientRect().width > 0).map(t =>"
        "parseFloat(getComputedStyle(t).fontSize) *"
        "Math.hypot(t.getScreenCTM().a, t.getScreenCTM().b))"
    )

    assert len(heights) > 40
    assert min(heights) >= 9.5


def test_a_click_downloads_the_numbers_of_the_figure(browser, page):
    browser.open(page)

    click(browser, "#result-spectral_density a.download")
    rows = read_rows(downloaded(browser, "spectral_density.csv"))

    result = synthetic.density()
    assert [float(r["eigenvalue"]) for r in rows] == result.grid.tolist()
    assert [float(r["density"]) for r in rows] == result.density.tolist()
    assert browser.errors() == []


def test_a_click_saves_a_figure_that_stands_alone(browser, page):
    browser.open(page, scheme="dark")

    click(browser, "#result-eigenpairs button.save-svg")
    text = downloaded(browser, "eigenpairs.svg")

    assert text.startswith("<svg")
    assert "var(" not in text
    assert "#0072b2" in text
    assert browser.errors() == []


def test_the_copy_button_copies_the_exact_numbers(browser, page):
    browser.open(page)

    click(browser, "#result-eigenpairs button.copy")
    wait_for_status(browser, "Copied")
    rows = read_rows(pasted(browser), delimiter="\t")

    result = synthetic.eigenpairs()
    assert [float(r["eigenvalue"]) for r in rows] == result.eigenvalues.tolist()
    assert [r["converged"] for r in rows] == [str(bool(c)) for c in result.converged]


def test_copying_works_without_the_clipboard_interface(browser, page):
    hide = "Object.defineProperty(navigator, 'clipboard', {value: undefined})"
    added = browser.driver.execute_cdp_cmd(
        "Page.addScriptToEvaluateOnNewDocument", {"source": hide}
    )
    try:
        browser.open(page)
        assert browser.script("return navigator.clipboard === undefined")

        click(browser, "#result-layers button.copy")
        wait_for_status(browser, "Copied")
        rows = read_rows(pasted(browser), delimiter="\t")
    finally:
        browser.driver.execute_cdp_cmd(
            "Page.removeScriptToEvaluateOnNewDocument", added
        )

    layers = synthetic.layers().layers
    assert [r["name"] for r in rows] == [row.name for row in layers]
    assert [float(r["trace_error"]) for r in rows] == [r.trace_error for r in layers]


def test_the_page_follows_the_system_and_the_button(browser, page):
    browser.open(page, scheme="dark")
    dark, dark_line = background(browser), line_colour(browser)

    click(browser, "#theme")
    light, light_line = background(browser), line_colour(browser)
    browser.open(page, scheme="light")

    assert background(browser) == light != dark
    assert line_colour(browser) == light_line != dark_line
    click(browser, "#theme")
    assert background(browser) == dark
    assert line_colour(browser) == dark_line


def test_a_phone_scrolls_only_down(browser, page):
    browser.open(page, width=390)

    for details in browser.driver.find_elements("css selector", "details"):
        browser.script("arguments[0].open = true", details)
    widths = browser.script(
        "return [document.documentElement.scrollWidth, document.body.scrollWidth,"
        " window.innerWidth]"
    )

    assert widths == [390, 390, 390]


def test_no_id_stands_twice_and_every_reference_is_found(browser, page):
    browser.open(page)

    ids = browser.script(
        "return Array.from(document.querySelectorAll('[id]')).map(e => e.id)"
    )
    missing = browser.script(
        "return Array.from(document.querySelectorAll('use, a[href^=\"#\"]'))"
        ".map(e => e.getAttribute('xlink:href') || e.getAttribute('href'))"
        ".filter(h => !document.getElementById(h.slice(1)))"
    )

    assert len(ids) == len(set(ids))
    assert missing == []


def test_hostile_names_stay_text(browser, tmp_path):
    results = synthetic.all_results()
    results["eigenpairs"] = synthetic.eigenpairs(matrix=HOSTILE, description=HOSTILE)
    results["layers"] = synthetic.layers(name=HOSTILE)
    path = write_report(
        results,
        tmp_path,
        title=HOSTILE,
        command=HOSTILE,
        environment={HOSTILE: HOSTILE},
        config={HOSTILE: {HOSTILE: HOSTILE}},
        checks={HOSTILE: HOSTILE},
    )

    browser.open(path)

    assert browser.errors() == []
    assert browser.driver.title == HOSTILE
    assert browser.find("h1").text == HOSTILE
    assert len(browser.driver.find_elements("css selector", "script")) == 1
    assert browser.driver.find_elements("css selector", "img") == []


def test_the_policy_would_stop_a_script_that_slipped_in(browser, page, tmp_path):
    text = page.read_text(encoding="utf-8")
    broken = tmp_path / "broken.html"
    evil = "<script>document.title = 'owned'</script></main>"
    broken.write_text(text.replace("</main>", evil), encoding="utf-8")

    browser.open(broken)

    assert browser.driver.title == "MLP 64-32-10 on digits"
    assert any("Content Security Policy" in error for error in browser.errors())
