"""`mindprint.importers.pairs`"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mindprint.importers import BadImport, Columns, ReadOptions, Skips, detect, read
from mindprint.types import Engagement


def said(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def load(
    file: Path, *rows: Any, user: str | None = None, columns: Columns = Columns()
) -> tuple[list[tuple[str, Engagement]], Skips]:
    if rows:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    skips = Skips()
    kind = detect(file, columns)
    assert kind == "pairs"
    return list(read(file, kind, skips, user=user, options=ReadOptions(columns=columns))), skips


def preferred(row: Engagement) -> str:
    """The text behind the label that was chosen."""
    return row.prompt.partition(f"[{row.response}] ")[2].partition("\n[")[0]


PAIR = {"prompt": "Tea?", "chosen": "Yes, hot.", "rejected": "No.", "user_id": "ann"}
FORMS: list[dict[str, Any]] = [
    PAIR,
    {"chosen": said("Tea?", "Yes, hot."), "rejected": said("Tea?", "No."), "user_id": "ann"},
    {"prompt": "Tea?", "chosen": said("Tea?", "Yes, hot."), "rejected": said("Tea?", "No."), "annotator": "ann"},
    {"prompt": said("Tea?"), "chosen": said("", "Yes, hot."), "rejected": said("", "No."), "user_id": "ann"},
    {
        "input": {"messages": said("Tea?")},
        "preferred_output": said("", "Yes, hot."),
        "non_preferred_output": said("", "No."),
        "user_id": "ann",
    },
]


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_a_closed_question(tmp_path: Path, form: dict[str, Any]) -> None:
    columns = Columns(prompt="input") if "input" in form else Columns()
    columns = (
        Columns(prompt="input", chosen="preferred_output", rejected="non_preferred_output")
        if "input" in form
        else columns
    )
    ((user, row),), skips = load(tmp_path / "p.jsonl", form, columns=columns)
    assert not skips
    assert (user, row.choices, preferred(row)) == ("ann", ["A", "B"], "Yes, hot.")
    assert row.prompt.startswith("Tea?\n\nWhich answer do you prefer?\n[A] ")


def test_openai_preferences_need_no_columns(tmp_path: Path) -> None:
    ((_, row),), _ = load(tmp_path / "p.jsonl", FORMS[-1])
    assert (row.prompt.partition("\n")[0], preferred(row)) == ("Tea?", "Yes, hot.")


def test_transcripts_as_texts(tmp_path: Path) -> None:
    begin = "\n\nHuman: Tea?\n\nAssistant: Which?\n\nHuman: Green."
    row = {"chosen": f"{begin}\n\nAssistant: Fine.", "rejected": f"{begin}\n\nAssistant: No."}
    ((user, found),), _ = load(tmp_path / "p.jsonl", row, user="ann")
    assert (user, preferred(found)) == ("ann", "Fine.")
    assert found.prompt.startswith(f"{begin.strip()}\n\nWhich answer")


def test_position_of_the_chosen_answer_reveals_nothing(tmp_path: Path) -> None:
    rows, _ = load(tmp_path / "p.jsonl", *({**PAIR, "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(60)))
    assert 15 < sum(row.response == "A" for _, row in rows) < 45


def test_parquet_as_ultrafeedback_has_it(tmp_path: Path) -> None:
    table = [
        {"prompt": "Tea?", "prompt_id": f"p{n}", "chosen": said("Tea?", f"good {n}"), "rejected": said("Tea?", "bad"),
         "messages": said("Tea?", f"good {n}"), "score_chosen": 8.0, "score_rejected": 8.5 - n}
        for n in range(3)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "p.parquet")
    rows, skips = load(tmp_path / "p.parquet", user="judge")
    assert [(user, row.id, preferred(row)) for user, row in rows] == [
        ("judge", "p1", "good 1"),
        ("judge", "p2", "good 2"),
    ]
    assert skips == {"chosen has a lower score than rejected": 1}
    assert (skips.bad, skips.places[0].where.rpartition("/")[2]) == (1, "p.parquet: row 1")


def scored(**scores: object) -> list[dict[str, object]]:
    return [{"model": name, "response": f"by {name}", "overall_score": score} for name, score in scores.items()]


def test_the_best_and_the_worst_completion_make_a_pair(tmp_path: Path) -> None:
    """UltraFeedback as it was published: `completions` with a score each, which was no format."""
    rows, skips = load(
        tmp_path / "p.jsonl",
        {"instruction": "Tea?", "completions": scored(a=6.5, b=8.0, c=2)},
        {"instruction": "Tea?", "completions": scored(a="1", b="7.5")},
        {"instruction": "Tea?", "completions": scored(a=5, b=5)},
        {"instruction": "Tea?", "completions": scored(a=5, b="N/A")},
        {"instruction": "Tea?", "completions": scored(a=5)},
        {"instruction": "Tea?", "completions": None},
        user="judge",
    )
    assert [(user, row.choices, preferred(row)) for user, row in rows] == [("judge", ["A", "B"], "by b")] * 2
    assert "by c" in rows[0][1].prompt
    assert "by a" not in rows[0][1].prompt
    assert skips == {"no answer was chosen": 4}


def test_the_mean_of_the_ratings_comes_before_the_overall_score(tmp_path: Path) -> None:
    answers = [{**answer, "fine-grained_score": n} for n, answer in enumerate(scored(a=10, b=8))]
    ((_, row),), _ = load(tmp_path / "p.jsonl", {"instruction": "Tea?", "completions": answers}, user="judge")
    assert preferred(row) == "by b"


def test_answer_without_the_score_that_decides_is_left_out(tmp_path: Path) -> None:
    """One answer without it, and another kind of score decided, which turned the preference round."""
    answers = [{**answer, "fine-grained_score": n} for n, answer in enumerate(scored(a=10, b=8, c=6))]
    for absent in ({}, {"fine-grained_score": None}, {"fine-grained_score": "nan"}, {"fine-grained_score": "inf"}):
        row = {"instruction": "Tea?", "completions": [*answers, {**scored(d=1)[0], **absent}]}
        ((_, found),), _ = load(tmp_path / "p.jsonl", row, user="judge")
        assert preferred(found) == "by c"
        assert "by d" not in found.prompt


def test_fewer_than_two_scores_choose_none(tmp_path: Path) -> None:
    answers = scored(a=10, b=8)
    rows, skips = load(
        tmp_path / "p.jsonl",
        {"instruction": "Tea?", "completions": [{**answers[0], "fine-grained_score": 3}, answers[1]]},
        {"instruction": "Tea?", "completions": scored(a="nan", b=8)},
        user="judge",
    )
    assert not rows
    assert skips == {"no answer was chosen": 2}


def test_completions_in_parquet(tmp_path: Path) -> None:
    pq.write_table(
        pa.Table.from_pylist([{"instruction": "Tea?", "completions": scored(a=1, b=2)}]), tmp_path / "p.parquet"
    )
    ((_, row),), _ = load(tmp_path / "p.parquet", user="judge")
    assert preferred(row) == "by b"


def test_what_cannot_be_used_is_counted(tmp_path: Path) -> None:
    rows, skips = load(
        tmp_path / "p.jsonl",
        {**PAIR, "rejected": "Yes, hot."},
        {**PAIR, "chosen": "[deleted]"},
        {**PAIR, "chosen": ""},
        {**PAIR, "prompt": None},
        {**PAIR, "user_id": "[deleted]"},
        {**PAIR, "user_id": None},
        {**PAIR, "chosen": said("Tea?")},
    )
    assert not rows
    assert skips == {
        "chosen and rejected are the same": 1,
        "answer is empty, deleted or removed": 1,
        "no answer was chosen": 2,
        "question is empty, deleted or removed": 1,
        "author is deleted, anonymous or a bot": 2,
    }


def test_pairs_without_users_are_refused_row_by_row(tmp_path: Path) -> None:
    pair = {key: value for key, value in PAIR.items() if key != "user_id"}
    _, skips = load(tmp_path / "p.jsonl", pair)
    assert (skips.bad, skips.places[0].reason) == (1, "has no user: name a column with --user, or one with --one-user")


def turn(number: int, role: str, content: str, chosen: bool | None = None) -> dict[str, Any]:
    return {"turn": number, "role": role, "content": content, "if_chosen": chosen}


def test_conversations_of_prism(tmp_path: Path) -> None:
    history = [
        turn(0, "user", "Tea?"),
        turn(0, "model", "No.", False),
        turn(0, "model", "Yes.", True),
        turn(0, "model", "Maybe.", False),
        turn(1, "user", "Green?"),
        turn(1, "model", "Fine.", False),
        turn(1, "model", "Right.", True),
        turn(2, "user", "Bye"),
        turn(2, "model", "Bye.", False),
    ]
    row = {
        "conversation_id": "c1",
        "user_id": "user7",
        "conversation_history": history,
        "generated_datetime": "2023-12-01 10:00:00",
    }
    rows, skips = load(tmp_path / "c.jsonl", row)
    assert [(user, found.id, preferred(found), len(found.choices or [])) for user, found in rows] == [
        ("user7", "c1/0", "Yes.", 3),
        ("user7", "c1/1", "Right.", 2),
    ]
    assert rows[1][1].prompt.startswith("User: Tea?\n\nAssistant: Yes.\n\nUser: Green?\n\nWhich answer")
    assert rows[0][1].occurred_at < rows[1][1].occurred_at
    assert skips == {"no answer was chosen": 1}


def test_utterances_of_prism(tmp_path: Path) -> None:
    row = {"conversation_id": "c1", "user_id": "user7", "user_prompt": "Tea?", "turn": 0}
    rows, skips = load(
        tmp_path / "u.jsonl",
        {**row, "interaction_id": "i1", "model_response": "No.", "if_chosen": False, "score": 3},
        {**row, "interaction_id": "i2", "model_response": "No.", "if_chosen": False, "score": 3},
        {**row, "interaction_id": "i1", "model_response": "Yes.", "if_chosen": True, "score": 90},
    )
    assert [(user, found.id, preferred(found)) for user, found in rows] == [("user7", "i1", "Yes.")]
    assert skips == {"no answer was chosen": 1}


def test_answers_of_two_users_with_the_same_conversation_stay_two(tmp_path: Path) -> None:
    asked = {"conversation_id": "c1", "user_prompt": "Tea?", "turn": 0}
    chosen = {"ann": "Yes.", "bob": "No."}
    rows, skips = load(
        tmp_path / "u.jsonl",
        *(
            {**asked, "user_id": user, "model_response": answer, "if_chosen": answer == wanted}
            for user, wanted in chosen.items()
            for answer in ("Yes.", "No.")
        ),
    )
    assert not skips
    assert {user: preferred(found) for user, found in rows} == chosen


def test_columns_that_are_named(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_text("who,q,better,worse\nann,Tea?,Yes,No\n")
    columns = Columns(prompt="q", chosen="better", rejected="worse", user="who")
    ((user, row),), _ = load(file, columns=columns)
    assert (user, preferred(row)) == ("ann", "Yes")
    with pytest.raises(BadImport, match="name the column of the rejected with --rejected"):
        load(file, columns=Columns(chosen="better"))


def test_scores_of_a_table_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "user,prompt,chosen,rejected,score_chosen,score_rejected\nann,q,a,b,9,10\nann,q,a,b,10,9\n"
    )
    rows, skips = load(tmp_path / "t.csv")
    assert [row.id for _, row in rows] == ["row-2"]
    assert skips == {"chosen has a lower score than rejected": 1}
    assert skips.bad == 1


def test_a_later_choice_wins(tmp_path: Path) -> None:
    later = {**PAIR, "chosen": PAIR["rejected"], "rejected": PAIR["chosen"]}
    rows, skips = load(
        tmp_path / "p.jsonl", {**PAIR, "id": "1"}, {**later, "id": "1"}, {**PAIR, "id": "1", "user_id": "bob"}
    )
    assert [(user, preferred(row)) for user, row in rows] == [("ann", "No."), ("bob", "Yes, hot.")]
    assert skips == {"a later one of the same user replaces it": 1}


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        (said("Tea?", "Yes."), said("Milk?", "No.")),
        ("\n\nHuman: Tea?\n\nAssistant: Yes.", "\n\nHuman: Milk?\n\nAssistant: No."),
    ],
)
def test_answers_to_different_questions_are_no_pair(tmp_path: Path, chosen: Any, rejected: Any) -> None:
    rows, skips = load(tmp_path / "p.jsonl", {"user_id": "ann", "chosen": chosen, "rejected": rejected})
    assert not rows
    assert skips == {"chosen and rejected answer different questions": 1}
    assert skips.bad == 1


def test_several_rejected_answers(tmp_path: Path) -> None:
    ((_, row),), _ = load(tmp_path / "p.jsonl", {**PAIR, "rejected": ["No.", "Never.", "[removed]"]})
    assert row.choices == ["A", "B", "C"]
    assert preferred(row) == "Yes, hot."
    assert "Never." in row.prompt
