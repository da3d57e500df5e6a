"""The page in a real browser, at three widths and on paper, scripts off: nothing asked for, nothing cut off, nothing that axe objects to."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sealed

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (Debian: apt-get install chromium); the page was not opened in a browser")
WIDTHS = (360, 820, 1440)
# What a reader would lose: text or pictures beyond the edge of the page, and boxes that scroll sideways where paper cannot.
CUT_OFF = """() => [...document.querySelectorAll('main *')].filter(e => { const r = e.getBoundingClientRect();
    return r.width > 1 && r.height > 1 && (r.right > document.documentElement.clientWidth + 1 || r.left < -1) || e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 1
      && getComputedStyle(e).overflowX !== 'visible'; }).map(e => e.tagName + '.' + e.className + ' ' + e.textContent.slice(0, 60))"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sealed.make(tmp_path_factory.mktemp("page") / "run")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; the page was not opened in a browser")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def visit(browser: Any, path: Path, width: int, scripts: bool = False) -> tuple[Any, list[str]]:
    """The page, and whatever went wrong or was asked for while it loaded."""
    context = browser.new_context(java_script_enabled=scripts, viewport={"width": width, "height": 900}, offline=True)
    page, trouble = context.new_page(), []
    page.on("console", lambda message: trouble.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
    page.on("request", lambda request: trouble.append(f"request: {request.url[:90]}") if request.url != path.as_uri() and not request.url.startswith("data:") else None)
    page.goto(path.as_uri(), wait_until="load")
    return page, trouble


@pytest.mark.parametrize("name", ["report.html", "report.redacted.html"])
@pytest.mark.parametrize("width", WIDTHS)
def test_it_opens_without_scripts_and_without_asking_anyone(browser: Any, folder: Path, name: str, width: int) -> None:
    page, trouble = visit(browser, folder / name, width)
    page.wait_for_timeout(100)
    assert trouble == [] and page.title() == "The case of artist-31"
    shown = [(i.get_attribute("alt"), i.evaluate("e => e.complete && e.naturalWidth")) for i in page.locator("img").all()]
    assert len(shown) == (2 if name == "report.html" else 0) and all(alt and wide == 96 for alt, wide in shown)
    assert page.locator("h1").count() == 1 and page.locator("section").count() >= 8
    assert page.evaluate(CUT_OFF) == []
    page.context.close()


@pytest.mark.parametrize("medium", ["screen", "print"])
@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_nothing(browser: Any, folder: Path, width: int, medium: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed; accessibility was not checked")
    page, _ = visit(browser, folder / "report.html", width, scripts=True)
    page.emulate_media(media=medium)
    found = axe.Axe().run(page).response
    assert [(v["id"], v["nodes"][0]["html"][:120]) for v in found["violations"]] == []
    assert "color-contrast" in {rule["id"] for rule in found["passes"]}
    page.context.close()


def test_axe_would_have_found_something(browser: Any, folder: Path, tmp_path: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed; accessibility was not checked")
    bad = tmp_path / "bad.html"
    text = (folder / "report.html").read_text(encoding="utf-8").replace("--quiet: #57606a", "--quiet: #c9c9c9").replace('alt="A dot for each model"', "")
    bad.write_text(text, encoding="utf-8")
    page, _ = visit(browser, bad, 820, scripts=True)
    assert {"color-contrast", "image-alt"} <= {v["id"] for v in axe.Axe().run(page).response["violations"]}
    page.context.close()


def test_a_request_would_have_been_seen(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "asks.html").write_text('<title>x</title><img alt="x" src="https://example.org/x.png"><img alt="y" src="other.png">', encoding="utf-8")
    page, trouble = visit(browser, tmp_path / "asks.html", 820)
    assert any("example.org" in line for line in trouble) and any("other.png" in line for line in trouble)
    page.context.close()


def test_it_prints_on_a4_with_nothing_cut_off(browser: Any, folder: Path) -> None:
    page, _ = visit(browser, folder / "report.html", 665, scripts=True)  # A4 less its margins, at 96 pixels an inch
    page.emulate_media(media="print")
    assert page.evaluate(CUT_OFF) == []
    pdf = page.pdf(format="A4", prefer_css_page_size=True)
    assert pdf.startswith(b"%PDF") and 3 <= pdf.count(b"/Type /Page\n") <= 9
    page.context.close()


def test_the_keyboard_reaches_every_link(browser: Any, folder: Path) -> None:
    page, _ = visit(browser, folder / "report.html", 820, scripts=True)
    reached = set()
    for _ in range(page.locator("a").count()):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("() => document.activeElement.getAttribute('href')"))
    assert reached == {a.get_attribute("href") for a in page.locator("a").all()}
    page.context.close()
