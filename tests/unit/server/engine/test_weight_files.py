from __future__ import annotations

from pathlib import Path

import pytest

from mindprint_server.engine.weight_files import INDEX, WEIGHTS, check_weight_files


def make_files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def test_folder_with_weights_that_the_trainer_would_not_read_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = make_files(tmp_path, WEIGHTS, "consolidated.safetensors", "adapter_model.safetensors")
    wanted = r"adapter_model.safetensors, consolidated.safetensors beside model.safetensors in .*: move the others out"
    with pytest.raises(RuntimeError, match=wanted) as caught:
        check_weight_files(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "names",
    [
        (WEIGHTS,),
        (WEIGHTS, "consolidated.safetensors", INDEX),
        ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", INDEX, "consolidated.safetensors"),
        (),
    ],
    ids=["one file", "one file with an index", "parts with an index", "none"],
)
def test_folder_that_both_read_alike_is_not_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    check_weight_files(make_files(tmp_path, *names))
