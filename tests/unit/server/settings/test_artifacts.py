from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from mindprint_server.settings import Settings


def test_options_are_read_from_text_and_tables_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINDPRINT_ARTIFACT_OPTIONS", '{"secret": "hidden"}')
    tables: Any = {"artifact_options": {"secret": "hidden"}}
    for settings in (Settings(), Settings(**tables)):
        assert settings.artifact_options is not None
        assert json.loads(settings.artifact_options.get_secret_value()) == {"secret": "hidden"}
        assert "hidden" not in repr(settings)
    for wrong in ("[1]", "{"):
        monkeypatch.setenv("MINDPRINT_ARTIFACT_OPTIONS", wrong)
        with pytest.raises(ValidationError, match="artifact_options is no JSON object"):
            Settings()
