"""Users made from a seed, whose hidden preferences are known: a ground truth that real records never have.

Each user has weights for the kinds and traits of the options on offer. A question shows two or three options. The user
takes the option with the highest utility plus noise, and sometimes names the attribute that decided. `write_dataset`
makes a folder in the format of `mindprint.datasets`, with `rules.json` for the hidden weights.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

START = datetime(2025, 1, 6, 18, tzinfo=UTC)
NOISE = 0.5
"""Standard deviation of what is added to each utility; kinds and traits have weights of 2.0 and 1.0."""
REASON_SHARE = 0.4


@dataclass(frozen=True)
class Domain:
    """What is on offer: the kinds are single words and serve as the labels to choose from."""

    question: str
    kinds: tuple[str, ...]
    traits: tuple[tuple[str, str], ...]


DOMAINS = (
    Domain(
        "Dinner tonight",
        ("soup", "curry", "pizza", "salad", "steak", "fish"),
        (("cheap", "expensive"), ("mild", "spicy"), ("light", "heavy")),
    ),
    Domain(
        "A weekend away",
        ("lake", "city", "coast", "forest", "castle", "farm"),
        (("cheap", "expensive"), ("quiet", "lively"), ("near", "far")),
    ),
    Domain(
        "Something to read",
        ("crime", "history", "poetry", "science", "travel", "romance"),
        (("short", "long"), ("new", "classic"), ("funny", "serious")),
    ),
)


@dataclass(frozen=True)
class Option:
    kind: str
    traits: tuple[str, ...]

    def attributes(self) -> tuple[str, ...]:
        return (self.kind, *self.traits)

    def described(self) -> str:
        return f"{self.kind} ({', '.join(self.traits)})"


@dataclass(frozen=True)
class PreferenceRule:
    """A user's hidden preferences: a weight for each kind and each trait of one domain."""

    user_id: str
    question: str
    weights: Mapping[str, float]
    noise: float

    def utility(self, option: Option) -> float:
        """Without noise."""
        return sum(self.weights[attribute] for attribute in option.attributes())

    def best(self, options: Sequence[Option]) -> Option:
        """Return what the user would choose without noise; the first one on a tie."""
        return max(options, key=self.utility)


@dataclass(frozen=True)
class SyntheticChoice:
    """One question, what the user took, and the attribute that the user names as the reason, if any."""

    options: tuple[Option, ...]
    taken: Option
    best: Option
    at: datetime
    prompt: str
    reason: str | None

    @property
    def labels(self) -> list[str]:
        return [option.kind for option in self.options]


@dataclass(frozen=True)
class SyntheticUser:
    rule: PreferenceRule
    history: tuple[SyntheticChoice, ...]
    held_out: tuple[SyntheticChoice, ...]


def generate_users(
    users: int, engagements: int, held_out: int, seed: int, *, noise: float = NOISE
) -> list[SyntheticUser]:
    """Make users from a seed; a user does not depend on how many others there are.

    Args:
        users: Number of users.
        engagements: Past engagements of each user.
        held_out: Later questions of each user.
        seed: The same seed gives the same users.
        noise: Standard deviation of the noise on each utility.
    """
    return [_user(f"demo-{n:02d}", DOMAINS[n % len(DOMAINS)], engagements, held_out, seed, noise) for n in range(users)]


def write_dataset(folder: Path, users: int, engagements: int, held_out: int, seed: int) -> list[SyntheticUser]:
    """Write users.jsonl, train.jsonl, eval.jsonl and rules.json into a folder.

    Args:
        folder: Made if it does not exist.
        users: Number of users.
        engagements: Past engagements of each user.
        held_out: Later questions of each user.
        seed: The same seed gives the same users.

    Returns:
        The users that were written.
    """
    made = generate_users(users, engagements, held_out, seed)
    folder.mkdir(parents=True, exist_ok=True)
    _write_lines(folder / "users.jsonl", (_user_row(user) for user in made))
    _write_lines(folder / "train.jsonl", (row for user in made for row in _rows(user, user.history, "t")))
    _write_lines(folder / "eval.jsonl", (row for user in made for row in _rows(user, user.held_out, "e")))
    (folder / "rules.json").write_text(json.dumps([asdict(user.rule) for user in made], indent=2) + "\n")
    return made


def _user(user_id: str, domain: Domain, engagements: int, held_out: int, seed: int, noise: float) -> SyntheticUser:
    rng = random.Random(f"mindprint/{seed}/{user_id}")
    rule = PreferenceRule(user_id, domain.question, _weights(domain, rng), noise)
    choices = tuple(_choice(rule, domain, START + timedelta(days=day), rng) for day in range(engagements + held_out))
    return SyntheticUser(rule, choices[:engagements], choices[engagements:])


def _weights(domain: Domain, rng: random.Random) -> dict[str, float]:
    """Kinds are liked in a random order, evenly spread over -2 to 2; of each pair of traits one pole is liked."""
    order = rng.sample(domain.kinds, len(domain.kinds))
    step = 4.0 / (len(order) - 1)
    weights = {kind: round(2.0 - rank * step, 2) for rank, kind in enumerate(order)}
    for pair in domain.traits:
        strength = round(rng.uniform(0.5, 1.0), 2)
        liked = rng.randrange(2)
        weights[pair[liked]], weights[pair[1 - liked]] = strength, -strength
    return weights


def _choice(rule: PreferenceRule, domain: Domain, at: datetime, rng: random.Random) -> SyntheticChoice:
    kinds = rng.sample(domain.kinds, rng.choice((2, 3)))
    options = tuple(Option(kind, tuple(rng.choice(pair) for pair in domain.traits)) for kind in kinds)
    felt = {option: rule.utility(option) + rng.gauss(0.0, rule.noise) for option in options}
    taken = max(options, key=lambda option: felt[option])
    *first, last = (option.described() for option in options)
    return SyntheticChoice(
        options=options,
        taken=taken,
        best=rule.best(options),
        at=at + timedelta(minutes=rng.randrange(180)),
        prompt=f"{domain.question}: {', '.join(first)} or {last}?",
        reason=_reason(rule, taken, options) if rng.random() < REASON_SHARE else None,
    )


def _reason(rule: PreferenceRule, taken: Option, options: Sequence[Option]) -> str:
    """Names what speaks most for the option taken, next to what the others have in its place."""

    def edge(place: int) -> float:
        mine = rule.weights[taken.attributes()[place]]
        others = [rule.weights[option.attributes()[place]] for option in options if option is not taken]
        return mine - sum(others) / len(others)

    decided = max(range(len(taken.attributes())), key=edge)
    return f"I like {taken.kind}." if decided == 0 else f"I like it {taken.attributes()[decided]}."


def _user_row(user: SyntheticUser) -> dict[str, Any]:
    history = [
        {"prompt": choice.prompt, "response": choice.taken.kind, "timestamp": choice.at.isoformat()}
        | ({"reason": choice.reason} if choice.reason else {})
        for choice in user.history
    ]
    return {
        "user_id": user.rule.user_id,
        "n_history": len(user.history),
        "n_eval": len(user.held_out),
        "meta": {"question": user.rule.question},
        "history": history,
    }


def _rows(user: SyntheticUser, choices: Sequence[SyntheticChoice], letter: str) -> Iterable[dict[str, Any]]:
    for n, choice in enumerate(choices):
        yield {
            "id": f"{user.rule.user_id}/{letter}{n:04d}",
            "user_id": user.rule.user_id,
            "history_upto": n if letter == "t" else len(user.history),
            "query": choice.prompt,
            "choices": choice.labels,
            "target": choice.taken.kind,
            "timestamp": choice.at.isoformat(),
            "best": choice.best.kind,
        }


def _write_lines(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    with file.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
