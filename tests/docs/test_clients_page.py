"""The page of clients: what it shows of a kept file, and that the kept file fits the pins and the features."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

import _clients
import one_client
from environments import ENVIRONMENTS, HERE
from surface import FEATURES, Partly, Refused

PINNED = re.compile(r"^([\w.-]+)==(\S+)$", re.MULTILINE)
CALLS = {"ask", "complete", "respond", "close"}
"""Methods of a client that are no features."""


@pytest.fixture(scope="module")
def kept() -> Any:
    return json.loads(_clients.KEPT.read_text(encoding="utf-8"))["clients"]


def test_page_shows_each_result_with_its_reason(tmp_path: Path) -> None:
    features = {
        "chat": {"result": "yes"},
        "tools": {"result": "refused", "why": "no parser"},
        "seed": {"result": "no", "why": "a | b"},
    }
    file = tmp_path / "clients.json"
    client = {"title": "Odd", "versions": {"odd": "1.2"}, "features": features}
    file.write_text(json.dumps({"server": {"vllm": "3"}, "clients": {"odd": client}}))
    page = _clients.clients(file)
    assert "| feature | Odd |" in page
    assert f"| {FEATURES['chat']} | yes |" in page
    assert f"| {FEATURES['logprobs']} |  |" in page
    assert f"| Odd | {FEATURES['tools']} | refused | no parser |" in page
    assert f"| Odd | {FEATURES['seed']} | **no** | a \\| b |" in page
    assert "| Odd | odd 1.2 |" in page
    assert "Server: vllm 3." in page


def test_kept_results_are_of_every_client_and_of_its_pinned_version(kept: Any) -> None:
    assert list(kept) == list(ENVIRONMENTS)
    for name, environment in ENVIRONMENTS.items():
        if environment.pins is not None:
            pins = dict(PINNED.findall((HERE / "pins" / f"{environment.pins}.txt").read_text()))
            assert kept[name]["versions"].items() <= pins.items(), name
    lock = json.loads((HERE / "node" / "package-lock.json").read_text())["packages"]
    assert kept["openai-node"]["versions"]["openai"] == lock["node_modules/openai"]["version"]


def test_kept_results_are_those_of_the_features_that_each_client_has(kept: Any) -> None:
    shaped = _methods("openai_shaped")
    for name, environment in ENVIRONMENTS.items():
        if name == "openai-node":
            offered = set(re.findall(r"^  async (\w+)\(\) {", (HERE / "node" / "openai_node.mjs").read_text(), re.M))
        else:
            offered = _methods(environment.module)
            offered |= shaped if "OpenAIShaped" in (HERE / f"{environment.module}.py").read_text() else set()
        assert offered - CALLS <= set(FEATURES), name
        assert offered - CALLS == set(kept[name]["features"]), name


def test_a_failure_is_a_no_with_its_words() -> None:
    def fail() -> None:
        raise ValueError("odd")

    assert one_client.try_feature(lambda: None) == {"result": "yes"}
    assert one_client.try_feature(fail) == {"result": "no", "why": "ValueError: odd"}
    assert one_client.try_feature(lambda: Refused("no parser")) == {"result": "refused", "why": "no parser"}
    assert one_client.try_feature(lambda: Partly("not seen")) == {"result": "partly", "why": "not seen"}


def _methods(module: str) -> set[str]:
    """Return the public methods of the classes in a module, which cannot be imported here."""
    tree = ast.parse((HERE / f"{module}.py").read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    methods = [node.name for kind in classes for node in kind.body if isinstance(node, ast.FunctionDef)]
    return {name for name in methods if not name.startswith("_")}
