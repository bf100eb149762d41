#!/usr/bin/env bash
# Make .venv and install mrirecon into it, at the versions of constraints.txt. Does nothing when that is done already.
#   bash scripts/install.sh [EXTRA]      EXTRA: train, test, docs, samples
#   MRIRECON_TORCH='torch==2.13.0' bash scripts/install.sh      the build with CUDA instead of the CPU one (Linux)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extra="${1:-}"

say() { printf '%s\n' "$*" >&2; }

# A stamp for each extra holds what it was installed from; another place or another list, and it is done again.
wanted="$( (pwd; printf '%s\n' "${MRIRECON_TORCH:-}"; cat constraints.txt pyproject.toml scripts/install.sh) | cksum)"
stamp=".venv/.installed-${extra:-core}"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && .venv/bin/python -c '' 2>/dev/null; then
    exit 0
fi

python=""
for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3 python; do
    if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python="$candidate"
        break
    fi
done
if [ -z "$python" ]; then
    say "mrirecon needs Python 3.11 or newer, and none was found. Install it, or name it: PYTHON=/path/to/python3.11 $0"
    exit 1
fi

started=$SECONDS
if ! .venv/bin/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    say "[1/3] making .venv with $("$python" --version)"
    rm -rf .venv
    if ! "$python" -m venv .venv; then
        say "Python's venv module does not work here. On Debian and Ubuntu: apt install python3-venv"
        exit 1
    fi
fi
rm -f "$stamp"
log=.venv/install.log
: > "$log"

pip_install() { .venv/bin/python -m pip install --no-input --disable-pip-version-check -c constraints.txt "$@" >> "$log" 2>&1; }
or_explain() {
    "$@" && return
    say "pip could not install it. Its last lines (all of them: $log):"
    tail -n 15 "$log" >&2
    exit 1
}

answers() { .venv/bin/python -c "import urllib.request as u; u.urlopen('$1/torch/', timeout=5)" >> "$log" 2>&1; }

cpu_index=https://download.pytorch.org/whl/cpu
version="$(sed -n 's/^torch==//p' constraints.txt)"
if ! .venv/bin/python -c "import importlib.metadata as m; assert m.version('torch').split('+')[0] == '$version'" 2>/dev/null || [ -n "${MRIRECON_TORCH:-}" ]; then
    say "[2/3] installing PyTorch $version (100 to 200 MB for the CPU; a few minutes on a slow line)"
    if [ -n "${MRIRECON_TORCH:-}" ]; then
        or_explain pip_install --force-reinstall "$MRIRECON_TORCH"
    elif [ "$(uname -s)" = Linux ]; then
        # the CPU build: from where pip looks anyway, else from PyTorch's own index, else whatever the ordinary one has
        pip_install "torch==$version+cpu" ||
            { answers "$cpu_index" && pip_install "torch==$version+cpu" --extra-index-url "$cpu_index"; } ||
            or_explain pip_install "torch==$version"
    else
        or_explain pip_install "torch==$version"
    fi
fi
say "[3/3] installing mrirecon${extra:+ [$extra]} and its dependencies, at pinned versions"
# hatchling beforehand, and no build isolation: then its version is pinned too
or_explain pip_install hatchling editables
or_explain pip_install --no-build-isolation -e ".${extra:+[$extra]}"
printf '%s' "$wanted" > "$stamp"
say "installed in $((SECONDS - started)) s"
