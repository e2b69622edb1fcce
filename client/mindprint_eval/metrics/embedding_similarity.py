"""Similarity of traces and reasons that users wrote: the cosine of their embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mindprint_eval.config import EvaluationError
from mindprint_eval.metrics.human_rationales import HumanRationale, with_alternatives
from mindprint_eval.requests import EMPTY_RESPONSE
from mindprint_eval.results import Outcome

MAX_TOKENS = 256
"""Tokens of a text that are embedded: small embedding models are trained on no more."""

Embed = Callable[[Sequence[str]], np.ndarray]
"""From texts to rows of unit length, [texts, hidden]."""


def similarity_outcomes(
    told: Sequence[HumanRationale], generic: Sequence[Outcome], seed: int, embed: Embed
) -> list[Outcome]:
    """Return cosines of traces and written reasons.

    For each trace: its user's reason with the trace (`L-trace`) and with generic thinking (`L-generic`), and the next
    user's reason with the trace (`L-other`). Pure, but for `embed`.
    """
    compared = list(_compared(told, generic))
    texts = list(dict.fromkeys(text for *_, thinking, reason in compared for text in (thinking, reason)))
    vectors = dict(zip(texts, embed(texts), strict=True))
    return [
        _outcome(arm, one, thinking, reason, seed, float(vectors[thinking] @ vectors[reason]))
        for arm, one, thinking, reason in compared
    ]


def _compared(
    told: Sequence[HumanRationale], generic: Sequence[Outcome]
) -> Iterator[tuple[str, HumanRationale, str, str]]:
    """Arm, trace, thinking, reason. Thinking that is empty is not like anything."""
    for one, general, foreign in with_alternatives(told, generic):
        yield "L-trace", one, one.thinking, one.reason
        if general is not None and general.strip():
            yield "L-generic", one, general, one.reason
        if foreign is not None:
            yield "L-other", one, one.thinking, foreign


def _outcome(arm: str, one: HumanRationale, thinking: str, reason: str, seed: int, cosine: float) -> Outcome:
    found = {**EMPTY_RESPONSE, "thinking": thinking, "cosine": round(cosine, 5)}
    return Outcome(
        measure="likeness",
        arm=arm,
        seed=seed,
        user=one.user,
        item=one.engagement.id,
        kind="open",
        seen=None,
        outcome="answered",
        why="",
        target=reason,
        **found,
    )


def embed_texts(folder: Path, texts: Sequence[str]) -> np.ndarray:
    """Embed texts as the mean over their tokens; a text without tokens gets zeros.

    Raises:
        CannotEvaluate: The folder holds no model that can be loaded.
    """
    tokenizer, model = _loaded(folder)
    import torch

    room = getattr(model.config, "max_position_embeddings", MAX_TOKENS)
    limit = min(MAX_TOKENS, tokenizer.model_max_length, room)
    vectors = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    with torch.inference_mode():
        for vector, text in zip(vectors, texts, strict=True):
            ids = tokenizer(text, truncation=True, max_length=limit)["input_ids"]
            if ids:
                mean = model(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0)
                vector[:] = torch.nn.functional.normalize(mean, dim=0).numpy()
    return vectors


def _loaded(folder: Path) -> tuple[Any, Any]:
    """Tokenizer and model."""
    try:
        import torch
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging as transformers_logging
    except ImportError as error:
        raise EvaluationError(
            f"--embeddings needs {error.name or error}, which is not installed: "
            "run `pip install 'mindprint[trainer]'`, or go without --embeddings"
        ) from error
    transformers_logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return tokenizer, AutoModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())
        raise EvaluationError(
            f"the embedding model in {folder} cannot be loaded ({why}): name another with --embeddings, or go without"
        ) from error
