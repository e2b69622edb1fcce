"""How much of the prompts comes out of the prefix cache, by the order in which they are asked?

Real records are turned into the prompts of a batch: for each engagement the profile and the answers before it, then the
question; asked once to think, and once more with the thinking after it, to answer. The planner's order (user by user,
in time) and a random order of the engagements take turns, each on an empty cache, too small for all of the larger sets.
The best possible share is computed from the tokens: a cache without bounds computes each block once. One token is
written for each prompt, so the seconds are those of reading.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mindprint import datasets
from mindprint.local.console import Output
from mindprint.types import Engagement
from support.engine import run_engine
from support.harness import CannotMeasure, JsonFile, Quick, Report, alternate, measure, spread

if TYPE_CHECKING:
    from mindprint_server.engine.vllm import VllmEngine

PROFILE_EVERY = 10
"""Engagements after which a user gets a new profile, as by default."""
Asks = list[list[int]]
"""The prompts of one engagement, each asked after the one before it."""


@dataclass(frozen=True)
class CacheRead:
    seconds: float
    prompt_tokens: int
    cached_tokens: int

    @property
    def share(self) -> float:
        return self.cached_tokens / self.prompt_tokens


def main(
    json_file: JsonFile = None,
    quick: Quick = False,
    data: Annotated[Path, typer.Option(envvar="MINDPRINT_DATA", help="The folder that has `unvotes` in it.")] = Path(
        "../shared/data"
    ),
    users: Annotated[str, typer.Option(help="Numbers of users.")] = "",
    episodes: Annotated[str, typer.Option(help="Numbers of past answers in a prompt.")] = "",
    step: Annotated[int, typer.Option(min=1, help="Questions until the window of past answers jumps.")] = 5,
    each: Annotated[int, typer.Option(help="Questions of each user; 0 for the default.")] = 0,
    kv_cache_gib: Annotated[float, typer.Option(help="On CPU; holds one prompt of the longest at least.")] = 0.125,
    gpu_memory_utilization: Annotated[float, typer.Option(help="On a GPU: decides how large the cache is.")] = 0.85,
    at_once: Annotated[int, typer.Option(min=1, help="Engagements under way at once.")] = 4,
) -> None:
    from mindprint_server.settings import Settings

    people = [int(n) for n in (users or ("2,20" if quick else "2,8,28")).split(",")]
    recalled = [int(n) for n in (episodes or ("8" if quick else "3,12")).split(",")]
    each = each or (5 if quick else 10)
    settings = Settings(kv_cache_gib=kv_cache_gib, gpu_memory_utilization=gpu_memory_utilization)

    async def work(out: Output, report: Report) -> None:
        folder = data / "unvotes"
        histories = {
            k: datasets.load_users(folder, users=max(people), engagements=k + step - 1 + each, held_out=0)
            for k in recalled
        }
        async with run_engine(settings, out, report) as engine:
            found: list[CacheComparison] = []
            for k, n in itertools.product(recalled, people):
                plan = [asks for user in histories[k][:n] for asks in batch_of(user.engagements, k, step, each, engine)]
                reader = CacheReader(out, report, engine, at_once)
                found.append(await reader.compare(plan, users=n, past_answers=k, warm_up=not found))
        report.bar("planned share over the best possible, worst row", min(c.of_best for c in found), at_least=0.9)
        if larger := [c.of_random for c in found if c.outgrows]:
            report.bar("planned share over random, worst row that outgrows the cache", min(larger), at_least=1.0)

    measure(__doc__, "two to three minutes" if quick else "about a quarter of an hour on two cores", json_file, work)


# --- what is asked ---


def batch_of(history: Sequence[Engagement], recalled: int, step: int, each: int, engine: VllmEngine) -> Iterator[Asks]:
    """Yield what a batch asks about one user's last `each` engagements, in time order.

    As in the server, `recalled` answers before the question or up to `step` - 1 more: the window grows, then jumps.
    """
    from mindprint_server.prompts.templates import build
    from mindprint_server.prompts.types import RecalledMemory

    tokenizer = engine.tokenizer
    for place in range(len(history) - each, len(history)):
        asked = history[place]
        window = history[place - recalled - place % step : place]
        memory = RecalledMemory(profile_at(history, place), tuple(window))
        prompt = tokenizer.render(build(memory, asked.prompt, asked.choices, "personal", tokenizer.special))
        lead = tokenizer.encode(prompt) + tokenizer.encode("<think>\nWhat this user has shown:")
        last = history[place - 1]
        thinking = (
            f" Asked about {last.prompt}, this user said {last.response}. This question is much like it.\n</think>\n"
        )
        yield [lead, lead + tokenizer.encode(thinking)]


def profile_at(history: Sequence[Engagement], place: int) -> str:
    """Stands in for the profile that was written last before `place`: as long as one, and another for every ten."""
    covered = history[: place // PROFILE_EVERY * PROFILE_EVERY] or history[:1]
    shown = "; ".join(f"{e.response} to {e.prompt}" for e in covered[-3:])
    return f"This user weighs each question by itself. This user said {shown}."[:500]


def best_share(prompts: Sequence[Sequence[int]], block: int) -> float:
    """Return the largest share of prompt tokens that any order can serve from a cache: full blocks seen before."""
    blocks = [tuple(ids[: end + block]) for ids in prompts for end in range(0, len(ids) - block + 1, block)]
    return block * (len(blocks) - len(set(blocks))) / sum(map(len, prompts))


# --- asking ---


@dataclass(frozen=True)
class CacheComparison:
    of_best: float
    of_random: float
    outgrows: bool
    """Whether the distinct blocks of all prompts are more than the cache holds."""


@dataclass(frozen=True)
class CacheReader:
    out: Output
    report: Report
    engine: VllmEngine
    at_once: int

    async def compare(self, plan: list[Asks], *, users: int, past_answers: int, warm_up: bool) -> CacheComparison:
        """Both orders in turn; a row for them."""
        cache = self.engine.llm.vllm_config.cache_config
        best = best_share([prompt for asks in plan for prompt in asks], cache.block_size)
        seeds = itertools.count()
        with self.out.bar(f"{users} users, {past_answers} past answers") as bar:
            sides = {
                "planned": lambda: self.read(plan),
                "random": lambda: self.read(random.Random(next(seeds)).sample(plan, len(plan))),
            }
            runs = await alternate(sides, warm_up=warm_up, tell=lambda note: bar.update(bar.done + 1, note))
            bar.finish("measured")
        shares = {name: spread(run.share for run in side) for name, side in runs.items()}
        seconds = {name: spread(run.seconds for run in side) for name, side in runs.items()}
        tokens, room = runs["planned"][0].prompt_tokens, cache.block_size * (cache.num_gpu_blocks or 0)
        distinct = round(tokens * (1 - best))
        self.report.row(
            users=users,
            past_answers=past_answers,
            prompt_tokens=tokens,
            unique_tokens=distinct,
            cache_tokens=room,
            best_share=best,
            planned_share=shares["planned"],
            random_share=shares["random"],
            planned_s=seconds["planned"],
            random_s=seconds["random"],
        )
        planned = shares["planned"].median
        return CacheComparison(planned / best, planned / shares["random"].median, distinct > room)

    async def forget(self) -> None:
        for _ in range(100):
            if await self.engine.llm.reset_prefix_cache():
                return
            await asyncio.sleep(0.05)  # a request that has just ended may still hold its blocks
        raise CannotMeasure("the prefix cache cannot be emptied")

    async def read(self, plan: Sequence[Asks]) -> CacheRead:
        """Asks all of the plan, `at_once` engagements at a time, beginning with an empty cache."""
        from mindprint_server.engine import GenerationOutput, Priority, Sampling

        await self.forget()
        todo, written = iter(plan), list[GenerationOutput]()

        async def ask() -> None:
            for asks in todo:
                for prompt in asks:
                    one = Sampling(max_tokens=1)
                    written.append(await self.engine.generate(prompt, one, adapter=None, priority=Priority.BATCH))

        began = time.perf_counter()
        await asyncio.gather(*(ask() for _ in range(self.at_once)))
        seconds = time.perf_counter() - began
        return CacheRead(seconds, sum(g.prompt_tokens for g in written), sum(g.cached_tokens for g in written))


if __name__ == "__main__":
    typer.run(main)
