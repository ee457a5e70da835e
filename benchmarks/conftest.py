import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))


def pytest_benchmark_update_machine_info(config, machine_info):
    import torch

    machine_info.pop("node", None)  # whose machine it is says nothing
    machine_info["threads"] = torch.get_num_threads()


def pytest_benchmark_update_commit_info(config, commit_info):
    for name in ("project", "author_time", "branch"):
        commit_info.pop(name, None)
