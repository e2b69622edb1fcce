"""The fake engine with the tokenizer and chat template of a known family."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from chat_templates import eos_ids, make_tokenizer
from mindprint.chat_template_trial import decide_chat_format
from mindprint_server.engine.fake import FakeEngine
from mindprint_server.engine.tokenizer import HFTokenizer


class FamilyTokenizer(HFTokenizer):
    """A family's tokenizer that can also decode, which the fake engine needs."""

    def __init__(self, name: str) -> None:
        tokenizer = make_tokenizer(name)
        super().__init__(tokenizer, decide_chat_format(tokenizer, eos_ids(name)))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))


class FamilyEngine(FakeEngine):
    """Remembers the text of every prompt that it generates after."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(model_path=folder)
        self.tokenizer = FamilyTokenizer(name)  # type: ignore[assignment]
