"""A type checker sees the public names: wrong calls are errors, right ones are none."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAD = """\
import torch
import cflows

f = cflows.Objective(lambda w: (w**4).sum(), torch.ones(2))
opt = cflows.RMSProp(lr=0.1, beta2=0.9)
"""
WRONG = {
    'cflows.simulate("x", 3, stepz=4)': {"arg-type", "call-arg"},
    'cflows.simulate("x", opt, 4)': {"arg-type"},
    "cflows.simulate(f, opt, stepz=4)": {"call-arg"},
    "cflows.RMSProp(lr=[], beta2=0.9)": {"arg-type"},
    "cflows.Objectives": {"attr-defined"},
}
RIGHT = [
    "tree = cflows.simulate(f, opt, 3)",
    "p: torch.Tensor = opt.preconditioner(f.w0, 1.0)",
    "cflows.flows.velocity",
]


@pytest.mark.slow
def test_a_wrong_call_is_an_error_and_a_right_one_is_none(tmp_path):
    pytest.importorskip("mypy", reason="mypy checks types")
    lines = [*HEAD.splitlines(), *WRONG, *RIGHT]
    (tmp_path / "snippet.py").write_text("\n".join(lines))
    command = [sys.executable, "-m", "mypy", "--show-error-codes", "--no-pretty", tmp_path / "snippet.py"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    found: dict[str, set[str]] = {}
    for line in said.splitlines():
        if "snippet.py:" in line and ": error:" in line:
            number = int(line.split("snippet.py:")[1].split(":")[0])
            found.setdefault(lines[number - 1], set()).add(line.rsplit("[", 1)[1].rstrip("]"))
    assert found == WRONG, said
