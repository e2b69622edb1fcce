"""Names of adapters, versions and models, and that no other file writes them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from mindprint.types import AdapterKey, AdapterKeyStr, ModelName, ModelNameStr, VersionRef

ROOT = Path(__file__).resolve().parents[3]
KEY = re.compile(r"(?<![\w/])(user|cohort)/(?!<|…)")
SOURCES = ("client", "server", "trainer", "benchmarks")
BAD = ["", "user/", "user/../etc", "other/ann", "user/a b", "user/ann@0", "user/ann@1@2", "user/ann\n"]


def test_adapter_key_has_kind_and_name() -> None:
    assert AdapterKey.user("ann") == "user/ann"
    assert (AdapterKey("user/ann").kind, AdapterKey("user/ann").user_id) == ("user", "ann")
    cohort = AdapterKey.cohort("tea.club")
    assert (cohort, cohort.kind, cohort.name, cohort.user_id) == ("cohort/tea.club", "cohort", "tea.club", None)


def test_version_ref_has_key_and_number() -> None:
    ref = VersionRef.of(AdapterKey.user("ann"), 7)
    assert (ref, ref.key, ref.number) == ("user/ann@7", "user/ann", 7)


@pytest.mark.parametrize(
    ("text", "key", "number"), [("base", None, None), ("user/ann", "user/ann", None), ("cohort/a@12", "cohort/a", 12)]
)
def test_model_name_has_key_and_number(text: str, key: str | None, number: int | None) -> None:
    assert (ModelName(text).key, ModelName(text).number) == (key, number)


@pytest.mark.parametrize("text", BAD)
def test_bad_name_is_refused_everywhere(text: str) -> None:
    for make in (AdapterKey, VersionRef, ModelName):
        with pytest.raises(ValueError, match="write"):
            make(text)
    for wire in (AdapterKeyStr, ModelNameStr):
        with pytest.raises(ValidationError):
            TypeAdapter(wire).validate_python(text)


def test_no_other_file_writes_a_key() -> None:
    files = [file for part in SOURCES for file in (ROOT / part).rglob("*.py") if file.name != "keys.py"]
    assert len(files) > 200
    found = [
        f"{file.relative_to(ROOT)}:{line}: {text!r}"
        for file in files
        for line, text in written(ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert not found, "use AdapterKey, VersionRef or ModelName: " + "; ".join(found)


def written(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the line and text of strings that hold a key, and of f-strings that build a version's name."""
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            if KEY.search(node.value):
                yield node.lineno, node.value
        elif isinstance(node, ast.JoinedStr):
            parts = ["{}" if isinstance(part, ast.FormattedValue) else str(part.value) for part in node.values]  # type: ignore[attr-defined]
            if "".join(parts) == "{}@{}":
                yield node.lineno, "".join(parts)
