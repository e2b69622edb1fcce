"""Label smoothing of closed answers (Szegedy et al. 2016, section 7), over what may be answered. Pure.

A user of two dozen engagements gives hardly more bits than an adapter can hold: it learns each answer by heart and is
as certain of the next one. With a share of the certainty on the other choices it cannot be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mindprint_trainer.samples import Encoded

Chances = Mapping[int, float]
"""By token; they sum to 1."""


def smooth(answer: Sequence[int], choices: Sequence[Sequence[int]], share: float) -> Iterator[Chances]:
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


def smoothed(sequence: Encoded, share: float) -> dict[int, Chances]:
    """By place in the sequence, where the choices part: what the token there should be. Empty for an open answer."""
    last = sequence.segments[-1]
    if last.part != "answer" or not sequence.choices or not share:
        return {}
    found = smooth(sequence.ids[last.start : last.stop], sequence.choices, share)
    return {last.start + n: chances for n, chances in enumerate(found) if len(chances) > 1}
