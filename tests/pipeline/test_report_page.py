"""The page of `deme report`, in a browser where there is one: what it says, sorts, slides and loads."""

import io
import re
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image
from playwright.sync_api import sync_playwright

from deme.commands.report import run as report
from deme.system import BadConfig, MissingInput
from tests.pipeline.program import run

REPOSITORY = Path(__file__).parents[2]
SMOKE = REPOSITORY / "experiments" / "digits" / "smoke.yaml"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
ROWS = ("real", "before", "finetune", "deme_before_merge", "deme_search")  # of the smoke suite
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """A folder in which a suite was reproduced, and its page."""
    folder = tmp_path_factory.mktemp("page")
    suite = yaml.safe_load(SMOKE.read_text())
    suite["rows"] = [row for row in suite["rows"] if row["name"] in ROWS]
    suite["comparisons"] = [["deme_search", "deme_before_merge"]]
    (folder / "smoke.yaml").write_text(yaml.safe_dump(suite, sort_keys=False))
    for command in ("reproduce", "report"):
        code, text = run([command, "smoke.yaml"], folder)
        assert code == 0, text
    return folder


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def opened(browser):
    """Opens pages, and at the end checks that they loaded nothing and reported no error."""
    pages, seen, errors = [], [], []

    def open_page(file, size=DESK, scheme="light"):
        page = browser.new_page(viewport=size, color_scheme=scheme)
        page.on("request", lambda request: seen.append(request.url))
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(file.as_uri())
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert errors == []
    assert all(url.startswith("file:") and url.endswith(".html") for url in seen)


def page_of(folder):
    return folder / "runs/digits_smoke/results/digits_smoke.html"


def test_every_number_of_the_table_is_on_the_page(smoke):
    page = page_of(smoke).read_text()
    table = (smoke / "runs/digits_smoke/results/digits_smoke.md").read_text()
    shown = re.sub(r"<[^>]*>", " ", page).replace("\N{MINUS SIGN}", "-")
    for number in re.findall(r"[+-]?\d+\.\d+", table.split("## ")[0]):
        assert number in shown
    assert page_of(smoke).stat().st_size < 5e6
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)


def test_a_click_sorts_by_number_and_a_third_restores_the_order(smoke, opened):
    page = opened(page_of(smoke))
    keys = "[...document.querySelectorAll('#table tbody td:nth-child(2)')].map(c => c.dataset.key)"
    before = page.evaluate(keys)
    button = page.locator("#table th:nth-child(2) button")
    button.focus()
    page.keyboard.press("Enter")
    rising = [float(key) for key in page.evaluate(keys)]
    assert rising == sorted(map(float, before))
    assert page.locator("#table th:nth-child(2)").get_attribute("aria-sort") == "ascending"
    button.click()
    assert [float(key) for key in page.evaluate(keys)] == rising[::-1]
    button.click()
    assert page.evaluate(keys) == before


def test_the_slider_moves_with_the_keyboard_and_the_difference_of_a_model_to_itself_is_black(
    smoke, opened
):
    page = opened(page_of(smoke))
    share = "document.querySelector('.stage').style.getPropertyValue('--share')"
    assert page.evaluate(share) == "50%"
    page.locator("[data-slide]").focus()
    page.keyboard.press("End")
    assert page.evaluate(share) == "100%"
    left, right = page.locator("select[data-side=left]"), page.locator("select[data-side=right]")
    assert left.input_value() != right.input_value()
    page.locator("input[value=difference]").check()
    assert _brightest(page) > 0
    right.select_option(left.input_value())
    assert _brightest(page) == 0


def _brightest(page):
    """Return the brightest grey of the compared pictures, without the pixels around them."""
    picture = Image.open(io.BytesIO(page.locator(".stage").screenshot())).convert("L")
    return picture.crop((4, 4, picture.width - 4, picture.height - 4)).getextrema()[1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_in_one_direction_only_and_text_is_readable(smoke, opened, scheme):
    page = opened(page_of(smoke), PHONE, scheme)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= PHONE["width"]
    paper, ink = (
        page.evaluate(f"getComputedStyle(document.body).{name}")
        for name in ("backgroundColor", "color")
    )
    light, dark = sorted((_luminance(paper), _luminance(ink)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) > 7  # WCAG's AAA
    assert (_luminance(paper) > _luminance(ink)) == (scheme == "light")


def _luminance(colour):
    """Return the relative luminance of rgb(...) as WCAG 2 defines it."""
    channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_each_kind_of_run_has_a_page(smoke, opened, monkeypatch):
    monkeypatch.chdir(smoke)
    for stage in sorted(Path("runs/digits_smoke").glob("*/")):
        folder = next(iter(sorted(stage.glob("*-*"))), None)
        if folder is None:
            continue
        report([str(folder)])
        page = opened((folder / "report.html").resolve())
        assert folder.name in page.locator("h1").inner_text()
        assert page.locator("pre").first.inner_text().startswith("deme ")
    assert (folder / "report.html").exists()


def test_what_is_missing_is_said_with_its_command(smoke, tmp_path, opened, monkeypatch):
    shutil.copytree(smoke / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(sorted(Path("runs/digits_smoke/evaluate").glob("before-*"))[0])
    report([str(SMOKE), "out=part.html"])
    page = opened(tmp_path / "part.html")
    assert "deme evaluate" in page.locator("#missing pre").inner_text()


def test_slips_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingInput):
        report(["nowhere"])
    with pytest.raises(BadConfig, match="type: deme report"):
        report([])
    Path("mine.html").write_text("<html>my page</html>")
    with pytest.raises(BadConfig, match="type: out="):
        report([str(SMOKE), "out=mine.html"])
    assert Path("mine.html").read_text() == "<html>my page</html>"
    with pytest.raises(BadConfig, match=r"\.html"):
        report([str(SMOKE), "out=mine.pdf"])


def test_a_suite_without_any_run_has_a_page_of_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report([str(SMOKE), "out=page.html"])
    page = Path("page.html").read_text()
    assert "Nothing is compared yet" in page
    assert "deme train" in page
