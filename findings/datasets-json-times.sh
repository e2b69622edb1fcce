#!/usr/bin/env bash
# datasets 5.2.0: a column of texts in a JSON Lines file becomes a column of times without a zone, if every text in it
# can be read as a time. One other text anywhere in the file, and the whole column stays text.
#
# Where it hurts: rows of a training set have answers, ids or times with an offset as text. Whether a loaded row holds a
# `str` or a `datetime` depends on the other rows. The offset is gone: 12:00 at +05:30 comes back as 06:30 of nowhere,
# and two texts that named the same moment differently cannot be told apart. Written as Parquet, the same table keeps
# its texts.
#
# Expected: JSON has no type for times, so a JSON string is loaded as a string, whatever the other rows hold; and both
#   file formats give back the same rows.
# Seen:
#   all texts look like times    feature timestamp[s], naive datetimes in UTC
#   one does not                 feature string, the texts as they were written
#   features= names a string     a string again, but another one: `2026-01-01 06:30:00` for both texts
#   Parquet                      the texts as they were written
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1
cd "$work"
HF_HOME="$work/home" HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1 "$work/venv/bin/python" - <<'PYTHON'
import datetime
import json

import datasets
from datasets import Dataset, Features, Value


def written(name: str, texts: list[str]) -> str:
    with open(name, "w") as file:
        file.writelines(json.dumps({"answer": text}) + "\n" for text in texts)
    return name


times = ["2026-01-01T12:00:00+05:30", "2026-01-01T06:30:00Z"]
loaded = Dataset.from_json(written("times.jsonl", times))
assert loaded.features["answer"] == Value("timestamp[s]"), loaded.features
moment = datetime.datetime(2026, 1, 1, 6, 30)
assert loaded["answer"][:] == [moment, moment], loaded["answer"][:]

mixed = Dataset.from_json(written("mixed.jsonl", [*times, "never"]))
assert mixed.features["answer"] == Value("string"), mixed.features
assert mixed["answer"][:] == [*times, "never"]

named = Dataset.from_json("times.jsonl", features=Features({"answer": Value("string")}))
assert named["answer"][:] == ["2026-01-01 06:30:00"] * 2, named["answer"][:]

Dataset.from_dict({"answer": times}).to_parquet("times.parquet")
assert Dataset.from_parquet("times.parquet")["answer"][:] == times
print("as described: datasets", datasets.__version__)
PYTHON
