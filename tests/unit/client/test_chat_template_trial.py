"""What is decided about the templates of known families, and which are refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, normalizers, processors

from chat_templates import FAMILIES, SERVED, eos_ids, make_tokenizer
from mindprint.chat_format import THINK_CLOSE, THINK_OPEN, ChatFormat
from mindprint.chat_template_trial import UnsupportedTemplate, decide_chat_format, describe, read_eos_ids
from mindprint.model_files import resolve


def decided(name: str) -> ChatFormat:
    return decide_chat_format(make_tokenizer(name), eos_ids(name))


def with_template(template: str | None, name: str = "chatml") -> Any:
    tokenizer = copy.copy(make_tokenizer(name))
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("name", SERVED)
def test_end_of_a_turn_is_the_templates(name: str) -> None:
    """Also where `eos_token` is another one, as in Gemma, Phi 3 and Qwen 2, whose system turn ends with the same."""
    chat_format, tokenizer = decided(name), make_tokenizer(name)
    assert chat_format.end_text == FAMILIES[name].end
    assert chat_format.end_id == tokenizer.convert_tokens_to_ids(FAMILIES[name].end)


@pytest.mark.parametrize("name", SERVED)
def test_generation_stops_at_the_end_that_is_learned(name: str) -> None:
    chat_format, tokenizer = decided(name), make_tokenizer(name)
    assert chat_format.end_id in chat_format.stop_ids
    assert {tokenizer.eos_token_id, *eos_ids(name)} <= set(chat_format.stop_ids)


@pytest.mark.parametrize(
    ("name", "system", "joins", "joins_late"),
    [
        ("chatml", "role", False, False),
        ("gemma", "fold", True, True),
        ("mistral_v1", "fold", True, True),
        ("mistral_v3", "role", True, True),
        ("qwen3", "role", True, True),
        ("r1", "role", True, False),
    ],
)
def test_system_messages_are_arranged_as_the_template_takes_them(
    name: str, system: str, joins: bool, joins_late: bool
) -> None:
    chat_format = decided(name)
    assert (chat_format.system, chat_format.joins_systems) == (system, joins)
    assert chat_format.joins_late_systems == joins_late


@pytest.mark.parametrize(
    ("name", "prompt_opens", "direct_switch", "direct_suffix", "close"),
    [
        ("chatml", False, {}, "", THINK_CLOSE),
        ("qwen3", False, {"enable_thinking": False}, "", "\n</think>\n\n"),
        ("qwen3_thinking", True, {}, "\n</think>\n\n", "\n</think>\n\n"),
        ("r1", True, {}, "\n</think>\n\n", "\n</think>\n\n"),
        ("smollm3", False, {"enable_thinking": False}, "", "\n</think>\n"),
        ("nemotron", True, {}, "", "\n</think>\n\n"),
        ("granite", False, {}, "", THINK_CLOSE),
    ],
)
def test_thinking_is_opened_and_closed_as_the_template_does(
    name: str, prompt_opens: bool, direct_switch: dict[str, bool], direct_suffix: str, close: str
) -> None:
    chat_format = decided(name)
    assert (chat_format.think_open, chat_format.think_close) == (THINK_OPEN, close)
    assert (chat_format.prompt_opens, chat_format.opening) == (prompt_opens, "" if prompt_opens else THINK_OPEN)
    assert (chat_format.direct_switch, chat_format.direct_suffix) == (direct_switch, direct_suffix)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("chatml", ()),
        ("granite", ()),
        ("r1", ()),
        ("qwen3", ("/think", "/no_think")),
        ("nemotron", ("/think", "/no_think")),
        ("glm", ("/think", "/no_think", "/nothink")),
        ("smollm3", ("/think", "/no_think", "/system_override")),
    ],
)
def test_soft_switches_of_a_model_are_known(name: str, words: tuple[str, ...]) -> None:
    assert decided(name).soft_switches == words


@pytest.mark.parametrize("role", ["user", "system"])
def test_words_that_change_the_rest_of_a_prompt_are_soft_switches(role: str) -> None:
    """Also where the template puts the words together, so that its text does not name them."""
    template = FAMILIES["chatml"].template + (
        "{% for m in messages %}{% if m['role'] == 'ROLE' and ('/no' + 'think') in m['content'] %}"
        "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endfor %}"
    ).replace("ROLE", role)
    chat_format = decide_chat_format(with_template(template))
    assert chat_format.soft_switches == ("/nothink",)
    assert (chat_format.direct_words, chat_format.words_role) == ("/nothink", role)
    tokenizer = with_template(template)
    asked = [{"role": "user", "content": "Tea?"}]
    assert chat_format.render(tokenizer, asked, thinking=False).endswith("<think>\n\n</think>\n\n")
    assert "think" not in chat_format.render(tokenizer, asked, thinking=True)


def test_soft_switch_that_turns_the_thinking_on_is_used() -> None:
    template = FAMILIES["nemotron"].template.replace("thinks=true", "thinks=false")
    chat_format = decide_chat_format(with_template(template, "nemotron"))
    # Without words the prompt is that of direct mode.
    assert (chat_format.thinking_words, chat_format.direct_words, chat_format.prompt_opens) == ("/think", "", True)
    assert chat_format.direct_suffix == ""


def test_direct_mode_uses_the_soft_switch_where_there_is_no_argument() -> None:
    chat_format = decided("nemotron")
    assert (chat_format.direct_words, chat_format.words_role) == ("/no_think", "user")
    assert decided("smollm3").direct_words == ""
    assert dict(describe(chat_format))["in direct mode"] == "switched off by /no_think"


def test_tags_that_the_model_knows_are_found_in_its_history() -> None:
    chat_format = decided("magistral")
    assert (chat_format.think_open, chat_format.think_close) == ("[THINK]", "[/THINK]")


def test_tags_that_only_the_tokenizer_knows_are_found() -> None:
    template = FAMILIES["mistral_v3"].template
    chat_format = decide_chat_format(with_template(template, "magistral"))
    assert (chat_format.think_open, chat_format.think_close) == ("[THINK]", "[/THINK]")


def test_white_space_before_a_thinking_is_the_templates() -> None:
    chat_format = decided("glm")
    assert (chat_format.opening, chat_format.think_close) == ("\n<think>", "</think>")


def test_tags_that_are_no_xml_are_found() -> None:
    """Gemma 4 writes an empty thinking where there is to be none. Its small models' template writes nothing then."""
    template = FAMILIES["gemma4"].template
    small = template.replace("{{ '<|channel>thought\n<channel|>' }}", "")
    assert small != template
    for one in (template, small):
        chat_format = decide_chat_format(with_template(one, "gemma4"))
        assert (chat_format.opening, chat_format.think_close) == ("<|channel>thought\n", "<channel|>")
        assert chat_format.thinking_switch == {"enable_thinking": True}
        assert (chat_format.direct_switch, chat_format.empty_thinking) == ({}, "")


def test_tags_that_only_the_tokenizer_knows_are_closed_by_the_other() -> None:
    tokenizer = copy.deepcopy(make_tokenizer("chatml"))
    tokenizer.add_tokens(["<|inner_prefix|>", "<|inner_suffix|>"], special_tokens=True)
    chat_format = decide_chat_format(tokenizer)
    assert chat_format.tags == ("<|inner_prefix|>", "<|inner_suffix|>")


def test_switch_that_is_no_truth_value_is_found() -> None:
    chat_format = decided("seed_oss")
    assert (chat_format.thinking_switch, chat_format.direct_switch) == ({}, {"thinking_budget": 0})
    assert (chat_format.think_open, chat_format.think_close) == ("<seed:think>", "</seed:think>\n")


EFFORT = (
    "{% set effort = reasoning_effort if reasoning_effort is defined else 'DEFAULT' %}"
    "{% if effort not in ['none', 'high'] %}{{ raise_exception('no such effort') }}{% endif %}{{ '[' + effort + ']' }}"
)


@pytest.mark.parametrize(
    ("default", "on", "off"),
    [("high", {}, {"reasoning_effort": "none"}), ("none", {"reasoning_effort": "high"}, {"reasoning_effort": "none"})],
)
def test_effort_of_a_template_switches_the_thinking(default: str, on: dict[str, str], off: dict[str, str]) -> None:
    template = EFFORT.replace("DEFAULT", default) + FAMILIES["chatml"].template
    chat_format = decide_chat_format(with_template(template))
    assert (chat_format.thinking_switch, chat_format.direct_switch) == (on, off)


def test_effort_that_is_only_written_switches_nothing() -> None:
    """Where any word is taken, `none` is no value that the model knows."""
    template = "{{ 'Effort: ' + (reasoning_effort or 'medium') }}" + FAMILIES["chatml"].template
    chat_format = decide_chat_format(with_template(template))
    assert (chat_format.thinking_switch, chat_format.direct_switch) == ({}, {})


TOLD = "{{ 'Write your thoughts within <think> and </think>.\n' }}"
UNLESS_SYSTEM = TOLD.join(["{% if messages[0]['role'] != 'system' %}", "{% endif %}"])


@pytest.mark.parametrize(
    ("tokenizer", "empty"),
    [
        (make_tokenizer("kimi"), "<think></think>"),
        (make_tokenizer("lfm2"), "<think>\n\n</think>\n"),
        (with_template(FAMILIES["r1"].template.replace("<think>\n", ""), "r1"), "<think>\n\n</think>\n"),
        (with_template(TOLD + FAMILIES["chatml"].template), "<think>\n\n</think>\n"),
        (with_template(UNLESS_SYSTEM + FAMILIES["chatml"].template), ""),
        (make_tokenizer("magistral"), ""),
        (make_tokenizer("granite"), ""),
        (make_tokenizer("qwen3"), ""),
    ],
    ids=["history has an empty one", "cut but for the last", "cut", "told", "told by default", "kept", "off", "switch"],
)
def test_model_that_begins_a_thinking_by_itself_gets_an_empty_one_in_direct_mode(tokenizer: Any, empty: str) -> None:
    chat_format = decide_chat_format(tokenizer)
    assert chat_format.empty_thinking == empty
    asked = [{"role": "user", "content": "Tea?"}]
    prompts = [chat_format.render(tokenizer, asked, thinking=thinking) for thinking in (False, True)]
    if empty:
        assert prompts[0] == prompts[1] + empty
        assert dict(describe(chat_format))["in direct mode"] == f"an empty one is written: {empty!r}"


def test_tag_of_the_template_is_no_soft_switch() -> None:
    """DeepSeek V3.1's generation prompt ends with `</think>`."""
    behind = "{{ '<think>' if thinking else '</think>' }}"
    assert decide_chat_format(with_template(FAMILIES["chatml"].template + behind)).soft_switches == ()


def test_thinking_that_is_off_by_default_is_switched_on() -> None:
    """DeepSeek V3.1's template closes the thinking unless it is told to open one."""
    base = FAMILIES["r1"].template.replace("<think>\n", "{{ '<think>' if thinking else '</think>' }}")
    template = base.replace("'<\uff5cAssistant\uff5c>{{", "'<\uff5cAssistant\uff5c>' }}{{").replace(
        "'</think>' }}' }}", "'</think>' }}"
    )
    chat_format = decide_chat_format(with_template(template, "r1"))
    assert (chat_format.thinking_switch, chat_format.prompt_opens) == ({"thinking": True}, True)
    assert (chat_format.direct_switch, chat_format.direct_suffix) == ({}, "")
    assert (chat_format.think_open, chat_format.close_tag) == ("<think>", "</think>")


@pytest.mark.parametrize(
    ("before", "behind"),
    [("{% if thinking %}{{ 'Think first.\n' }}{% endif %}", ""), ("", "{% if thinking %}{{ '<think>\n' }}{% endif %}")],
    ids=["asks for a thinking", "opens a thinking"],
)
def test_switch_without_which_a_template_asks_for_no_thinking_is_found(before: str, behind: str) -> None:
    """Granite's template asks for a thinking only when it is told to."""
    template = f"{before}{FAMILIES['chatml'].template}{behind}"
    chat_format = decide_chat_format(with_template(template))
    assert (chat_format.thinking_switch, chat_format.direct_switch) == ({"thinking": True}, {})
    assert chat_format.prompt_opens == bool(behind)


@pytest.mark.parametrize(("name", "cuts"), [("chatml", False), ("qwen3", True), ("qwen3_thinking", True), ("r1", True)])
def test_template_that_cuts_earlier_thinking_is_known(name: str, cuts: bool) -> None:
    assert decided(name).cuts_thinking == cuts


@pytest.mark.parametrize(
    ("name", "bos"), [("chatml", "none"), ("llama3", "template"), ("gemma", "template"), ("phi3", "none")]
)
def test_who_writes_the_bos_is_known(name: str, bos: str) -> None:
    assert decided(name).bos == bos


def test_bos_that_only_the_tokenizer_writes_is_added_once() -> None:
    tokenizer = with_template(FAMILIES["llama3"].template.replace("{{ bos_token }}", ""), "llama3")
    chat_format = decide_chat_format(tokenizer)
    assert chat_format.bos == "added"
    text = chat_format.render(tokenizer, [{"role": "user", "content": "Tea?"}], thinking=False)
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert (ids[0], ids.count(tokenizer.bos_token_id)) == (tokenizer.bos_token_id, 1)


def test_token_that_the_tokenizer_writes_behind_a_text_is_refused() -> None:
    """It would stand between the prompt and the answer."""
    tokenizer = with_template(FAMILIES["llama3"].template.replace("{{ bos_token }}", ""), "llama3")
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    special = [(text, backend.token_to_id(text)) for text in ("<|begin_of_text|>", "<|eot_id|>")]
    backend.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A <|eot_id|>", pair="$A $B", special_tokens=special
    )
    tokenizer._tokenizer = backend
    with pytest.raises(UnsupportedTemplate, match="set add_eos_token to false"):
        decide_chat_format(tokenizer)
    tokenizer.chat_template = FAMILIES["llama3"].template
    assert decide_chat_format(tokenizer).bos == "template"


def test_template_that_reads_parts_alone_gets_them() -> None:
    """As those of LLaVA and SmolVLM do. A text has no parts, so that they write nothing of it."""
    chat_format = decided("parts")
    assert chat_format.takes_parts
    asked = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Tea?"}]
    rendered = chat_format.render(make_tokenizer("parts"), asked, thinking=False)
    assert rendered.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nTea?<|im_end|>\n")
    assert chat_format.arrange(asked)[1]["content"] == [{"type": "text", "text": "Tea?"}]
    assert decided("chatml").arrange(asked) == asked
    assert dict(describe(chat_format))["contents"] == "lists of parts"


def test_time_that_a_template_writes_switches_nothing() -> None:
    template = "{{ strftime_now('%H:%M:%S.%f') }}" + FAMILIES["chatml"].template
    chat_format = decide_chat_format(with_template(template))
    assert (chat_format.direct_switch, chat_format.thinking_switch, chat_format.soft_switches) == ({}, {}, ())


def test_white_space_before_an_answer_is_known() -> None:
    assert decided("mistral_v1").gap == " "
    assert decided("mistral_v3").gap == decided("llama3").gap == ""


def test_plain_marks_of_turns_are_known() -> None:
    assert {"[INST]", "[/INST]"} <= set(decided("mistral_v1").markers)


def test_turn_without_an_end_of_its_own_ends_with_eos() -> None:
    template = (
        "{% for m in messages %}{{ '### ' + m['role'] + '\n' + m['content'] + '\n\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### assistant\n' }}{% endif %}"
    )
    assert decide_chat_format(with_template(template)).end_text == "<|im_end|>"


def test_token_that_begins_the_next_turn_is_no_end() -> None:
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    assert decide_chat_format(with_template(template)).end_text == "<|im_end|>"


def test_generation_prompt_behind_a_last_answer_is_no_end() -> None:
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}{% endfor %}"
        "{{ '<|im_start|>assistant\n' }}"
    )
    assert decide_chat_format(with_template(template)).end_text == "<|im_end|>"


@pytest.mark.parametrize(
    ("tokenizer", "why"),
    [
        (with_template(None), "no chat template"),
        (make_tokenizer("gpt_oss"), r"'<\|channel\|>final<\|message\|>'.*channels"),
        (with_template("{{ raise_exception('not for chats') }}"), "not for chats"),
        (with_template("{{ 'hello' }}"), "leaves the user's text out"),
        (with_template("{{ messages[0]['content'] }}"), "refuses an assistant's turn"),
    ],
    ids=["none", "channels", "refuses", "leaves out", "no assistant"],
)
def test_template_that_cannot_be_served_is_refused_in_one_line(tokenizer: Any, why: str) -> None:
    with pytest.raises(UnsupportedTemplate, match=why) as error:
        decide_chat_format(tokenizer)
    assert "\n" not in str(error.value)


NORMALIZERS: dict[str, Any] = {
    "full width": normalizers.NFKC(),
    "case": normalizers.Lowercase(),
    "accents": normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
}


def with_normalizer(name: str, *, normalized: bool, special: bool) -> Any:
    """A tokenizer that normalizes texts, with a control token that is looked for before or after that."""
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_str(FAMILIES["chatml"].make().to_str())
    backend.normalizer = NORMALIZERS[name]
    tokens = [AddedToken(one, normalized=normalized, special=special) for one in ("<|im_start|>", "<|im_end|>")]
    (backend.add_special_tokens if special else backend.add_tokens)(tokens)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False)
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.chat_template = FAMILIES["chatml"].template
    return tokenizer


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("name", NORMALIZERS)
def test_tokenizer_that_reads_another_spelling_as_the_end_of_a_turn_is_refused(name: str, special: bool) -> None:
    with pytest.raises(UnsupportedTemplate, match=r"as '<\|im_start\|>'.*set normalized to false"):
        decide_chat_format(with_normalizer(name, normalized=True, special=special))
    assert decide_chat_format(with_normalizer(name, normalized=False, special=special)).end_text == "<|im_end|>"


def test_other_spelling_of_a_token_that_ends_nothing_is_no_matter() -> None:
    tokenizer = with_normalizer("case", normalized=False, special=True)
    tokenizer.add_tokens([AddedToken("<unk>", normalized=True, special=True), AddedToken("user", normalized=True)])
    assert decide_chat_format(tokenizer).end_text == "<|im_end|>"


def test_slow_tokenizer_is_refused() -> None:
    class Slow:
        chat_template = "{{ messages }}"
        is_fast = False

    with pytest.raises(UnsupportedTemplate, match=r"tokenizer\.json"):
        decide_chat_format(Slow())  # type: ignore[arg-type]


def test_eos_ids_come_from_the_generation_configuration(tmp_path: Path) -> None:
    assert read_eos_ids(tmp_path) == []
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 3}))
    assert read_eos_ids(tmp_path) == [3]
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 106]}))
    assert read_eos_ids(tmp_path) == [1, 106]
    (tmp_path / "generation_config.json").write_text("no JSON")
    assert read_eos_ids(tmp_path) == [3]


def test_default_model_is_served_as_it_always_was() -> None:
    from transformers import AutoTokenizer

    path = resolve("default")
    chat_format = decide_chat_format(AutoTokenizer.from_pretrained(path), read_eos_ids(path))
    plain = ChatFormat(
        end_id=2,
        end_text="<|im_end|>",
        stop_ids=(2,),
        bos="template",
        bos_text="<|im_start|>",
        markers=("<|im_start|>", "<|im_end|>"),
    )
    assert chat_format == plain


@pytest.mark.parametrize("name", SERVED)
def test_what_was_decided_is_told_in_words(name: str) -> None:
    told = dict(describe(decided(name)))
    assert told["end of a turn"].startswith(repr(FAMILIES[name].end))
    assert (told["opened by"] == "the template") == (name in ("r1", "qwen3_thinking", "nemotron", "parts"))
