#!/usr/bin/env bash
# Everything from nothing: install into .venv (once), then reconstruct the sample scan and score the methods.
#   bash scripts/demo.sh [options of `mrirecon demo`]
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$here/scripts/install.sh" train
cd "$here"
exec .venv/bin/mrirecon demo "$@"
