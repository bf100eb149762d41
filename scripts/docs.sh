#!/usr/bin/env bash
# Build the site into build/docs, without a network but for the packages; a warning is an error.
#   bash scripts/docs.sh [options of sphinx-build]     A second build only runs the examples that changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/install.sh docs
.venv/bin/python -m sphinx -W --keep-going --quiet "$@" docs build/docs
echo "the site: build/docs/index.html"
