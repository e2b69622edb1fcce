"""How an answer is come by: adapter and memory at once, and what happens when a version's thinking collapses."""

from __future__ import annotations

from pathlib import Path

import pytest

from chat_room import EMPTY, GOOD, LOOP, PREFIX, Room, Written, _direct, examined, lines, thought
from mindprint.types import QueryKind
from mindprint_server.chat.memory_fit import fit_memory
from mindprint_server.exceptions import BackendRefused, ServerError
from mindprint_server.prompts.templates import NOTHING_KNOWN
from mindprint_server.prompts.types import RecalledMemory
from samples import engagement
from uploads import published


async def test_a_version_thinks_and_answers(room: Room) -> None:
    reply = await room.ask()
    assert thought(reply) == PREFIX + GOOD[0]
    made_by = reply["mindprint"]
    assert (made_by["model"], made_by["thinking"], made_by["mode"], made_by["fallback"]) == (
        "user/ann@1",
        "user/ann@1",
        "personal",
        None,
    )
    assert reply["choices"][0]["message"]["content"] == "user/ann@1"
    assert room.outcomes() == {"fine": 1}
    read = room.backend.bodies[0]["messages"]
    assert "walk number 102" in read[0]["content"]
    assert [message["role"] for message in read] == ["system", "user"]
    prompt = room.backend.prompts[0]
    assert prompt is not None
    assert prompt.text.endswith(f"[assistant]\n<think>\n{PREFIX}{GOOD[0]}\n</think>\nThis user's answer:")
    assert room.engine.tokenizer.decode(prompt.ids) == prompt.text


@pytest.mark.parametrize("collapse", [LOOP, EMPTY, (" too short", "stop")])
async def test_thinking_that_collapsed_is_done_again_by_the_base(room: Room, collapse: Written) -> None:
    room.engine.thinks["user/ann@1"] = collapse
    reply = await room.ask()
    made_by = reply["mindprint"]
    assert thought(reply) == f"{PREFIX}{collapse[0]}\n\n{PREFIX}{GOOD[0]}", "what was shown while it was written stays"
    assert (made_by["model"], made_by["thinking"], made_by["mode"], made_by["fallback"]) == (
        "base",
        "base",
        "personal",
        "base",
    )
    assert made_by["adapter_digest"] is None
    assert reply["choices"][0]["message"]["content"] == "base", "no answer is of two models"
    assert room.counted("fallbacks_total", to="base") == 1
    assert room.outcomes() == {"collapsed": 1}


async def test_where_the_base_collapses_too_it_answers_without_thinking(room: Room) -> None:
    room.engine.thinks = {"user/ann@1": EMPTY, "base": LOOP}  # type: ignore[dict-item]
    reply = await room.ask()
    made_by = reply["mindprint"]
    assert thought(reply) == f"{PREFIX}\n\n{PREFIX}{LOOP[0]}"
    assert (made_by["model"], made_by["thinking"], made_by["mode"], made_by["fallback"]) == (
        "base",
        None,
        "direct",
        "direct",
    )
    assert room.counted("fallbacks_total", to="direct") == 1
    messages = room.backend.bodies[0]["messages"]
    assert messages[-1]["role"] == "user"
    assert messages == (await _direct(room))["messages"]


async def test_the_base_alone_falls_back_to_a_direct_answer(room: Room) -> None:
    room.engine.thinks["base"] = LOOP  # type: ignore[assignment]
    for model in ("base", "user/bob"):
        reply = await room.ask(model)
        assert (reply["mindprint"]["model"], reply["mindprint"]["fallback"]) == ("base", "direct")
    assert room.counted("fallbacks_total", to="base") == 0
    assert room.outcomes() == {}


async def test_a_version_that_fails_is_replaced_by_the_base(room: Room) -> None:
    room.engine.thinks["user/ann@1"] = RuntimeError("broken kernel")
    assert (await room.ask())["mindprint"]["fallback"] == "base"
    room.backend.broken["user/ann@1"] = BackendRefused(500, "broken")
    for mode in ("direct", "generic"):
        assert (await room.ask(mode=mode))["mindprint"]["model"] == "base"
    assert room.outcomes() == {"failed": 3}


async def test_where_the_base_fails_too_it_is_not_the_version_s_fault(room: Room) -> None:
    room.backend.broken = {"user/ann@1": RuntimeError("no"), "base": RuntimeError("no")}
    with pytest.raises(RuntimeError):
        await room.ask(mode="direct")
    room.backend.broken = {"user/ann@1": BackendRefused(400, "max_tokens")}
    with pytest.raises(ServerError, match="max_tokens"):
        await room.ask(mode="direct")
    assert room.outcomes() == {}
    assert room.counted("resident_adapters") == 1


async def test_a_version_that_keeps_collapsing_is_withdrawn_and_nothing_is_lost(room: Room) -> None:
    room.engine.thinks["user/ann@1"] = LOOP  # type: ignore[assignment]
    replies = [await room.ask() for _ in range(room.services.settings.health_min_answers + 3)]
    fallbacks = [reply["mindprint"]["fallback"] for reply in replies]
    assert fallbacks == ["base"] * room.services.settings.health_min_answers + [None] * 3
    assert (await room.services.store.versions.get("user/ann", 1)).state == "refused"
    assert room.counted("versions_withdrawn_total", check="service_collapsed") == 1
    assert room.services.adapters.residency.loaded() == []


# --- mode auto ---


@pytest.mark.parametrize(
    ("gains", "kind", "mode", "reason"),
    [
        ([0.5, 0.6] * 8, "open", "personal", "pays"),
        ([-0.5, 0.5] * 8, "open", "direct", "not_shown"),
        ([0.5, 0.6] * 8, "closed", "direct", "too_few"),
    ],
)
async def test_auto_thinks_where_the_gate_found_that_it_pays(
    room: Room, tmp_path: Path, gains: list[float], kind: QueryKind, mode: str, reason: str
) -> None:
    examined(room, gains, kind)
    await published(room.services, tmp_path)
    reply = await room.ask(mode="auto")
    made_by = reply["mindprint"]
    assert (made_by["model"], made_by["mode"]) == ("user/ann@2", mode)
    assert ("thinking pays" in made_by["mode_reason"]) == (mode == "personal")
    assert thought(reply) == (PREFIX + GOOD[0] if mode == "personal" else None)
    assert room.counted("auto_decisions_total", mode=mode, reason=reason) == 1


@pytest.mark.parametrize(("model", "reason"), [("base", "no_user"), ("user/bob", "too_few")])
async def test_auto_answers_at_once_where_nothing_is_known(room: Room, model: str, reason: str) -> None:
    reply = await room.ask(model, "auto")
    assert (reply["mindprint"]["mode"], thought(reply)) == ("direct", None)
    assert room.counted("auto_decisions_total", mode="direct", reason=reason) == 1
    auto, direct = room.backend.bodies[-1], await room.ask(model, "direct")
    assert {**auto, "request_id": ""} == {**room.backend.bodies[-1], "request_id": ""}, "it is the same answer"
    assert direct["mindprint"]["mode_reason"] is None


async def test_auto_by_a_cohorts_version_answers_at_once(room: Room, tmp_path: Path) -> None:
    examined(room, [0.5, 0.6] * 8)
    await published(room.services, tmp_path, "cohort/everyone", user="ann")
    for model in ("user/bob", "cohort/everyone"):
        assert (await room.ask(model, "auto"))["mindprint"]["mode"] == "direct"
    assert room.counted("auto_decisions_total", mode="direct", reason="cohort") == 2


async def test_a_stream_says_why_it_thought(room: Room, tmp_path: Path) -> None:
    examined(room, [0.5, 0.6] * 8)
    await published(room.services, tmp_path)
    events = await lines(await room.reply({"model": "user/ann", "mode": "auto", "stream": True}))
    [made_by] = [event["mindprint"] for event in events if "mindprint" in event]
    assert made_by["mode_reason"].startswith("thinking pays")


async def test_auto_knows_a_closed_question_by_its_choices(room: Room, tmp_path: Path) -> None:
    examined(room, [0.5, 0.6] * 8, "closed")
    await published(room.services, tmp_path)
    closed = await room.ask(mode="auto", choices=["yes", "no"])
    assert (closed["mindprint"]["mode"], room.backend.bodies[-1].get("choices")) == ("personal", None)
    assert "Choices: yes / no\n" in room.backend.bodies[-1]["messages"][-1]["content"], "as the version has learned it"
    assert (await room.ask(mode="auto"))["mindprint"]["mode"] == "direct"


async def test_a_mode_that_does_not_exist(room: Room) -> None:
    with pytest.raises(ServerError, match="direct, generic, personal or auto"):
        await room.ask(mode="both")


# --- memory beside a long chat ---


@pytest.mark.parametrize("mode", ["direct", "personal"])
@pytest.mark.parametrize("stream", [False, True])
async def test_memory_is_shortened_where_it_does_not_fit(room: Room, mode: str, stream: bool) -> None:
    """Long engagements refused every chat with their user."""
    questions = [f"Long question {n}? {'word ' * 900}" for n in range(4)]
    long = [engagement(n).model_copy(update={"prompt": question}) for n, question in enumerate(questions)]
    await room.services.store.engagements.add("carl", long)
    tokens = 700
    reply = await room.reply({"model": "user/carl", "mode": mode, "stream": stream, "max_tokens": tokens})
    if isinstance(reply.content, dict):
        made_by = reply.content["mindprint"]
    else:
        [made_by] = [event["mindprint"] for event in await lines(reply) if "mindprint" in event]
    assert made_by["fallback"] is None
    body = room.backend.bodies[-1]
    shown = body["messages"][0]["content"]
    kept = [n for n in range(4) if f"Long question {n}?" in shown]
    assert 0 < len(kept) < 4
    assert made_by["memory_dropped"] == 4 - len(kept)
    read = room.engine.tokenizer.encode(room.engine.tokenizer.render(body["messages"]))
    assert len(read) + tokens <= room.engine.info().max_model_len
    assert len(read) + 900 + tokens > room.engine.info().max_model_len, "one more would not fit"


async def test_memory_that_fits_stays_whole_and_a_long_question_gets_none(room: Room) -> None:
    assert (await room.ask(mode="direct"))["mindprint"]["memory_dropped"] == 0
    messages = [{"role": "user", "content": "A walk? " + "word " * 4000}]
    reply = await room.reply({"model": "user/ann", "messages": messages})
    assert isinstance(reply.content, dict)
    assert reply.content["mindprint"]["memory_dropped"] == 4
    assert room.backend.bodies[-1]["messages"][0]["content"] == NOTHING_KNOWN


@pytest.mark.parametrize(
    ("left", "kept", "dropped"), [(9, 3, 0), (3, 3, 0), (2, 2, 1), (0, 0, 3), (-1, 0, 4), (-2, 0, 4)]
)
def test_the_oldest_goes_first_and_the_profile_last(left: int, kept: int, dropped: int) -> None:
    episodes = tuple(engagement(n) for n in range(3))

    looks: list[RecalledMemory] = []

    def fits(memory: RecalledMemory) -> bool:
        looks.append(memory)
        return len(memory.episodes) - (memory.profile is None) <= left

    memory, count = fit_memory(RecalledMemory("likes tea", episodes), fits)
    assert (memory.episodes, count) == (episodes[3 - kept :], dropped)
    assert (memory.profile is None) == (dropped == 4)
    assert len(looks) <= 2 + dropped
    assert left > -2 or len(looks) == 2, "nothing fits, which two looks tell"


async def test_a_question_that_is_far_too_long_is_not_tokenized_for_the_memory(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = 0
    encode = room.engine.tokenizer.encode

    def noted(text: str) -> list[int]:
        nonlocal longest
        longest = max(longest, len(text))
        return encode(text)

    monkeypatch.setattr(room.engine.tokenizer, "encode", noted)
    messages = [{"role": "user", "content": "word " * 150_000}]
    reply = await room.reply({"model": "user/ann", "messages": messages})
    assert isinstance(reply.content, dict)
    assert reply.content["mindprint"]["memory_dropped"] == 4
    assert longest < 10_000
