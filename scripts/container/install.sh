#!/bin/sh
# Install mrirecon with its models into /opt/mrirecon, at the versions of constraints.txt; for the Dockerfile and
# mrirecon.def, in a folder with the sources.
#   sh scripts/container/install.sh cpu|cuda
set -eu
version="$(sed -n 's/^torch==//p' constraints.txt)"
case "$1" in
    cpu) torch="torch==$version+cpu --extra-index-url https://download.pytorch.org/whl/cpu" ;;
    cuda) torch="torch==$version" ;; # on Linux, the ordinary build brings CUDA; the driver is the host's
    *) echo "the build is cpu or cuda, not $1" >&2 && exit 2 ;;
esac
python -m venv /opt/mrirecon
pip() { /opt/mrirecon/bin/python -m pip install --no-cache-dir --no-input --disable-pip-version-check -c constraints.txt "$@"; }
# shellcheck disable=SC2086  # a requirement and an option
pip $torch
# hatchling beforehand, and no build isolation: then its version is pinned too
pip hatchling
pip --no-build-isolation ".[formats,report,train]"
