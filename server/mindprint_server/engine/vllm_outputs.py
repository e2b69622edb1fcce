"""What vLLM reports, in the words of the engine protocol: its statistics and its outputs. Nothing here imports vLLM."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mindprint_server.engine.types import EngineStats, FinishReason, GenerationOutput, Sampling

FINISH_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length", "repetition": "loop"}
"""By the reason that vLLM gives. Any other one is `abort`."""


class StatsRecorder:
    """A stat logger of vLLM that keeps the newest statistics. It is also the factory that vLLM asks for."""

    def __init__(self) -> None:
        self.latest = EngineStats()

    def __call__(self, vllm_config: Any, engine_index: int = 0) -> StatsRecorder:
        return self

    def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
        # vLLM would make a series of metrics for each set of adapters that run together. Their names are users.
        for names in ("running_lora_adapters", "waiting_lora_adapters"):
            getattr(scheduler_stats, names, {}).clear()
        preempted = self.latest.preemptions + (iteration_stats.num_preempted_reqs if iteration_stats else 0)
        if scheduler_stats is None:
            self.latest = replace(self.latest, preemptions=preempted)
        else:
            self.latest = EngineStats(
                running=scheduler_stats.num_running_reqs,
                waiting=scheduler_stats.num_waiting_reqs,
                kv_use=scheduler_stats.kv_cache_usage,
                preemptions=preempted,
            )

    def log_engine_initialized(self) -> None: ...

    def log(self) -> None: ...

    def record_sleep_state(self, is_awake: int, level: int) -> None: ...


def read_output(output: Any, prompt_tokens: int, sampling: Sampling) -> GenerationOutput:
    """Return one of vLLM's `RequestOutput`s as the protocol's.

    Args:
        output: A `RequestOutput` of one sequence.
        prompt_tokens: Length of the prompt in tokens.
        sampling: What was asked for.
    """
    sequence = output.outputs[0]
    return GenerationOutput(
        text=sequence.text,
        token_ids=tuple(sequence.token_ids),
        finish=FINISH_REASONS.get(str(sequence.finish_reason), "abort"),
        prompt_tokens=prompt_tokens,
        cached_tokens=output.num_cached_tokens or 0,
        logprobs=_sampled_logprobs(sequence) if sampling.logprobs else None,
    )


def _sampled_logprobs(sequence: Any) -> tuple[float, ...]:
    """Return the log-probability of each sampled token that belongs to the text."""
    return tuple(at[token].logprob for token, at in zip(sequence.token_ids, sequence.logprobs, strict=False))
