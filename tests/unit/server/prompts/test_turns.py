"""Prompts and turns in the chat formats of sixteen families, up to where a model goes on."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from chat_templates import SERVED, eos_ids, make_tokenizer
from mindprint.chat_template_trial import decide_chat_format
from mindprint.types import Mode
from mindprint_server.engine.tokenizer import HFTokenizer
from mindprint_server.prompts.templates import PROMPT_VERSION, build
from mindprint_server.prompts.turns import TurnWriter
from mindprint_server.prompts.types import Prompt, RecalledMemory

GOLDEN = Path(__file__).parent / "golden"
MODES: list[Mode] = ["direct", "generic", "personal"]
PREFIX, LEAD = "What this user has shown:", "This user's answer:"


@cache
def turns(name: str) -> TurnWriter:
    tokenizer = make_tokenizer(name)
    return TurnWriter(HFTokenizer(tokenizer, decide_chat_format(tokenizer, eos_ids(name))))


def prompt(name: str, mode: Mode) -> Prompt:
    tokenizer = turns(name).tokenizer
    messages = build(RecalledMemory("Likes quiet."), "Town or lake?", ["town", "lake"], mode, tokenizer.special)
    text = tokenizer.render(messages, thinking=mode != "direct")
    return Prompt(text, tokenizer.encode(text), 0)


def goes_on(name: str, mode: Mode) -> Prompt:
    """The prompt up to where the model writes in this mode."""
    rendered = prompt(name, mode)
    return rendered if mode == "direct" else turns(name).begin_thinking(rendered, PREFIX)


@pytest.mark.parametrize("name", SERVED)
def test_golden_prompts_of_a_family(name: str) -> None:
    """A changed prompt needs a new PROMPT_VERSION and a new golden file, both on purpose."""
    shown = "".join(f"=== {mode}\n{goes_on(name, mode).text}\n" for mode in MODES)
    assert (GOLDEN / f"v{PROMPT_VERSION}-turn-{name}.txt").read_text(encoding="utf-8") == shown


@pytest.mark.parametrize("name", SERVED)
def test_direct_mode_is_never_inside_a_thinking(name: str) -> None:
    text = goes_on(name, "direct").text
    opens, closes = turns(name).chat_format.tags
    assert text.count(opens) == text.count(closes)


@pytest.mark.parametrize("name", SERVED)
@pytest.mark.parametrize("mode", ["generic", "personal"])
def test_thinking_is_opened_once(name: str, mode: Mode) -> None:
    text = goes_on(name, mode).text
    chat_format = turns(name).chat_format
    assert (text.count(chat_format.tags[0]), text.count(chat_format.tags[1])) == (1, 0)
    assert text.endswith(f"{chat_format.think_open}{PREFIX}")


@pytest.mark.parametrize("name", SERVED)
def test_all_modes_share_the_prompt_up_to_the_query(name: str) -> None:
    texts = [prompt(name, mode).text for mode in MODES]
    # These templates say in a system text whether the model thinks.
    compared = texts[1:] if name in ("granite", "smollm3", "gemma4", "seed_oss") else texts
    assert len({text.partition("Choices:")[0] for text in compared}) == 1


@pytest.mark.parametrize("name", SERVED)
@pytest.mark.parametrize("thinking", [f"{PREFIX} tea. So", f"{PREFIX}\n- quiet.\n\nSo", "other words."])
def test_answer_follows_on_the_ids_with_which_the_thinking_began(name: str, thinking: str) -> None:
    """The engine finds them in its cache, and no token crosses the place where generation began."""
    writer, rendered = turns(name), prompt(name, "personal")
    prefix = PREFIX if thinking.startswith(PREFIX) else ""
    begun = writer.begin_thinking(rendered, prefix)
    closed = writer.close_thinking(rendered, thinking, thinking_prefix=prefix, answer_prefix=LEAD)
    assert closed.ids[: len(begun.ids)] == begun.ids
    assert closed.text == (
        rendered.text + writer.chat_format.opening + thinking + writer.chat_format.think_close + LEAD
    )


@pytest.mark.parametrize("name", SERVED)
def test_thinking_round_trips(name: str) -> None:
    """What is written as ids is read as the same text."""
    thinking = f"{PREFIX} 12 short walks.\n\nSo: the lake."
    closed = turns(name).close_thinking(prompt(name, "personal"), thinking, thinking_prefix=PREFIX, answer_prefix=LEAD)
    decoded = make_tokenizer(name).decode(closed.ids, skip_special_tokens=False)
    opens, closes = turns(name).chat_format.tags
    after = decoded.rpartition(opens)[2]
    assert after.partition(closes)[0].strip() == thinking
    assert after.endswith(LEAD)


def test_prefix_that_ends_in_a_space_ends_before_it() -> None:
    writer, rendered = turns("qwen3"), prompt("qwen3", "personal")
    assert writer.begin_thinking(rendered, "Shown: ") == writer.begin_thinking(rendered, "Shown:")


@pytest.mark.parametrize("name", SERVED)
@pytest.mark.parametrize("lead", ["Answer:", "Answer: ", "Answer:\n", ""])
def test_answers_are_tokenized_as_a_model_writes_them(name: str, lead: str) -> None:
    writer = turns(name)
    closed = writer.close_thinking(prompt(name, "personal"), "so it is", thinking_prefix="", answer_prefix=lead)
    answer = writer.answer_after_thinking("tea", lead)
    ids = writer.answer_ids(closed.text, answer)
    encode = writer.tokenizer.encode
    assert encode(closed.text[-20:]) + ids == encode(closed.text[-20:] + answer)
    assert "  " not in closed.text[-20:] + answer


def test_answer_after_a_marker_begins_with_the_space_that_the_template_writes() -> None:
    writer, rendered = turns("mistral_v1"), prompt("mistral_v1", "direct")
    ids = writer.answer_ids(rendered.text, writer.direct_answer("tea"))
    assert make_tokenizer("mistral_v1").convert_ids_to_tokens(ids)[0].startswith("\u2581")
