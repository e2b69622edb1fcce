#!/usr/bin/env bash
# alembic 1.20.1 (SQLAlchemy 2.1.9): a revision file may hold a NamedTuple, but a dataclass only as long as annotations are
# not strings. Alembic runs the file as a module that it does not enter in sys.modules, and dataclasses looks there.
#
# Where it hurts: migrations that describe many tables alike keep the description in a small frozen dataclass. Formatters
# and linters add `from __future__ import annotations` to every file; from then on no command of alembic runs, not even
# `alembic history`, and the error names neither the file nor the class.
#
# Expected: a file that `python revision.py` imports and runs is a valid revision; or an error that names the class.
# Seen:
#   annotations evaluated                 works
#   annotations as strings, dataclass     AttributeError: 'NoneType' object has no attribute '__dict__'
#   annotations as strings, NamedTuple    works
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check alembic==1.20.1 sqlalchemy==2.1.9
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import subprocess
import sys
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory

BODY = {
    "dataclass": "from dataclasses import dataclass\n\n\n@dataclass(frozen=True)\nclass Change:\n    table: str\n",
    "namedtuple": "from typing import NamedTuple\n\n\nclass Change(NamedTuple):\n    table: str\n",
}
IDS = '\n\nrevision = "1"\ndown_revision = None\nCHANGES = [Change("users")]\n'


def loads(kind: str, as_strings: bool) -> str:
    folder = Path(f"{kind}-{as_strings}")
    (folder / "versions").mkdir(parents=True)
    file = folder / "versions" / "first.py"
    file.write_text(("from __future__ import annotations\n" if as_strings else "") + BODY[kind] + IDS)
    # Python itself runs each of them.
    subprocess.run([sys.executable, str(file)], check=True)
    config = Config()
    config.set_main_option("script_location", str(folder.absolute()))
    try:
        return str(ScriptDirectory.from_config(config).get_current_head())
    except AttributeError as error:
        return str(error)


assert loads("dataclass", False) == "1"
assert loads("dataclass", True) == "'NoneType' object has no attribute '__dict__'"
assert loads("namedtuple", True) == "1"
print("as described")
PYTHON
