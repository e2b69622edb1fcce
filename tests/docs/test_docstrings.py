"""Public names say what they do, in one form: what another package imports, HTTP types, what `mindprint` exports.

Ruff's rules `D` and `DOC` (pyproject.toml) hold the form of docstrings. This module says which names must have one.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("client", "server", "trainer")
MIN_ARGUMENTS = 3
"""A public function with at least so many parameters has an `Args:` section."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef


@dataclass(frozen=True)
class Module:
    name: str
    package: str
    path: Path
    tree: ast.Module

    def definitions(self) -> Iterator[Definition]:
        for node in self.tree.body:
            if isinstance(node, Function | ast.ClassDef):
                yield node


def read_modules() -> dict[str, Module]:
    """Return every source module by its dotted name."""
    found = {}
    for source in SOURCES:
        for path in sorted((ROOT / source).rglob("*.py")):
            if "migrations" in path.parts:
                continue
            relative = path.relative_to(ROOT / source)
            package = ".".join(relative.parts[:-1])
            name = package if path.name == "__init__.py" else f"{package}.{path.stem}"
            found[name] = Module(name, package, path, ast.parse(path.read_text(encoding="utf-8")))
    return found


def public_names(modules: dict[str, Module]) -> set[tuple[str, str]]:
    """Return (module, name) of each definition that a module of another package imports, re-exports followed."""
    imports: dict[tuple[str, str], tuple[str, str]] = {}
    wanted = set()
    for module in modules.values():
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.ImportFrom) or node.module not in modules:
                continue
            for alias in node.names:
                imports[module.name, alias.asname or alias.name] = node.module, alias.name
                if modules[node.module].package != module.package:
                    wanted.add((node.module, alias.name))
    resolved = set()
    for target in wanted:
        seen = target
        while seen in imports and not any(node.name == seen[1] for node in modules[seen[0]].definitions()):
            seen = imports[seen]
        resolved.add(seen)
    wire = {
        (module.name, node.name)
        for module in modules.values()
        if module.package == "mindprint.types"
        for node in module.definitions()
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    }
    return resolved | wire


def arguments(node: Function) -> list[str]:
    """Return the names of a function's parameters, without `self` and `cls`."""
    named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return [argument.arg for argument in named if argument.arg not in ("self", "cls")]


def defects(node: Definition, name: str) -> Iterator[str]:
    """Yield what the docstring of a public definition lacks."""
    text = ast.get_docstring(node)
    if text is None:
        yield f"{name} has no docstring"
        return
    if not text.split("\n\n")[0].rstrip().endswith((".", ":", "?")):
        yield f"{name}: the first sentence has no full stop"
    if isinstance(node, Function) and len(arguments(node)) >= MIN_ARGUMENTS and "Args:" not in text:
        yield f"{name} has {len(arguments(node))} parameters and no `Args:`"
    if isinstance(node, Function) and raises(node) and "Raise" not in text:
        yield f"{name} raises and has no `Raises:`"


def raises(node: ast.AST) -> bool:
    """Return whether a function itself raises something by name; a bare `raise` passes on what it caught."""
    inner = [
        child for child in ast.iter_child_nodes(node) if not isinstance(child, Function | ast.ClassDef | ast.Lambda)
    ]
    return any((isinstance(child, ast.Raise) and child.exc is not None) or raises(child) for child in inner)


def is_overload(node: Function) -> bool:
    """Return whether a function is only an overload or a property setter."""
    return any("overload" in ast.unparse(mark) or ".setter" in ast.unparse(mark) for mark in node.decorator_list)


def all_defects() -> list[str]:
    """Return the defects of all public definitions, sorted."""
    modules = read_modules()
    found: list[str] = []
    for module_name, name in public_names(modules):
        module = modules[module_name]
        for node in module.definitions():
            if node.name != name:
                continue
            where = f"{module.path.relative_to(ROOT)}: {name}"
            found += defects(node, where)
            if not isinstance(node, ast.ClassDef):
                continue
            for method in node.body:
                if isinstance(method, Function) and not method.name.startswith("_") and not is_overload(method):
                    found += defects(method, f"{where}.{method.name}")
    return sorted(found)


def test_public_names_have_docstrings_with_args() -> None:
    found = all_defects()
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("def f(a): ...", "f has no docstring"),
        ('def f(a):\n    "Do it."\n    raise ValueError(a)', "f raises and has no `Raises:`"),
        ('def f(a):\n    "Do it."\n    try: a()\n    except OSError: raise', None),
        ('def f(a):\n    "Return a"', "f: the first sentence has no full stop"),
        ('def f(a, b, c):\n    "Return a."', "f has 3 parameters and no `Args:`"),
        ('def f(a, b, c):\n    """Return a.\n\n    Args:\n        a: It.\n    """', None),
        ('class C:\n    "A thing."', None),
    ],
)
def test_check_finds_what_a_docstring_lacks(code: str, expected: str | None) -> None:
    [node] = ast.parse(code).body
    assert isinstance(node, Function | ast.ClassDef)
    assert list(defects(node, node.name)) == ([] if expected is None else [expected])
