"""The command line: `cflows run`, `cflows list`, `cflows info`, `cflows store`, `cflows verify`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro

from . import experiments, files, stored
from .errors import ConvergenceError


def list_runs() -> None:
    """List the experiments, and the runs in the cache and the repository."""
    for name, presets in experiments.PRESETS.items():
        print(f"experiment {name}: presets {', '.join(presets)}")
    for folder in experiments.cache(), experiments.stored():
        if folder is None or not folder.exists():
            continue
        print(f"runs in {folder}:")
        for path in sorted(folder.glob("*.nc")):
            try:
                attrs = experiments.load(path).attrs
                e = json.loads(attrs["experiment"])
                what = f"lr {e['lr']:g}, {e['steps']} steps, width {e['width']}"
                print(f"  {path}  {what}  {attrs['date']}  {attrs['seconds']:.0f} s")
            except ValueError as error:
                print(f"  {error}")


def info(file: Annotated[Path, tyro.conf.Positional]) -> None:
    """Show what a run file holds and where it comes from.

    Args:
        file: a run file (.nc), or the result of a simulation that you saved.
    """
    tree = files.load(file)
    definitions = ("experiment", "simulation")
    for key, value in tree.attrs.items():
        if key not in definitions:
            print(f"{key}: {value}")
    if (name := next((name for name in definitions if name in tree.attrs), None)) is not None:
        print(f"{name}:")
        for key, value in json.loads(tree.attrs[name]).items():
            print(f"  {key}: {value}")
    for node in tree.subtree:
        if node.data_vars:
            sizes = ", ".join(f"{d} {n}" for d, n in node.sizes.items())
            print(f"{node.path.strip('/') or 'all'} ({sizes}): {', '.join(map(str, node.data_vars))}")
            if "doubt" in node.attrs:
                print(f"  not to be trusted from {node.attrs['doubt']}")


DEFINITIONS = tyro.extras.subcommand_type_from_defaults(
    {f"{name}:{preset}": e for name, presets in experiments.PRESETS.items() for preset, e in presets.items()},
    prefix_names=False,
)


def run(experiment: tyro.conf.OmitArgPrefixes[DEFINITIONS], device: str = "auto") -> None:  # type: ignore[valid-type]
    """Compute a run, or find it in the cache, and say where its file is.

    Args:
        device: where to compute; "auto" takes a GPU if there is one.
    """
    experiments.compute(experiment, device)
    print(experiments.path_of(experiment))


def store(paths: Annotated[list[Path], tyro.conf.Positional], folder: Path = Path("runs")) -> None:
    """Put run files into a folder of the repository, reduced to what figures need.

    Args:
        paths: run files (.nc), or those of solved programs.
        folder: where to put them.
    """
    for file in _some(paths):
        print(stored.store(file, folder))
    if folder.resolve() == Path(__file__).parents[1] / "runs":
        stored.register()


def verify(paths: Annotated[list[Path], tyro.conf.Positional], device: str = "auto") -> None:
    """Compute the end of stored runs again, and fail if it is not what they say.

    Args:
        paths: run files (.nc) that have a window, or those of programs beside them.
        device: where to compute; "auto" takes a GPU if there is one.
    """
    wrong = [f"{file}: {line}" for file in _some(paths) for line in stored.verify(file, device)]
    if wrong:
        raise ValueError("the present code does not reproduce\n" + "\n".join(wrong))
    print(f"{len(paths)} files are what the present code computes")


def _some(paths: list[Path]) -> list[Path]:
    if not paths:
        raise ValueError("no file was named; give the paths of run files, for example runs/*.nc")
    return paths


def main(args: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    commands: dict[str, Callable] = {"run": run, "list": list_runs, "info": info, "store": store, "verify": verify}
    try:
        tyro.extras.subcommand_cli_from_dict(commands, prog="cflows", description=__doc__, args=args)
    except KeyboardInterrupt:
        print("cflows: interrupted; the same command goes on from the checkpoint", file=sys.stderr)
        return 130
    except (ValueError, ConvergenceError) as error:
        print(f"cflows: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
