"""The page in a real Chromium, driven over the WebDriver protocol, where one is installed."""

import contextlib
import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from xml.etree import ElementTree as ET

import pytest

from classify.page import render_page
from classify.plots import row_title
from classify.tables import percent, title

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--disable-dev-shm-usage",
]
ENTER, SPACE = "\ue007", " "
PNG_START = b"\x89PNG\r\n\x1a\n"


class Browser:
    """As much of https://www.w3.org/TR/webdriver2 and of the DevTools protocol as these tests need."""

    def __init__(self, base, user_data):
        self.base = base
        options = {"args": [*FLAGS, f"--user-data-dir={user_data}"]}
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        session = self.post("/session", capabilities={"alwaysMatch": wanted})
        self.base += f"/session/{session['sessionId']}"

    def post(self, path, method="POST", **body):
        data = json.dumps(body).encode() if method == "POST" else None
        request = urllib.request.Request(
            self.base + path, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(json.load(error)["value"]["message"]) from None

    def run(self, script, *arguments):
        return self.post("/execute/sync", script=script, args=arguments)

    def command(self, name, **parameters):
        return self.post("/goog/cdp/execute", cmd=name, params=parameters)

    def element(self, selector):
        [reference] = self.post("/element", using="css selector", value=selector).values()
        return f"/element/{reference}"

    def click(self, selector):
        self.post(self.element(selector) + "/click")

    def press(self, selector, key):
        self.post(self.element(selector) + "/value", text=key)

    def resize(self, width, height=900):
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def prefer(self, scheme="light", media=""):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.command("Emulation.setEmulatedMedia", media=media, features=features)

    def complaints(self):
        return [
            entry["message"]
            for entry in self.post("/se/log", type="browser")
            if "favicon" not in entry["message"]
        ]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    driver = shutil.which("chromedriver")
    if driver is None or not (shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.skip("Chromium and its driver are not installed")
    process = subprocess.Popen(
        [driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, encoding="utf-8"
    )
    with process:
        started = next(
            match for line in process.stdout if (match := re.search(r"successfully on port (\d+)", line))
        )
        chromium = Browser(f"http://127.0.0.1:{started[1]}", tmp_path_factory.mktemp("chromium"))
        try:
            yield chromium
        finally:
            with contextlib.suppress(OSError):
                chromium.post("", method="DELETE")
            process.terminate()


@pytest.fixture
def show(browser, tmp_path):
    """Open the page of a comparison, in light colours on a wide window."""

    def show(comparison, width=1280):
        path = tmp_path / "report.html"
        path.write_text(render_page(comparison), "utf-8")
        browser.prefer()
        browser.resize(width)
        browser.post("/url", url=path.as_uri())
        return browser

    return show


def column(browser, number):
    cells = f"#table tbody tr > :nth-child({number})"
    return browser.run(
        "return [...document.querySelectorAll(arguments[0])].map((cell) => cell.dataset.value)", cells
    )


def sorting(browser):
    script = "return [...document.querySelectorAll('#table thead th')].map((head) => head.getAttribute('aria-sort'))"
    return [order for order in browser.run(script) if order]


@pytest.mark.parametrize("width", [320, 400, 1280])
def test_the_page_never_scrolls_sideways(show, measured_comparison, hostile_comparison, width):
    for comparison in (measured_comparison, hostile_comparison):
        browser = show(comparison, width)
        assert browser.run("return document.documentElement.scrollWidth") <= width
        # The table is wider than a phone, and scrolls inside its own box.
        inside, outside = browser.run(
            "const box = document.querySelector('.scroll'); return [box.scrollWidth, box.clientWidth]"
        )
        assert width == 1280 or inside > outside


def test_no_text_of_a_figure_is_cut_off(show, emodb_comparison, small_comparison, measured_comparison):
    outside = """
        return [...document.querySelectorAll('figure svg')].flatMap((svg) => {
          const frame = svg.getBoundingClientRect();
          return [...svg.querySelectorAll('text')].filter((text) => {
            const box = text.getBoundingClientRect();
            return box.width && (box.left < frame.left - 1 || box.right > frame.right + 1
              || box.top < frame.top - 1 || box.bottom > frame.bottom + 1);
          }).map((text) => text.textContent);
        })"""
    for comparison in (emodb_comparison, small_comparison, measured_comparison):
        assert show(comparison).run(outside) == []


def test_utterances_are_coloured_one_way_at_a_time_by_keyboard_too(show, measured_comparison):
    browser = show(measured_comparison)
    shown = "return [...document.querySelectorAll('#map figure')].filter((each) => !each.hidden).map((each) => each.dataset.name)"
    assert browser.run(shown) == ["map-by-emotion"]
    for wanted in ("speaker", "sex"):
        browser.press("#colours input:checked", "\ue014")  # the arrow to the right
        assert browser.run(shown) == [f"map-by-{wanted}"]


def test_choosing_a_row_redraws_how_sure_it_is(show, measured_comparison):
    drawn = """return [...document.querySelectorAll("svg.reliability [data-bin]")].map((bin) => [
        ...[...bin.querySelectorAll("rect")].flatMap((rect) => [rect.getAttribute("y"), rect.getAttribute("height")]),
        bin.querySelector(".sure").getAttribute("transform"), bin.querySelector("title").textContent,
        bin.classList.contains("absent")])"""
    chosen = "const box = document.querySelector('#choice'); box.value = arguments[0]; box.dispatchEvent(new Event('change'))"
    browser = show(measured_comparison)
    first = browser.run(drawn)
    results = measured_comparison.results
    browser.run(chosen, str(next(i for i, row in enumerate(results) if row.calibration is None)))
    assert (
        browser.run("return document.querySelector('svg.reliability .ece').textContent") == "no probabilities"
    )
    assert all(absent for *_, absent in browser.run(drawn))
    other = next(
        i for i, row in enumerate(results) if row.calibration and row is not measured_comparison.best
    )
    browser.run(chosen, str(other))
    assert browser.run(drawn) != first
    wanted = f"expected calibration error {percent(results[other].calibration.error)} %"
    assert browser.run("return document.querySelector('svg.reliability .ece').textContent") == wanted
    browser.run(chosen, str(results.index(measured_comparison.best)))
    assert browser.run(drawn) == first


def test_the_page_runs_its_script_loads_nothing_and_complains_of_nothing(
    show, emodb_comparison, hostile_comparison
):
    for comparison in (emodb_comparison, hostile_comparison):
        browser = show(comparison)
        assert browser.run("return document.querySelectorAll('thead button').length") == 10
        assert browser.run("return performance.getEntriesByType('resource').length") == 0
        assert browser.run("return window.hacked ?? null") is None
        assert browser.complaints() == []


def test_a_click_sorts_by_a_score_and_another_turns_it_round(show, emodb_comparison):
    browser, head = show(emodb_comparison), "#table thead th:nth-child(6) button"
    assert sorting(browser) == []
    browser.click(head)
    scores = [float(score) for score in column(browser, 6)]
    assert scores == sorted((result.accuracy.value for result in emodb_comparison.results), reverse=True)
    assert sorting(browser) == ["descending"]
    browser.click(head)
    assert [float(score) for score in column(browser, 6)] == sorted(scores)
    assert sorting(browser) == ["ascending"]


def test_the_keyboard_sorts_too_and_layers_sort_as_numbers(show, emodb_comparison, small_comparison):
    browser = show(emodb_comparison)
    browser.press("#table thead th:nth-child(2) button", ENTER)
    assert [int(layer) for layer in column(browser, 2)] == sorted(list(range(13)) * 8)
    browser.press("#table thead th:nth-child(1) button", SPACE)
    names = column(browser, 1)
    assert names == sorted(names)
    assert sorting(browser) == ["ascending"]
    browser = show(small_comparison)
    browser.press("#table thead th:nth-child(2) button", ENTER)
    layers = column(browser, 2)
    assert layers == ["0"] * layers.count("0") + ["12"] * layers.count("12") + ["best"]


def test_choosing_a_row_changes_every_figure(show, emodb_comparison):
    browser = show(emodb_comparison)
    number = next(i for i, result in enumerate(emodb_comparison.results) if result.optimistic)
    result = emodb_comparison.results[number]
    browser.click(f"#choice option[value='{number}']")
    shown = browser.run("""
        const texts = (element) => [...element.querySelectorAll('text')].map((text) => text.textContent);
        const dots = (kind) => [...document.querySelectorAll(`svg[data-kind=${kind}] .dot`)];
        return {
          titles: [...document.querySelectorAll('.row-title')].map((text) => text.textContent),
          sentence: document.querySelector('#chosen-row').textContent,
          cells: Object.fromEntries([...document.querySelectorAll('.cell')].map((cell) => [cell.dataset.cell, texts(cell)])),
          first: document.querySelector('.cell title').textContent,
          recall: dots('recall').map((dot) => texts(dot).at(-1)),
          lowest: dots('recall').map((dot) => dot.classList.contains('lowest')),
          speakers: dots('speakers').map((dot) => texts(dot).at(-1)),
          sexes: dots('sexes').map((dot) => texts(dot).at(-1)),
          places: dots('recall').map((dot) => dot.querySelector('.head').getCTM().e / dot.getCTM().a),
        }""")
    assert title(emodb_comparison, result) in shown["sentence"]
    assert shown["titles"] == [row_title(emodb_comparison, result)] * 4
    assert "optimistic" in shown["titles"][0]
    for i, counts in enumerate(result.confusion):
        for j, count in enumerate(counts):
            assert shown["cells"][f"{i},{j}"] == [percent(count / sum(counts)), str(count)]
    count = result.confusion[0][0]
    assert shown["first"] == f"anger taken for anger: {count} ({percent(count / sum(result.confusion[0]))} %)"
    assert shown["recall"] == [percent(share) for share in result.recall]
    assert shown["lowest"] == [share == min(result.recall) for share in result.recall]
    assert shown["speakers"] == [
        percent(result.speaker_scores[name]) for name in sorted(result.speaker_scores)
    ]
    assert shown["sexes"] == [percent(result.sex_scores[sex]) for sex in ("female", "male")]
    order = sorted(range(7), key=lambda label: result.recall[label])
    assert sorted(range(7), key=lambda label: shown["places"][label]) == order


def test_choosing_the_first_row_back_redraws_what_was_drawn(show, emodb_comparison):
    browser = show(emodb_comparison)
    drawing = "return document.querySelector('#row').innerHTML.replace(/ class=\"[^\"]*\"/g, '')"
    before = browser.run(drawing)
    best = emodb_comparison.results.index(emodb_comparison.best)
    browser.click("#choice option[value='0']")
    assert browser.run(drawing) != before
    browser.click(f"#choice option[value='{best}']")
    assert browser.run(drawing) == before


CONTRAST = """
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const luminance = (colour) => {
      canvas.fillStyle = colour;
      canvas.fillRect(0, 0, 1, 1);
      const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((part) => part / 255)
        .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (element) => {
      for (; element; element = element.parentElement) {
        const colour = getComputedStyle(element).backgroundColor;
        if (colour !== 'rgba(0, 0, 0, 0)') return colour;
      }
    };
    return arguments[0].map((selector) => {
      const element = document.querySelector(selector), style = getComputedStyle(element);
      const text = luminance(element.ownerSVGElement ? style.fill : style.color);
      const [dark, light] = [text, luminance(ground(element))].sort((a, b) => a - b);
      return [selector, (light + 0.05) / (dark + 0.05)];
    })"""
READ = [
    *(
        "h1",
        ".caution",
        ".lead",
        ".eyebrow",
        "a",
        "td",
        "tr.optimistic > td",
        "td > .bounds",
        "thead th",
        ".mark",
    ),
    *(
        "figcaption",
        "dt",
        ".notes",
        "svg .title",
        "svg .small",
        "svg .soft",
        "svg .warn",
        "svg .halo",
        ".lowest .low",
    ),
]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_its_ground(show, emodb_comparison, scheme):
    browser = show(emodb_comparison)
    browser.prefer(scheme)
    ratios = dict(browser.run(CONTRAST, READ))
    # WCAG 2.2, success criterion 1.4.3.
    assert {selector: ratio for selector, ratio in ratios.items() if ratio < 4.5} == {}
    lightness = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", lightness))) < 64) is (scheme == "dark")


def test_the_page_is_whole_without_its_script(show, small_comparison):
    browser = show(small_comparison)
    browser.command("Emulation.setScriptExecutionDisabled", value=True)
    try:
        show(small_comparison)
        text = browser.run("return document.body.innerText")
        hidden = browser.run("return document.querySelector('.choose').getBoundingClientRect().height")
        buttons = browser.run("return document.querySelectorAll('button').length")
    finally:
        browser.command("Emulation.setScriptExecutionDisabled", value=False)
    assert (hidden, buttons) == (0, 0)
    for result in small_comparison.results:
        assert percent(result.balanced_accuracy.value) in text
    assert small_comparison.audit in text


def test_print_shows_the_whole_table_and_no_controls(show, emodb_comparison):
    browser = show(emodb_comparison)
    browser.prefer("dark", media="print")
    shown, heights, ground = browser.run("""
        const box = document.querySelector('.tall');
        const shown = [...document.querySelectorAll('nav, .downloads, .choose, .save')].filter((e) => e.offsetHeight);
        return [shown.length, [box.clientHeight, box.scrollHeight], getComputedStyle(document.body).backgroundColor]""")
    assert shown == 0
    assert heights[0] == heights[1] > 104 * 12
    assert ground == "rgb(255, 255, 255)"


def saved(browser, figure, kind):
    """Press a save button and take the file before it reaches the disk."""
    browser.command("Browser.setDownloadBehavior", behavior="deny")
    script = """
        const [figure, kind, done] = arguments;
        const original = HTMLAnchorElement.prototype.click;
        HTMLAnchorElement.prototype.click = async function () {
          HTMLAnchorElement.prototype.click = original;
          const bytes = new Uint8Array(await window.taken.arrayBuffer());
          done([this.download, Array.from(bytes)]);
        };
        const create = URL.createObjectURL;
        URL.createObjectURL = (blob) => { window.taken = blob; return create(blob); };
        [...document.querySelectorAll(`figure[data-name="${figure}"] .save`)]
          .find((button) => button.textContent.endsWith(kind)).click();"""
    name, content = browser.post("/execute/async", script=script, args=[figure, kind])
    return name, bytes(content)


def test_a_saved_figure_stands_alone_in_light_colours(show, emodb_comparison):
    browser = show(emodb_comparison)
    browser.prefer("dark")
    name, content = saved(browser, "confusion", "SVG")
    assert name == "confusion.svg"
    text = content.decode()
    assert "var(" not in text
    assert "class=" not in text
    svg = ET.fromstring(text)
    paper, *_ = svg
    assert paper.get("fill") == "#ffffff"
    fills = {fill for element in svg.iter() for fill in re.findall(r"fill:([^;]*)", element.get("style", ""))}
    assert {"rgb(0, 114, 178)", "rgb(213, 94, 0)"} <= fills
    shown = {text.text for text in svg.iter("{http://www.w3.org/2000/svg}text")}
    assert {percent(emodb_comparison.best.recall[0]), "happiness"} <= shown
    # The page itself is dark again.
    assert browser.run("return document.documentElement.dataset.export ?? null") is None


def test_a_figure_is_saved_as_a_picture(show, emodb_comparison):
    name, content = saved(show(emodb_comparison), "recall", "PNG")
    assert name == "recall.png"
    assert content.startswith(PNG_START)
    width = int.from_bytes(content[16:20], "big")
    assert width == 1600
