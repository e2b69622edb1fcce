"""A made-up folder of one evaluation, as `mindprint eval` leaves it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mindprint_eval import results
from mindprint_eval.arms import ARMS

REASONS = ("wrong_answer", "loop", "leak", "low_gain", "low_anchor")
QUERY = "Shall we <script>alert('walk')</script> | by the *lake*?"


def candidates(users: Sequence[str], engagements: int = 6, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Four of each engagement, the last one hinted; of the accepted ones the first of each is used."""
    dice = random.Random(seed)
    for recipe, user, number in (
        (r, u, n) for r in ("selected", "distilled") for u in users for n in range(engagements)
    ):
        used = False
        for attempt in range(4):
            good = dice.random() < (0.5 if attempt == 3 else 0.2)
            reason = None if good else dice.choice(REASONS)
            scored = good or (reason or "").startswith("low")
            yield {
                "seed": 0, "user": user, "recipe": recipe, "engagement": f"e{number}",
                "verdict": "accepted" if good else "rejected", "reason": reason, "hinted": attempt == 3,
                "gain": dice.gauss(0.2 if good else -0.1, 0.1) if scored else None,
                "anchor": dice.gauss(0.1, 0.1) if scored else None, "anchor_random": None,
                "hindsight_gap": dice.random() if attempt == 3 else None, "target_logprob": -dice.random(),
                "thinking": "They like the lake.", "thinking_tokens": 5, "used": good and not used,
            }  # fmt: skip
            used = used or good


def adapters(users: Sequence[str]) -> list[dict[str, Any]]:
    """One that the gate refused, one that could not be made, the rest live."""
    rows: list[dict[str, Any]] = [
        {
            "recipe": recipe, "seed": 0, "user": user, "model": f"user/{user}.{recipe}@1", "state": "live", "why": "",
            "traces": 8, "samples": {"slow": 8, "fast": 8}, "tokens": 12345, "seconds": 41.5, "losses": {"fast": 0.69},
        }
        for recipe in ("fast", "distilled", "selected")
        for user in users
    ]  # fmt: skip
    rows[0] |= {"model": None, "state": "refused", "why": "user/ann.fast@1: collapse <0.02>"}
    rows[-1] |= {"model": None, "state": "no_adapter", "why": "no trace was accepted", "traces": 0, "tokens": 0}
    return rows


def about(users: Sequence[str], arms: Sequence[str]) -> dict[str, Any]:
    return {
        "name": "made", "command": "mindprint eval --data records", "made_at": "2026-01-01T00:00:00+00:00",
        "data": "records", "part": "all", "users": list(users), "rows": 8, "engagements": 24, "seeds": [0, 1],
        "model": "tiny", "base_digest": "sha256:00", "prompt_version": "1", "engine": "made 1", "machine": {"cores": 2},
        "versions": {"vllm": "1"}, "settings": {"server": {"GATE": "false"}, "thresholds": {"gain": None}},
        "arms": [{"name": name, "what": ARMS[name].what} for name in arms if name in ARMS],
        "adapters": adapters(users),
    }  # fmt: skip


def write(folder: Path, table: pd.DataFrame, *, queries: bool = True, **changes: Any) -> Path:
    """`table`: outcomes, as `made_outcomes.made` makes them. `changes`: other entries of evaluation.json."""
    folder.mkdir(parents=True, exist_ok=True)
    users = list(dict.fromkeys(table["user"])) or ["ann"]
    rows = json.loads(table.to_json(orient="records"))
    results.write_ndjson(rows, folder / "outcomes.jsonl.gz")
    results.write_ndjson(candidates(users), folder / "candidates.jsonl.gz")
    if queries:
        asked = table.loc[table["measure"] == "answer", ["user", "item"]].drop_duplicates().to_dict("records")
        results.write_ndjson(({**row, "query": QUERY} for row in asked), folder / "questions.jsonl.gz")
    document = about(users, list(dict.fromkeys(table["arm"]))) | changes
    (folder / "evaluation.json").write_text(json.dumps(document))
    return folder
