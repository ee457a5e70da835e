"""The laboratory in a browser: what one does with it, by pointer, keyboard, address and script."""

import gzip
import json
import re

import laboratory
import numpy as np
import pytest
from browsing import PHONE, WIDE, Visit
from laboratory import EVERY, MENU, live

REFERENCES = json.loads(laboratory.REFERENCES.read_text())
MAX_BYTES = 150_000  # compressed, of all that a click loads


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A page with a laboratory, one with a small instance, and nothing else."""
    folder = tmp_path_factory.mktemp("laboratory")
    (folder / live.SCRIPT).write_text(live.script())
    static = laboratory.ROOT / "book/_static"
    for name in ("laboratory.css", "laboratory-button.js"):
        (folder / name).write_text((static / name).read_text())
    small = {"settings": "loss=valley&optimizer=gd&lr=0.2&steps=60", "panels": "fit spectrum", "controls": "lr"}
    for name, options in (("page", {"controls": "all"}), ("small", small)):
        (folder / f"{name}.html").write_text(
            f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>Laboratory</title>
            <link rel="icon" href="data:,"><link rel="stylesheet" href="laboratory.css">
            <meta name="viewport" content="width=device-width">
            <main><h1>Laboratory</h1>{live.place("Open", live.SCRIPT, **options)}
            <button type="button" class="cflows-set" data-set="width=8&amp;steps=30">set</button></main>
            <script defer src="laboratory-button.js"></script></html>"""
        )
    return folder


@pytest.fixture
def visit(browser, folder):
    with Visit(browser, folder, "page") as visit:
        yield visit
        assert visit.wrong == []


def opened(visit, settings=None):
    visit.page.click("button.load")
    visit.page.wait_for_function("window.cflowsLab")
    visit.page.evaluate("cflowsLab.pause()")
    if settings is not None:
        visit.page.evaluate("settings => cflowsLab.load(settings)", settings)
    return visit.page


def state(page):
    return page.evaluate("cflowsLab.state()")


def agrees(state, name):
    """Whether a state is that of the library's run."""
    for process, known in REFERENCES[name].items():
        at = state["step"] // EVERY
        if (there := known["predicted_loss"][at]) is not None and state[process].get("predicted_loss") is not None:
            assert state[process]["predicted_loss"] == pytest.approx(there, rel=0.01), process
            assert state[process]["nu_sum"] == pytest.approx(known["nu_sum"][at], rel=0.01)
            held = [x for x in known["variances"][at] if x]
            np.testing.assert_allclose([x for x in state[process]["variances"] if x], held, rtol=0.01)


def test_nothing_comes_before_the_click_and_little_after(visit):
    assert not [url for url in visit.loaded if url.endswith(live.SCRIPT)]
    opened(visit)
    assert [url for url in visit.loaded if url.endswith(live.SCRIPT)]
    assert len(gzip.compress(live.script().encode())) < MAX_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wave", "adam", "valley"])  # the engine itself is tested without a page
def test_it_plays_what_the_library_computes(visit, name):
    page = opened(visit)
    page.get_by_label("speed").select_option("0")
    page.evaluate("text => cflowsLab.show(text)", MENU[name])
    steps = int(re.search(r"steps=(\d+)", MENU[name])[1])
    page.wait_for_function(f"cflowsLab.state().step === {steps} && !cflowsLab.state().playing", timeout=60_000)
    agrees(state(page), name)


def test_a_change_in_mid_run(visit):
    page = opened(visit, {"steps": 120})
    page.evaluate("cflowsLab.change({lr: 0.0015})")
    page.evaluate("cflowsLab.step(120)")
    agrees(state(page), "wave-change")


def test_a_reload_gives_the_same_state(visit):
    page = opened(visit, {"width": 8, "steps": 60})
    page.evaluate("cflowsLab.change({penalty: false})")
    page.evaluate("cflowsLab.step(30)")
    before = state(page)
    page.wait_for_function("location.hash.includes('steps=90')")
    page.reload()
    page.wait_for_function("window.cflowsLab?.state().step === 90")
    assert state(page) == before


def test_adam_has_its_momentum_and_its_threshold(visit):
    page = opened(visit, {"width": 8, "steps": 20})
    slider = page.get_by_role("slider", name="momentum β₁")
    assert not slider.is_visible()
    page.get_by_label("optimizer", exact=True).select_option("adam")
    slider.wait_for(state="visible")
    page.wait_for_function("cflowsLab.state().settings.optimizer === 'adam'")
    assert state(page)["threshold"] == pytest.approx(38)
    slider.focus()
    page.keyboard.press("End")
    page.wait_for_function("cflowsLab.state().settings.beta1 === 0.95 && cflowsLab.state().step > 3")
    page.evaluate("cflowsLab.pause()")
    assert state(page)["threshold"] == pytest.approx(78)
    page.wait_for_function("location.hash.includes('beta1=0.95')")
    page.reload()
    page.wait_for_function("window.cflowsLab?.state().step > 3")
    assert state(page)["settings"]["beta1"] == 0.95


def test_the_keyboard_reaches_all(visit):
    page = opened(visit, {"width": 8, "optimizer": "adam", "steps": 5})
    page.evaluate("document.querySelector('.export').open = true")
    able = "main :is(button, select, input, summary, pre[tabindex]):not(:disabled)"
    wanted = page.locator(able).count()
    page.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(wanted + 3):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("[...document.querySelectorAll('main *')].indexOf(document.activeElement)"))
    assert len(reached - {-1}) == wanted

    def press(name, key, role="button"):
        page.get_by_role(role, name=name, exact=True).focus()
        page.keyboard.press(key)

    press("Step", "Enter")
    page.wait_for_function("cflowsLab.state().step === 6")
    press("Remember", "Space")
    press("25 steps", "Enter")
    page.wait_for_function("cflowsLab.state().step === 31")
    press("learning rate η", "ArrowLeft", "slider")
    page.wait_for_function("cflowsLab.state().lr < 0.003")
    press("curvature penalty", "Space", "checkbox")
    page.wait_for_function("cflowsLab.state().ablated")
    press("Back to step 6", "Enter")
    page.wait_for_function("cflowsLab.state().step === 6")
    press("Draw a curve", "Enter")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    page.wait_for_function("cflowsLab.state().settings.loss === 'drawn' && cflowsLab.state().step === 0")
    assert len(state(page)["settings"]["targets"]) == 16
    press("Play", "Enter")
    page.wait_for_function("cflowsLab.state().step > 3")
    press("Pause", "Enter")
    page.wait_for_function("!cflowsLab.state().playing")


def test_a_curve_is_drawn_with_the_pointer(visit):
    page = opened(visit, {"width": 8})
    page.get_by_role("button", name="Draw a curve").click()
    box = page.locator(".panel.fit canvas").bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.3 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.3 * box["height"], steps=6)
    page.mouse.up()
    page.wait_for_function("cflowsLab.state().settings.loss === 'drawn'")
    targets = state(page)["settings"]["targets"]
    assert len({round(y, 1) for y in targets[5:12]}) == 1


def test_what_happens_is_said(visit):
    page = opened(visit, {"width": 8, "optimizer": "gd", "lr": 0.5, "steps": 400})
    page.wait_for_function("document.querySelector('.trouble').textContent.includes('diverges')")
    assert page.get_by_role("alert").inner_text().startswith("The optimizer diverges: the largest eigenvalue")
    page.evaluate("cflowsLab.load({width: 8, lr: 0.005, steps: 60})")
    page.wait_for_function("document.querySelector('.events').textContent.includes('at 2')")
    page.wait_for_function("/^Step 60, η = 0.005/.test(document.querySelector('.readout').textContent)")


def test_it_is_accessible_and_fits_a_phone(visit):
    page = opened(visit, {"width": 8, "steps": 30})
    page.evaluate("document.querySelector('.export').open = true")
    for viewport in (WIDE, PHONE):
        page.set_viewport_size(viewport)
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert visit.axe() == []


def test_a_button_of_the_text_sets_it(visit):
    visit.page.click("button.cflows-set")
    visit.page.wait_for_function("window.cflowsLab?.state().step === 30")
    assert state(visit.page)["settings"]["width"] == 8


def test_a_small_instance_has_its_own_settings_and_leaves_the_address_alone(browser, folder):
    with Visit(browser, folder, "small") as visit:
        visit.page.click("button.load")
        visit.page.wait_for_function("window.cflowsLab?.state().step === 60")
        assert state(visit.page)["settings"]["loss"] == "valley"
        assert visit.page.locator("canvas").count() == 2
        assert "#" not in visit.page.url
        assert visit.wrong == []


def test_it_runs_from_a_folder_and_with_reduced_motion(browser, folder):
    context = browser.new_context(reduced_motion="reduce")
    page = context.new_page()
    page.goto(f"file://{folder}/small.html")
    page.click("button.load")
    page.wait_for_function("window.cflowsLab?.state().step === 60")
    context.close()


def test_what_ran_can_be_taken_away(visit):
    page = opened(visit, {"width": 8, "steps": 12})
    page.locator("summary").click()
    for name, begins in (("Table (CSV)", "step,lr,optimizer_loss"), ("Python", "import torch")):
        with page.expect_download() as download:
            page.get_by_role("button", name=name, exact=True).click()
        text = download.value.path().read_text(encoding="utf-8")
        assert text.startswith(begins)
    assert page.locator("pre").inner_text().strip() == text.strip() == laboratory.lines("width=8&steps=12").strip()


def test_a_run_that_plays_can_be_left(visit):
    """What comes late from a run that was left is not drawn into the next."""
    page = opened(visit, {"width": 8})
    page.get_by_label("speed").select_option("0")
    for seed in (1, 2, 1):
        page.evaluate("cflowsLab.play()")
        page.wait_for_timeout(150)
        page.evaluate("seed => cflowsLab.load({width: 8, seed, steps: 3})", seed)
        assert [row["step"] for row in page.evaluate("cflowsLab.rows()")] == [0, 1, 2, 3]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_chapter_opens_its_laboratory(browser, site, theme):
    with Visit(browser, site, "book/laboratory", theme) as visit:
        visit.page.locator("button.cflows-set").first.click()
        visit.page.wait_for_function("window.cflowsLab?.state().step > 20")
        visit.page.evaluate("cflowsLab.pause()")
        assert visit.axe() == []
        visit.page.set_viewport_size(PHONE)
        visit.page.wait_for_timeout(300)
        assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert visit.axe() == []
        assert visit.wrong == []
