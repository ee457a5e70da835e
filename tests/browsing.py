"""A page of the built site, or of any folder, opened in a browser; what is wrong with it."""

import contextlib
import functools
import http.server
import re
import threading
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

from axe_playwright_python.sync_playwright import Axe

ROOT = Path(__file__).parents[1]
PAGE_BYTES = 1_140_000  # a page may have 1.2 MB: 5 % to spare
WIDE, PHONE = {"width": 1300, "height": 800}, {"width": 375, "height": 720}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def copyfile(self, source, outputfile):
        with contextlib.suppress(ConnectionError):  # a video whose rest the browser does not want
            super().copyfile(source, outputfile)


class Visit:
    """A page of a folder, opened in a browser of its own cookies; what it said and what it loaded."""

    def __init__(self, browser, folder: Path, name: str, theme="light", viewport=WIDE, motion="no-preference"):
        self.folder, self.name, self.wrong, self.loaded = folder, name, [], {}
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.home = f"http://127.0.0.1:{self.server.server_port}/"
        self.context = browser.new_context(viewport=viewport, reduced_motion=motion)
        self.context.add_init_script(f"for (const k of ['mode', 'theme']) localStorage.setItem(k, '{theme}')")
        self.page = self.context.new_page()
        self.page.on("console", self.heard)
        self.page.on("pageerror", lambda error: self.wrong.append(f"script: {error}"))
        self.page.on("request", self.asked)
        self.page.on("requestfailed", lambda r: self.wrong.append(f"not loaded: {r.url} {r.failure}"))

    def __enter__(self):
        self.page.goto(f"{self.home}{self.name}.html")
        self.page.evaluate(SETTLE)
        return self

    def __exit__(self, *_):
        self.context.close()
        self.server.shutdown()
        self.server.server_close()

    def heard(self, message):
        if message.type in ("error", "warning"):
            self.wrong.append(f"console: {message.text} {message.location['url']}")

    def asked(self, request):
        if request.url.startswith(self.home):
            file = self.folder / unquote(urlsplit(request.url).path[1:])
            self.loaded[request.url] = file.stat().st_size if file.exists() else 0
        elif not request.url.startswith(("data:", "blob:")):
            self.wrong.append(f"loads {request.url} from another host")

    def look(self) -> list[str]:
        """What can be seen to be wrong before anything is asked for."""
        wrong = [*self.wrong, *self.page.evaluate(LOOK)]
        if (total := sum(self.loaded.values())) > PAGE_BYTES:
            heavy = sorted(self.loaded.items(), key=lambda item: -item[1])[:6]
            wrong.append(f"loads {total:,} bytes, most of it " + ", ".join(f"{u} {n:,}" for u, n in heavy))
        starts = self.page.evaluate("[...document.querySelectorAll('video[data-starts] source')].map(s => s.src)")
        wrong += [f"loads {url} unasked" for url in self.loaded if url.endswith(".mp4") and url not in starts]
        return wrong

    def metadata(self) -> list[str]:
        """What search engines and other sites miss."""
        found = self.page.evaluate(METADATA)
        wrong = [f"{len(values)} of {name}" for name, values in found.items() if len(values) != 1 or not values[0]]
        if wrong:
            return wrong
        address, picture = found["canonical"][0], found["og:image"][0]
        base = address.removesuffix(f"{self.name}.html")
        if base == address or found["og:url"] != [address]:
            wrong.append(f"its address is said to be {address}, and {found['og:url'][0]}")
        if not (self.folder / picture.removeprefix(base)).is_file():
            wrong.append(f"its picture {picture} is not there")
        if not 50 <= len(found["description"][0]) <= 300 or "\\" in found["description"][0]:
            wrong.append(f"description: {found['description'][0]}")
        return wrong

    def links(self) -> list[str]:
        """Links within the site that lead nowhere."""
        wrong = []
        for link in set(self.page.evaluate("[...document.querySelectorAll('a[href]')].map(a => a.href)")):
            url, anchor = urldefrag(link)
            if not url.startswith(self.home):
                continue
            target = self.folder / unquote(urlsplit(url).path[1:] or "index.html")
            if not target.is_file():
                wrong.append(f"links to {link}, which does not exist")
            elif anchor and target.suffix == ".html" and unquote(anchor) not in places(target):
                wrong.append(f"links to {link}, which has no such place")
        return wrong

    def play(self) -> list[str]:
        """Videos that do not play when asked to."""
        return [
            f"video {i} does not play: {error}"
            for i, video in enumerate(self.page.query_selector_all("video"))
            if (error := video.evaluate(PLAY))
        ]

    def interact(self) -> list[str]:
        """Interactive figures whose text does not follow their slider."""
        wrong = []
        for i, figure in enumerate(self.page.query_selector_all("[data-interactive]")):
            if (button := figure.query_selector("button")) and button.is_visible():
                button.click()
            slider = figure.wait_for_selector("input[type=range]", timeout=15_000)
            self.page.wait_for_timeout(300)
            before = figure.inner_text()
            slider.focus()
            for _ in range(3):
                slider.press("ArrowLeft")
            for _ in range(8):
                slider.press("ArrowRight")
            self.page.wait_for_timeout(300)
            if figure.inner_text() == before:
                wrong.append(f"interactive figure {i} does not react")
        return [*wrong, *self.wrong]

    def dark(self) -> None:
        """Take the dark theme, at once."""
        self.page.add_style_tag(content="*, ::before, ::after { transition: none !important }")
        self.page.evaluate("for (const k of ['mode', 'theme']) document.documentElement.dataset[k] = 'dark'")

    def axe(self, *rules: str) -> list[str]:
        """Serious and critical violations that axe-core finds, of some rules alone or of all."""
        options = {"resultTypes": ["violations"], "preload": False} | ({"runOnly": list(rules)} if rules else {})
        found = Axe().run(self.page, options=options).response["violations"]
        return [
            f"{v['id']}: {v['help']}: {node['html'][:160]} {(node.get('failureSummary') or '')[:300]}"
            for v in found
            if v["impact"] in ("serious", "critical")
            for node in v["nodes"]
        ]


@functools.cache
def places(target: Path) -> frozenset[str]:
    return frozenset(re.findall(r'\b(?:id|name)="([^"]+)"', target.read_text()))


# All that comes by itself is there, pictures below the window, too.
SETTLE = """async () => {
  await window.MathJax?.startup?.promise
  for (const image of document.images) image.loading = 'eager'
  await Promise.all([document.fonts.ready, ...[...document.images].map(i => i.decode().catch(() => 0))])
}"""
# Raw TeX, failed formulas, images without a description, a page wider than its window.
LOOK = r"""() => {
  const wrong = []
  for (const math of document.querySelectorAll('.math, .amsmath'))
    if (!math.querySelector('mjx-container, .katex, math') && !math.closest('mjx-container, .katex, math'))
      wrong.push('not typeset: ' + math.textContent.slice(0, 80))
  for (const error of document.querySelectorAll('mjx-merror, merror, [data-mjx-error], .katex-error'))
    wrong.push('failed formula: ' + error.textContent)
  const walker = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT)
  while (walker.nextNode()) {
    const text = walker.currentNode.data
    if (/\\[([]|\\begin\{|\\[a-zA-Z]{2,}|\$[^$\s][^$]*\$/.test(text)
        && !walker.currentNode.parentElement.closest('pre, code, script, style, annotation'))
      wrong.push('raw TeX: ' + text.trim().slice(0, 80))
  }
  for (const image of document.images) {
    if (!image.alt.trim()) wrong.push('no description: ' + image.src)
    if (!image.naturalWidth) wrong.push('no picture: ' + image.src)
  }
  const {scrollWidth, clientWidth} = document.documentElement
  if (scrollWidth > clientWidth) {
    const wide = [...document.body.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > clientWidth + 1)
    wrong.push(`${scrollWidth} px wide: ` + wide.slice(0, 4).map(e => e.outerHTML.slice(0, 90)).join(' | '))
  }
  return wrong
}"""
# Lines of code that are cut off, players' own controls, which cover what they play, and any other on a figure.
COVERED = r"""() => {
  const wrong = [], seen = element => element.checkVisibility() && element.getBoundingClientRect().width > 1
  for (const code of document.querySelectorAll('main pre'))
    if (seen(code) && code.scrollWidth > code.clientWidth + 1) wrong.push('cut off: ' + code.textContent.slice(0, 80))
  const figures = [...document.querySelectorAll('main :is(video, img, canvas, svg.main-svg)')].filter(seen)
  for (const control of [...document.querySelectorAll('main :is(button, input, select):not(.load)')].filter(seen)) {
    const a = control.getBoundingClientRect()
    for (const figure of figures) {
      const b = figure.getBoundingClientRect()
      const beside = a.left > b.right - 1 || b.left > a.right - 1, below = a.top > b.bottom - 1 || b.top > a.bottom - 1
      if (!control.contains(figure) && !beside && !below)
        wrong.push('a control covers a figure: ' + [control, figure].map(e => e.outerHTML.slice(0, 90)).join(' | '))
    }
  }
  for (const film of document.querySelectorAll('video'))
    if (film.controls) wrong.push('the controls cover the film: ' + film.outerHTML.slice(0, 120))
  return wrong
}"""
# Figures of which a phone shows a part, or which were not drawn for one.
PARTLY = r"""() => {
  const wrong = []
  for (const figure of document.querySelectorAll('main :is(img, video)')) {
    if (!figure.checkVisibility()) continue
    const {left, right} = figure.getBoundingClientRect(), name = figure.currentSrc || figure.poster || figure.src
    let [from, to] = [0, document.documentElement.clientWidth]
    for (let box = figure.parentElement; box; box = box.parentElement)
      if (getComputedStyle(box).overflowX !== 'visible' && box !== document.body && box !== document.documentElement) {
        const edges = box.getBoundingClientRect()
        ;[from, to] = [Math.max(from, edges.left), Math.min(to, edges.right)]
      }
    if (left < from - 1 || right > to + 1) wrong.push(`from ${left} to ${right} px of ${from} to ${to}: ${name}`)
    if (/_images\/[0-9a-f]{64}\.svg$/.test(name)) wrong.push('not drawn for a phone: ' + name)
  }
  return wrong
}"""
# The backgrounds of formulas and tables that scroll sideways.
SHADOWS = """() => [...document.querySelectorAll('main :is(div, figure)')]
  .filter(e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX === 'auto')
  .map(e => getComputedStyle(e).backgroundImage)"""
METADATA = """() => {
  const all = (selector, key) => [...document.head.querySelectorAll(selector)].map(e => e[key])
  const found = {
    canonical: all('link[rel=canonical]', 'href'),
    description: all('meta[name=description]', 'content'),
    viewport: all('meta[name=viewport]', 'content'),
  }
  for (const name of ['og:title', 'og:description', 'og:url', 'og:image'])
    found[name] = all(`meta[property="${name}"]`, 'content')
  return found
}"""
PLAY = """async video => {
  try { await video.play() } catch (error) { return String(error) }
  for (let i = 0; i < 100 && video.currentTime < 0.1; i++) await new Promise(done => setTimeout(done, 50))
  const reached = video.currentTime
  video.pause()
  return reached < 0.1 ? 'stays at ' + reached : ''
}"""
