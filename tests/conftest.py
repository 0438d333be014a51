"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def benchmark_data() -> Path:
    """Folder of the public benchmark files, which BENCHMARK_DATA names; without it a test skips."""
    folder = os.environ.get("BENCHMARK_DATA")
    if not folder:
        pytest.skip(
            "BENCHMARK_DATA is not set: it names the folder with the public benchmark files"
        )
    if not Path(folder).is_dir():
        pytest.fail(f"BENCHMARK_DATA names {folder}, which is not a folder")
    return Path(folder)


@pytest.fixture(scope="session")
def stages(tmp_path_factory):
    """Tasks, a policy and reward models in a folder, and small settings of every stage on them."""
    from small_stages import make_stages

    return make_stages(tmp_path_factory.mktemp("pipeline"))
