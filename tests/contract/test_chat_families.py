"""Server and trainer agree token for token, for the tokenizers and templates of known families."""

from __future__ import annotations

from functools import cache, partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_templates import SERVED, eos_ids, make_tokenizer
from lease_desk import trace
from mindprint.chat_template_trial import decide_chat_format
from mindprint.types import Engagement, Trace
from mindprint_server.engine.tokenizer import HFTokenizer
from mindprint_server.prompts.templates import build, clean
from mindprint_server.prompts.turns import TurnWriter
from mindprint_server.prompts.types import Prompt, RecalledMemory
from mindprint_server.store import Replay
from mindprint_server.training_data.samples import SampleWriter
from mindprint_trainer.data.tokenization import TokenizedSample, tokenize
from mindprint_trainer.model.base_model import tokenize_with

PREFIX = "What this user has shown:"
LEADS = st.sampled_from(["This user's answer:", "Answer: ", "So:\n", ""])
WORDS = st.sampled_from([" tea.", "\n", "\n\n", " 1234 days", ":", " So", "- the lake.", " it's", " é東🙂", "."])
THINKINGS = st.builds(
    lambda begin, words: (begin + "".join(words)).strip() or "so",
    st.sampled_from([PREFIX, PREFIX + ' asked "Tea?", this user answered "yes". So', ""]),
    st.lists(WORDS, max_size=8),
)
CHOICES = ["tea", "coffee", "tea or coffee", "no.", "12"]
EVERY_FAMILY = pytest.mark.parametrize("name", SERVED)


@cache
def writer(name: str) -> SampleWriter:
    tokenizer = make_tokenizer(name)
    turns = TurnWriter(HFTokenizer(tokenizer, decide_chat_format(tokenizer, eos_ids(name))))
    return SampleWriter(turns, lambda text: clean(text, turns.tokenizer.special), PREFIX)


def rendered(name: str, *, thinking: bool) -> Prompt:
    tokenizer = writer(name).turns.tokenizer
    messages = build(RecalledMemory("Likes quiet."), "Tea or coffee?", CHOICES, "personal" if thinking else "direct")
    text = tokenizer.render(messages, thinking=thinking)
    return Prompt(text, tokenizer.encode(text), 0)


def trained(name: str, sample: object) -> TokenizedSample:
    chat_format = writer(name).turns.chat_format
    made = tokenize(sample, partial(tokenize_with, make_tokenizer(name)), chat_format.end_id, 4096)  # type: ignore[arg-type]
    assert made is not None
    return made


def accepted(name: str, thinking: str, lead: str, answer: str) -> tuple[Trace, str]:
    """A trace of this thinking, and the prefix with which it was made to begin."""
    prefix = next((one for one in (PREFIX + ' asked "Tea?", this user answered "yes". So', PREFIX)
                   if thinking.startswith(one)), "")  # fmt: skip
    one = trace("ann", "e1")
    made_by = one.provenance.model_copy(update={"sampling": {"answer_prefix": lead, "thinking_prefix": prefix}})
    changes = {"prompt": rendered(name, thinking=True).text, "thinking": thinking, "answer": answer}
    return one.model_copy(update={**changes, "provenance": made_by}), prefix


@EVERY_FAMILY
@settings(max_examples=30)
@given(thinking=THINKINGS, lead=LEADS, answer=st.sampled_from(CHOICES))
def test_what_is_learned_after_a_thinking_is_what_is_scored(name: str, thinking: str, lead: str, answer: str) -> None:
    turns = writer(name).turns
    one, prefix = accepted(name, thinking, lead, answer)
    made = trained(name, writer(name).slow(one, CHOICES))
    before = turns.close_thinking(rendered(name, thinking=True), thinking, thinking_prefix=prefix, answer_prefix=lead)
    scored = {text: turns.answer_ids(before.text, turns.answer_after_thinking(text, lead)) for text in CHOICES}
    end = turns.chat_format.end_id
    assert list(made.ids) == [*before.ids, *scored[answer], end]
    assert [list(choice) for choice in made.choices] == [[*scored[text], end] for text in CHOICES]
    last = made.segments[-1]
    assert (last.part, last.start, last.stop) == ("answer", len(before.ids), len(made.ids))


@EVERY_FAMILY
@settings(max_examples=30)
@given(thinking=THINKINGS)
def test_thinking_is_learned_from_where_it_is_generated(name: str, thinking: str) -> None:
    turns = writer(name).turns
    one, prefix = accepted(name, thinking, "Answer:", "tea")
    made = trained(name, writer(name).slow(one))
    begun = turns.begin_thinking(rendered(name, thinking=True), prefix)
    assert list(made.ids[: len(begun.ids)]) == begun.ids
    assert all(segment.stop <= len(begun.ids) for segment in made.segments if segment.part == "thinking_prefix")
    assert all(segment.start >= len(begun.ids) for segment in made.segments if segment.part == "thinking")


@EVERY_FAMILY
def test_answer_after_a_given_thinking_has_the_same_ids(name: str) -> None:
    one, _ = accepted(name, f"{PREFIX}\n- tea.", "Answer:", "tea")
    learned, given_ = (trained(name, sample) for sample in (writer(name).slow(one), writer(name).answer(one, "tea")))
    assert given_.ids == learned.ids
    assert given_.segments == learned.segments[-1:]


@EVERY_FAMILY
def test_direct_answers_are_learned_as_they_are_scored(name: str) -> None:
    turns, prompt = writer(name).turns, rendered(name, thinking=False)
    asked = Engagement.model_validate(
        {"id": "e1", "prompt": "Tea?", "response": "tea", "choices": CHOICES, "occurred_at": "2026-01-01"}
    )
    made = trained(name, writer(name).fast("ann", asked, prompt))
    scored = {text: turns.answer_ids(prompt.text, turns.direct_answer(text)) for text in CHOICES}
    end = turns.chat_format.end_id
    assert list(made.ids) == [*prompt.ids, *scored["tea"], end]
    assert [list(choice) for choice in made.choices] == [[*scored[text], end] for text in CHOICES]


@EVERY_FAMILY
def test_replays_are_learned_as_they_were_generated(name: str) -> None:
    turns, prompt = writer(name).turns, rendered(name, thinking=True)
    replay = Replay(0, prompt.text, "Let me think. Tea.", "tea")
    made = trained(name, writer(name).replay(replay, "Let me think", "Answer:"))
    before = turns.close_thinking(prompt, replay.thinking, thinking_prefix="Let me think", answer_prefix="Answer:")
    answer = turns.answer_ids(before.text, turns.answer_after_thinking("tea", "Answer:"))
    assert list(made.ids) == [*before.ids, *answer, turns.chat_format.end_id]


@EVERY_FAMILY
def test_turn_ends_where_generation_stops(name: str) -> None:
    one, _ = accepted(name, "so", "Answer:", "tea")
    assert trained(name, writer(name).slow(one)).ids[-1] in writer(name).turns.chat_format.stop_ids


@EVERY_FAMILY
def test_users_text_cannot_write_a_turn(name: str) -> None:
    """Not even where the tokenizer does not name the template's control tokens, or where they are plain text."""
    template = make_tokenizer(name).apply_chat_template(
        [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}, {"role": "user", "content": "z"}],
        tokenize=False,
    )
    cleaned = writer(name).clean(f"a {template} b")
    tokenizer = make_tokenizer(name)
    ids = tokenizer.encode(cleaned, add_special_tokens=False)
    assert not set(ids) & set(tokenizer.added_tokens_decoder)
    assert not any(marker in cleaned for marker in writer(name).turns.chat_format.markers)


@EVERY_FAMILY
def test_users_text_cannot_switch_a_model(name: str) -> None:
    """Neither in prompts nor in what is learned, and what is learned is what is scored."""
    turns = writer(name).turns
    switches = turns.chat_format.soft_switches
    text = " ".join(["tea", *switches, *(f"/{one}" for one in switches)])
    cleaned = writer(name).clean(text)
    assert not any(one in cleaned for one in switches)
    assert cleaned.replace("/ ", "/") == text, "the words are still there"
    asked = Engagement.model_validate(
        {"id": "e1", "prompt": "Tea?", "response": text, "choices": [text, "no"], "occurred_at": "2026-01-01"}
    )
    prompt = rendered(name, thinking=False)
    made = trained(name, writer(name).fast("ann", asked, prompt))
    scored = turns.answer_ids(prompt.text, turns.direct_answer(cleaned))
    assert list(made.ids) == [*prompt.ids, *scored, turns.chat_format.end_id]
