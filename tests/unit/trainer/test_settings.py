from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from mindprint_trainer.settings import RECIPE, Settings


def test_variables_set_and_arguments_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINDPRINT_TRAIN_RANK", "4")
    monkeypatch.setenv("MINDPRINT_TRAIN_TARGET_MODULES", '["q_proj"]')
    assert Settings().rank == 4
    assert Settings().target_modules == ("q_proj",)
    assert Settings(rank=2).rank == 2


@pytest.mark.parametrize(
    "wrong", [{"rnk": 4}, {"rank": 0}, {"adapter": "user/../x"}, {"ttl_s": 0}, {"parity_items": 33}, {"dropout": 1}]
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate(wrong)


def test_the_recipe_names_no_address_path_or_key() -> None:
    assert set(Settings().recipe()) == RECIPE
    assert not RECIPE & {"server", "api_key", "model", "work_dir", "owner"}


def test_settings_and_entry_point_load_no_heavy_module() -> None:
    code = "import sys, mindprint_trainer.process as _; print({'torch', 'peft'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_adapters_come_as_a_list_or_with_commas_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINDPRINT_TRAIN_ADAPTER", "user/anna, cohort/everyone")
    assert Settings().adapter == ("user/anna", "cohort/everyone")
    assert Settings(adapter=("user/ben",)).adapter == ("user/ben",)
    monkeypatch.setenv("MINDPRINT_TRAIN_ADAPTER", "anna")
    with pytest.raises(ValueError, match="adapter"):
        Settings()
