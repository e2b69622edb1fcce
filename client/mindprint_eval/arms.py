"""Arms (`method.md`) and adapter recipes as tables: mode, adapter and memory of each way to answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mindprint.types import Mode

MemoryOwner = Literal["own", "nearest", "random", "none"]
"""Whose memory or adapter is used. `nearest`, `random`: another user of the same shard."""
TrainingSet = Literal["selected", "hinted", "shuffled", "none"]
"""Which traces an adapter learns from. `selected`: accepted by the service, unhinted first. `hinted`: the five steps of
PRIME. `shuffled`: selected thinking, each moved to another engagement of the same user. `none`: answers alone."""

FAST_OBJECTIVE = {"SLOW_WEIGHT": "0", "REPLAY_WEIGHT": "0"}
"""Trainer settings that learn from answers alone."""


@dataclass(frozen=True)
class Recipe:
    """How an adapter is trained."""

    name: str
    what: str
    training_set: TrainingSet
    objective: Mapping[str, str] = field(default_factory=dict)
    """Trainer settings that differ from the defaults."""
    pooled: bool = False
    """Train one adapter on users who are not evaluated, and use it for all."""
    start_from: str | None = None
    """The pooled recipe whose adapter training starts from; None starts from the base model."""


@dataclass(frozen=True)
class Arm:
    """One way to answer."""

    name: str
    what: str
    answers: str
    """What the arm is for."""
    mode: Mode
    recipe: str | None = None
    """Recipe of the adapter that answers; None is the base model."""
    memory: MemoryOwner = "own"
    adapter_of: MemoryOwner = "own"


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("fast", "answers without thinking", "none", FAST_OBJECTIVE),
        Recipe(
            "distilled",
            "hinted traces and answers, no selection beyond right answers",
            "hinted",
            {"REPLAY_WEIGHT": "0"},
        ),
        Recipe("selected", "selected traces, answers, and generic traces as replay", "selected"),
        Recipe("shuffled", "as selected, with the thinking shuffled", "shuffled"),
        Recipe("pooled", "answers of other users, without thinking", "none", FAST_OBJECTIVE, pooled=True),
        Recipe("cohort", "selected traces, answers and replay of other users", "selected", pooled=True),
        Recipe("cohort-first", "as selected, from the cohort's adapter", "selected", start_from="cohort"),
    )
}

ARMS = {
    arm.name: arm
    for arm in (
        Arm("A0", "no thinking, no memory", "floor", "direct", memory="none"),
        Arm("A1", "no thinking, memory in the prompt", "context alone", "direct"),
        Arm("A2", "generic thinking, memory in the prompt", "failure 1", "generic"),
        Arm("A3", "personalized thinking, not trained", "prompting alone", "personal"),
        Arm("A4", "pooled task adapter of other users", "task learning against personalization", "direct", "pooled"),
        Arm("A5", "fast fine-tuning, answers directly", "parametric memory", "direct", "fast"),
        Arm("A6", "A5's adapter, asked to think", "failure 2: collapse", "personal", "fast"),
        Arm("A7", "self-distilled by the five steps, thinks", "the paper's method", "personal", "distilled"),
        Arm("A8", "A7's adapter, asked not to think", "both modes kept", "direct", "distilled"),
        Arm("A9", "self-distilled with our selection, thinks", "our method", "personal", "selected"),
        Arm("A9-direct", "A9's adapter, asked not to think", "both modes kept", "direct", "selected"),
        Arm(
            "C1",
            "A9's adapter of the nearest other user",
            "is it the person?",
            "personal",
            "selected",
            adapter_of="nearest",
        ),
        Arm("C2", "A9 with shuffled thinking", "is it the content?", "personal", "shuffled"),
        Arm(
            "C3-nearest", "A9 before the nearest other user's memory", "the U-shape", "personal", "selected", "nearest"
        ),
        Arm("C3-random", "A9 before a random other user's memory", "the U-shape", "personal", "selected", "random"),
        Arm("C3-none", "A9 before no memory", "the U-shape", "personal", "selected", "none"),
        Arm("cohort", "A9's recipe on other users, thinks", "the task, with thinking", "personal", "cohort"),
        Arm(
            "cohort-A9",
            "A9 trained from the cohort's adapter",
            "does the cohort first help?",
            "personal",
            "cohort-first",
        ),
    )
}
OPTIONAL_ARMS = ("cohort", "cohort-A9")
"""Arms beyond the method, run only when they are named."""
METHOD_ARMS = tuple(name for name in ARMS if name not in OPTIONAL_ARMS)

BARE_THINKING_ARMS = ("A2", "A3", "A6", "A7", "A9", *OPTIONAL_ARMS)
"""Arms whose thinking is also measured from the bare `<think>`, where no prefix hides a collapse."""
PERTURBED_ARMS = ("A3", "A9")
"""Arms whose thinking is perturbed, to see whether the answer follows from it."""
REVERSED_ARMS = ("A1", "A5", "A9")
"""Arms that are asked again with the choices in reverse order: memory alone, and both ways to train on it. A model that
answers by place makes every other figure depend on how the choices happen to be stored."""
GENERAL_QUESTION_ARMS = ("A1", "A4", "A5", "A8", "A9-direct")
"""Arms that are asked general questions: the base model, and one arm for each recipe of the method."""
