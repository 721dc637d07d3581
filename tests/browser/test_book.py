"""The book in a browser, opened from the disk: nothing is loaded or broken, and all can use it."""

import locale
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import frozen_explorers
import pytest
from frozen_explorers import Frozen

import book
from mamlpp.show import widgets

if locale.getpreferredencoding(False).lower() not in ("utf-8", "utf8"):
    pytest.skip("axe reads its script in the locale's encoding", allow_module_level=True)
axe = pytest.importorskip("axe_playwright_python.sync_playwright")
pytest.importorskip("sphinx")

pytestmark = [
    pytest.mark.xdist_group("browser"),  # one worker, which builds the book once
    pytest.mark.timeout(900),
]
CHAPTER, EXPLORER = "02_training_instability", "graph_explorer()"
CHAPTERS = ["00_start_here", "01_maml", CHAPTER]
PAGES = ["index.html", "book/ledger.html", "notebooks/01_maml.html"]
SLOW_PAGES = ["TEACHING.html", "api/mamlpp.data.mini_imagenet.html"]
SLOW_PAGES += ["notebooks/00_start_here.html", f"notebooks/{CHAPTER}.html"]
FEW = Frozen(
    widgets.graph_explorer,
    {"steps": (5, 6), "msl": (False,), "second_order": (False, True), "per_step": (False,)},
)
TELEPHONE, LAPTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 800}

WIDER = "document.documentElement.scrollWidth - window.innerWidth"
BROKEN = """() => [...document.images].filter(
  image => image.complete && !image.naturalWidth).map(image => image.src)"""
SILENT = "() => [...document.images].filter(image => !image.alt.trim()).map(image => image.src)"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Some pages of the book, with the results that are there, and a few states of an explorer."""
    folder = tmp_path_factory.mktemp("book")
    chapters = [path for path in book.chapters() if path.stem in CHAPTERS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(book, "chapters", lambda: chapters)
        patch.setattr(book, "exercise_sets", list)
        patch.setattr(book, "modules", lambda: ["mamlpp.data.mini_imagenet"])
        patch.setattr(book, "PAGES", folder / "pages")
        patch.setattr(frozen_explorers, "EXPLORERS", {EXPLORER: FEW})
        patch.setattr(frozen_explorers, "FOLDER", folder / "explorers")
        patch.setattr(frozen_explorers, "freeze_all", freeze_here)
        assert book.main(execute="never", output=folder / "site") == 0
        yield folder / "site"


def freeze_here() -> None:
    """Draw the explorers in this process: another one would draw all."""
    for name in frozen_explorers.EXPLORERS:
        frozen_explorers.freeze(name, frozen_explorers.FOLDER / frozen_explorers.slug(name))


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    page = browser.new_page(viewport=LAPTOP)
    page.foreign = []
    page.on("request", lambda request: page.foreign.append(request.url))
    yield page
    page.close()


@pytest.mark.parametrize(
    "name", [*PAGES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_PAGES)]
)
def test_a_page(name: str, site: Path, page: Any):
    page.goto((site / name).as_uri(), wait_until="load")
    assert [url for url in page.foreign if not url.startswith(("file:", "data:", "blob:"))] == []
    assert page.evaluate(BROKEN) == []
    assert page.evaluate(SILENT) == []
    page.add_style_tag(content="* { transition: none !important }")  # colours change at once
    assert serious_faults(page) == []
    page.emulate_media(color_scheme="dark")
    assert serious_faults(page, runOnly=["color-contrast"]) == [], "in the dark"
    page.set_viewport_size(TELEPHONE)
    assert page.evaluate(WIDER) <= 0


def serious_faults(page: Any, **options: Any) -> list[str]:
    """What axe finds on a page that keeps somebody from using it."""
    options = {"resultTypes": ["violations"], **options}
    found = axe.Axe().run(page, options=options).response["violations"]
    return [
        f"{fault['id']}: {node['html'][:120]}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]


def test_an_explorer_moves_by_the_keyboard_and_says_what_it_shows(site: Path, page: Any):
    page.goto((site / "notebooks" / f"{CHAPTER}.html").as_uri())
    explorer = page.locator(".explorer").last
    picture, slider = (
        explorer.locator("img"),
        explorer.get_by_role("slider", name="inner steps N", exact=True),
    )
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
