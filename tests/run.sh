#!/usr/bin/env bash
# Sets up a virtual environment (unless one is active) and runs the whole test suite.
# TEST_PROCESSES run tests side by side, two unless set.
# Published benchmark files are used where BENCHMARK_DATA names their folder. Arguments go to
# pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source reproduce/lib.sh
setup requirements-dev.txt
ruff check .
ruff format --check .
exec python -m pytest --numprocesses "${TEST_PROCESSES:-2}" --dist worksteal "$@"
