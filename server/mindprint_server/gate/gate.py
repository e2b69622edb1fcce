"""Examines a version on the engine: what it says of held-out engagements, how it thinks, what it still knows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from statistics import fmean

import structlog

from mindprint.types import Check, Mode, QueryKind
from mindprint_server.context import ServerContext
from mindprint_server.engine import AdapterRef
from mindprint_server.gate import checks
from mindprint_server.gate.measurements import GENERAL, ModelMeasurements
from mindprint_server.memory import MemoryService, UserHistory
from mindprint_server.memory.questions import QuestionBuilder
from mindprint_server.prompts.builder import PromptBuilder
from mindprint_server.prompts.types import Question
from mindprint_server.store import NotFound
from mindprint_server.verdicts.verifier import CandidateVerifier

log = structlog.get_logger(__name__)


class Gate:
    """Measures on the engine, which must have the versions that it is given; no transaction is open meanwhile."""

    def __init__(
        self,
        ctx: ServerContext,
        *,
        prompts: PromptBuilder,
        questions: QuestionBuilder,
        memory: MemoryService,
        judge: CandidateVerifier,
    ) -> None:
        self._settings = ctx.settings
        self._store = ctx.store
        self._question_builder = questions
        self._memory = memory
        self._probe = ModelMeasurements(ctx, prompts=prompts, judge=judge)

    async def examine(
        self, candidate: AdapterRef, live: AdapterRef | None, held_out: Mapping[str, Sequence[str]]
    ) -> list[Check]:
        """Every check, in a fixed order; one whose `passed` is False refuses the version. None where the gate is off.

        `held_out`: engagements by user, oldest first, that the candidate did not learn from; those that are gone or
        cannot be asked are left out. Raises EngineDied.
        """
        if not self._settings.gate:
            return []
        started = time.monotonic()
        questions = await self._questions(held_out)
        # One after the other: what comes later reads the prompts that the scores left in the prefix cache.
        at_once = await self._probe.scores(questions, candidate)
        found = await self._scores(questions, at_once, live)
        found += await self._thinking(questions, at_once, candidate)
        found.append(await self._general(candidate))
        log.info(
            "examined",
            adapter=candidate.name,
            held_out=len(questions),
            failed=[check.name for check in found if check.passed is False],
            seconds=round(time.monotonic() - started, 1),
        )
        return found

    async def _questions(self, held_out: Mapping[str, Sequence[str]]) -> list[Question]:
        """At most `gate_items`, the newest, taken from each user in turn; each with the memory of its time."""
        questions: list[Question] = []
        timelines: dict[str, UserHistory] = {}
        for user_id, engagement_id in in_turn(held_out):
            if len(questions) == self._settings.gate_items:
                break
            if user_id not in timelines:
                timelines[user_id] = await self._memory.timeline(user_id)
            try:
                question = await self._question_builder.for_engagement(user_id, engagement_id, timelines[user_id])
            except NotFound:
                continue
            if self._probe.can_ask(question):
                questions.append(question)
        return questions

    async def _learned(self, key: str) -> list[Question]:
        """The newest engagements of the adapter's users, whether it learned from them or not."""
        kind, _, name = key.partition("/")
        most = self._settings.gate_items
        users = [name] if kind == "user" else await self._store.cohorts.list_members(name, limit=most)
        histories = {user: await self._store.engagements.list_history(user, before=None, limit=most) for user in users}
        return await self._questions({user: [e.id for e in history] for user, history in histories.items()})

    async def _scores(
        self, questions: Sequence[Question], ours: Sequence[float], live: AdapterRef | None
    ) -> list[Check]:
        found = [self._score("score_vs_base", ours, await self._probe.scores(questions, None))]
        if live is None:
            return [*found, Check(name="score_vs_live", detail="no version is live")]
        return [*found, self._score("score_vs_live", ours, await self._probe.scores(questions, live))]

    async def _thinking(
        self, questions: Sequence[Question], at_once: Sequence[float], candidate: AdapterRef
    ) -> list[Check]:
        """How the candidate thinks from the bare `<think>`, and what it answers after that.

        The answers are reported and decide nothing by default: a model of the default's size answers better at once
        than after thinking, trained or not (`method.md`); versions would be refused for what no version can do yet.

        Where nothing is held out it thinks about what it may have learned from: whether it still can shows there too,
        and far better than on general questions, which training on a user's answers touches less.
        """
        s = self._settings
        asked: Sequence[Question] = questions or await self._learned(candidate.key)
        mode: Mode = "personal" if asked else "generic"
        asked = asked or GENERAL[: s.gate_thoughts]
        count = max(len(asked), s.gate_thoughts)
        ours, theirs = [await self._probe.thoughts(asked, mode, adapter, count=count) for adapter in (candidate, None)]
        after, before = [
            await self._probe.scores_after(questions, thoughts, adapter)
            for thoughts, adapter in ((ours, candidate), (theirs, None))
        ]
        return [
            self._score("score_thinking_vs_base", after, before, decides=s.gate_thinking_decides),
            *self._gains(questions, after, at_once),
            checks.collapse(ours, theirs, rise=s.gate_max_collapse_rise, confidence=s.gate_confidence),
            checks.length_ratio(
                ours,
                theirs,
                least=s.gate_min_length_ratio,
                most=s.gate_max_length_ratio,
                confidence=s.gate_confidence,
            ),
        ]

    def _gains(self, questions: Sequence[Question], after: Sequence[float], at_once: Sequence[float]) -> list[Check]:
        """What the candidate's thinking does for its own answers, for each kind of question that was asked."""
        gains: dict[QueryKind, list[float]] = {"closed": [], "open": []}
        for question, then, now in zip(questions, after, at_once, strict=True):
            gains[question.kind].append(then - now)
        confidence = self._settings.gate_confidence
        return [checks.thinking_gain(kind, found, confidence=confidence) for kind, found in gains.items() if found]

    async def _general(self, candidate: AdapterRef) -> Check:
        ours, theirs = [100 * fmean(await self._probe.general(adapter)) for adapter in (candidate, None)]
        return checks.general(ours, theirs, drop=self._settings.gate_max_general_drop)

    def _score(
        self, name: str, candidate: Sequence[float], reference: Sequence[float], *, decides: bool = True
    ) -> Check:
        s = self._settings
        return checks.score(
            name,
            candidate,
            reference,
            least=s.gate_min_items,
            slack=s.gate_score_slack,
            confidence=s.gate_confidence,
            decides=decides,
        )


def in_turn(held_out: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """(user, engagement), the newest of each user first, then the next newest of each, and so on."""
    newest = ([(user, id) for id in reversed(ids)] for user, ids in sorted(held_out.items()))
    return [pair for row in zip_longest(*newest) for pair in row if pair is not None]
