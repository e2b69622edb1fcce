from __future__ import annotations

from mindprint.token_stretches import Token
from mindprint.types import Sample
from mindprint_trainer.data.tokenization import Segment, tokenize, tokenize_all

END = 0


def code_points(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def letters(text: str) -> list[Token]:
    return [Token(ord(letter), start) for start, letter in enumerate(text)]


def sample(prompt: str = "abc", thinking: str = "", answer: str = "yz") -> Sample:
    kind = "slow" if thinking else "fast"
    return Sample.model_validate(
        {"kind": kind, "engagement_id": "e", "prompt": prompt, "thinking": thinking, "answer": answer}
    )


def test_slow_has_thinking_and_answer_with_the_end_of_turn() -> None:
    made = tokenize(sample(thinking="tuvw"), letters, END, 100)
    assert made is not None
    assert made.ids == (*code_points("abctuvwyz"), END)
    assert made.segments == (Segment("thinking", 3, 7), Segment("answer", 7, 10))
    assert (made.prompt_length, made.cut_tokens) == (3, 0)


def test_thinking_prefix_is_a_segment_and_the_reminder_is_not() -> None:
    whole = sample(thinking="tu").model_copy(
        update={"thinking_prefix": "op", "reminder": "rec", "thinking_suffix": "c"}
    )
    made = tokenize(whole, letters, END, 100)
    assert made is not None
    assert made.ids == (*code_points("abcoprectucyz"), END)
    assert made.segments == (
        Segment("thinking_prefix", 3, 5),
        Segment("thinking", 8, 10),
        Segment("thinking_suffix", 10, 11),
        Segment("answer", 11, 14),
    )
    assert made.prompt_length == 3


def test_without_an_answer_the_turn_does_not_end() -> None:
    made = tokenize(sample(thinking="tu", answer="").model_copy(update={"thinking_suffix": "c"}), letters, END, 100)
    assert made is not None
    assert made.ids == tuple(code_points("abctuc"))
    assert made.segments == (Segment("thinking", 3, 5), Segment("thinking_suffix", 5, 6))
    assert tokenize(sample(answer=""), letters, END, 100) is None, "there is nothing to learn"


def test_fast_has_the_answer_only() -> None:
    made = tokenize(sample(), letters, END, 100)
    assert made is not None
    assert made.segments == (Segment("answer", 3, 6),)


def pairs(text: str) -> list[Token]:
    """A full stop and the line end behind it are one token, as in the tokenizers of Qwen 2 and Llama 3."""
    places = [i for i in range(len(text)) if not (text[i] == "\n" and text[i - 1 : i] == ".")]
    return [Token(9999 if text[i : i + 2] == ".\n" else ord(text[i]), i) for i in places]


def test_token_over_the_border_of_two_parts_belongs_to_the_first() -> None:
    whole = sample(thinking="so.").model_copy(update={"thinking_suffix": "\nc"})
    made = tokenize(whole, pairs, END, 100)
    assert made is not None
    assert made.ids == (*code_points("abcso"), 9999, *code_points("cyz"), END)
    assert made.segments == (Segment("thinking", 3, 6), Segment("thinking_suffix", 6, 7), Segment("answer", 7, 10))


def test_no_token_crosses_the_place_where_generation_begins() -> None:
    whole = sample(thinking="\nso").model_copy(update={"thinking_prefix": "op."})
    made = tokenize(whole, pairs, END, 100)
    assert made is not None
    assert made.ids == (*code_points("abcop.\nsoyz"), END)


def test_given_thinking_is_not_learned() -> None:
    given = sample(thinking="tu").model_copy(
        update={"thinking_prefix": "op", "thinking_suffix": "c", "answer_only": True}
    )
    made = tokenize(given, letters, END, 100)
    assert made is not None
    assert made.ids == (*code_points("abcoptucyz"), END)
    assert made.segments == (Segment("answer", 8, 11),)
    assert made.prompt_length == 8


def test_the_prompt_is_cut_from_the_left_and_the_target_is_kept() -> None:
    made = tokenize(sample(thinking="t"), letters, END, 6)
    assert made is not None
    assert made.ids == (*code_points("bctyz"), END)
    assert made.segments == (Segment("thinking", 2, 3), Segment("answer", 3, 6))
    assert made.cut_tokens == 1


def test_a_target_that_does_not_fit_with_one_prompt_token_is_dropped_and_counted() -> None:
    fits, too_long, no_prompt = sample(answer="y"), sample(answer="yz"), sample(prompt="")
    kept, dropped = tokenize_all([too_long, fits, no_prompt], letters, END, 3)
    assert [made.ids for made in kept] == [(*code_points("cy"), END)]
    assert dropped == 2


def test_whose_it_is_stays_known() -> None:
    made = tokenize(sample().model_copy(update={"user_id": "anna"}), letters, END, 100)
    assert made is not None
    assert made.user_id == "anna"
