"""Imports run one way, and the page on extending the package works as it is printed."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cflows"

# What a room may import is in its own line or above; see the table in book/architecture.md.
LAYERS = [
    {"errors", "registry", "_deprecation", "files", "records", "_states", "averaging"},
    {"critical", "quadratic", "optimizers", "momentum", "torch_optim", "eigen", "sdcp", "data", "models"},
    {"objective", "modules"},
    {"differences", "flows", "leapfrog", "stationary", "gauge"},
    {"processes"},
    {"_options", "_run", "regime", "simulation"},
    {"tasks", "_definitions", "experiments", "store", "preconditioners", "metrics", "report", "survey"},
    {"book", "__main__"},
]
RANK = {room: rank for rank, layer in enumerate(LAYERS) for room in layer}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Rooms of the package that a file imports."""
    found = set()
    depth = len(path.relative_to(PACKAGE).parts) - 1
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            up = node.level - 1
            inside = path.relative_to(PACKAGE).parts[: depth - up]
            parts = [*inside, *(node.module.split(".") if node.module else [])]
            found |= {parts[0]} if parts else {alias.name for alias in node.names}
    return found & (RANK.keys() | {"cflows"})


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def test_every_room_has_its_layer():
    assert {room(path) for path in FILES} == RANK.keys()
    table = (ROOT / "book/architecture.md").read_text()
    for name in RANK:
        assert name.startswith("_") or f"`{name}`" in table


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    here = room(path)
    wrong = {other for other in imported(path) if other != here and RANK[other] > RANK[here]}
    assert not wrong, f"{here} imports {wrong}"


def test_there_is_no_circle():
    graph: dict[str, set[str]] = {name: set() for name in RANK}
    for path in FILES:
        graph[room(path)] |= imported(path) - {room(path)}
    while graph:
        leaves = {name for name, needs in graph.items() if not needs & graph.keys()}
        assert leaves, f"there is a circle among {sorted(graph)}"
        graph = {name: needs for name, needs in graph.items() if name not in leaves}


# Files of more than 350 lines, and why they are not divided.
LONG = {
    "flows.py": "one step of a flow: its equations and their terms, read from top to bottom",
    "metrics.py": "a list of short functions, each with what it takes and gives",
    "objective/__init__.py": "one class and its constructors",
    "optimizers.py": "what flows need of an optimizer, and three of them",
    "sdcp.py": "one solver and its fallback",
    "store.py": "files of runs: found, fetched, reduced, compared",
}


def test_no_file_is_a_hall():
    sizes = {str(p.relative_to(PACKAGE)): len(p.read_text().splitlines()) for p in FILES}
    assert {name for name, lines in sizes.items() if lines > 350} == set(LONG)
    assert max(sizes.values()) < 430


def test_the_page_on_extending_works(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "book/extending.md").read_text(), re.DOTALL)
    assert len(blocks) >= 3
    script = tmp_path / "extending.py"
    script.write_text("\n".join(blocks))
    ran = subprocess.run([sys.executable, "-W", "error", script], capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
