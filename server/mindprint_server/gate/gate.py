"""The gate: evaluates a new version on the serving engine before it may answer requests.

It measures the answers to held-out engagements, the thinking, and the answers to general questions, each beside the
base model. `gate.measurements` measures, `gate.checks` decides.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from statistics import fmean

import structlog

from mindprint.types import Check, Mode, QueryKind
from mindprint.types.keys import AdapterKey
from mindprint_server.context import ServerContext
from mindprint_server.engine import AdapterRef
from mindprint_server.gate import checks
from mindprint_server.gate.measurements import GENERAL_QUESTIONS, ModelMeasurements
from mindprint_server.memory import MemoryService, UserHistory
from mindprint_server.memory.questions import QuestionBuilder
from mindprint_server.prompts.types import Question
from mindprint_server.settings import GateSettings
from mindprint_server.store import RecordNotFound

log = structlog.get_logger(__name__)


class Gate:
    """Evaluates versions that are loaded in the engine. It keeps no transaction open while it measures.

    Args:
        ctx: Settings and store of the server.
        questions: Builds the questions about held-out engagements.
        memory: Reads the histories of users.
        measurements: Measures a model on the engine.
    """

    def __init__(
        self,
        ctx: ServerContext,
        *,
        questions: QuestionBuilder,
        memory: MemoryService,
        measurements: ModelMeasurements,
    ) -> None:
        self._settings: GateSettings = ctx.settings
        self._store = ctx.store
        self._questions = questions
        self._memory = memory
        self._measurements = measurements

    async def evaluate(
        self, version: AdapterRef, live: AdapterRef | None, held_out: Mapping[str, Sequence[str]]
    ) -> list[Check]:
        """Run all checks on a version.

        Args:
            version: The version, loaded in the engine.
            live: The version that it would replace, loaded too; None if there is none.
            held_out: Engagement ids by user, oldest first, that the version was not trained on. Engagements that
                were erased, or that cannot be asked, are left out.

        Returns:
            The checks in a fixed order. The version is refused if the `passed` of one is False. The list is empty if
            the setting `gate` is off.

        Raises:
            EngineDied: The engine process is gone.
        """
        if not self._settings.gate:
            return []
        started = time.monotonic()
        questions = await self._select_questions(held_out)
        # In this order, one after the other: later measurements reuse the prompts in the prefix cache.
        direct = await self._measurements.score_direct(questions, version)
        results = await self._check_scores(questions, direct, live)
        results += await self._check_thinking(questions, direct, version)
        results.append(await self._check_general(version))
        log.info(
            "version evaluated",
            adapter=version.name,
            held_out=len(questions),
            failed=[check.name for check in results if check.passed is False],
            seconds=round(time.monotonic() - started, 1),
        )
        return results

    async def _select_questions(self, engagements: Mapping[str, Sequence[str]]) -> list[Question]:
        """Build at most `gate_items` questions, the newest first, from each user in turn.

        Each question has the memory of its own time.
        """
        questions: list[Question] = []
        histories: dict[str, UserHistory] = {}
        for user_id, engagement_id in interleave_newest_first(engagements):
            if len(questions) == self._settings.gate_items:
                break
            if user_id not in histories:
                histories[user_id] = await self._memory.read_history(user_id)
            try:
                question = await self._questions.for_engagement(user_id, engagement_id, histories[user_id])
            except RecordNotFound:
                continue
            if self._measurements.can_measure(question):
                questions.append(question)
        return questions

    async def _select_recent(self, key: str) -> list[Question]:
        """Build questions about the newest engagements of the adapter's users, trained on or not."""
        adapter = AdapterKey(key)
        limit = self._settings.gate_items
        users = (
            [adapter.name]
            if adapter.kind == "user"
            else await self._store.cohorts.list_members(adapter.name, limit=limit)
        )
        histories = {user: await self._store.engagements.list_history(user, before=None, limit=limit) for user in users}
        return await self._select_questions(
            {user: [engagement.id for engagement in history] for user, history in histories.items()}
        )

    async def _check_scores(
        self, questions: Sequence[Question], direct: Sequence[float], live: AdapterRef | None
    ) -> list[Check]:
        base = await self._measurements.score_direct(questions, None)
        vs_base = self._check_score("score_vs_base", direct, base)
        if live is None:
            return [vs_base, Check(name="score_vs_live", detail="no version is live")]
        live_scores = await self._measurements.score_direct(questions, live)
        return [vs_base, self._check_score("score_vs_live", direct, live_scores)]

    async def _check_thinking(
        self, questions: Sequence[Question], direct: Sequence[float], version: AdapterRef
    ) -> list[Check]:
        """Check how the version thinks from the bare `<think>` tag, and how it answers after that.

        By default the answers after thinking are only reported. A model of the default size answers better without
        thinking, trained or not, so the check would refuse every version.

        Where nothing is held out, the version thinks about engagements that it may have learned from. These show a
        loss of thinking better than general questions do: training on a user's answers affects general ones less.
        """
        settings = self._settings
        asked: Sequence[Question] = questions or await self._select_recent(version.key)
        mode: Mode = "personal" if asked else "generic"
        asked = asked or GENERAL_QUESTIONS[: settings.gate_thoughts]
        count = max(len(asked), settings.gate_thoughts)
        ours, theirs = [
            await self._measurements.generate_thinking(asked, mode, adapter, count=count) for adapter in (version, None)
        ]
        after, base_after = [
            await self._measurements.score_after_thinking(questions, samples, adapter)
            for samples, adapter in ((ours, version), (theirs, None))
        ]
        confidence = settings.gate_confidence
        return [
            self._check_score("score_thinking_vs_base", after, base_after, decides=settings.gate_thinking_decides),
            *self._check_gains(questions, after, direct),
            checks.check_collapse(ours, theirs, max_rise=settings.gate_max_collapse_rise, confidence=confidence),
            checks.check_length_ratio(
                ours,
                theirs,
                min_ratio=settings.gate_min_length_ratio,
                max_ratio=settings.gate_max_length_ratio,
                confidence=confidence,
            ),
        ]

    def _check_gains(
        self, questions: Sequence[Question], after: Sequence[float], direct: Sequence[float]
    ) -> list[Check]:
        """Report the thinking gain of each kind of questions that was asked."""
        gains: dict[QueryKind, list[float]] = {"closed": [], "open": []}
        for question, with_thinking, without in zip(questions, after, direct, strict=True):
            gains[question.kind].append(with_thinking - without)
        confidence = self._settings.gate_confidence
        return [
            checks.check_thinking_gain(kind, measured, confidence=confidence)
            for kind, measured in gains.items()
            if measured
        ]

    async def _check_general(self, version: AdapterRef) -> Check:
        ours, theirs = [100 * fmean(await self._measurements.score_general(adapter)) for adapter in (version, None)]
        return checks.check_general(ours, theirs, max_drop=self._settings.gate_max_general_drop)

    def _check_score(
        self, name: str, scores: Sequence[float], reference: Sequence[float], *, decides: bool = True
    ) -> Check:
        settings = self._settings
        return checks.check_score(
            name,
            scores,
            reference,
            min_items=settings.gate_min_items,
            slack=settings.gate_score_slack,
            confidence=settings.gate_confidence,
            decides=decides,
        )


def interleave_newest_first(engagements: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """Order engagements: the newest of each user, then the next newest of each, and so on.

    Args:
        engagements: Engagement ids by user, oldest first.

    Returns:
        Pairs of user and engagement id.
    """
    newest_first = ([(user, id) for id in reversed(ids)] for user, ids in sorted(engagements.items()))
    return [pair for row in zip_longest(*newest_first) for pair in row if pair is not None]
