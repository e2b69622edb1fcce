"""The chat format of a model: how its template wants messages, thinking and the end of a turn.

`mindprint.chat_template_trial` decides it once, from trial conversations. Prompts, label scores, chat and, through the
lease, the trainer use the same object.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

THINK_OPEN = "<think>\n"
THINK_CLOSE = "\n</think>\n"
"""Text around a thinking, for models whose template says nothing of one."""
OTHER_TAGS = {
    "[THINK]": "[/THINK]",
    "<|channel>thought": "<channel|>",
    "<|inner_prefix|>": "<|inner_suffix|>",
    "<|START_THINKING|>": "<|END_THINKING|>",
    "\u25c1think\u25b7": "\u25c1/think\u25b7",
}
"""Tags around a thinking that are no XML, each with the one that closes it: of Mistral, Gemma 4, Apertus, Command A and
Kimi-VL."""
_NAME = r"(?:\w+[:_|])?(?:think|thinking|thought|reason|reasoning)(?::[\w-]+)?"
"""Names of the tags that templates write around a thinking, with or without a namespace."""
OPEN_TAG, CLOSE_TAG = (
    "|".join([f"<{slash}{_NAME}>", *map(re.escape, others)])
    for slash, others in (("", OTHER_TAGS), ("/", OTHER_TAGS.values()))
)
THINK_TAG = re.compile(f"{OPEN_TAG}|{CLOSE_TAG}", re.IGNORECASE)
"""A tag that opens or closes a thinking in some model's template. No text of a user, and no thinking, may hold one."""
JOINT = "\n\n"
"""Stands between texts of system messages that are joined, and before the user's text that they are folded into."""

Bos = Literal["template", "added", "none"]
"""Who writes the token that begins a text."""
SwitchValue = bool | int | str
Switch = Mapping[str, SwitchValue]
"""Arguments of the chat template, such as `enable_thinking`."""
SWITCH_NAMES = ("enable_thinking", "thinking")
"""Names of the arguments by which chat templates are told whether the model thinks. The mode decides them. Others, such
as `thinking_budget`, also say how much it thinks: a caller may set those in a thinking mode."""


class TemplateRefused(ValueError):
    """The chat template refuses a conversation, such as one whose roles do not alternate."""


class ChatTemplate(Protocol):
    """A tokenizer with a chat template, as transformers has it."""

    def apply_chat_template(self, conversation: Any, **arguments: Any) -> Any:
        """Render a conversation."""
        ...


@dataclass(frozen=True)
class ChatFormat:
    """What was decided about a chat template and its tokenizer."""

    end_id: int
    """Token that ends an assistant's turn: it is learned, scored and stopped at."""
    end_text: str = ""
    stop_ids: tuple[int, ...] = ()
    """All tokens that end a generation: `end_id`, and those that tokenizer and generation configuration name."""
    system: Literal["role", "fold"] = "role"
    """`fold`: the template has no system role, so its text goes before the first user's text."""
    joins_systems: bool = False
    """Whether several system messages at the beginning are joined, because the template takes one."""
    joins_late_systems: bool = False
    """Whether system messages after the first user's are joined with the first."""
    think_open: str = THINK_OPEN
    think_close: str = THINK_CLOSE
    prompt_opens: bool = False
    """Whether the rendered prompt of a thinking mode ends with `think_open`."""
    thinking_switch: Switch = field(default_factory=dict)
    """Arguments of the template for the thinking modes."""
    direct_switch: Switch = field(default_factory=dict)
    """Arguments of the template for direct mode."""
    thinking_words: str = ""
    """Soft switch for the thinking modes, such as `/think`: words of a message that the template reads."""
    direct_words: str = ""
    """Soft switch for direct mode, such as `/no_think`; used where the template has no argument for it."""
    words_role: Literal["user", "system"] = "user"
    """Role of the message that gets the soft switch: the last of a user, or the first of the system."""
    soft_switches: tuple[str, ...] = ()
    """Words that switch the model's thinking or its system text. No text of a user may hold one."""
    direct_suffix: str = ""
    """Closes, in direct mode, the thinking that the rendered prompt opens."""
    begins_thinking: bool = False
    """Whether the model begins a thinking by itself, and nothing switches it off. Direct mode writes an empty one."""
    cuts_thinking: bool = False
    """Whether the template leaves earlier thinking out."""
    gap: str = ""
    """White space that the template writes between the generation prompt and an answer. A model writes it itself."""
    bos: Bos = "none"
    """`added`: the tokenizer writes it, so it is put before the rendered text."""
    bos_text: str = ""
    takes_parts: bool = False
    """Whether the template reads contents as lists of parts alone, as some do of models that read images."""
    markers: tuple[str, ...] = ()
    """Texts that the template writes around turns and that no text of a user may hold."""

    @property
    def opening(self) -> str:
        """Text that is written after the rendered prompt of a thinking mode, so that a thinking is open."""
        return "" if self.prompt_opens else self.gap + self.think_open

    @property
    def empty_thinking(self) -> str:
        """Text that is written after the rendered prompt of direct mode, so that the model begins no thinking."""
        return self.opening + self.think_close if self.begins_thinking else ""

    @property
    def close_tag(self) -> str:
        """Tag that ends a thinking; a generation of thinking stops before it."""
        return self.think_close.strip()

    @property
    def tags(self) -> tuple[str, str]:
        """The tags around a thinking."""
        return self.think_open.strip(), self.close_tag

    def switch(self, *, thinking: bool) -> Switch:
        """Return the template's arguments for a thinking mode, or for direct mode."""
        return self.thinking_switch if thinking else self.direct_switch

    def select_arguments(self, given: Mapping[str, Any] | None, *, thinking: bool) -> dict[str, Any]:
        """Return the template's arguments: the caller's, and those of the mode, which decides about the thinking.

        Args:
            given: The caller's arguments.
            thinking: Whether the turn begins with a thinking.
        """
        contradicting = self.switch(thinking=not thinking)
        others = {
            name: value
            for name, value in (given or {}).items()
            if name not in SWITCH_NAMES and not (name in contradicting and value == contradicting[name])
        }
        switch = dict(self.switch(thinking=thinking))
        # What is left of the caller's says how much is thought, and not whether.
        return switch | others if thinking else others | switch

    def arrange(self, messages: Sequence[Mapping[str, Any]], *, thinking: bool | None = None) -> list[dict[str, Any]]:
        """Return messages with the system messages that the template takes. `developer` is a system role.

        Args:
            messages: Messages in OpenAI's form.
            thinking: Whether the turn begins with a thinking; adds the soft switch, if there is one. None adds none.
        """
        words = "" if thinking is None else self.thinking_words if thinking else self.direct_words
        arranged = self._with_systems(messages)
        worded = _add_words(arranged, words, self.words_role) if words else arranged
        return [as_parts(message) for message in worded] if self.takes_parts else worded

    def _with_systems(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        arranged = [dict(message) for message in messages]
        for message in arranged:
            if message.get("role") == "developer":
                message["role"] = "system"
        chosen = self._to_join(arranged)
        if not chosen:
            return arranged
        joined = JOINT.join(_text_of(arranged[index].get("content")) for index in sorted(chosen))
        rest = [message for index, message in enumerate(arranged) if index not in chosen]
        if self.system == "role":
            return [{"role": "system", "content": joined}, *rest]
        return _fold(joined, rest)

    def _to_join(self, messages: Sequence[Mapping[str, Any]]) -> set[int]:
        """Return the indices of the system messages that become one text."""
        systems = [index for index, message in enumerate(messages) if message.get("role") == "system"]
        head = [index for place, index in enumerate(systems) if place == index]
        if self.system == "fold":
            return set(systems)
        if self.joins_late_systems and len(systems) > len(head):
            return set(systems)
        return set(head) if self.joins_systems and len(head) > 1 else set()

    def render(
        self,
        tokenizer: ChatTemplate,
        messages: Sequence[Mapping[str, Any]],
        *,
        thinking: bool,
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """Render a conversation up to where the assistant's turn goes on.

        In direct mode no thinking is open there. In a thinking mode `opening` is still to be written. So it is whatever
        the arguments make of the template.

        Args:
            tokenizer: The model's tokenizer.
            messages: Messages in OpenAI's form.
            thinking: Whether the turn begins with a thinking.
            arguments: Further arguments of the template, such as `tools`; those that switch the thinking are left out.

        Raises:
            TemplateRefused: The template refuses the conversation.
        """
        options = self.select_arguments(arguments, thinking=thinking)
        arranged = self.arrange(messages, thinking=thinking)
        try:
            text = str(tokenizer.apply_chat_template(arranged, tokenize=False, add_generation_prompt=True, **options))
        except Exception as error:  # a template raises what it likes
            raise TemplateRefused(f"the model's chat template refuses the messages: {one_line(error)}") from error
        text = (self.bos_text if self.bos == "added" else "") + text
        return self._with_thinking(text) if thinking else self._without_thinking(text)

    def _without_thinking(self, text: str) -> str:
        """Return a rendered prompt in which no thinking is open, and behind which the model begins none."""
        opens, closes = self.tags
        if text.rstrip().endswith(opens):
            return text + (self.direct_suffix or self.think_close)
        return text if text.rstrip().endswith(closes) else text + self.empty_thinking

    def _with_thinking(self, text: str) -> str:
        """Return a rendered prompt behind which `opening` leaves a thinking open, exactly once."""
        opens, closes = map(re.escape, self.tags)
        text = re.sub(rf"{opens}\s*{closes}\s*\Z", "", text)
        is_open = text.rstrip().endswith(self.tags[0])
        if is_open and not self.prompt_opens:
            return text.rstrip().removesuffix(self.tags[0])
        return text if is_open or not self.prompt_opens else text + self.think_open


def as_parts(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message whose content is a list of parts."""
    content = message.get("content")
    return {**message, "content": [{"type": "text", "text": content}] if isinstance(content, str) else content}


def one_line(error: Exception) -> str:
    """Return an error's message as one short line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _fold(system: str, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    for index, message in enumerate(messages):
        if message.get("role") != "user":
            continue
        content = message.get("content")
        if isinstance(content, list):
            folded: Any = [{"type": "text", "text": system + JOINT}, *content]
        else:
            folded = f"{system}{JOINT}{content or ''}"
        return [*messages[:index], {**message, "content": folded}, *messages[index + 1 :]]
    return [{"role": "user", "content": system}, *messages]


def _add_words(messages: list[dict[str, Any]], words: str, role: str) -> list[dict[str, Any]]:
    """Return messages with a soft switch in the last one of a user, or in the first one of the system."""
    places = [index for index, message in enumerate(messages) if message.get("role") == role]
    if not places:
        return [{"role": role, "content": words}, *messages]
    index = places[-1] if role == "user" else places[0]
    content = messages[index].get("content")
    added = [*content, {"type": "text", "text": words}] if isinstance(content, list) else f"{content or ''} {words}"
    return [*messages[:index], {**messages[index], "content": added}, *messages[index + 1 :]]


def _text_of(content: Any) -> str:
    """Return the text of a message's content, which may be a list of parts."""
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return "" if content is None else str(content)
