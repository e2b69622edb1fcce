"""VLLM renders a direct chat as Mindprint does. Its own functions are called; no engine is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chat_templates import make_model
from mindprint_server.engine.tokenizer import HFTokenizer
from mindprint_server.prompts.turns import TurnWriter

pytest.importorskip("vllm.renderers.chat_utils")
ASKED = [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "Tea?"}]


def render_with_vllm(folder: Path, tokenizer: HFTokenizer, body: dict[str, Any]) -> str:
    """What the engine's chat route makes of a request."""
    from vllm.config import ModelConfig
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.renderers.chat_utils import parse_chat_messages
    from vllm.renderers.hf import safe_apply_chat_template
    from vllm.tokenizers import get_tokenizer

    model = ModelConfig(model=str(folder), tokenizer=str(folder))
    request = ChatCompletionRequest.model_validate(body)
    form = "openai" if tokenizer.chat_format.takes_parts else "string"
    params = request.build_chat_params(tokenizer.chat_template, form)
    conversation, *_ = parse_chat_messages(request.messages, model, content_format=form)
    return str(
        safe_apply_chat_template(
            model,
            get_tokenizer(str(folder), tokenizer_mode="hf"),
            conversation,
            chat_template=params.chat_template,
            tokenize=False,
            **params.chat_template_kwargs,
        )
    )


@pytest.mark.parametrize("name", ["parts", "gemma4", "seed_oss", "qwen3"])
@pytest.mark.parametrize("effort", [None, "high"])
def test_direct_chat_is_rendered_alike_whatever_the_effort(name: str, effort: str | None, tmp_path: Path) -> None:
    """With an effort alone vLLM switches on the thinking of a template with `enable_thinking` (0.32)."""
    folder = make_model(name, tmp_path)
    tokenizer = HFTokenizer.load(folder)
    body: dict[str, Any] = {"model": "base", "messages": ASKED, "reasoning_effort": effort}
    fields = TurnWriter(tokenizer).chat_fields(body, ASKED, thinking=False)
    assert render_with_vllm(folder, tokenizer, body | fields) == tokenizer.render(ASKED)
    if effort and name in ("parts", "gemma4"):
        without = {key: value for key, value in fields.items() if key != "reasoning_effort"}
        assert render_with_vllm(folder, tokenizer, body | without) != tokenizer.render(ASKED)
