"""What an exported version says about itself: the model card, and the name of its base model.

The stored files are fixed by their digest, and a version knows its base by digest alone. The server that exports it
knows where that base is. So both are written at the export.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindprint.chat_format import ChatFormat
from mindprint.model_files import DEFAULT
from mindprint.types import Check, Version
from mindprint.types.keys import VersionRef
from mindprint_server.engine import EngineInfo
from mindprint_server.prompts.templates import PROMPT_VERSION
from mindprint_server.settings import Settings

CARD = "README.md"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
_SNAPSHOT = re.compile(r"/snapshots/([0-9a-f]{40})/?$")
"""Where the Hugging Face cache keeps the files of a commit."""
_MAX_VALUE_CHARS = 60
"""Longest value of a training setting in the card. The manifest beside it has all of them."""


@dataclass(frozen=True)
class BaseName:
    """Under which name PEFT finds a base model.

    Attributes:
        name: A Hugging Face id, or an absolute path on this machine.
        revision: Commit of the id; None if it is not known.
        is_folder: Whether the name is a path.
    """

    name: str
    revision: str | None = None
    is_folder: bool = False

    @property
    def shown(self) -> str:
        """The name for readers elsewhere: of a path its last part, since the rest tells about this machine."""
        return Path(self.name).name if self.is_folder else self.name


def name_base(settings: Settings, info: EngineInfo) -> BaseName:
    """Return the name of the served base model.

    Args:
        settings: `export_base_model` decides; without it, `model`.
        info: What the engine serves.
    """
    if (named := settings.export_base_model) is not None:
        return BaseName(named, is_folder=_HUB_ID.fullmatch(named) is None)
    if settings.model == DEFAULT or Path(settings.model).expanduser().is_dir():
        # A relative path would be read elsewhere as one there, or as somebody's id.
        return BaseName(str(Path(info.model_path).absolute()), is_folder=True)
    commit = _SNAPSHOT.search(info.model_path)
    return BaseName(settings.model, revision=commit[1] if commit else None)


def name_in_config(config: bytes, base: BaseName) -> bytes:
    """Return an adapter_config.json that names its base model, for `AutoPeftModelForCausalLM`.

    Args:
        config: The stored file.
        base: Name of the base model.
    """
    options: dict[str, Any] = json.loads(config)
    if options.get("base_model_name_or_path") != base.name or base.revision is not None:
        # A revision belongs to the name that it came with.
        options |= {"base_model_name_or_path": base.name, "revision": base.revision}
    return (json.dumps(options, indent=2, sort_keys=True) + "\n").encode()


def write_card(version: Version, base: BaseName | None, chat_format: ChatFormat) -> str:
    """Return the model card of a version. It holds counts and figures, and no text of a user.

    Args:
        version: The version.
        base: Name of its base model; None if this server serves another one.
        chat_format: How the served model writes a conversation and a thinking.
    """
    ref = VersionRef.of(version.adapter, version.version)
    parts = [
        _front_matter(base),
        f"# {ref}\n\nA LoRA adapter that Mindprint made for `{version.adapter}`. Its answers can show what it learned "
        "from users' data: share it as you would share that data.",
        _section("Base model", _base(version, base)),
        _section("Data", _data(version)),
        _section("Checks", _checks(version)),
        _section("Prompt format", _prompt(chat_format)),
        _section("Training", _training(version)),
        _section("Use", _use(base)),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(base: BaseName | None) -> str:
    """Return the metadata of the Hub's model cards. JSON strings are valid YAML."""
    tags = ["lora", "mindprint"]
    lines = ["library_name: peft", "pipeline_tag: text-generation"]
    if base is not None:
        # The Hub refuses a path here.
        lines.insert(0, f"base_model: {json.dumps(base.shown)}")
        tags.insert(0, f"base_model:adapter:{base.shown}")
    return "\n".join(["---", *lines, "tags:", *(f"- {json.dumps(tag)}" for tag in tags), "---"])


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}"


def _base(version: Version, base: BaseName | None) -> str:
    digest = f"Digest of its files: `{version.base_digest}`."
    if base is None:
        return f"{digest} The server that exported this version serves another base model, so it cannot name it."
    revision = f", revision `{base.revision}`" if base.revision is not None else ""
    return f"`{base.shown}`{revision}. {digest}"


def _data(version: Version) -> str:
    manifest = version.manifest
    counts = {"accepted traces": version.traces, "tokens trained": manifest.tokens}
    kinds = {f"{kind} samples": count for kind, count in sorted(manifest.samples.items())}
    return _table(("what", "number"), {**counts, **kinds}.items())


def _checks(version: Version) -> str:
    checks = list(version.checks)
    if version.parity is not None:
        parity = version.parity
        checks.insert(0, Check(name="parity with the trainer", value=parity.against_trainer, passed=parity.passed))
    if not checks:
        return "None was made."
    rows = [(check.name, check.value, check.bound, _result(check.passed)) for check in checks]
    return f"{_summary(checks)}\n\n{_table(('check', 'value', 'bound', 'result'), rows)}"


def _summary(checks: Iterable[Check]) -> str:
    failed = [check.name for check in checks if check.passed is False]
    return f"It failed: {', '.join(failed)}." if failed else "It failed no check."


def _result(passed: bool | None) -> str:
    return "not judged" if passed is None else "passed" if passed else "failed"


def _prompt(chat_format: ChatFormat) -> str:
    opens, closes = json.dumps(chat_format.think_open), json.dumps(chat_format.think_close)
    return (
        f"The base model's chat template renders Mindprint's prompt, version {PROMPT_VERSION}: a system text, the "
        "user's profile and past engagements if there are any, and the question. A thinking stands between "
        f"`{opens}` and `{closes}` before the answer. Without the memory in the prompt it answers differently."
    )


def _training(version: Version) -> str:
    manifest = version.manifest
    settings = {name: value for name, value in manifest.settings.items() if not isinstance(value, list | dict)}
    losses = {f"loss, {name}": value for name, value in sorted(manifest.losses.items())}
    facts = {"trainer": manifest.trainer, "began with": version.start or "new weights", "seconds": manifest.seconds}
    return _table(("setting", "value"), {**facts, **dict(sorted(settings.items())), **losses}.items())


def _use(base: BaseName | None) -> str:
    if base is None:
        return "Load the base model with the digest above, and this folder with `peft.PeftModel.from_pretrained`."
    return (
        "```python\nfrom peft import AutoPeftModelForCausalLM\n\n"
        'model = AutoPeftModelForCausalLM.from_pretrained("this/folder")\n```'
    )


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    names = list(head)
    lines = [names, ["---"] * len(names), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return ""
    shown = f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())
    return shown[:_MAX_VALUE_CHARS].replace("|", "\\|")
