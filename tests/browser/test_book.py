"""The book in a browser, opened from the disk: nothing is loaded or broken, and all can use it."""

import locale
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import frozen_explorers
import pytest

import book

if locale.getpreferredencoding(False).lower() not in ("utf-8", "utf8"):
    pytest.skip("axe reads its script in the locale's encoding", allow_module_level=True)
axe = pytest.importorskip("axe_playwright_python.sync_playwright")
pytest.importorskip("sphinx")

pytestmark = [
    pytest.mark.xdist_group("browser"),  # one worker, which builds the book once
    pytest.mark.timeout(900),
]
CHAPTER, EXPLORER = "02_training_instability", "graph_explorer()"
PAGES = ["index.html", "TEACHING.html", "book/ledger.html", "api/mamlpp.maml.html"]
PAGES += ["notebooks/00_start_here.html", f"notebooks/{CHAPTER}.html", "notebooks/primer.html"]
TELEPHONE, LAPTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 800}

WIDER = "document.documentElement.scrollWidth - window.innerWidth"
BROKEN = """() => [...document.images].filter(
  image => image.complete && !image.naturalWidth).map(image => image.src)"""
SILENT = "() => [...document.images].filter(image => !image.alt.trim()).map(image => image.src)"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The book, with the results that are there, and one explorer: all take minutes to draw."""
    folder = tmp_path_factory.mktemp("book")
    with pytest.MonkeyPatch.context() as patch:
        kept = {EXPLORER: frozen_explorers.EXPLORERS[EXPLORER]}
        patch.setattr(frozen_explorers, "EXPLORERS", kept)
        patch.setattr(book, "PAGES", folder.with_name("book-pages"))
        assert book.main(execute="never", output=folder) == 0
        yield folder


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    page = browser.new_page(viewport=LAPTOP)
    page.foreign = []
    page.on("request", lambda request: page.foreign.append(request.url))
    yield page
    page.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_page(name: str, site: Path, page: Any):
    page.goto((site / name).as_uri(), wait_until="load")
    assert [url for url in page.foreign if not url.startswith(("file:", "data:", "blob:"))] == []
    assert page.evaluate(BROKEN) == []
    assert page.evaluate(SILENT) == []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_timeout(1000)  # until the colours have changed
        assert serious_faults(page) == [], scheme
    page.set_viewport_size(TELEPHONE)
    assert page.evaluate(WIDER) <= 0


def serious_faults(page: Any) -> list[str]:
    """What axe finds on a page that keeps somebody from using it."""
    found = axe.Axe().run(page).response["violations"]
    return [
        f"{fault['id']}: {node['html'][:120]}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]


def test_an_explorer_moves_by_the_keyboard_and_says_what_it_shows(site: Path, page: Any):
    page.goto((site / "notebooks" / f"{CHAPTER}.html").as_uri())
    if not page.locator(".explorer").count():
        pytest.skip("the chapter has no results here, and so no explorer")
    explorer = page.locator(".explorer").last
    picture, slider = explorer.locator("img"), explorer.get_by_role("slider").first
    before = picture.get_attribute("src"), picture.get_attribute("alt")
    slider.press("ArrowRight")
    after = picture.get_attribute("src"), picture.get_attribute("alt")
    assert before[0] != after[0]
    assert "after step 6" in after[1]
    assert explorer.locator("[role=status]").text_content() == after[1]
    assert slider.get_attribute("aria-valuetext") == "6"
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0


def test_search_works_from_the_disk(site: Path, page: Any):
    page.goto(f"{(site / 'search.html').as_uri()}?q=landscape")
    page.wait_for_selector("#search-results li a")
    assert "01_maml" in page.inner_html("#search-results")
