"""Label smoothing of closed answers (Szegedy et al. 2016, section 7), over what may be answered. Pure.

A user of two dozen engagements gives hardly more bits than an adapter can hold: it learns each answer by heart and is
as certain of the next one. With a share of the certainty on the other choices it cannot be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from mindprint_trainer.data.packing import Target, forward_passes, pack_rows
from mindprint_trainer.data.tokenization import TokenizedSample
from mindprint_trainer.model.base_model import Base
from mindprint_trainer.model.lora import LoraModelView
from mindprint_trainer.objective.loss import SoftLabels, collate, target_hidden_states
from mindprint_trainer.settings import Settings

TokenProbs = Mapping[int, float]
"""By token; they sum to 1."""


def smooth_answer(answer: Sequence[int], choices: Sequence[Sequence[int]], share: float) -> Iterator[TokenProbs]:
    """What the next token should be at each of the answer's, after the ones before it: the real answer is certain by
    1 - `share`, and `share` is spread evenly over all choices, the real one among them."""
    chances = dict.fromkeys(map(tuple, choices), share / len(choices)) if choices else {}
    chances[tuple(answer)] = chances.get(tuple(answer), 0.0) + 1 - share
    for place in range(len(answer)):
        following: dict[int, float] = {}
        for ids, chance in chances.items():
            if ids[:place] == tuple(answer[:place]) and place < len(ids):
                following[ids[place]] = following.get(ids[place], 0.0) + chance
        total = sum(following.values())
        yield {token: chance / total for token, chance in following.items()}


def answer_token_probs(sequence: TokenizedSample, share: float) -> dict[int, TokenProbs]:
    """By place in the sequence, where the choices part: what the token there should be. Empty for an open answer."""
    last = sequence.segments[-1]
    if last.part != "answer" or not sequence.choices or not share:
        return {}
    found = smooth_answer(sequence.ids[last.start : last.stop], sequence.choices, share)
    return {last.start + n: chances for n, chances in enumerate(found) if len(chances) > 1}


SoftTargets = Mapping[tuple[int, int], tuple[Tensor, Tensor]]
"""By sequence and place in it: the ids [k] of tokens, and their chances [k], which sum to 1."""


@torch.no_grad()
def distill_targets(
    base: Base,
    stack: LoraModelView,
    sequences: Sequence[TokenizedSample],
    settings: Settings,
    pass_tokens: int,
    check: Callable[[], None],
) -> SoftTargets:
    """The base's distribution at every token of thinking, cut to its likeliest tokens and made to sum to 1."""
    k, chunk = settings.soft_labels, settings.logit_chunk
    with_thinking = [n for n, one in enumerate(sequences) if any(part.part == "thinking" for part in one.segments)]
    made = pack_rows(sequences, with_thinking, pass_tokens, share=base.takes_trees, masked=base.masked)
    taught: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
    head = stack.model.get_output_embeddings()
    with stack.off():
        for together in forward_passes(made, pass_tokens, masked=base.masked):
            check()
            batch = collate(together, base.device, masked=base.masked)
            targets = list(batch.targets)
            wanted = [n for n, one in enumerate(targets) if _is_thinking(sequences, one)]
            states = target_hidden_states(stack, batch)
            for start in range(0, len(wanted), chunk):
                piece = wanted[start : start + chunk]
                logs, ids = torch.log_softmax(head(states[piece]).float(), -1).topk(k, -1)
                chances = torch.softmax(logs, -1)
                for row, number in enumerate(piece):
                    target = targets[number]
                    taught[target.sequence, target.place] = ids[row].cpu(), chances[row].cpu()
    return taught


def smoothing_targets(sequences: Sequence[TokenizedSample], share: float) -> SoftTargets:
    """The answers' distributions, wherever a choice was left at a token."""
    return {
        (number, place): (torch.tensor(list(chances)), torch.tensor(list(chances.values())))
        for number, sequence in enumerate(sequences)
        for place, chances in answer_token_probs(sequence, share).items()
    }


def build_soft_labels(targets: Sequence[Target], taught: SoftTargets, device: torch.device) -> SoftLabels:
    """What was taught, and the target itself for certain where nothing was; as wide as the widest."""
    found = [taught.get((target.sequence, target.place)) for target in targets]
    k = max((len(ids) for ids, _ in filter(None, found)), default=1)
    ids, chances = torch.zeros((len(targets), k), dtype=torch.long), torch.zeros((len(targets), k))
    for row, (target, known) in enumerate(zip(targets, found, strict=True)):
        if known is None:
            ids[row, 0], chances[row, 0] = target.token, 1
        else:
            ids[row, : len(known[0])], chances[row, : len(known[1])] = known
    return SoftLabels(ids.to(device), chances.to(device))


def _is_thinking(sequences: Sequence[TokenizedSample], target: Target) -> bool:
    return sequences[target.sequence].segments[target.segment].part == "thinking"
