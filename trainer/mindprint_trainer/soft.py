"""Soft labels: targets that are distributions over tokens.

Of thinking, what the base model itself held for likely at each token (context distillation); of closed answers, what
`smoothing` makes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from mindprint_trainer import smoothing
from mindprint_trainer.base import Base
from mindprint_trainer.batching import Target, passes, rows
from mindprint_trainer.layers import Stack
from mindprint_trainer.objective import Labels, collate, hidden
from mindprint_trainer.samples import Encoded
from mindprint_trainer.settings import Settings

Taught = Mapping[tuple[int, int], tuple[Tensor, Tensor]]
"""By sequence and place in it: the ids [k] of tokens, and their chances [k], which sum to 1."""


@torch.no_grad()
def teach(
    base: Base,
    stack: Stack,
    sequences: Sequence[Encoded],
    settings: Settings,
    pass_tokens: int,
    check: Callable[[], None],
) -> Taught:
    """The base's distribution at every token of thinking, cut to its likeliest tokens and made to sum to 1."""
    k, chunk = settings.soft_labels, settings.logit_chunk
    with_thinking = [n for n, one in enumerate(sequences) if any(part.part == "thinking" for part in one.segments)]
    made = rows(sequences, with_thinking, pass_tokens, share=base.takes_trees, masked=base.masked)
    taught: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
    head = stack.model.get_output_embeddings()
    with stack.off():
        for together in passes(made, pass_tokens, masked=base.masked):
            check()
            batch = collate(together, base.device, masked=base.masked)
            targets = list(batch.targets)
            wanted = [n for n, one in enumerate(targets) if _thinking(sequences, one)]
            states = hidden(stack, batch)
            for start in range(0, len(wanted), chunk):
                piece = wanted[start : start + chunk]
                logs, ids = torch.log_softmax(head(states[piece]).float(), -1).topk(k, -1)
                chances = torch.softmax(logs, -1)
                for row, number in enumerate(piece):
                    target = targets[number]
                    taught[target.sequence, target.place] = ids[row].cpu(), chances[row].cpu()
    return taught


def smoothed(sequences: Sequence[Encoded], share: float) -> Taught:
    """The answers' distributions, wherever a choice was left at a token."""
    return {
        (number, place): (torch.tensor(list(chances)), torch.tensor(list(chances.values())))
        for number, sequence in enumerate(sequences)
        for place, chances in smoothing.smoothed(sequence, share).items()
    }


def labels(targets: Sequence[Target], taught: Taught, device: torch.device) -> Labels:
    """What was taught, and the target itself for certain where nothing was; as wide as the widest."""
    found = [taught.get((target.sequence, target.place)) for target in targets]
    k = max((len(ids) for ids, _ in filter(None, found)), default=1)
    ids, chances = torch.zeros((len(targets), k), dtype=torch.long), torch.zeros((len(targets), k))
    for row, (target, known) in enumerate(zip(targets, found, strict=True)):
        if known is None:
            ids[row, 0], chances[row, 0] = target.token, 1
        else:
            ids[row, : len(known[0])], chances[row, : len(known[1])] = known
    return Labels(ids.to(device), chances.to(device))


def _thinking(sequences: Sequence[Encoded], target: Target) -> bool:
    return sequences[target.sequence].segments[target.segment].part == "thinking"
