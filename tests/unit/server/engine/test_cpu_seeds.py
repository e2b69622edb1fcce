"""Generators that go back, on torch itself; with vLLM's sampler they are tested in `tests/engine`."""

from __future__ import annotations

import torch

from mindprint_server.engine.cpu_seeds import RewindableGenerator


def draw(generator: torch.Generator) -> list[float]:
    return list(torch.empty(3).exponential_(generator=generator).tolist())


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def test_copy_draws_what_the_original_would() -> None:
    assert draw(RewindableGenerator.copy_of(seeded())) == draw(seeded())


def test_discarded_draws_are_drawn_again() -> None:
    generator = RewindableGenerator.copy_of(seeded())
    for _ in range(2):
        draw(generator)
        # As vLLM does with a token that it discards.
        generator.set_offset(generator.get_offset() - 4)
    assert draw(generator) == draw(seeded())


def test_draws_before_the_mark_are_kept() -> None:
    generator, plain = RewindableGenerator.copy_of(seeded()), seeded()
    kept = draw(generator)
    generator.mark()
    draw(generator)
    generator.set_offset(0)
    assert [kept, draw(generator)] == [draw(plain), draw(plain)]
