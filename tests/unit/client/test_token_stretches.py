"""A text that is tokenized in stretches: no token crosses a border, and else the tokens are those of the whole."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_templates import FAMILIES, make_tokenizer
from mindprint.token_stretches import Token, continue_ids, continue_tokens, place_tokens, split_tokens

PIECES = st.sampled_from([" ", "\n", "\n\n", ".", ":", "tea", " tea", "12", "3", "é東", "</think>", "So", "'s", "🙂"])
TEXTS = st.lists(PIECES, max_size=12).map("".join)
EVERY_FAMILY = pytest.mark.parametrize("name", list(FAMILIES))


def encode_with(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def tokenize_with(tokenizer: Any, text: str) -> list[Token]:
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return place_tokens(encoded["input_ids"], encoded["offset_mapping"])


@EVERY_FAMILY
@settings(max_examples=40)
@given(before=TEXTS, text=TEXTS)
def test_both_forms_give_the_same_ids(name: str, before: str, text: str) -> None:
    """The server asks for ids, the trainer for tokens with places."""
    tokenizer = make_tokenizer(name)
    tokens = continue_tokens(partial(tokenize_with, tokenizer), before, text)
    assert [token.id for token in tokens] == continue_ids(partial(encode_with, tokenizer), before, text)
    assert all(0 <= token.start <= len(text) for token in tokens)


@EVERY_FAMILY
@pytest.mark.parametrize(
    ("before", "text"),
    [
        ("<think>\n", "What this user has shown:"),
        ("What this user has shown:", " tea and 12 walks.\n</think>\nThis user's answer:"),
        ("\n</think>\nThis user's answer:", " tea"),
        ("\n</think>\n\n", "tea"),
    ],
)
def test_parts_are_the_whole_where_no_token_crosses(name: str, before: str, text: str) -> None:
    encode = partial(encode_with, make_tokenizer(name))
    assert encode(before) + continue_ids(encode, before, text) == encode(before + text)


@pytest.mark.parametrize("name", ["qwen2", "llama3", "gemma"])
def test_no_token_crosses_the_border(name: str) -> None:
    """ ":" and a line end are one token of these; where generation begins after ":" they are two."""
    encode = partial(encode_with, make_tokenizer(name))
    assert len(encode(":\n")) == 1
    assert encode(":") + continue_ids(encode, "shown:", "\ntea") == [*encode(":"), *encode("\ntea")]


def test_far_away_text_changes_nothing() -> None:
    encode = partial(encode_with, make_tokenizer("qwen2"))
    assert continue_ids(encode, 1000 * "far " + "shown:", " tea") == continue_ids(encode, "shown:", " tea")


def test_a_token_over_a_border_belongs_to_the_part_in_which_it_begins() -> None:
    tokens = [Token(1, 0), Token(2, 1), Token(3, 3)]
    assert split_tokens(tokens, [2, 2]) == [2, 3]
    assert split_tokens(tokens, [1, 3]) == [1, 3]
    assert split_tokens(tokens, [0, 4]) == [0, 3]


def test_space_that_offsets_leave_out_belongs_to_the_token_behind_it() -> None:
    assert place_tokens([7, 8], [(0, 1), (2, 5)]) == [Token(7, 0), Token(8, 1)]


def test_bytes_of_one_character_begin_with_it() -> None:
    assert place_tokens([7, 8, 9], [(0, 1), (1, 2), (1, 2)]) == [Token(7, 0), Token(8, 1), Token(9, 1)]
