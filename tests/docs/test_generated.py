"""Generated pages and pictures are what the code says today."""

from __future__ import annotations

import tomllib

import pytest
from pydantic import BaseModel
from pydantic_settings import BaseSettings

import _errors
import _generate
import _markdown
import _settings
from doc_pages import ROOT
from mindprint import MindprintClient
from mindprint.endpoints import Resources
from mindprint_server import settings as server_settings
from mindprint_trainer import settings as trainer_settings


def test_generated_files_are_fresh() -> None:
    assert _generate.stale(_generate.generated()) == [], "run python docs/_generate.py"


@pytest.mark.parametrize("settings", [server_settings.Settings, trainer_settings.Settings])
def test_every_setting_has_a_meaning(settings: type[BaseModel]) -> None:
    texts = _markdown.field_docs(settings)
    assert [name for name, field in settings.model_fields.items() if not (field.description or texts.get(name))] == []


def test_each_setting_of_the_server_is_in_one_group() -> None:
    groups = [base for base in server_settings.Settings.__bases__ if base is not BaseSettings]
    names = [name for group in groups for name in getattr(group, "model_fields", {})]
    assert sorted(names) == sorted(server_settings.Settings.model_fields)


def test_a_decision_that_a_setting_names_is_a_link() -> None:
    assert "[decision 018](../decisions/018-" in _settings.settings_server()


def test_settings_page_shows_a_file_that_loads() -> None:
    values = tomllib.loads(_settings.EXAMPLE_TOML)
    assert server_settings.Settings(**values).model_dump(mode="json", include=set(values)) == values


def test_error_raised_in_several_files_says_so() -> None:
    assert _errors._where(["a.py", "a.py"]) == "`a.py`"
    assert _errors._where(["a.py", "b.py"]) == "`a.py`, and others"


def test_a_google_docstring_becomes_markdown() -> None:
    args = "Args:\n    name: What it is\n        called.\n    size: In bytes.\n"
    assert _markdown.docstring(f"Do it.\n\n{args}\nRaises:\n    ValueError: never\n") == (
        "Do it.\n\n\n**Args**\n\n- name: What it is\n  called.\n- size: In bytes.\n"
        "\n\n**Raises**\n\n- ValueError: never"
    )


def test_a_cell_stays_in_one_line() -> None:
    assert _markdown.cell("one | two\nthree") == "one \\| two three"


def test_page_of_the_python_client_names_every_noun() -> None:
    page = (ROOT / "docs" / "reference" / "python-client.md").read_text(encoding="utf-8")
    with MindprintClient("http://127.0.0.1:1") as client:
        nouns = list(vars(Resources(client)))
    assert [noun for noun in nouns if noun != "chat" and f"### `client.{noun}`" not in page] == []
