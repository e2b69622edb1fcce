"""The ways in which a training pass can be computed. Which one is right for a model is measured when it is loaded.

The fast ways take parts of the model: its body, an attention of another kind, and its head. They are right only where
the model's own forward does nothing else. The slow ways run more of that forward (decision 036).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

Rows = Literal["trees", "chains"]
"""Trees: sequences share a row, and a common prefix is computed once. Chains: each sequence has a row of its own."""
Attention = Literal["blocks", "sdpa", "eager"]
"""Blocks: `tree_attention`, without mask and padding. Sdpa: torch's kernel. Eager: the model's own code."""
Logits = Literal["head", "tail", "forward"]
"""Head: the output embeddings alone. Tail: all that the model's forward does behind its body, so also scaling and soft
caps. Forward: the whole forward at once, whose logits are all in memory."""
LIMITED_ATTENTION = re.compile(r"(sliding_|attention_)?windows?(_sizes?)?|attention_chunk_size|local_attention")
"""Names of configuration fields that limit how far a token attends."""


@dataclass(frozen=True, slots=True)
class ForwardPath:
    """One way to compute a training pass."""

    rows: Rows
    attention: Attention
    logits: Logits

    def __str__(self) -> str:
        return f"{self.rows}/{self.attention}/{self.logits}"

    @property
    def shares_prefixes(self) -> bool:
        """Return whether a row may hold several sequences."""
        return self.rows == "trees"

    @property
    def is_masked(self) -> bool:
        """Return whether rows are padded to the longest of a pass, and trees need a mask."""
        return self.attention != "blocks"


def candidate_paths(config: Any, device_type: str) -> list[ForwardPath]:
    """List the paths that a model may take, the fastest first.

    Args:
        config: The model's configuration.
        device_type: Torch's name of the device's type. Only a CPU is faster with `blocks`.
    """
    trees = has_full_attention(config)
    kernels: list[tuple[Rows, Attention]] = [("trees", "blocks")] if trees and device_type == "cpu" else []
    for attention in ("sdpa", "eager"):
        kernels += [("trees", attention), ("chains", attention)] if trees else [("chains", attention)]
    parts: tuple[Logits, ...] = ("head", "tail")
    paths = [ForwardPath(rows, attention, logits) for rows, attention in kernels for logits in parts]
    return [*paths, ForwardPath("chains", "sdpa", "forward"), ForwardPath("chains", "eager", "forward")]


def has_full_attention(config: Any) -> bool:
    """Return whether the configuration lets each token attend to all tokens before it.

    A short row cannot show a window that is wider than the row, so the configuration decides.

    Args:
        config: A configuration of transformers, with or without one for the text model in it.
    """
    fields = config.get_text_config().to_dict()
    if fields.get("index_topk"):
        return False
    layers = fields.get("layer_types")
    if layers is not None:
        return all(layer == "full_attention" for layer in layers)
    return not any(value for name, value in fields.items() if LIMITED_ATTENTION.fullmatch(name))
