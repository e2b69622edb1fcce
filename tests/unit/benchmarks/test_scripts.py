"""What the scripts compute themselves; what they measure is measured on the real thing."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hidden_ids import tells_apart
from ingest import WORDS, engagement
from lora_mix import quantile
from mindprint_server.engine.fake import FakeTokenizer
from prefix_cache import best_share, profile_at
from resume import ARRIVED, FRESH, IDLE, LATE, TRAINING, killed_states, phases
from samples import engagement as sample
from support.chat_load import ChatReply
from support.publisher import PublishedVersion, publish_order
from support.reload_report import first_replies, is_outdated, mixes_versions

FOLDER = Path(__file__).parents[3] / "benchmarks"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py") if "typer.run(main)" in path.read_text())
OTHERS = {"run_gpu_suite.py"}
"""Scripts that measure nothing themselves."""


def served(prompts: list[list[int]], block: int) -> float:
    """The share that a cache without bounds serves when the prompts come one by one."""
    cached: set[tuple[int, ...]] = set()
    found = 0
    for ids in prompts:
        blocks = [tuple(ids[:end]) for end in range(block, len(ids) + 1, block)]
        found += sum(prefix in cached for prefix in blocks)
        cached.update(blocks)
    return block * found / sum(map(len, prompts))


@pytest.mark.parametrize("seed", range(5))
def test_the_best_share_is_that_of_a_cache_without_bounds_in_any_order(seed: int) -> None:
    chosen = random.Random(seed)
    prompts = [[chosen.randrange(2) for _ in range(chosen.randrange(1, 30))] for _ in range(40)]
    assert best_share(prompts, 4) == pytest.approx(served(prompts, 4))
    assert best_share(prompts, 4) == pytest.approx(served(chosen.sample(prompts, 40), 4))


def test_prompts_without_a_full_block_in_common_share_nothing() -> None:
    assert best_share([[1, 2, 3], [1, 2, 3]], 4) == 0
    assert best_share([[1, 2, 3, 4], [0, 1, 2, 3, 4]], 4) == 0


def test_profile_holds_nothing_later_and_changes_every_ten() -> None:
    history = [sample(n) for n in range(30)]
    assert profile_at(history, 10) == profile_at(history[:10], 19) != profile_at(history, 20)


def test_engagements_are_made_of_few_words() -> None:
    tokenizer = FakeTokenizer()
    for n in range(500):
        tokenizer.encode(engagement(n).prompt)
    assert len(tokenizer._ids) < 2 * len(WORDS) + 10
    assert engagement(7) == engagement(7) != engagement(8)


@pytest.mark.parametrize(("share", "value"), [(0.5, 2), (0.99, 4), (0.25, 1), (0.01, 1)])
def test_quantiles_are_values_that_were_seen(share: float, value: float) -> None:
    assert quantile([1, 2, 3, 4], share) == value


def test_users_take_turns_as_long_as_their_traces_last() -> None:
    assert publish_order({"a": 1, "b": 3, "c": 2}, 6) == ["a", "b", "c", "b", "c", "b"]
    assert publish_order({"a": 1, "b": 3}, 3) == ["a", "b", "b"]
    assert publish_order({"a": 0}, 2) == []


@pytest.mark.parametrize(
    ("version", "text", "mixed"),
    [
        ("user/a@1", "river river river", False),
        ("user/a@2", "river river river", True),
        ("user/a@1", "river river stone", True),
        ("user/a@1", "river river rivers", True),
        ("user/a@1", "river river", True),
        ("base", "river river river", True),
    ],
)
def test_a_sequence_is_all_the_mark_of_its_version_or_it_mixes(version: str, text: str, mixed: bool) -> None:
    words = {"user/a@1": "river", "user/a@2": "stone"}
    assert mixes_versions(ChatReply("user/a", 0.0, version, text), words, 3) == mixed


@pytest.mark.parametrize(
    ("sent", "version", "late"), [(1.5, 1, False), (1.5, 2, False), (2.5, 1, True), (2.5, 2, False), (0.5, 1, False)]
)
def test_an_answer_is_outdated_once_a_newer_version_was_live_before_it_was_asked(
    sent: float, version: int, late: bool
) -> None:
    published = [PublishedVersion("user/a", 1, "river", 1.0, 0.1), PublishedVersion("user/b", 1, "cloud", 1.2, 0.1)]
    published.append(PublishedVersion("user/a", 2, "stone", 2.0, 0.1))
    assert is_outdated(ChatReply("user/a", sent, f"user/a@{version}"), published) == late


def test_first_answers_of_versions_are_separated_from_later_ones() -> None:
    one, other = "user/a@1", "user/b@1"
    failed, late = ChatReply("user/a", 0.5, one, failure="gone"), ChatReply("user/a", 3.0, one)
    first, another = ChatReply("user/a", 1.0, one), ChatReply("user/b", 2.0, other)
    assert first_replies([late, another, failed, first]) == {first, another}


def logged(*lines: str) -> list[dict[str, Any]]:
    """What a trainer logs of one adapter."""
    return [dict(zip(("event", "step"), line.split("|"), strict=False), adapter="user/a") for line in lines]


@pytest.mark.parametrize(
    ("lines", "phase"),
    [
        (["leased"], FRESH),
        (["leased", "training|1/4"], FRESH),
        (["leased", "training|1/4", "training|2/4"], TRAINING),
        (["leased", "goes on|2/4"], TRAINING),
        (["leased", "goes on|2/4", "training|3/4"], TRAINING),
        (["leased", "goes on|4/4"], LATE),
        (["leased", "training|3/4", "training|4/4"], LATE),
        (["leased", "training|4/4", "version 1"], None),
        (["leased", "training|4/4", "the lease was lost: nothing uploaded"], None),
    ],
)
def test_where_a_training_was_cut_off_is_read_from_the_log(lines: list[str], phase: str | None) -> None:
    assert killed_states([{"event": "base loaded"}, *logged(*lines)]).get("user/a") == phase


def test_upload_is_done_once_its_traces_are_not_claimed_again() -> None:
    runs = [logged("leased", "training|4/4"), logged("leased", "goes on|4/4"), [{"event": "base loaded"}], []]
    assert phases(runs) == {LATE: 1, ARRIVED: 1, IDLE: 1}


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_runs_by_itself_and_takes_the_common_options(script: str) -> None:
    done = subprocess.run(
        [sys.executable, str(FOLDER / script), "--help"],
        capture_output=True, text=True, check=True, timeout=60, env={"COLUMNS": "200", "NO_COLOR": "1"},
    )  # fmt: skip
    assert script in OTHERS or "--json" in done.stdout
    assert script in OTHERS or "--quick" in done.stdout


@pytest.mark.parametrize(
    ("slower", "drift", "told"),
    [(0.0, 0.0, False), (0.0, 2.0, False), (0.01, 0.0, False), (0.2, 0.0, True), (-0.2, 2.0, True)],
    ids=["alike", "alike on a machine that gets slower", "too little to count", "slower", "faster"],
)
def test_time_tells_ids_apart_only_beyond_noise_and_drift(slower: float, drift: float, told: bool) -> None:
    dice = random.Random(5)
    base = [1 + drift * n / 300 for n in range(300)]
    theirs, unknown, again = ([one + 0.1 * dice.random() for one in base] for _ in range(3))
    assert tells_apart([one + slower for one in theirs], unknown, again) is told
