"""Run every published notebook as a reader of it would, and see that it leaves the reader's packages alone.

    python tests/fresh_notebooks.py            with the versions of constraints.txt
    python tests/fresh_notebooks.py --newest   with the newest ones, as they come

Each runs in an empty folder of its own, with the preset `ci`. The environment has torch, NumPy and a kernel to begin
with, as Colab's does; the notebook's first cell adds cflows, from a wheel, and what else is missing. The repository is
not there, but its runs are served over HTTP: one notebook runs with its defaults, and has to take its run from there.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import venv
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nbformat
import papermill

from cflows import experiments, store

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book"))
import clean  # noqa: E402

FETCHED = "02-gradient-descent"  # runs with its defaults too


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass


def wheel(folder: Path) -> Path:
    """The package alone, built."""
    source = folder / "source"
    shutil.copytree(ROOT / "cflows", source / "cflows", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, source], check=True)
    (built,) = folder.glob("*.whl")
    return built


def packages(python: Path) -> dict[str, str]:
    lines = subprocess.check_output([python, "-m", "pip", "list", "--format=freeze"], text=True).split()
    return dict(line.split("==") for line in lines)  # type: ignore[misc]


def files(python: Path, package: str) -> str:
    """A digest of what the files of a package are: their names, sizes and times."""
    code = f"import {package}; print({package}.__path__[0])"
    folder = Path(subprocess.check_output([python, "-c", code], text=True).strip())
    found = [(p, p.stat()) for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix != ".pyc"]
    return sha256(repr([(str(p), s.st_size, s.st_mtime_ns) for p, s in found]).encode()).hexdigest()


def execute(notebook: Path, work: Path, parameters: dict) -> float:
    """Run a notebook in a new folder; returns the seconds it took."""
    folder = Path(tempfile.mkdtemp(dir=work, prefix=notebook.stem))
    begin = time.monotonic()
    done = folder.with_suffix(".ipynb")
    papermill.execute_notebook(notebook, done, parameters, kernel_name="fresh", cwd=folder, progress_bar=False)
    cells = nbformat.read(done, as_version=4).cells
    assert any(cell.get("outputs") for cell in cells), f"{notebook.stem} shows nothing"
    assert not list(folder.iterdir()), f"{notebook.stem} leaves {list(folder.iterdir())} behind"
    return time.monotonic() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--newest", action="store_true", help="do not use the versions of constraints.txt")
    newest = parser.parse_args().newest
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        begin = time.monotonic()
        python = work / "environment/bin/python"
        venv.create(python.parents[1], with_pip=True, symlinks=True)
        versions = [] if newest else ["-c", ROOT / "constraints.txt"]
        subprocess.run([python, "-m", "pip", "install", "-q", "torch", "numpy", "ipykernel", *versions], check=True)
        kernel = work / "share/kernels/fresh"
        kernel.mkdir(parents=True)
        argv = f'["{python}", "-m", "ipykernel_launcher", "-f", "{{connection_file}}"]'
        (kernel / "kernel.json").write_text(f'{{"argv": {argv}, "display_name": "fresh", "language": "python"}}')
        clean.write(work / "notebooks", source=wheel(work).as_uri())
        print(f"an environment with torch, a wheel, the notebooks: {time.monotonic() - begin:.0f} s", flush=True)

        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=ROOT / "runs"))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for variable in [key for key in os.environ if key.startswith(("CFLOWS_", "PYTHONPATH"))]:
            del os.environ[variable]
        os.environ |= {
            "CFLOWS_CACHE": str(work / "cache"),
            "CFLOWS_URL": f"http://127.0.0.1:{server.server_port}",
            "JUPYTER_PATH": str(work / "share"),
        }
        before, torch = packages(python), files(python, "torch")
        begin = time.monotonic()
        for notebook in sorted((work / "notebooks").glob("*.ipynb")):
            print(f"{notebook.stem}: {execute(notebook, work, {'preset': 'ci'}):.0f} s", flush=True)
        print(f"{FETCHED}, as it is: {execute(work / f'notebooks/{FETCHED}.ipynb', work, {}):.0f} s")
        print(f"all of them: {time.monotonic() - begin:.0f} s")

        after = packages(python)
        changed = {name: (version, after.get(name)) for name, version in before.items() if after.get(name) != version}
        assert not changed, f"packages that were there are not what they were: {changed}"
        assert files(python, "torch") == torch, "the files of torch are not what they were"
        fetched = {p.name for p in (work / "cache/runs").glob("*.nc")} & store.registered().keys()
        assert fetched == {experiments.get("gd-resnet").path.name}, f"fetched were {fetched}"
        print("torch", after["torch"], "and NumPy", after["numpy"], "are as they were; added were")
        print(" ".join(f"{name}=={version}" for name, version in after.items() if name not in before))


if __name__ == "__main__":
    main()
