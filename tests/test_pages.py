"""Every page of the built site, in a browser: wide and on a phone, light and dark.

The tests are skipped where no site was built or no Chromium is; with CFLOWS_PAGES=required they fail there.
"""

import pytest
import yaml
from browsing import COVERED, LOOK, PAGE_BYTES, PARTLY, PHONE, ROOT, SHADOWS, Visit

from cflows.book import animations

SITE_BYTES, VIDEO_BYTES = 40_000_000, 500_000


def listed(entry) -> list[str]:
    """The pages that a table of contents names."""
    if isinstance(entry, list):
        return [name for item in entry for name in listed(item)]
    here = [entry[key] for key in ("root", "file") if key in entry]
    return here + [n for key in ("parts", "chapters", "sections") for n in listed(entry.get(key, []))]


WRITTEN = listed(yaml.safe_load((ROOT / "_toc.yml").read_text()))
PAGES = [*WRITTEN, "genindex", "search"]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole(browser, site, name):
    with Visit(browser, site, name) as visit:
        assert visit.look() == []
        assert visit.page.evaluate(COVERED) == []
        assert visit.metadata() == [] or name not in WRITTEN
        assert visit.links() == []
        assert visit.play() == []
        assert visit.interact() == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_and_is_accessible(browser, site, name):
    with Visit(browser, site, name) as visit:
        assert visit.axe() == []
        visit.dark()  # changes colours alone
        assert visit.axe("color-contrast") == []
        visit.page.set_viewport_size(PHONE)
        visit.page.wait_for_timeout(500)  # the theme looks what scrolls
        assert visit.page.evaluate(LOOK) == []
        assert visit.page.evaluate(PARTLY) == []
        assert visit.axe() == []
        assert visit.wrong == []


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_the_first_film_starts_by_itself_unless_one_asked_for_less_motion(browser, site, motion):
    with Visit(browser, site, "book/intro", motion=motion) as visit:
        film = visit.page.locator("video").first
        visit.page.wait_for_timeout(1500)
        assert film.evaluate("v => v.paused") == (motion == "reduce")
        assert film.evaluate("v => v.muted")
        visit.page.locator(".film-bar button").first.click()  # the reader's word counts more
        visit.page.wait_for_timeout(300)
        assert film.evaluate("v => v.paused") == (motion != "reduce")


@pytest.mark.parametrize("name", ["book/intro", "book/executed/02-gradient-descent"])
def test_a_film_on_a_phone_is_as_wide_as_what_it_says_was_made_for(browser, site, name):
    with Visit(browser, site, name, viewport={"width": 390, "height": 800}) as visit:
        for film in visit.page.query_selector_all("video"):
            assert film.bounding_box()["width"] >= animations.PHONE


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_what_goes_on_beyond_its_place_has_a_shadow(browser, site, theme):
    with Visit(browser, site, "book/executed/09-elsewhere", theme, PHONE) as visit:
        looks = visit.page.evaluate(SHADOWS)
        assert looks
        assert [look for look in looks if look.count("gradient") < 4] == []


def test_the_map_of_the_site_has_every_page(site):
    text = (site / "sitemap.xml").read_text()
    assert [name for name in WRITTEN if f"/{name}.html</" not in text] == []


def test_sizes(site):
    sizes = {path: path.stat().st_size for path in site.rglob("*") if path.is_file()}
    assert sum(sizes.values()) <= SITE_BYTES
    assert [path for path, size in sizes.items() if path.suffix == ".mp4" and size > VIDEO_BYTES] == []


def test_a_bad_page_would_be_found(browser, tmp_path):
    (tmp_path / "big.js").write_text(" " * PAGE_BYTES)
    (tmp_path / "wide.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="900" height="90"></svg>')
    (tmp_path / "page.html").write_text(
        """<!doctype html><html lang="en"><title>Bad</title><script src="big.js"></script><main>
        <p style="width: 2000px; color: #bbb; background: #fff">A formula $x^2$, <span class="math">\\(y\\)</span></p>
        <a href="page.html#nowhere">a</a> <a href="none.html">b</a> <img src="none.png">
        <video preload="auto" src="none.mp4" controls></video>
        <pre style="width: 100px; overflow: hidden">a line of code that is longer than its box</pre>
        <div style="position: relative; width: 300px; overflow: auto"><img src="wide.svg" style="width: 900px" alt="a">
        <button style="position: absolute; left: 10px; top: 10px">on it</button></div>
        <div data-interactive><button>load</button><input type="range" aria-label="x"></div>
        <script src="https://cdn.invalid/x.js"></script><script>console.warn("hm"); nothing.here</script></main>"""
    )
    with Visit(browser, tmp_path, "page") as visit:
        seen = "\n".join(visit.look())
        for what in ("raw TeX", "not typeset", "no description", "no picture", "px wide", "bytes", "unasked",
                     "another host", "console: hm", "script: ", "not loaded"):  # fmt: skip
            assert what in seen
        covered = "\n".join(visit.page.evaluate(COVERED))
        for what in ("cut off", "a control covers", "the controls cover"):
            assert what in covered
        assert "from" in "\n".join(visit.page.evaluate(PARTLY))
        assert "0 of canonical" in visit.metadata()
        assert len(visit.links()) == 2
        assert len(visit.play()) == 1
        assert "interactive figure 0 does not react" in visit.interact()
        assert "color-contrast" in "\n".join(visit.axe())
