"""Texts that are tokenized in parts get the tokens that they get as a whole."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mindprint.chat_format import ChatFormat
from mindprint.model_files import resolve
from mindprint_server.engine.tokenizer import HFTokenizer, special_texts
from mindprint_server.tenancy import in_tenant

FORMAT = ChatFormat(end_id=0)
BEGIN, END = "<|im_start|>", "<|im_end|>"
PIECES = st.sampled_from([BEGIN, END, " ", "\n", "user", "a lake", "é東", "<|im", "_start|>", "</think>", "."])
TEXTS = st.lists(PIECES, max_size=20).map("".join)


class Counted:
    """A tokenizer that tells what it was asked for."""

    def __init__(self, tokenizer: Any) -> None:
        self.of = tokenizer
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.of, name)

    def encode(self, text: str, *, add_special_tokens: bool) -> Any:
        self.asked.append(text)
        return self.of.encode(text, add_special_tokens=add_special_tokens)


@pytest.fixture(scope="module")
def smollm() -> Any:
    """The default model's."""
    return AutoTokenizer.from_pretrained(resolve("default"))


def special(text: str, **stripping: bool) -> AddedToken:
    return AddedToken(text, special=True, **stripping)


def bytes_alone(*added: AddedToken) -> Any:
    """A token for each byte, and the special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({sign: at for at, sign in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(added))
    texts = [str(token) for token in added]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, additional_special_tokens=texts, eos_token=texts[-1])


def with_a_space_before_each_text() -> Any:
    """As some sentencepiece models do it: before what follows a special token too, so that the parts stay the same."""
    tokenizer = bytes_alone(special(BEGIN), special(END)).backend_tokenizer
    tokenizer.normalizer = normalizers.Prepend("_")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, additional_special_tokens=[BEGIN, END], eos_token=END)


def whole(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


@given(text=TEXTS)
def test_the_default_model_s_parts_are_its_whole(smollm: Any, text: str) -> None:
    tokenizer = HFTokenizer(smollm, FORMAT)
    assert tokenizer.encode(text) == whole(smollm, text) == tokenizer.encode(text)


def test_special_texts_are_all_added_tokens_that_users_could_write(smollm: Any) -> None:
    special_of_default = HFTokenizer(smollm, FORMAT).special
    assert {"<|im_start|>", "<|im_end|>", "<repo_name>", "<filename>", "<jupyter_code>"} <= set(special_of_default)
    for text in special_of_default:
        [token] = whole(smollm, text)
        assert smollm.convert_ids_to_tokens(token) == text

    added = [special("<a>"), AddedToken("  ", special=False), AddedToken("<|tool|>", special=False), special("<b>")]
    assert special_texts(["<b>", "<c>"], added) == ("<b>", "<c>", "<a>", "<|tool|>")


def test_markers_of_the_template_are_special(smollm: Any) -> None:
    """Mistral's first template marks turns with plain text, which no tokenizer knows."""
    tokenizer = HFTokenizer(smollm, ChatFormat(end_id=0, markers=("[INST]", "<|im_end|>")))
    assert tokenizer.special.count("<|im_end|>") == 1
    assert tokenizer.special[-1] == "[INST]"


def test_what_comes_again_is_tokenized_once(smollm: Any) -> None:
    counted = Counted(smollm)
    tokenizer = HFTokenizer(counted, FORMAT)
    memory = f"{BEGIN}system\nlikes lakes{END}\n{BEGIN}user\n"
    tokenizer.encode(memory + "one?")
    counted.asked.clear()
    ids = tokenizer.encode(memory + "two?")
    assert counted.asked == [f"{BEGIN}user\ntwo?"]
    assert ids == whole(smollm, memory + "two?")


def test_cached_texts_belong_to_a_tenant_and_can_be_forgotten(smollm: Any) -> None:
    counted = Counted(smollm)
    tokenizer = HFTokenizer(counted, FORMAT)
    counted.asked.clear()
    with in_tenant("one"):
        tokenizer.encode("a secret of one")
    with in_tenant("two"):
        tokenizer.encode("a secret of one")
        tokenizer.encode("a secret of two")
    assert len(counted.asked) == 3, "what another tenant sent takes as long as what nobody sent"
    with in_tenant("one"):
        tokenizer.forget()
    assert [text for _, text in tokenizer._cache] == ["a secret of one", "a secret of two"]
    assert {tenant for tenant, _ in tokenizer._cache} == {"two"}


def test_a_caller_s_list_is_its_own(smollm: Any) -> None:
    tokenizer = HFTokenizer(smollm, FORMAT)
    ids = tokenizer.encode("a lake")
    ids.append(0)
    assert tokenizer.encode("a lake") == ids[:-1]


@pytest.mark.parametrize(
    ("tokenizer", "falls_apart"),
    [
        (bytes_alone(special(BEGIN), special(END)), True),
        (bytes_alone(special(BEGIN, rstrip=True), special(END)), True),
        (with_a_space_before_each_text(), True),
        (bytes_alone(special(BEGIN, lstrip=True), special(END)), False),
        (bytes_alone(special(BEGIN), special(END, lstrip=True)), False),
    ],
    ids=["plain", "takes what follows", "marks beginnings", "takes what is before", "the other one does"],
)
@given(text=TEXTS)
def test_only_texts_that_fall_apart_are_cut(tokenizer: Any, falls_apart: bool, text: str) -> None:
    cut = HFTokenizer(tokenizer, FORMAT)
    assert cut._is_splittable == falls_apart
    assert cut.encode(text) == whole(tokenizer, text)


def test_what_is_kept_is_bounded_in_tokens() -> None:
    counted = Counted(bytes_alone(special(END)))
    tokenizer = HFTokenizer(counted, FORMAT, max_cached_tokens=20)
    counted.asked.clear()
    for text in ("aaaaaaaa", "bbbbbbbb", "aaaaaaaa", "bbbbbbbb"):
        tokenizer.encode(text)
    assert counted.asked == ["aaaaaaaa", "bbbbbbbb"]
    tokenizer.encode("cccccccc")  # there is no room for three
    tokenizer.encode("bbbbbbbb")
    tokenizer.encode("aaaaaaaa")
    assert counted.asked == ["aaaaaaaa", "bbbbbbbb", "cccccccc", "aaaaaaaa"]
    assert tokenizer.encode(30 * "d") == whole(counted.of, 30 * "d")  # too long to be kept at all
