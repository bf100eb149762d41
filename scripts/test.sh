#!/usr/bin/env bash
# Install the test tools into .venv (once), then style, types and tests. Ends with pytest's line: how many ran.
#   bash scripts/test.sh [options of pytest]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/install.sh test
# torch's threads sleep while they wait: spinning, they slow a busy machine several times
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-0}"
failed=""
echo "ruff: style"
.venv/bin/ruff check --quiet . && .venv/bin/ruff format --quiet --check . || failed="$failed ruff"
echo "mypy: types"
.venv/bin/mypy --no-error-summary || failed="$failed mypy"
echo "pytest: tests"
# One process a core, each with one thread, also in the processes that tests start: more would wait for each other.
# More than eight processes only cost memory.
workers="$(.venv/bin/python -c 'from mrirecon.models.hardware import usable_cores; print(max(1, min(8, int(usable_cores()))))')"
if [ "$workers" -gt 1 ]; then
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
fi
.venv/bin/python -m pytest -q -n "$workers" --dist worksteal "$@" || failed="$failed pytest"
if [ -n "$failed" ]; then
    echo "FAILED:$failed" >&2
    exit 1
fi
