#!/usr/bin/env bash
# Train several methods on one GPU within a budget of time, from volumes to archives that fit through a narrow door.
#   bash scripts/train_on_gpu.sh VOLUMES... [-o FOLDER] [--minutes 9] [--methods cirim:4,rim:2] [--resume FOLDER]
# VOLUMES: what scripts/pack_volumes.py made, or magnitude volumes (NIfTI, .npz), which it packs first.
#   PYTHON=/path/to/python3    the interpreter; else .venv's, else python3
#   WHEELS=folder              packages to install from, where there is no network:
#       pip download -d wheels --only-binary=:all: --python-version 3.12 PACKAGE...
# It takes what the machine has: torch of its own, no network, no installation of mrirecon. All options: --help.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

say() { printf '%s\n' "$*" >&2; }

python="${PYTHON:-}"
if [ -z "$python" ]; then
    for candidate in "$root/.venv/bin/python" python3 python; do
        if "$candidate" -c 'import sys, torch; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            python="$candidate"
            break
        fi
    done
fi
if [ -z "$python" ]; then
    say "There is no Python 3.11 or newer with PyTorch here. Name one: PYTHON=/path/to/python3 $0"
    say "or install one:  bash scripts/install.sh train"
    exit 3
fi

export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
missing() {
    "$python" - <<'PY'
import importlib.util as u
needs = {"numpy": "numpy", "scipy": "scipy", "h5py": "h5py", "pydantic": "pydantic", "typer": "typer", "yaml": "pyyaml",
         "rich": "rich", "pywt": "pywavelets", "PIL": "pillow", "safetensors": "safetensors", "lightning": "lightning"}
print(" ".join(name for module, name in needs.items() if u.find_spec(module) is None))
PY
}
# What those need in turn, where some were installed here: the name of the first that is not there.
missing_within() {
    "$python" - <<'PY'
try:
    import mrirecon.cli.training, mrirecon.training, torch
    from lightning.fabric import Fabric
except ModuleNotFoundError as error:
    print((error.name or str(error)).split(".")[0])
PY
}
lacking="$(missing)"
if [ -n "$lacking" ]; then
    site="$(mktemp -d "${TMPDIR:-/tmp}/mrirecon-packages.XXXXXX")"
    trap 'rm -rf "$site"' EXIT
    export PYTHONPATH="$PYTHONPATH:$site"
    install=("$python" -m pip install --quiet --no-input --disable-pip-version-check --target "$site")
    say "missing packages: $lacking"
    # Only what is missing, and torch and NumPy never: others than the machine's would not see its GPU, or not fit them.
    if [ -n "${WHEELS:-}" ]; then
        wheels=()
        for wheel in "$WHEELS"/*.whl; do
            case "${wheel##*/}" in
                torch-* | numpy-* | nvidia* | triton-*) ;;
                *) wheels+=("$wheel") ;;
            esac
        done
        "${install[@]}" --no-index --no-deps "${wheels[@]}" >&2 || true
    else
        for package in $lacking; do
            case "$package" in
                lightning) package="lightning lightning-utilities torchmetrics packaging tqdm" deps=--no-deps ;;
                scipy | h5py | pywavelets) deps=--no-deps ;;
                *) deps="" ;;
            esac
            # shellcheck disable=SC2086
            timeout 120 "${install[@]}" --timeout 10 --retries 1 $deps $package >&2 || break
        done
    fi
    lacking="$(missing)"
    [ -n "$lacking" ] || lacking="$(missing_within)"
    if [ -n "$lacking" ]; then
        version="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
        say "These packages are missing, and could not be installed: $lacking"
        say "Where there is a network:  pip download -d wheels --only-binary=:all: --python-version $version $lacking"
        say "                           (torch and NumPy are not taken from it: those of this machine are used)"
        say "then here:                 WHEELS=wheels bash scripts/train_on_gpu.sh ..."
        exit 3
    fi
fi
cd "$root"
"$python" scripts/train_methods.py --elapsed "$SECONDS" "$@"
