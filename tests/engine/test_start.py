"""An engine before its start. The fake engine is exempt: it has a tokenizer and facts at once."""

from __future__ import annotations

import pytest

from mindprint_server.engine import EngineDied
from mindprint_server.engine.factory import create_engine
from mindprint_server.settings import Settings


async def test_engine_that_has_not_started_has_no_facts_and_no_tokenizer(engine_settings: Settings) -> None:
    engine = create_engine(engine_settings)
    assert not engine.ready
    with pytest.raises(EngineDied):
        engine.info()
    with pytest.raises(EngineDied):
        _ = engine.tokenizer
