#!/usr/bin/env bash
# Computes both lock files, and the pins of the clients of tests/clients, anew with uv. A PyTorch CPU wheel in a local folder is found through UV_FIND_LINKS,
# one on an index through UV_EXTRA_INDEX_URL.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

uv=.venv/bin/uv
[ -x "$uv" ] || uv=$(command -v uv) || { echo "error: uv is not installed: pip install uv" >&2; exit 1; }

for device in cpu gpu; do
  "$uv" pip compile --quiet pyproject.toml \
    --extra server --extra trainer --extra tables --extra demo --extra eval --extra docs --extra dev --extra "$device" \
    --override "deploy/locks/overrides-$device.txt" \
    --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
    --no-header --no-annotate "$@" -o "deploy/locks/$device.txt"
done

for pins in tests/clients/pins/*.in; do
  "$uv" pip compile --quiet "$pins" --override tests/clients/pins/overrides.txt \
    --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
    --no-header --no-annotate "$@" -o "${pins%.in}.txt"
done
