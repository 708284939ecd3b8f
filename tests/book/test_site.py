"""The built site in a real browser: complete, quiet, on its own, and readable everywhere."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from book_site import book_pages, counts
from PIL import Image
from playwright.sync_api import BrowserContext, Page

PAGES = book_pages()
EVERYWHERE = [*PAGES, "genindex", "search"]
DESKTOP, PHONE = 1280, 390
FIGURES = ".bd-article img, .bd-article .plotly-figure, .bd-article .cell_output canvas"
# A page is ready when its formulas, figures and widgets are drawn.
READY = """async () => {
    if (window.MathJax?.startup) await MathJax.startup.promise;
    const all = (what) => [...document.querySelectorAll(what)];
    const waiting = () =>
        all('.plotly-figure').some((box) => !box.dataset.drawn) ||
        all('script[type="application/vnd.jupyter.widget-view+json"]').some(
            (script) => !script.parentElement.querySelector('.lm-Widget'));
    for (let i = 0; i < 100 && waiting(); i++) await new Promise((done) => setTimeout(done, 50));
    return !waiting();
}"""
# What a reader can open is opened, so that what lies in it can be looked at.
OPEN_ALL = """() => {
    const all = (what) => document.querySelectorAll(what);
    all('details').forEach((box) => (box.open = true));
    all('.toggle-hidden').forEach((box) => box.classList.remove('toggle-hidden'));
    window.dispatchEvent(new Event('resize'));
}"""
SET_THEME = "(theme) => { document.documentElement.dataset.theme = theme; }"


class Visit:
    """An open page and what it asked for and complained about."""

    def __init__(self, page: Page, base: str) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.outside: list[str] = []
        page.on("console", lambda m: m.type == "error" and self.complain(m.text))
        page.on("pageerror", lambda error: self.complain(str(error)))
        page.on("requestfailed", lambda request: self.complain(f"failed: {request.url}"))
        page.on("response", lambda r: r.status >= 400 and self.complain(f"{r.status}: {r.url}"))
        page.on("request", lambda request: self.note(request.url, base))

    def complain(self, text: str) -> None:
        self.complaints.append(text)

    def note(self, url: str, base: str) -> None:
        if not url.startswith((base, "data:", "blob:")):
            self.outside.append(url)


@contextmanager
def visit(browser: BrowserContext, base: str, name: str, width: int = DESKTOP) -> Iterator[Visit]:
    """Open a page of the site and wait until it is drawn."""
    page = browser.new_page()
    page.set_viewport_size({"width": width, "height": 900})
    try:
        seen = Visit(page, base)
        seen.page.goto(f"{base}/{name}.html", wait_until="load")
        assert seen.page.evaluate(READY), f"{name}: a figure, formula or widget was never drawn"
        yield seen
    finally:
        page.close()


@pytest.mark.parametrize("scheme", ["http", "file"])
@pytest.mark.parametrize("name", EVERYWHERE)
def test_page_opens_on_its_own(browser: BrowserContext, site: dict, scheme: str, name: str) -> None:
    """No page asks another server for anything, and none complains in the console."""
    with visit(browser, site[scheme], name) as seen:
        seen.page.wait_for_timeout(300)  # late requests
        assert seen.outside == []
        assert seen.complaints == []
        if name in PAGES:
            assert seen.page.locator(".bd-article h1").count() == 1
            assert (
                seen.page.locator(".bd-article mjx-merror, .bd-article [data-mjx-error]").count()
                == 0
            )
    counts["pages opened"] += 1


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_figures_are_seen(browser: BrowserContext, site: dict, name: str, theme: str) -> None:
    """Each figure has a size, holds more than one colour, and says in words what it shows."""
    with visit(browser, site["http"], name) as seen:
        seen.page.evaluate(SET_THEME, theme)
        seen.page.evaluate(OPEN_ALL)
        seen.page.wait_for_timeout(300)  # figures are redrawn in the theme's colours
        for figure in seen.page.locator(FIGURES).all():
            tag, text = figure.evaluate("(f) => [f.tagName, f.alt || f.ariaLabel || '']")
            box = figure.bounding_box()
            assert box and box["width"] > 20 and box["height"] > 20, f"{name}: {text!r} has no size"
            figure.scroll_into_view_if_needed()
            picture = Image.open(io.BytesIO(figure.screenshot())).convert("L")
            low, high = picture.getextrema()
            assert high - low > 60, f"{name}: {text!r} cannot be seen in {theme}"
            if tag == "IMG":
                back = figure.evaluate("(f) => getComputedStyle(f).backgroundColor")
                assert back == "rgba(0, 0, 0, 0)", f"{name}: {text!r} lies on a box of {back}"
            if tag != "CANVAS":  # a canvas belongs to a widget, which has text around it
                assert len(text) > 10, f"{name}: a figure says {text!r}, too little in words"
                assert not text.startswith(("../", "_images")), f"{name}: {text!r} is a file name"
            counts[f"figures in {theme}"] += 1


@pytest.mark.parametrize("name", PAGES)
def test_plotly_follows_the_theme(browser: BrowserContext, site: dict, name: str) -> None:
    """A Plotly figure changes the colour of its text when the reader switches the theme."""
    ink = "[...document.querySelectorAll('.plotly-figure')].map((box) => box.layout.font.color)"
    with visit(browser, site["http"], name) as seen:
        light = seen.page.evaluate(ink)
        seen.page.evaluate(SET_THEME, "dark")
        seen.page.wait_for_timeout(300)
        dark = seen.page.evaluate(ink)
        assert all(a != b for a, b in zip(light, dark, strict=True))


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
@pytest.mark.parametrize("name", PAGES)
def test_page_fits_the_screen(browser: BrowserContext, site: dict, name: str, width: int) -> None:
    """Wide things scroll in their own box: the page itself never scrolls sideways."""
    with visit(browser, site["http"], name, width) as seen:
        seen.page.evaluate(OPEN_ALL)
        seen.page.wait_for_timeout(200)
        wide = seen.page.evaluate(
            """() => document.scrollingElement.scrollWidth <= innerWidth ? [] :
               [...document.querySelectorAll('.bd-article *')]
                   .filter((e) => e.getBoundingClientRect().right > innerWidth + 1)
                   .map((e) => `${e.tagName}.${e.className}`).slice(0, 5).concat('page too wide')"""
        )
        assert wide == []
        if width == PHONE:
            for box in seen.page.locator(".plotly-figure").all():
                assert box.evaluate("(f) => f.clientWidth") <= PHONE
    counts[f"pages at {width} px"] += 1
