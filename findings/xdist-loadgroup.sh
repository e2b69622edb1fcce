#!/usr/bin/env bash
# pytest-xdist 3.8.0 with pytest 9.2.0: `--dist=loadgroup` groups nothing.
#
# Expected: tests with the same `xdist_group` run in one process, as they do with pytest 8.4.2.
# Seen with pytest 9.2.0: they run in both processes, without a warning. pytest-xdist appends the group's name to the
# private `_nodeid` of a test. In pytest 9.2 `nodeid` does not come from there any more, so that the scheduler, which
# reads the group at the end of the node id, takes each test for a group of its own.
#
# Ends with 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/tests"
cat > "$folder/tests/test_group.py" <<'PY'
import os
import time

import pytest

pytestmark = pytest.mark.xdist_group("shared")


@pytest.mark.parametrize("number", range(20))
def test_process(number: int) -> None:
    time.sleep(0.05)
    with open(os.environ["SEEN"], "a") as file:
        file.write(f"{os.getpid()}\n")
PY

processes_with() {
  python3 -m venv "$folder/venv-$1"
  "$folder/venv-$1/bin/python" -m pip install --quiet --disable-pip-version-check "pytest==$1" pytest-xdist==3.8.0 2>/dev/null
  SEEN="$folder/seen-$1" "$folder/venv-$1/bin/python" -m pytest -q -n 2 --dist=loadgroup "$folder/tests" >/dev/null
  sort -u "$folder/seen-$1" | wc -l
}

before=$(processes_with 8.4.2)
now=$(processes_with 9.2.0)
echo "processes that ran one group: pytest 8.4.2 $before, pytest 9.2.0 $now"
[ "$before" = 1 ] && [ "$now" = 2 ]
