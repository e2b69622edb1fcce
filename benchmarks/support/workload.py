"""The same questions for every side: real records, put into the prompts that the server would make of them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindprint import datasets
from mindprint.model_files import resolve
from mindprint.types import Engagement

if TYPE_CHECKING:
    from mindprint_server.engine import Engine
    from mindprint_server.prompts.types import Question
    from mindprint_server.settings import Settings
    from mindprint_server.store import Store
    from mindprint_server.verdicts.context import ContextBuilder

PROFILE_NEVER = 1_000_000
"""No profile is written: it would be the server's alone to write, and what is compared is the writing of traces."""


@dataclass(frozen=True)
class Slice:
    """What one round works on. Each round has engagements of its own, so that no cache remembers the round before."""

    users: dict[str, list[Engagement]]

    @property
    def engagements(self) -> int:
        return sum(map(len, self.users.values()))


def slices(folder: Path, *, users: int, each: int, rounds: int, warm_up: int) -> list[Slice]:
    """Return `rounds` slices of `users` users with `each` engagements, and a smaller one of `warm_up` before them.

    Users are named apart, round by round, and bring only that round's part of their history. Raises BadRecords.
    """
    people = datasets.load_users(folder, users=users, engagements=each * rounds + warm_up, held_out=0)
    parts = [slice(0, warm_up)] + [slice(warm_up + r * each, warm_up + (r + 1) * each) for r in range(rounds)]
    return [
        Slice({f"r{number}-{person.user_id}": person.engagements[part] for person in people})
        for number, part in enumerate(parts)
    ]


@dataclass(frozen=True)
class PreparedQuestion:
    """One engagement as it is asked about."""

    user_id: str
    engagement_id: str
    question: Question


class Workbench:
    """The server's own parts, on a store of its own: they make the prompts and the verdicts for the other sides."""

    def __init__(self, settings: Settings, store: Store, engine: Engine) -> None:
        from mindprint_server.context import ServerContext
        from mindprint_server.memory import MemoryService
        from mindprint_server.memory.questions import QuestionBuilder
        from mindprint_server.observability.metrics import Metrics
        from mindprint_server.prompts.builder import PromptBuilder

        self.settings = settings
        self.store = store
        self.engine = engine
        ctx = ServerContext(settings, store, engine, Metrics())
        self.prompts = PromptBuilder(settings, engine.tokenizer, max_model_len=engine.info().max_model_len)
        self.questions = QuestionBuilder(ctx, memory=MemoryService(ctx))

    def contexts(self, engine: Engine) -> ContextBuilder:
        """Return a builder of contexts that are scored by `engine`."""
        from mindprint_server.context import ServerContext
        from mindprint_server.memory.neighbors import NeighborIndex
        from mindprint_server.observability.metrics import Metrics
        from mindprint_server.verdicts.context import ContextBuilder

        ctx = ServerContext(self.settings, self.store, engine, Metrics())
        return ContextBuilder(ctx=ctx, prompts=self.prompts, questions=self.questions, neighbors=NeighborIndex(ctx))

    async def pose(self, part: Slice) -> list[PreparedQuestion]:
        """Store a slice. Return the questions about it in the planner's order, without those that cannot be asked."""
        posed = []
        for user_id, engagements in part.users.items():
            await self.store.engagements.add(user_id, engagements)
        for user_id, engagements in part.users.items():
            for engagement in engagements:
                question = await self.questions.for_engagement(user_id, engagement.id)
                if self.prompts.unfit(question) is None:
                    posed.append(PreparedQuestion(user_id, engagement.id, question))
        return posed


@asynccontextmanager
async def workbench(settings: Settings, engine: Engine) -> AsyncIterator[Workbench]:
    from mindprint_server.store import Store

    folder = Path(tempfile.mkdtemp(prefix="mindprint-benchmark-"))
    store = await Store.open(f"sqlite+aiosqlite:///{folder / 'workbench.db'}")
    try:
        yield Workbench(settings, store, engine)
    finally:
        await store.close()
        shutil.rmtree(folder, ignore_errors=True)


def engine_flags(settings: Settings) -> dict[str, Any]:
    """Return the engine arguments that a Mindprint server uses, for engines that are started without one."""
    import dataclasses

    from vllm.engine.arg_utils import EngineArgs

    from mindprint_server.engine.vllm import VllmEngine

    args = VllmEngine(settings)._engine_args(str(resolve(settings.model)))
    names = {field.name for field in dataclasses.fields(EngineArgs)}
    usual = EngineArgs(model=args.model)
    return {
        name: value
        for name, value in vars(args).items()
        if name in names and (name == "model" or value != getattr(usual, name, None))
    }


def as_options(flags: dict[str, Any]) -> Sequence[str]:
    """Engine arguments as options of vLLM's server."""
    words: list[str] = []
    for name, value in flags.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif isinstance(value, list):
            words += [f"--{option}", *map(str, value)]
        elif value is not None:
            words += [f"--{option}", str(value)]
    return words
