"""Steps of the CPU's scheduler, on vLLM's own with a tiny model's configuration: nothing is computed."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from mindprint_server.engine.cpu_scheduler import ASKED_WITHIN_S, SHARED_STEP_TOKENS, TurnScheduler, choose_alone
from mindprint_server.engine.types import Priority
from tiny import make_model

BLOCK, SHARED = 32, 64


@dataclass(eq=False)
class Queued:
    cache_salt: str | None
    priority: int = Priority.INTERACTIVE
    is_prefill_chunk: bool = False


A, B, BATCH = Queued("a.1"), Queued("b.1"), Queued("a.3", Priority.BATCH)
PART_A, PART_B = Queued("a.1", is_prefill_chunk=True), Queued("b.1", is_prefill_chunk=True)


@pytest.mark.parametrize(
    ("waiting", "running", "chosen"),
    [
        pytest.param([B], [], None, id="nothing runs"),
        pytest.param([B], [A], B, id="another tenant's runs"),
        pytest.param([B], [BATCH], B, id="another tenant's batch runs"),
        pytest.param([A], [BATCH], A, id="its own batch runs"),
        pytest.param([A], [A, B], None, id="it has one running"),
        pytest.param([Queued("a.2")], [A, B], None, id="it has one running with another salt"),
        pytest.param([A, B], [A], B, id="behind requests of a tenant that has one"),
        pytest.param([], [A, PART_B], PART_B, id="a part of its prompt is computed"),
        pytest.param([], [PART_B], None, id="a part of its prompt is computed, and nothing else runs"),
        pytest.param([], [A, PART_A, B], None, id="a part is computed, and it has another one running"),
        pytest.param([Queued("b.1", Priority.BATCH)], [A], None, id="a batch's waits"),
        pytest.param([Queued("b.1", Priority.PARITY_CHECK)], [A], None, id="a check's waits"),
        pytest.param([], [A], None, id="nothing waits"),
    ],
)
def test_request_of_a_tenant_without_a_running_one_gets_a_step_alone(
    waiting: list[Queued], running: list[Queued], chosen: Queued | None
) -> None:
    assert choose_alone(waiting, running) is chosen


class Steps:
    """Adds requests to a scheduler and does its steps: each sampled token is 1."""

    def __init__(self, scheduler: TurnScheduler) -> None:
        self.scheduler = scheduler
        self._numbers = itertools.count()

    def add(self, tenant: str, count: int = 1, *, priority: int = Priority.INTERACTIVE, tokens: int = 40) -> list[str]:
        names = []
        for _ in range(count):
            number = next(self._numbers)
            sampling = SamplingParams(max_tokens=50, ignore_eos=True)
            names.append(f"{tenant}{number}")
            request = Request(names[-1], [5] * tokens, sampling, None, cache_salt=f"{tenant}.1", priority=priority)
            request.arrival_time = float(number)
            self.scheduler.add_request(request)
        return names

    def step(self) -> list[str]:
        """Do a step and return the names of the requests in it."""
        return list(self.count())

    def count(self) -> dict[str, int]:
        """Do a step and return the tokens of each request in it."""
        output = self.scheduler.schedule()
        names = list(output.num_scheduled_tokens)
        sampled: Any = [[] if self.scheduler.requests[name].is_prefill_chunk else [1] for name in names]
        indexes = {name: n for n, name in enumerate(names)}
        self.scheduler.update_from_output(
            output, ModelRunnerOutput(req_ids=names, req_id_to_index=indexes, sampled_token_ids=sampled)
        )
        return dict(output.num_scheduled_tokens)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("tiny"))


def make_steps(model: Path, *, blocks: int = 1000, max_num_seqs: int = 4) -> Steps:
    arguments = EngineArgs(
        model=str(model), dtype="float32", block_size=BLOCK, max_model_len=1024, max_num_batched_tokens=512,
        max_num_seqs=max_num_seqs, enable_prefix_caching=False, enforce_eager=True,
        scheduling_policy="priority", kv_cache_memory_bytes=2**20,
        additional_config={SHARED_STEP_TOKENS: SHARED},
    )  # fmt: skip
    config = arguments.create_engine_config()
    config.cache_config.num_gpu_blocks = blocks
    spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=32, dtype=torch.float32)
    cache = KVCacheConfig(num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)])
    return Steps(TurnScheduler(config, cache, StructuredOutputManager(config), block_size=BLOCK))


@pytest.fixture
def steps(model: Path) -> Steps:
    return make_steps(model)


def test_first_step_of_another_tenant_holds_its_request_alone(steps: Steps) -> None:
    busy = steps.add("a", 3)
    assert steps.step() == busy
    [asked] = steps.add("b")
    assert steps.step() == [asked]
    assert sorted(steps.step()) == sorted([*busy, asked])


def test_running_requests_go_on_in_every_second_step(steps: Steps) -> None:
    busy = steps.add("a")
    steps.step()
    first, second = steps.add("b") + steps.add("c")
    assert steps.step() == [first]
    assert set(steps.step()) >= {*busy, first}
    assert steps.step() != [second], "it was let in with the others"


def test_requests_of_the_busy_tenant_wait_for_the_next_step(steps: Steps) -> None:
    busy = steps.add("a")
    steps.step()
    later = steps.add("a")
    [asked] = steps.add("b")
    assert steps.step() == [asked]
    assert sorted(steps.step()) == sorted([*busy, *later, asked])


def test_request_above_the_engines_places_waits(model: Path) -> None:
    steps = make_steps(model, max_num_seqs=2)
    busy = steps.add("a", 2)
    steps.step()
    steps.add("b")
    assert steps.step() == busy


def test_steps_are_shared_as_ever_where_the_cache_is_nearly_full(model: Path) -> None:
    """vLLM then preempts the request of the lowest priority, and must see all that run."""
    steps = make_steps(model, blocks=12)
    busy = steps.add("a", priority=Priority.BATCH, tokens=100)
    steps.step()
    asked = steps.add("b", tokens=100)
    assert steps.step() == [*busy, *asked]


def test_batch_is_preempted_for_an_answer_and_not_the_other_way_round(model: Path) -> None:
    steps = make_steps(model, blocks=9)  # one of them is vLLM's own
    [answered] = steps.add("b", tokens=4 * BLOCK - 2)
    steps.step()
    [written] = steps.add("a", priority=Priority.BATCH, tokens=4 * BLOCK - 1)
    steps.step()
    for _ in range(4):
        assert answered in steps.step()
    assert steps.scheduler.requests[answered].num_preemptions == 0
    assert steps.scheduler.requests[written].num_preemptions > 0


def test_batch_goes_on_where_the_engine_has_one_place(model: Path) -> None:
    steps = make_steps(model, max_num_seqs=1)
    [asked] = steps.add("b")
    steps.step()
    steps.scheduler.finish_requests([asked], RequestStatus.FINISHED_ABORTED)
    written = steps.add("a", priority=Priority.BATCH)
    assert steps.step() == written


def test_long_prompt_of_another_tenant_gets_every_second_step_to_its_end(steps: Steps) -> None:
    [busy] = steps.add("a")
    steps.step()
    [asked] = steps.add("b", tokens=800)
    assert steps.count() == {asked: 512}
    assert steps.count() == {busy: 1, asked: SHARED + 2 - 1}
    assert steps.count() == {asked: 800 - 512 - SHARED - 1}
    assert steps.count() == {busy: 1, asked: 1}


def test_prompts_of_a_batch_take_small_steps_while_another_tenant_asks(steps: Steps) -> None:
    [asked] = steps.add("b")
    steps.step()
    first, second = steps.add("a", 2, priority=Priority.BATCH, tokens=100)
    assert steps.count() == {asked: 1, first: SHARED}
    assert steps.count() == {asked: 1, first: 36, second: SHARED + 2 - 37}


def test_answers_go_on_in_small_steps_however_many_prompts_are_begun(steps: Steps) -> None:
    prompts = steps.add("a", 2, priority=Priority.BATCH, tokens=500)
    steps.step()
    answered = steps.add("b", 2)
    counted = [steps.count() for _ in range(5)][-1]
    assert [counted[name] for name in answered] == [1, 1]
    assert any(counted.get(name, 0) > 1 for name in prompts)


def test_question_does_not_wait_for_prompts_of_a_batch_that_are_begun(steps: Steps) -> None:
    [answered, _] = steps.add("a", 2, priority=Priority.BATCH, tokens=500)
    assert steps.count()[answered] == 500
    first, second = steps.add("b", 2)
    assert steps.count() == {first: 40}
    assert steps.count() == {answered: 1, first: 1, second: 40}


def test_prompts_of_a_batch_take_whole_steps_where_nobody_else_asks(steps: Steps) -> None:
    first, second = steps.add("a", 2, priority=Priority.BATCH, tokens=400)
    assert steps.count() == {first: 400, second: 112}


def test_prompts_take_whole_steps_where_one_tenant_asks(steps: Steps) -> None:
    steps.add("a", priority=Priority.BATCH)
    steps.step()
    asked = steps.add("a", 2, tokens=200)
    steps.step()
    assert steps.count()[asked[1]] == 200


def test_prompts_of_a_batch_take_whole_steps_again_some_time_after_the_last_question(steps: Steps) -> None:
    [asked] = steps.add("b")
    steps.step()
    steps.scheduler.finish_requests([asked], RequestStatus.FINISHED_ABORTED)
    steps.scheduler.asked_at = {name: at - ASKED_WITHIN_S for name, at in steps.scheduler.asked_at.items()}
    [written] = steps.add("a", priority=Priority.BATCH, tokens=400)
    assert steps.count() == {written: 400}


def test_batch_leaves_a_quarter_of_the_places_free_while_another_tenant_asks(steps: Steps) -> None:
    [asked] = steps.add("b")
    steps.step()
    steps.scheduler.finish_requests([asked], RequestStatus.FINISHED_ABORTED)
    steps.add("a", 4, priority=Priority.BATCH, tokens=10)
    for _ in range(3):
        steps.step()
    assert len(steps.scheduler.running) == 3
    [again] = steps.add("b")
    assert steps.step() == [again]


def test_batch_takes_all_places_where_nobody_else_asks(steps: Steps) -> None:
    steps.add("a", 5, priority=Priority.BATCH, tokens=10)
    steps.step()
    assert len(steps.scheduler.running) == 4
