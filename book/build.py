"""Build the site from executed notebooks. `make book` calls this; every failure ends it with a non-zero exit code."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import correspondence
import jupytext
import matplotlib
import measurements
import nbformat
import papermill
import scorecard
import status
import torch
import yaml

from cflows import experiments
from cflows.book import figures, opening

ROOT = Path(__file__).resolve().parents[1]
STATIC, EXECUTED, SITE = ROOT / "book/_static", ROOT / "book/executed", ROOT / "book/_build/html"
#: Chapters that take longest: they start first, so that none is left over at the end.
LONG = ("07-preconditioner", "09-elsewhere", "06-predictions", "05-central-flow")
# Asked of each notebook's kernel when all else is done; the answer becomes the notebook's metadata.
RECORD = """\
import json, platform
from importlib.metadata import version
from cflows import store
versions = {name: version(name) for name in ("cflows", "torch", "numpy", "scipy", "xarray", "matplotlib")}
print(json.dumps({
    "runs": sorted(store.asked),
    "hardware": store.hardware(),
    "versions": {"Python": platform.python_version(), **versions},
}))"""


def compute(experiment: experiments.Experiment) -> None:
    """A run that chapters need, and its programs."""
    torch.set_num_threads(1)
    started = time.monotonic()
    experiments.compute(experiment)
    if experiment.snapshot_every:
        experiments.solve_convex_programs(experiment)
    if (elapsed := time.monotonic() - started) > 10:
        print(f"{experiment.path.stem}: {elapsed:.0f} s", flush=True)


def runs(preset: experiments.Preset) -> list[experiments.Experiment]:
    """All that chapters need, the longest first."""
    base, largest, *others = (experiments.get(name, preset) for name in experiments.PRESETS)
    return [base, *experiments.rates(largest)[::-1], *others]


def execute(notebook: Path, preset: str, folder: Path) -> None:
    """Run one text notebook; its executed form appears in the folder only if no cell failed."""
    target = folder / f"{notebook.stem}.ipynb"
    sources = [notebook, *sorted(s for s in (ROOT / "cflows").rglob("*") if s.suffix in (".py", ".js", ".css"))]
    stamp = f"{preset} " + " ".join(str(s.stat().st_mtime_ns) for s in sources)
    stamp_file = ROOT / ".cache" / folder.name / f"{notebook.stem}.stamp"
    if target.exists() and stamp_file.exists() and stamp_file.read_text() == stamp:
        print(f"{notebook.stem}: unchanged")
        return
    work = stamp_file.parent
    for place in (work, folder):
        place.mkdir(parents=True, exist_ok=True)
    clean, done = work / f"{notebook.stem}.ipynb", work / f"{notebook.stem}.done.ipynb"
    content = jupytext.read(notebook)
    for i, cell in enumerate(content.cells):
        cell["id"] = f"cell-{i}"  # jupytext makes random ones
        cell["source"] = cell["source"].replace("  # fmt: skip", "")
    content.cells.append(nbformat.v4.new_code_cell(RECORD, id="record"))
    nbformat.write(content, clean)
    started = time.monotonic()
    parameters = {} if preset == "laptop" else {"preset": preset}
    papermill.execute_notebook(clean, done, parameters=parameters, progress_bar=False, cwd=ROOT, kernel_name="python3")
    executed = nbformat.read(done, as_version=4)
    answer = "".join(o["text"] for o in executed.cells.pop().outputs if o.get("name") == "stdout")
    executed.metadata["cflows"] = json.loads(answer)
    nbformat.write(executed, done)
    shutil.move(done, target)
    stamp_file.write_text(stamp)
    print(f"{notebook.stem}: {time.monotonic() - started:.0f} s")


def film(preset: experiments.Preset) -> None:
    """The film of the first page, where it is not there yet as this code draws it from this run."""
    experiment = experiments.get("rmsprop-resnet", preset)
    sources = [Path(module.__file__ or "") for module in (opening, opening.animations)]
    stamp = f"{experiment.path.name} " + " ".join(str(s.stat().st_mtime_ns) for s in sources)
    stamp_file = ROOT / ".cache" / f"opening-{preset}.stamp"
    there = Path(os.environ["CFLOWS_MEDIA"], f"{opening.NAME}.mp4").exists() and stamp_file.exists()
    if not there or stamp_file.read_text() != stamp:
        matplotlib.use("agg")
        main = sys.modules["__main__"]
        figures.use_style()
        sys.modules["__main__"] = main  # IPython has put its own there; this process is to find `execute`
        smallest = {"frames_per_step": 1, "steps": 10} if preset == "ci" else {}
        opening.opening(experiments.compute(experiment), **smallest)
        stamp_file.write_text(stamp)


def check_site() -> list[str]:
    """What is wrong with the pages: missing ones, failed cells, dangling links, anything from another host."""
    wrong = []
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    chapters = [c for part in toc["parts"] for c in part["chapters"]]
    names = [toc["root"], *(c["file"] for chapter in chapters for c in (chapter, *chapter.get("sections", [])))]
    pages = {SITE / f"{name}.html" for name in names}
    texts = {page: page.read_text() for page in pages if page.exists()}
    wrong += [f"{page}: missing" for page in pages - texts.keys()]
    for page, text in texts.items():
        if 'class="output traceback' in text or "Traceback (most recent call last)" in text:
            wrong.append(f"{page}: shows a traceback")
        for tag in re.findall(r"<(?:script|img|video|source|iframe|link|div)\b[^>]*>", text):
            for url in re.findall(r'(?:src|href|poster|data-plotly)="([^"]+)"', tag):
                if re.match(r"(https?:)?//", url) and 'rel="canonical"' not in tag:
                    wrong.append(f"{page}: loads {url} from another host")
                elif (
                    not re.match(r"data:|#|https?:", url)
                    and not (page.parent / url.split("?")[0].split("#")[0]).exists()
                ):
                    wrong.append(f"{page}: {url} does not exist")
        for url in re.findall(r'<a\b[^>]*href="([^"]+)"', text):
            if re.match(r"\w+:|//", url):
                continue
            path, _, anchor = url.partition("#")
            target = (page.parent / path.split("?")[0]).resolve() if path else page
            if not target.exists():
                wrong.append(f"{page}: links to {url}, which does not exist")
            elif anchor and target.suffix == ".html" and f'id="{anchor}"' not in target.read_text():
                wrong.append(f"{page}: links to {url}, which has no such place")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="laptop", choices=("ci", "laptop", "paper"))
    parser.add_argument("--fresh", action="store_true", help="use no run that was computed before")
    parser.add_argument("--check", action="store_true", help="execute and settle the claims in .cache/check, no pages")
    preset, fresh, check = vars(parser.parse_args()).values()
    folder = ROOT / ".cache/check" if check else EXECUTED
    cache = ROOT / ".cache"
    os.environ.setdefault("CFLOWS_CACHE", str(cache))
    if fresh:  # never in a cache that holds runs of the user's own
        os.environ |= {"CFLOWS_STORED": "", "CFLOWS_CACHE": str(cache)}
        for old in [*(cache / "runs").glob("*.nc"), *cache.rglob("*.stamp")]:
            old.unlink()
    os.environ["CFLOWS_MEDIA"] = str(folder if check else STATIC / "media")
    os.environ["CFLOWS_MEDIA_URL"] = "../../_static/media"  # as seen from a chapter's page
    notebooks = sorted((ROOT / "notebooks").glob("*.md"))
    executed = [folder / f"{n.stem}.ipynb" for n in notebooks]
    for stale in set(folder.glob("*.ipynb")) - set(executed):
        stale.unlink()
    workers = 1 if torch.cuda.is_available() else os.cpu_count()
    os.environ["OMP_NUM_THREADS"] = "1"  # as many processes as there are cores, each on one
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(compute, runs(preset)))
        moving = pool.submit(film, preset)
        waiting = [pool.submit(execute, n, preset, folder) for n in sorted(notebooks, key=lambda n: n.stem not in LONG)]
        for task in (moving, *waiting):
            task.result()
    rows = scorecard.write(executed, folder, preset)
    correspondence.write(rows, folder)
    status.write(executed, folder)
    measurements.write(ROOT / "benchmarks/results", folder)
    surprises = scorecard.surprises(rows)
    print("\n".join([scorecard.summary(rows), *surprises]))
    if surprises and os.environ.get("CFLOWS_STRICT"):
        return 1
    if check:
        return 0
    shutil.rmtree(SITE, ignore_errors=True)  # Sphinx copies the pictures of those pages alone that it writes
    command = ["jupyter-book", "build", ".", "--path-output", "book", "-W", "-n", "--keep-going"]
    program = Path(sys.executable).with_name(command[0])
    if code := subprocess.run([program, *command[1:]], cwd=ROOT).returncode:
        return code
    wrong = check_site()
    print("\n".join(wrong) or f"the site is in {SITE.relative_to(ROOT)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
