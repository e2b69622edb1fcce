"""Judges the manifest of an upload: its numbers, and whether it is of the lease and of the base model."""

from __future__ import annotations

import math

from mindprint.types import Lease, Manifest, ParityItem
from mindprint_server.exceptions import Invalid

MAX_COUNT = 2**53 - 1
"""Largest count: what every reader of JSON holds exactly (RFC 8259, section 6)."""
MIN_LOGPROB = -3.4028234663852886e38
"""Lowest finite float32: log-probabilities are computed in float32 or less. Their sum in float64 is finite."""
MAX_LOGPROB = 1e-3
"""Highest log-probability. It is 0 in exact arithmetic; a softmax in float32 may round to a little above."""


def check_manifest(manifest: Manifest, lease: Lease, *, base_digest: str, vocab_size: int, max_model_len: int) -> None:
    """Check a manifest that has the right form.

    Args:
        manifest: What the trainer says about the version.
        lease: The lease under which it was trained.
        base_digest: Digest of the served base model.
        vocab_size: Number of token ids of the model.
        max_model_len: Longest sequence of the model in tokens.

    Raises:
        Invalid: The manifest is of another lease or base model, or a number cannot be right.
    """
    # Sorted lists, not sets: a repeated id is another manifest.
    if manifest.adapter != lease.adapter or sorted(manifest.trace_ids) != sorted(lease.trace_ids):
        raise Invalid(
            "manifest_mismatch",
            "the manifest's adapter or traces are not those of the lease: upload under the lease that they are of",
        )
    if manifest.base_digest != base_digest:
        raise Invalid(
            "adapter_base_model",
            f"trained on base {manifest.base_digest[:23]}…, served is {base_digest[:23]}…: train on the served base",
        )
    _check_counts(manifest)
    for index, item in enumerate(manifest.parity_items):
        _check_parity_item(item, f"parity_items[{index}]", vocab_size, max_model_len)


def _check_counts(manifest: Manifest) -> None:
    counts = {f"samples.{name[:60]}": count for name, count in manifest.samples.items()} | {"tokens": manifest.tokens}
    for field, count in counts.items():
        if not 0 <= count <= MAX_COUNT:
            raise _invalid(field, f"{count} is outside 0 to {MAX_COUNT}: send the count of the training")
    if not 0 <= manifest.seconds < math.inf:
        raise _invalid("seconds", f"{manifest.seconds:g} is no duration: send the duration of the training")


def _check_parity_item(item: ParityItem, field: str, vocab_size: int, max_model_len: int) -> None:
    for name, ids in (("prompt_ids", item.prompt_ids), ("target_ids", item.target_ids)):
        for index, token in enumerate(ids):
            if not 0 <= token < vocab_size:
                raise _invalid(
                    f"{field}.{name}[{index}]",
                    f"token id {token} is outside 0 to {vocab_size - 1}: tokenize with the served model",
                )
    if (length := len(item.prompt_ids) + len(item.target_ids)) > max_model_len:
        raise _invalid(field, f"{length} tokens do not fit the model's {max_model_len}: send a shorter prompt")
    for name, values in (("logprobs", item.logprobs), ("base_logprobs", item.base_logprobs)):
        for index, value in enumerate(values):
            if not MIN_LOGPROB <= value <= MAX_LOGPROB:
                raise _invalid(f"{field}.{name}[{index}]", f"{value:g} is no log-probability in nats: measure it again")


def _invalid(field: str, message: str) -> Invalid:
    return Invalid("invalid_manifest", f"manifest.{field}: {message}", param=f"manifest.{field}")
