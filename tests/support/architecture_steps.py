"""The steps of one architecture, from the start of a server to an answer with a trained adapter.

Server and trainer are the real processes. Only the numbers that they must agree with are computed here, by
transformers and PEFT.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx

from architectures import Architecture, make_base
from mindprint import AsyncMindprintClient
from mindprint.local.cluster import POLL_S, LocalCluster
from mindprint.local.processes import Child
from mindprint.types import BatchRequest, ChatCompletion, ImportedTrace, LoraLimits, Mode, Version
from samples import engagement
from support.architecture_page import STEPS
from tiny_servers import TRAINED

Outcome = Literal["yes", "no", "refused", "not reached"]
Figures = dict[str, float]
Step = Callable[[], Awaitable[Figures]]

KEY, USER = "user/ann", "ann"
QUESTIONS = ("A walk by the lake?", "Tea or coffee?", "Would you take the train?")
TRAINER = {
    "ONCE": "true",
    "MIN_TRACES": "1",
    "EPOCHS": "2",
    "LEARNING_RATE": "0.01",
    "BASE_DTYPE": "float32",
    "COMPUTE_DTYPE": "float32",
    "PARITY_ITEMS": "4",
}
"""Two epochs at a high rate: few steps must change the answers."""
ENGAGEMENTS = 8
START_TIMEOUT_S = TRAINER_TIMEOUT_S = 900
"""Long, for a machine that is busy with other work."""
DEMO = ("--users", "2", "--engagements", "24", "--held-out", "4")
DEMO_TIMEOUT_S = 1800
CHAT_TOKENS = 48
"""More than the server's `max_thinking_tokens`: thinking and answer share them."""
LOOP_FALLBACKS = ("base", "direct")
"""What the server tries after a thinking that loops: the base model in the same mode, then without thinking."""
FORWARD_TOLERANCE_NATS = 3e-3
GRADIENT_TOLERANCE = 1e-2
"""Largest difference of a gradient, relative to the largest one of its layer or to 1."""
ANSWER_TOLERANCE_NATS = 5e-3
MIN_SHIFT_NATS = 0.05
"""What an adapter must change at least, so that an engine without it would not agree by chance."""


class StepFailed(Exception):
    """Why a step did not do what it has to do, in one line."""


@dataclass(frozen=True)
class StepResult:
    """What came of one step."""

    outcome: Outcome
    figures: Figures = field(default_factory=dict)
    why: str = ""
    """The line that explains a `no` or a `refused`."""


async def run_steps(architecture: Architecture, folder: Path) -> dict[str, StepResult]:
    """Go through all steps with a server and a trainer of their own.

    Args:
        architecture: What to try.
        folder: An empty folder for the model, the store and the logs.
    """
    base = await asyncio.to_thread(make_base, architecture, folder / "base")
    with LocalCluster(folder, grace_s=0) as cluster:
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(AsyncMindprintClient(cluster.url))
            http = await stack.enter_async_context(httpx.AsyncClient(base_url=cluster.url, timeout=120))
            trial = _Trial(architecture, base, cluster, client, http)
            return await go_through(trial.steps(), refusal=architecture.refusal, hide=folder)


async def go_through(steps: Mapping[str, Step], *, refusal: str | None, hide: Path) -> dict[str, StepResult]:
    """Take the steps in turn up to the first one that fails. Those behind it are not reached.

    Args:
        steps: By name, in order.
        refusal: Words of a failure of the first step that is wanted; None if none is.
        hide: A path that is left out of what is said.
    """
    results = {name: StepResult("not reached") for name in steps}
    for number, (name, step) in enumerate(steps.items()):
        try:
            results[name] = StepResult("yes", await step())
        except Exception as error:  # Whatever a model's code raises is why the step failed.
            why = explain(error).replace(f"{hide}/", "")
            is_refused = refusal is not None and refusal in why and number == 0
            results[name] = StepResult("refused" if is_refused else "no", why=why)
            break
    return results


def explain(error: Exception) -> str:
    """Return one line: the last word of a process that ended, or the error's own text."""
    lines = str(error).splitlines() or [type(error).__name__]
    said = [line for line in lines if line.startswith(("mindprint: ", "error: "))]
    line = said[-1].partition(": ")[2] if said else " ".join(str(error).split()) or type(error).__name__
    return line[:600]


@dataclass
class _Trial:
    """One architecture with its processes. Each step needs those before it."""

    architecture: Architecture
    base: Path
    cluster: LocalCluster
    client: AsyncMindprintClient
    http: httpx.AsyncClient
    server: Child | None = None

    def steps(self) -> dict[str, Step]:
        steps: Sequence[Step] = (
            self.load, self.batch, self.train, self.upload, self.proof, self.chat, self.adapter, self.demo,
        )  # fmt: skip
        return dict(zip(STEPS, steps, strict=True))

    async def load(self) -> Figures:
        """Start the server."""
        settings = TRAINED | {"TARGET_MODULES": json.dumps(self.architecture.targets)}
        if self.architecture.engine_args:
            settings["ENGINE_ARGS"] = json.dumps(self.architecture.engine_args)
        self.server = await self.cluster.start_server(self.base, settings, timeout_s=START_TIMEOUT_S)
        return {}

    async def batch(self) -> Figures:
        """Store engagements and run a batch of traces over them."""
        await self.client.users.add_engagements(USER, [engagement(n) for n in range(ENGAGEMENTS)])
        begun = await self.client.batches.create(BatchRequest(candidates=2))
        *_, last = [progress async for progress in self.client.batches.watch(begun.id)]
        if last.state != "done" or not last.funnel.generated:
            raise StepFailed(f"the batch ended as {last.state} with {last.funnel.generated} candidates")
        return {"candidates": last.funnel.generated, "accepted": last.funnel.accepted}

    async def train(self) -> Figures:
        """Compare the trainer's computation with transformers, then train on what waits and on two given traces.

        With random weights it is left to chance whether a trace of the batch is accepted.
        """
        figures = await asyncio.to_thread(compare_with_transformers, self.base, self.architecture.targets)
        texts = ("This user likes quiet places. So the lake.", "Let me think: the hills, and short walks.")
        given = [ImportedTrace(engagement_id=engagement(n).id, thinking=text) for n, text in enumerate(texts, 1)]
        await self.client.traces.add(USER, given)
        trainer = self.cluster.start_trainer(settings=TRAINER)
        async with asyncio.timeout(TRAINER_TIMEOUT_S):
            while trainer.running():  # noqa: ASYNC110 (a process has no event)
                await asyncio.sleep(POLL_S)
        if trainer.code:
            raise StepFailed("\n".join(trainer.tail(12)))
        return figures

    async def upload(self) -> Figures:
        """Find the version that the trainer uploaded."""
        version = await self._version()
        return {"traces": version.traces}

    async def proof(self) -> Figures:
        """Check that the parity check passed and the version is live."""
        version = await self._version()
        if version.parity is None or not version.parity.passed or version.state != "live":
            raise StepFailed(f"version {version.version} is {version.state}: {version.parity} {version.checks}")
        return {"against_trainer": version.parity.against_trainer, "against_base": version.parity.against_base}

    async def chat(self) -> Figures:
        """Ask the adapter in every mode. Random weights may think in loops; then the base model answers."""
        version = await self._version()
        modes: tuple[Mode, ...] = ("direct", "generic", "personal")
        for mode in modes:
            answer = await self.client.chat.completions.create(
                QUESTIONS[0], model=KEY, mode=mode, max_tokens=CHAT_TOKENS, seed=0
            )
            check_answer(answer, mode, f"{KEY}@{version.version}")
        return {}

    async def adapter(self) -> Figures:
        """Compare the log-probabilities of answers, with the adapter and without, with those of PEFT."""
        version = await self._version()
        files = await self.client.adapters.download(KEY, version.version, self.cluster.folder / "adapter")
        answers = {which: [await self._answer(which, text) for text in QUESTIONS] for which in ("base", KEY)}
        return await asyncio.to_thread(compare_with_peft, self.base, files, answers["base"], answers[KEY])

    async def demo(self) -> Figures:
        """Run `mindprint demo` on the model, with servers and a trainer of its own. It ends with 0 if all went well."""
        if self.server is not None:
            await self.cluster.stop(self.server)
        targets = {"TARGET_MODULES": json.dumps(self.architecture.targets)}
        # Random weights think in loops: few traces are accepted, and more at a high temperature.
        settings = TRAINED | targets | {"EXHAUSTIVE": "true", "TEMPERATURE": "1.5"}
        if self.architecture.engine_args:
            settings |= {"ENGINE_ARGS": json.dumps(self.architecture.engine_args)}
        variables = {f"MINDPRINT_{name}": value for name, value in settings.items()}
        # In bfloat16 random weights compute otherwise than the engine does in float32.
        variables |= {f"MINDPRINT_TRAIN_{name}_DTYPE": "float32" for name in ("BASE", "COMPUTE")}
        folder = self.cluster.folder / "demo"
        words = ["--model", str(self.base), "--work-dir", str(folder), *DEMO]
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "mindprint", "demo", *words],
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=DEMO_TIMEOUT_S,
        )
        if done.returncode:
            raise StepFailed("\n".join(done.stdout.splitlines()[-12:]))
        return {}

    async def _version(self) -> Version:
        adapter = await self.client.adapters.get(KEY)
        return adapter.versions[-1]

    async def _answer(self, model: str, text: str) -> Answer:
        body = {
            "model": model, "prompt": text, "max_tokens": 8, "temperature": 0, "logprobs": 1, "return_token_ids": True,
        }  # fmt: skip
        reply = await self.http.post("/v1/completions", json=body)
        if reply.status_code != 200:
            raise StepFailed(reply.text)
        [choice] = reply.json()["choices"]
        return Answer(choice["prompt_token_ids"], choice["token_ids"], choice["logprobs"]["token_logprobs"])


@dataclass(frozen=True)
class Answer:
    """An answer of the server by its tokens."""

    prompt_ids: list[int]
    token_ids: list[int]
    logprobs: list[float]
    """One for each of `token_ids`."""


def check_answer(answer: ChatCompletion, mode: Mode, version: str) -> None:
    """Check who answered a chat, and that the answer has a text.

    Args:
        answer: What the server answered.
        mode: Mode that was asked for.
        version: The version that has to answer. After a thinking that loops, the base model may.

    Raises:
        StepFailed: Another model answered, or the text is empty.
    """
    provenance = (answer.model_extra or {}).get("mindprint", {})
    is_fallback = mode != "direct" and answer.version == "base" and provenance.get("fallback") in LOOP_FALLBACKS
    if answer.version != version and not is_fallback:
        raise StepFailed(f"{answer.version or 'nobody'} answered with mode {mode}: {provenance}")
    # A thinking that loops is shown, and stays when the base model answers without one.
    if bool(answer.thinking) != (mode != "direct"):
        raise StepFailed(f"the answer with mode {mode} has the thinking {answer.thinking!r}: {provenance}")
    if not answer.text:
        raise StepFailed(f"the answer with mode {mode} has no text: {answer.choices[0]}")


def compare_with_transformers(base: Path, targets: Sequence[str]) -> Figures:
    """Compare the trainer's log-probabilities and gradients with transformers' own, with a random adapter.

    Args:
        base: Folder of the model.
        targets: The server's `target_modules`.

    Raises:
        StepFailed: They differ.
        TrainerError: The trainer refuses the model.
    """
    from forward_equality import random_adapter, trained, transformers_own
    from mindprint_trainer.forward_check import choose_forward_path
    from mindprint_trainer.model.base_model import load_base_model
    from mindprint_trainer.model.peft_io import resolve_target_modules
    from mindprint_trainer.settings import Settings

    settings = Settings(base_dtype="float32", compute_dtype="float32", device="cpu")
    loaded = load_base_model(base, "sha256:tiny", settings)
    chosen = resolve_target_modules(loaded.model, None, LoraLimits(max_rank=16, target_modules=list(targets)))
    loaded = choose_forward_path(loaded, chosen, settings.forward_tolerance_nats)
    adapter = random_adapter(loaded, chosen)
    return compare_training(trained(loaded, adapter), transformers_own(loaded, adapter))


Training = tuple[Sequence[float], Mapping[str, Any]]
"""Log-probabilities, and gradients by name."""


def compare_training(ours: Training, theirs: Training) -> Figures:
    """Compare what the trainer computed with what transformers did.

    Raises:
        StepFailed: They differ, or a difference is no finite number.
    """
    (values, gradients), (wanted, wanted_gradients) = ours, theirs
    if others := sorted(gradients.keys() ^ wanted_gradients.keys()):
        raise StepFailed(f"the trainer has other gradients than transformers: {', '.join(others)}")
    nats = largest(abs(one - other) for one, other in zip(values, wanted, strict=True))
    relative = largest(
        float((gradient - wanted_gradients[name]).abs().max()) / max(1.0, float(wanted_gradients[name].abs().max()))
        for name, gradient in gradients.items()
    )
    if nats > FORWARD_TOLERANCE_NATS or relative > GRADIENT_TOLERANCE:
        raise StepFailed(f"the trainer differs from transformers by {nats:.2g} nats, its gradients by {relative:.2g}")
    return {"forward_nats": nats, "gradient": relative}


def compare_with_peft(base: Path, adapter: Path, of_base: Sequence[Answer], of_adapter: Sequence[Answer]) -> Figures:
    """Compare the log-probabilities of answers with those of transformers, and of PEFT with the adapter.

    Args:
        base: Folder of the model.
        adapter: Folder of the adapter.
        of_base: What the server answered with the base model.
        of_adapter: What it answered with the adapter.

    Raises:
        StepFailed: They differ, or the adapter changes nothing.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    options = {"dtype": torch.float32, "attn_implementation": "eager"}
    model: Any = AutoModelForCausalLM.from_pretrained(base, **options).eval()
    base_rows = [logprobs_of(model, answer) for answer in (*of_base, *of_adapter)]
    adapted: Any = PeftModel.from_pretrained(model, adapter).eval()
    adapted_rows = [logprobs_of(adapted, answer) for answer in of_adapter]
    figures = {
        "base_nats": largest_difference(of_base, base_rows[: len(of_base)]),
        "adapter_nats": largest_difference(of_adapter, adapted_rows),
        "shift_nats": largest_difference(of_adapter, base_rows[len(of_base) :]),
    }
    if max(figures["base_nats"], figures["adapter_nats"]) > ANSWER_TOLERANCE_NATS:
        raise StepFailed(f"the engine differs from PEFT by {figures}")
    if figures["shift_nats"] < MIN_SHIFT_NATS:
        raise StepFailed(f"the adapter changes answers by {figures['shift_nats']:.2g} nats only")
    return figures


def logprobs_of(model: Any, answer: Answer) -> list[float]:
    """Return a model's log-probability of each token of an answer."""
    import torch

    start = len(answer.prompt_ids)
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([answer.prompt_ids + answer.token_ids]), use_cache=False).logits[0]
    rows = logits[start - 1 : -1].float().log_softmax(-1)
    return [float(row[token]) for row, token in zip(rows, answer.token_ids, strict=True)]


def largest_difference(answers: Sequence[Answer], rows: Sequence[Sequence[float]]) -> float:
    """Return the largest difference between what was answered and what was computed, in nats.

    Raises:
        StepFailed: One is no finite number.
    """
    pairs = [zip(answer.logprobs, row, strict=True) for answer, row in zip(answers, rows, strict=True)]
    return largest(abs(ours - theirs) for one in pairs for ours, theirs in one)


def largest(differences: Iterable[float]) -> float:
    """Return the largest difference.

    Raises:
        StepFailed: There is none, or one is no finite number: `max` may drop NaN.
    """
    found = list(differences)
    if not found or not all(map(math.isfinite, found)):
        raise StepFailed(f"not all of {len(found)} differences are finite numbers: {found[:8]}")
    return max(found)
