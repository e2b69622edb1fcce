"""Pages are plain, and what they name exists: links, files, commands, routes, settings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import _pictures
import doc_pages
from doc_pages import ROOT

MAX_WORDS = 25
LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(r"[\w*./-]+\.(?:py|md|toml|txt|yml|sh|json)")
TOP = ("client", "server", "trainer", "benchmarks", "tests", "docs", "deploy")
PACKAGES = ("", "server/mindprint_server", "trainer/mindprint_trainer", "client/mindprint")
ROUTE = re.compile(r"(GET|POST|PUT|DELETE) (/[\w/{}<>*.-]*)")
WORD = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)+")
METRIC = re.compile(r"\bmindprint_[a-z_]+\b")
MADE = ("users.jsonl", "train.jsonl", "eval.jsonl", "result.json", "manifest.json", "adapter_config.json")
"""Files that a user has or a command writes."""

OF_VLLM = {
    "attention_backend",
    "max_logprobs",
    "model_name",
    "root_path",
    "speculative_config",
    "tensor_parallel_size",
}
OUTSIDE = {"pg_dump", "histogram_quantile", "thinking_gain_closed", "thinking_gain_open"} | OF_VLLM
"""Words of other programs, and names that are put together at run time."""
PAGES = pytest.mark.parametrize("page", doc_pages.pages(), ids=doc_pages.name)


@PAGES
def test_sentences_are_short(page: Path) -> None:
    long = [sentence for sentence in doc_pages.sentences(page) if len(sentence.split()) > MAX_WORDS]
    assert not long


@PAGES
def test_relative_links_resolve(page: Path) -> None:
    targets = [link.partition("#")[0] for link in LINK.findall(page.read_text(encoding="utf-8"))]
    lost = [link for link in targets if link and "://" not in link and not (page.parent / link).exists()]
    assert not lost


@PAGES
def test_files_that_are_named_exist(page: Path) -> None:
    named = {code for code in doc_pages.inline_code(page) if FILE.fullmatch(code) or code.startswith(TOP)}
    assert not [path for path in sorted(named) if not _exists(path)]


def _exists(path: str) -> bool:
    if any(mark in path for mark in "<> $") or "/" not in path or Path(path).name in MADE or path.startswith("."):
        return True
    return any(any((ROOT / package).glob(path.rstrip("/"))) for package in PACKAGES)


def test_files_that_pictures_name_exist() -> None:
    steps = (*_pictures.LIFE_OF_A_TRACE, *_pictures.LIFE_OF_A_VERSION)
    named = [step.where for step in steps if step.where.endswith((".py", "/"))]
    assert len(named) > 8
    assert not [path for path in named if not (ROOT / "server" / "mindprint_server" / path).exists()]


def test_tree_of_contributing_is_the_tree_on_disk() -> None:
    [tree] = [block.code for block in doc_pages.blocks(ROOT / "docs" / "contributing.md") if block.language == "text"]
    folders = dict(line.split("/", 1) for line in tree.splitlines())
    tracked = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith((".", "build"))}
    assert set(folders) == {folder for folder in tracked if not folder.endswith((".egg-info", "dist"))}
    rooms = re.search(r"mindprint_server: ([\w, ]+)", tree)
    assert rooms
    assert not [room for room in rooms[1].split(", ") if not (ROOT / "server/mindprint_server" / room).is_dir()]


# --- commands ----------------------------------------------------------------------


@cache
def commands() -> dict[tuple[str, ...], Any]:
    import typer

    from mindprint.cli import app

    def walk(group: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from walk(command, (*path, name))
            else:
                yield (*path, name), command

    return dict(walk(typer.main.get_command(app), ()))


def problem(line: str) -> str | None:
    """Say what is wrong with a `mindprint` command line, if anything is."""
    words = shlex.split(line, comments=True)
    words = words[: next((i for i, word in enumerate(words) if word in ("|", ">", "&&")), len(words))]
    words = words[1:]
    known = next((command for path, command in commands().items() if tuple(words[: len(path)]) == path), None)
    if known is None:
        groups = {path[0] for path in commands() if len(path) > 1}
        alone = not words or words[0].startswith("-") or words[0].isupper() or (words[0] in groups and len(words) == 1)
        return None if alone else f"{line}: there is no such command"
    options = {option for param in known.params for option in (*param.opts, *param.secondary_opts)}
    wrong = [word for word in words if word.startswith("-") and word.partition("=")[0] not in {*options, "--help"}]
    return f"{line}: there is no option {wrong[0]}" if wrong else None


@PAGES
def test_commands_that_are_shown_exist(page: Path) -> None:
    lines = [code for code in doc_pages.inline_code(page) if code.startswith("mindprint ")]
    for block in doc_pages.blocks(page):
        if block.language in ("console", "bash"):
            joined = block.code.replace("\\\n", " ")
            lines += re.findall(r"^(?:\$ )?(?:\w+=\S+ )*(?:\.venv/bin/)?(mindprint .*)$", joined, re.MULTILINE)
    assert not [problem(line) for line in lines if problem(line)]


# --- routes and names --------------------------------------------------------------


@cache
def routes() -> list[tuple[str, re.Pattern[str]]]:
    from mindprint_server.app import create_app
    from mindprint_server.settings import Settings

    paths = create_app(Settings()).openapi()["paths"]
    return [
        (method.upper(), re.compile(re.sub(r"\{[^}]*\}", "[^/]+", path)))
        for path, operations in [*paths.items(), ("/openapi.json", {"get": None})]
        for method in operations
    ]


@PAGES
def test_routes_that_are_named_exist(page: Path) -> None:
    named = ROUTE.findall(page.read_text(encoding="utf-8"))
    lost = [
        f"{method} {path}"
        for method, path in named
        if not any(method == known and pattern.fullmatch(path.rstrip(".")) for known, pattern in routes())
    ]
    assert not lost


@cache
def words_of_the_code() -> set[str]:
    folders = ("client", "server", "trainer", "benchmarks")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    tests = {file.stem for file in (ROOT / "tests").rglob("*.py")}
    return tests.union(*(WORD.findall(file.read_text(encoding="utf-8").lower()) for file in files))


@PAGES
def test_names_in_backticks_stand_in_the_code(page: Path) -> None:
    """A setting, field or code that was renamed is found here."""
    if doc_pages.name(page) == "docs/contributing.md":
        pytest.skip("names examples of style")
    named = {word for code in doc_pages.inline_code(page) for word in WORD.findall(code)}
    known = words_of_the_code()
    lost = [word for word in sorted(named - OUTSIDE) if word not in known]
    assert not [word for word in lost if not word.startswith("mindprint_")]


@PAGES
def test_metrics_that_are_named_exist(page: Path) -> None:
    known = METRIC.findall((doc_pages.DOCS / "reference" / "metrics.md").read_text(encoding="utf-8"))
    known += [f"{metric}_bucket" for metric in known]
    packages = {path.name for path in ROOT.glob("*/mindprint_*")}
    named = set(METRIC.findall(page.read_text(encoding="utf-8"))) - packages
    assert not sorted(named - set(known))


def test_with_how_many_engagements_the_gate_judges_scores_follows_from_the_settings() -> None:
    from mindprint_server.settings import Settings

    share, items = (Settings.model_fields[name].default for name in ("holdout_share", "gate_min_items"))
    needed = next(number for number in range(1, 1000) if int(share * number) >= items)
    assert f"Below {needed} engagements" in (ROOT / "docs/how-to/import-histories.md").read_text(encoding="utf-8")
