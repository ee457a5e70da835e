"""Every page of the built site, in a browser: wide and on a phone, light and dark.

The tests are skipped where no site was built or no Chromium is; with CFLOWS_PAGES=required they fail there.
"""

import pytest
import yaml
from browsing import LOOK, PAGE_BYTES, PHONE, ROOT, Visit

SITE_BYTES, VIDEO_BYTES = 40_000_000, 500_000


def listed(entry) -> list[str]:
    """The pages that a table of contents names."""
    if isinstance(entry, list):
        return [name for item in entry for name in listed(item)]
    here = [entry[key] for key in ("root", "file") if key in entry]
    return here + [n for key in ("parts", "chapters", "sections") for n in listed(entry.get(key, []))]


PAGES = [*listed(yaml.safe_load((ROOT / "_toc.yml").read_text())), "genindex", "search"]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole(browser, site, name):
    with Visit(browser, site, name) as visit:
        assert visit.look() == []
        assert visit.links() == []
        assert visit.play() == []
        assert visit.interact() == []


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_and_is_accessible(browser, site, name, theme):
    with Visit(browser, site, name, theme) as visit:
        assert visit.axe() == []
        visit.page.set_viewport_size(PHONE)
        visit.page.wait_for_timeout(500)  # the theme looks what scrolls
        assert visit.page.evaluate(LOOK) == []
        assert visit.axe() == []
        assert visit.wrong == []


def test_sizes(site):
    sizes = {path: path.stat().st_size for path in site.rglob("*") if path.is_file()}
    assert sum(sizes.values()) <= SITE_BYTES
    assert [path for path, size in sizes.items() if path.suffix == ".mp4" and size > VIDEO_BYTES] == []


def test_a_bad_page_would_be_found(browser, tmp_path):
    (tmp_path / "big.js").write_text(" " * PAGE_BYTES)
    (tmp_path / "page.html").write_text(
        """<!doctype html><html lang="en"><title>Bad</title><script src="big.js"></script><main>
        <p style="width: 2000px; color: #bbb; background: #fff">A formula $x^2$, <span class="math">\\(y\\)</span></p>
        <a href="page.html#nowhere">a</a> <a href="none.html">b</a> <img src="none.png">
        <video preload="auto" src="none.mp4"></video>
        <div data-interactive><button>load</button><input type="range" aria-label="x"></div>
        <script src="https://cdn.invalid/x.js"></script><script>console.warn("hm"); nothing.here</script></main>"""
    )
    with Visit(browser, tmp_path, "page") as visit:
        seen = "\n".join(visit.look())
        for what in ("raw TeX", "not typeset", "no description", "no picture", "px wide", "bytes", "unasked",
                     "another host", "console: hm", "script: ", "not loaded"):  # fmt: skip
            assert what in seen
        assert len(visit.links()) == 2
        assert len(visit.play()) == 1
        assert "interactive figure 0 does not react" in visit.interact()
        assert "color-contrast" in "\n".join(visit.axe())
