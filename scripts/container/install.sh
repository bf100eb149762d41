#!/bin/sh
# Install mrirecon with its models into /opt/mrirecon, at the versions of constraints.txt; for the Dockerfile and
# mrirecon.def, in a folder with the sources.
#   sh scripts/container/install.sh cpu|cuda
set -eu
build="$1"
version="$(sed -n 's/^torch==//p' constraints.txt)"
python -m venv /opt/mrirecon
pip() { /opt/mrirecon/bin/python -m pip install --no-cache-dir --no-input --disable-pip-version-check -c constraints.txt "$@"; }
case "$build" in
    cpu) pip "torch==$version+cpu" --extra-index-url https://download.pytorch.org/whl/cpu ;;
    cuda) pip "torch==$version" ;; # on Linux, the ordinary build brings CUDA; the driver is the host's
    *) echo "the build is cpu or cuda, not $build" >&2 && exit 2 ;;
esac
# hatchling beforehand, and no build isolation: then its version is pinned too
pip hatchling
pip --no-build-isolation ".[formats,report,train]"
