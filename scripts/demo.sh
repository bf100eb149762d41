#!/usr/bin/env bash
# Everything from nothing: install into .venv (once), then reconstruct the sample scan and score the methods.
#   bash scripts/demo.sh [options of `mrirecon demo`]
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$here/scripts/install.sh"
cd "$here"
# torch's threads sleep while they wait: spinning, they slow a busy machine several times
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-0}"
exec .venv/bin/mrirecon demo "$@"
