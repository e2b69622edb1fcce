"""Compares the trainer's forward pass with the model's own, and chooses the fastest path that computes the same.

Short sequences of token ids go through transformers' own forward, one by one, with the model's own attention code
(`eager`). Then they go through the trainer's passes, packed with the row of another adapter. A path whose
log-probabilities differ is not taken: an adapter would be trained towards another distribution than is served
(decision 036).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers.utils import logging as transformers_logging

from mindprint_trainer.data.packing import forward_passes, pack_rows
from mindprint_trainer.data.tokenization import Segment, TokenizedSample
from mindprint_trainer.errors import TrainerError
from mindprint_trainer.model.base_model import Base
from mindprint_trainer.model.float32 import computed_in_float32
from mindprint_trainer.model.forward_path import ForwardPath, candidate_paths
from mindprint_trainer.model.lora import LoraAdapter, LoraConfig, LoraModelView, init_adapter
from mindprint_trainer.model.module_copy import copy_modules
from mindprint_trainer.objective.batch import PackedBatch, collate, target_hidden_states
from mindprint_trainer.objective.loss import nll

SHARED_TOKENS = 12
"""Length of the prefix that the first two sequences share."""
LENGTHS = (21, 19, 17, 13)
"""Lengths of the sequences. The last one belongs to another adapter."""
LOGIT_CHUNK = 16
"""Targets whose logits are computed at once, so that the probe needs several chunks."""
PROBE_RANK = 4
"""Rank of the adapters of the probe."""
Outcome = float | str
"""Largest difference of a path in nats, or the error that it ended with."""


@dataclass(frozen=True)
class Probe:
    """Short sequences, and the log-probabilities that the model's own forward gives them."""

    sequences: tuple[TokenizedSample, ...]
    """Two sequences with a common prefix, one without, and one for another adapter."""
    logprobs: tuple[tuple[float, ...], ...]
    """Log-probability of each token but the first, by sequence, without the one for another adapter."""


def choose_forward_path(base: Base, target_modules: Sequence[str], tolerance_nats: float) -> Base:
    """Measure the paths in turn, in float32, and take the first one that computes what the model computes.

    Args:
        base: A loaded model.
        target_modules: Layers that will get adapters, by the last parts of their names.
        tolerance_nats: Largest difference of a log-probability that counts as the same.

    Returns:
        The same model with that path.

    Raises:
        TrainerError: The model's own forward fails or is not causal, or no path computes the same.
    """
    config = base.model.config
    outcomes: dict[ForwardPath, Outcome] = {}
    with _without_warnings(), computed_in_float32(base.model):
        probe = create_probe(base)
        if (difference := prefix_difference(probe.logprobs)) > tolerance_nats:
            raise TrainerError(not_causal(config.model_type, difference))
        for path in candidate_paths(config, base.device.type):
            outcomes[path] = measure_path(base, path, probe, target_modules)
            if (chosen := decide(outcomes, tolerance_nats)) is not None:
                return replace(base, path=chosen)
    raise TrainerError(refusal(config.model_type, outcomes))


def decide(outcomes: Mapping[ForwardPath, Outcome], tolerance_nats: float) -> ForwardPath | None:
    """Return the first path whose difference is at most the tolerance; None if there is none.

    Args:
        outcomes: What was measured, the fastest path first.
        tolerance_nats: Largest difference that counts as the same.
    """
    return next(
        (path for path, outcome in outcomes.items() if not isinstance(outcome, str) and outcome <= tolerance_nats),
        None,
    )


def refusal(model_type: str, outcomes: Mapping[ForwardPath, Outcome]) -> str:
    """Say in one line how far the best path is off, or how the last one failed.

    Args:
        model_type: The model type of the configuration.
        outcomes: What was measured for all paths.
    """
    differences = {path: outcome for path, outcome in outcomes.items() if not isinstance(outcome, str)}
    cure = "name another model with --model, or other layers in MINDPRINT_TRAIN_TARGET_MODULES"
    if differences:
        path, difference = min(differences.items(), key=lambda pair: pair[1])
        return (
            f"the trainer's log-probabilities of {model_type} differ from the model's own by {difference:.2g} nats at "
            f"best ({path}): {cure}"
        )
    error = " ".join(str(list(outcomes.values())[-1]).split())[:200]
    return f"the trainer cannot compute the log-probabilities of {model_type} ({error}): {cure}"


def not_causal(model_type: str, difference: float) -> str:
    """Say in one line that tokens of the model see later ones.

    Args:
        model_type: The model type of the configuration.
        difference: Largest change of a log-probability by later tokens, in nats.
    """
    return (
        f"{model_type} is no causal language model: later tokens change the log-probabilities of earlier ones by "
        f"{difference:.2g} nats: name another model with --model"
    )


def prefix_difference(logprobs: Sequence[Sequence[float]]) -> float:
    """Return the largest difference of two sequences' log-probabilities within their common prefix, in nats.

    Args:
        logprobs: Log-probabilities of each token but the first; the first two sequences share a prefix.
    """
    pairs = list(zip(logprobs[0], logprobs[1], strict=False))[: SHARED_TOKENS - 1]
    return largest(abs(one - other) for one, other in pairs)


def largest(values: Iterator[float]) -> float:
    """Return the largest value, or infinity if one is NaN."""
    found = list(values)
    return math.inf if any(map(math.isnan, found)) else max(found)


def create_probe(base: Base) -> Probe:
    """Draw the sequences, and ask the model's own forward for their log-probabilities.

    Args:
        base: A loaded model.

    Raises:
        TrainerError: The model's own forward fails.
    """
    vocabulary = base.model.config.get_text_config().vocab_size
    draws = torch.Generator().manual_seed(0)
    # The ends of a vocabulary hold special tokens, of which some models make positions or images.
    ids = [
        torch.randint(vocabulary // 8, 7 * vocabulary // 8, (length,), generator=draws).tolist() for length in LENGTHS
    ]
    ids[1][:SHARED_TOKENS] = ids[0][:SHARED_TOKENS]
    sequences = tuple(
        TokenizedSample("fast", f"probe {i}", tuple(one), (Segment("answer", 1, len(one)),))
        for i, one in enumerate(ids)
    )
    try:
        model = copy_modules(base.model)
        model.set_attn_implementation("eager")
        return Probe(sequences, tuple(own_logprobs(model, one.ids, base.device) for one in sequences[:-1]))
    except Exception as error:  # Whatever a model's code raises.
        line = " ".join(str(error).split())[:200]
        raise TrainerError(
            f"transformers cannot run {base.model.config.model_type} on text alone ({line}): "
            "name another model with --model"
        ) from error


@torch.inference_mode()
def own_logprobs(model: Any, ids: Sequence[int], device: torch.device) -> tuple[float, ...]:
    """Return the log-probability of each token but the first, by the model's own forward.

    Args:
        model: A transformers causal language model.
        ids: Token ids of one sequence.
        device: The model's device.
    """
    row = torch.tensor([ids], device=device)
    logprobs = torch.log_softmax(model(input_ids=row, use_cache=False).logits[0, :-1].float(), -1)
    values: list[float] = logprobs.gather(1, row[0, 1:, None])[:, 0].tolist()
    return tuple(values)


def measure_path(base: Base, path: ForwardPath, probe: Probe, target_modules: Sequence[str]) -> Outcome:
    """Compute the probe as training does, and compare it with the model's own forward.

    Args:
        base: A loaded model.
        path: The path to measure.
        probe: The sequences and their right log-probabilities.
        target_modules: Layers that get adapters: one that changes nothing for the sequences that are compared, and one
            with random weights for another sequence in the same pass, which must change nothing either.

    Returns:
        The largest difference in nats; infinity for a value that is no number. A text if the path cannot be computed.
    """
    try:
        view = LoraModelView(base.model, _adapters(base.model, target_modules), path)
        return compare(base, view, probe, needs_gradient=bool(target_modules))
    except Exception as error:  # Whatever a model's code raises.
        return f"{type(error).__name__}: {error}"


def compare(base: Base, view: LoraModelView, probe: Probe, *, needs_gradient: bool) -> Outcome:
    """Compute the probe in one pass of training, and compare it with the model's own forward.

    Args:
        base: A loaded model.
        view: The model with two adapters, the second one for the last sequence; or with none.
        probe: The sequences and their right log-probabilities.
        needs_gradient: Whether a gradient must reach the adapters.
    """
    batch = probe_batch(base, view.path, probe.sequences)
    states = target_hidden_states(view, batch)
    if needs_gradient and not states.requires_grad:
        return "no gradient reaches the layers with adapters"
    with torch.no_grad():
        chunks = zip(states.detach().split(LOGIT_CHUNK), batch.tokens.split(LOGIT_CHUNK), strict=True)  # type: ignore[no-untyped-call]
        values = torch.cat([nll(view, *chunk) for chunk in chunks]).tolist()
    found = {(target.sequence, target.position): -value for target, value in zip(batch.targets, values, strict=True)}
    return largest(
        abs(found[index, position] - value)
        for index, logprobs in enumerate(probe.logprobs)
        for position, value in enumerate(logprobs, 1)
    )


def probe_batch(base: Base, path: ForwardPath, sequences: Sequence[TokenizedSample]) -> PackedBatch:
    """Pack the sequences into one pass; the last one is a row of another adapter.

    Args:
        base: A loaded model.
        path: The path that decides how rows are packed.
        sequences: The sequences.
    """
    last, tokens = len(sequences) - 1, sum(len(one.ids) for one in sequences)
    rows = [
        *pack_rows(sequences, range(last), tokens, share_prefixes=path.shares_prefixes, masked=path.is_masked),
        *pack_rows(sequences, [last], tokens, share_prefixes=False, adapter=1),
    ]
    (rows_of_pass,) = forward_passes(rows, tokens * len(sequences), masked=path.is_masked)
    return collate(rows_of_pass, base.device, masked=path.is_masked)


def _adapters(model: nn.Module, target_modules: Sequence[str]) -> list[LoraAdapter]:
    """Return an adapter that changes nothing, and one with random weights."""
    config = LoraConfig(PROBE_RANK, PROBE_RANK, tuple(target_modules))
    zero, random = (init_adapter(model, config, 0.0, seed) for seed in (0, 1))
    with torch.no_grad():
        for lora_B in random.lora_B.values():
            lora_B.normal_(std=0.5, generator=random.generator)
    return [zero, random]


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Within the context, transformers logs errors alone: each path that a model lacks would give a warning."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
