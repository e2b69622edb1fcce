"""Importing the package is quick and pulls in nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "vllm",
    "transformers",
    "peft",
    "numpy",
    "sqlalchemy",
    "fastapi",
    "mindprint_server",
    "mindprint_trainer",
)


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


@pytest.mark.parametrize("statement", ["import mindprint", "from mindprint import *", "import mindprint.cli"])
def test_nothing_heavy_comes_along(statement: str) -> None:
    assert python(f"{statement}; import sys; print([name for name in {HEAVY} if name in sys.modules])") == "[]"


def test_the_import_takes_no_time() -> None:
    """The quickest of three, for this machine may be busy. The clients come when they are first named."""
    code = "import time; t = time.perf_counter(); import mindprint; print(time.perf_counter() - t)"
    assert min(float(python(code)) for _ in range(3)) < 0.3
    assert python("import mindprint, sys; print('httpx' in sys.modules)") == "False"


def test_every_name_that_is_promised_is_there() -> None:
    import mindprint

    for name in mindprint.__all__:
        assert getattr(mindprint, name) is not None
    assert set(mindprint.__all__) <= set(dir(mindprint))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = mindprint.nonsense
