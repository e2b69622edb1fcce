#!/usr/bin/env bash
# datasets 5.2.0 with pyarrow 26.0.1: a data set without rows can be written in two ways and read back in neither.
#
# Where it hurts: an export whose filter matches nothing is a valid file with columns and no rows. The reader of a
# nightly job then fails with an error that names neither rows nor emptiness.
#
# Expected: `load_from_disk` after `save_to_disk`, and `from_parquet` of a Parquet file with a schema, give a data set
#   with the same columns and no rows; `Dataset.from_dict` and pyarrow do.
# Seen:
#   save_to_disk, then load_from_disk   IndexError: list index out of range
#   to_parquet, then from_parquet       DatasetGenerationError, caused by ArrowInvalid about a batch size of 0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1
cd "$work"
HF_HOME="$work/home" HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1 "$work/venv/bin/python" - <<'PYTHON'
import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, load_from_disk

empty = Dataset(pa.table({"answer": pa.array([], pa.string())}))
assert (empty.num_rows, empty.column_names) == (0, ["answer"])

empty.save_to_disk("folder")
try:
    load_from_disk("folder")
    raise SystemExit("load_from_disk reads a data set without rows now")
except IndexError as error:
    assert "out of range" in str(error)

pq.write_table(pa.table({"answer": pa.array([], pa.string())}), "rows.parquet")
assert pq.read_table("rows.parquet").column_names == ["answer"]
try:
    Dataset.from_parquet("rows.parquet")
    raise SystemExit("from_parquet reads a file without rows now")
except datasets.exceptions.DatasetGenerationError as error:
    assert "BatchSize" in repr(error.__cause__), repr(error.__cause__)
print("as described: datasets", datasets.__version__, "with pyarrow", pa.__version__)
PYTHON
