"""The server's packages: how deep their imports go, and how many modules lie beside them."""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
SERVER = "mindprint_server"
MAX_LEVELS = 14
MAX_TOP_MODULES = 12


def imports_between_packages() -> dict[str, set[str]]:
    """Return what each package or top module of the server imports."""
    graph = grimp.build_graph(SERVER, cache_dir=None)
    found: dict[str, set[str]] = defaultdict(set)
    for importer in graph.modules - {SERVER}:
        for imported in graph.find_modules_directly_imported_by(importer) - {SERVER}:
            ends = tuple(".".join(name.split(".")[:2]) for name in (importer, imported))
            if ends[0] != ends[1]:
                found[ends[0]].add(ends[1])
    return found


def test_server_imports_have_no_loop_and_at_most_14_levels() -> None:
    imports = imports_between_packages()
    path: list[str] = []

    @cache
    def level(package: str) -> int:
        if package in path:
            pytest.fail(f"import loop: {' -> '.join([*path[path.index(package) :], package])}")
        path.append(package)
        found = 1 + max(map(level, imports.get(package, ())), default=0)
        path.pop()
        return found

    assert max(map(level, list(imports))) <= MAX_LEVELS


def test_server_has_at_most_12_top_modules() -> None:
    assert len(list((ROOT / "server" / SERVER).glob("*.py"))) <= MAX_TOP_MODULES
