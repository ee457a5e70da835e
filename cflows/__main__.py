"""The command line: `cflows run`, `cflows survey`, `cflows list`, `cflows info`, `cflows store`, `cflows verify`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro

from . import experiments, files
from . import store as runs
from . import survey as surveys
from .errors import ConvergenceError
from .optimizers import Schedule


def list_runs() -> None:
    """List the experiments, and the runs in the cache and the repository."""
    for name, presets in experiments.PRESETS.items():
        print(f"experiment {name}: presets {', '.join(presets)}")
    for folder in runs.cache(), runs.repository():
        if folder is None or not folder.exists():
            continue
        print(f"runs in {folder}:")
        for path in sorted(folder.glob("*.nc")):
            try:
                tree = runs.load(path)
                made = runs.provenance(tree)
                print(f"  {path}  {tree.attrs['summary']}  {made['date']}  {made['seconds']:.0f} s")
            except ValueError as error:
                print(f"  {error}")


def info(file: Annotated[Path, tyro.conf.Positional]) -> None:
    """Show what a run file holds and where it comes from.

    Args:
        file: a run file (.nc), or the result of a simulation that you saved.
    """

    def show(values: dict[Any, Any], indent: str = "") -> None:
        for key, value in values.items():
            if isinstance(value, dict):
                print(f"{indent}{key}:")
                show(value, indent + "  ")
            else:
                print(f"{indent}{key}: {value}")

    tree = files.load(file)
    show({key: json.loads(x) if str(x).startswith("{") else x for key, x in tree.attrs.items()})
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
TYPES = tyro.constructors.ConstructorRegistry()


@TYPES.primitive_rule
def _learning_rate(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """A learning rate is a number here: no function can be given on a command line."""
    if info.type != float | Schedule:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        1, "FLOAT", lambda words: float(words[0]), lambda x: isinstance(x, float), lambda x: [str(x)]
    )


def run(
    experiment: tyro.conf.OmitArgPrefixes[DEFINITIONS],  # type: ignore[valid-type]
    device: str = "auto",
    optimizer: str | None = None,
) -> None:
    """Compute a run, or find it in the cache, and say where its file is.

    Args:
        device: where to compute; "auto" takes a GPU if there is one.
        optimizer: name of another optimizer than that of the experiment.
    """
    chosen: experiments.Experiment = experiment  # type: ignore[assignment]
    chosen = chosen.change(optimizer=optimizer) if optimizer else chosen
    experiments.compute(chosen, device)
    print(runs.find(chosen.path.name) or chosen.path)


def survey(preset: experiments.Preset = "laptop", device: str = "auto", jobs: int | None = None) -> None:
    """Try the predictions on small networks of several kinds, or find the table in the cache, and print it.

    Args:
        preset: ci computes three small runs, the others all of them.
        device: where to compute; "auto" takes a GPU if there is one.
        jobs: runs to compute at a time; by default as many as there are cores, and one on a GPU.
    """
    table = surveys.table(preset, device, jobs)
    settings = ["network", "loss", "seed", "optimizer", "lr", "beta2", "bias_correction"]
    print(table.to_dataframe().set_index(settings).to_string(float_format="{:.3g}".format))
    print(runs.find(surveys.path(preset).name) or surveys.path(preset))


def store(paths: Annotated[list[Path], tyro.conf.Positional], folder: Path = Path("runs")) -> None:
    """Put run files into a folder of the repository, reduced to what figures need.

    Args:
        paths: run files (.nc), or those of solved convex programs.
        folder: where to put them.
    """
    for file in _some(paths):
        print(runs.put(file, folder))
    if folder.resolve() == Path(__file__).parents[1] / "runs":
        runs.register()


def verify(paths: Annotated[list[Path], tyro.conf.Positional], device: str = "auto") -> None:
    """Compute parts of stored runs again, and fail if they are not what the files say.

    Args:
        paths: run files (.nc) that keep states, those of convex programs beside them, or surveys, of which one run is
            computed, which the date chooses.
        device: where to compute; "auto" takes a GPU if there is one.
    """

    def of(file: Path) -> list[str]:
        return (surveys if "-table-" in file.name else experiments).verify(file, device)

    wrong = [f"{file}: {line}" for file in _some(paths) for line in of(file)]
    if wrong:
        raise ValueError("the present code does not reproduce\n" + "\n".join(wrong))
    print(f"{len(paths)} file{'s' * (len(paths) > 1)}: what was computed again is what the present code computes")


def _some(paths: list[Path]) -> list[Path]:
    if not paths:
        raise ValueError("no file was named; give the paths of run files, for example runs/*.nc")
    return paths


def main(args: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    commands: dict[str, Callable] = {
        "run": run,
        "survey": survey,
        "list": list_runs,
        "info": info,
        "store": store,
        "verify": verify,
    }
    try:
        tyro.extras.subcommand_cli_from_dict(commands, prog="cflows", description=__doc__, args=args, registry=TYPES)
    except KeyboardInterrupt:
        print("cflows: interrupted; the same command goes on from the checkpoint", file=sys.stderr)
        return 130
    except (ValueError, TypeError, ConvergenceError) as error:
        print(f"cflows: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
