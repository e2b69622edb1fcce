"""`mindprint.importers.table`, `tables` and `columns`."""

from __future__ import annotations

import csv
import io
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindprint.importers import BadImport, Columns, Known, ReadOptions, Skips, detect, read
from mindprint.importers.rows import prose
from mindprint.importers.tables import choices_of
from mindprint.types import Engagement
from mindprint.valid_ids import user_name

NAMED = Columns(prompt="Frage", response="Antwort", time="Wann", choices="Wahl", reason="Grund", id="Nr", user="Wer")
ROWS = [
    {
        "Nr": 7,
        "Wer": "ann@example.com",
        "Frage": "Tea &amp; milk?",
        "Antwort": "yes",
        "Wahl": ["yes", "no"],
        "Grund": "x",
    },
    {"Nr": 8, "Wer": "[deleted]", "Frage": "Tea?", "Antwort": "yes", "Wahl": ["yes", "no"], "Grund": ""},
    {"Nr": 9, "Wer": "bob", "Frage": "Tea?", "Antwort": "[removed]", "Wahl": ["yes", "no"], "Grund": ""},
    {"Nr": 10, "Wer": "bob", "Frage": "Tea?", "Antwort": "perhaps", "Wahl": ["yes", "no"], "Grund": ""},
    {"Nr": 11, "Wer": "bob", "Frage": "Tea?", "Antwort": "no", "Wahl": ["yes", "no"], "Grund": None},
]
WHEN = datetime(2017, 7, 14, 2, 40, tzinfo=UTC)


def load(
    path: Path, columns: Columns = NAMED, user: str | None = None, **options: Any
) -> tuple[list[tuple[str, Engagement]], Skips]:
    skips, kind = Skips(), detect(path, columns)
    return list(read(path, kind, skips, user=user, options=ReadOptions(columns=columns, **options))), skips


def write(folder: Path, suffix: str) -> Path:
    """The same rows in each format."""
    file = folder / f"rows{suffix}"
    rows = [{**row, "Wann": WHEN.replace(second=n)} for n, row in enumerate(ROWS)]
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif suffix == ".jsonl":
        file.write_text("".join(json.dumps({**row, "Wann": str(row["Wann"])}) + "\n" for row in rows))
    else:
        with file.open("w", newline="") as out:
            table = csv.DictWriter(out, list(rows[0]), delimiter="\t" if suffix == ".tsv" else ",")
            table.writeheader()
            table.writerows({**row, "Wahl": json.dumps(row["Wahl"])} for row in rows)
    return file


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_table_in_each_format(tmp_path: Path, suffix: str) -> None:
    rows, skips = load(write(tmp_path, suffix))
    assert [
        (user, row.id, row.prompt, row.response, row.choices, row.reason, row.occurred_at) for user, row in rows
    ] == [
        (user_name("ann@example.com"), "7", "Tea & milk?", "yes", ["yes", "no"], "x", WHEN),
        ("bob", "11", "Tea?", "no", ["yes", "no"], None, WHEN.replace(second=4)),
    ]
    assert skips == {
        "author is deleted, anonymous or a bot": 1,
        "answer is empty, deleted or removed": 1,
        "answer is not among the choices": 1,
    }
    place = {".parquet": "rows.parquet: row 4", ".jsonl": "rows.jsonl:4"}.get(suffix, f"rows{suffix}:5")
    assert [row.where.rpartition("/")[2] for row in skips.places if row.bad] == [place]


def test_known_names_of_columns_need_not_be_named(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("Author,Question,Answer,created_utc\nann,Tea?,yes,1500000000\n,Tea?,no,1500000000\n")
    rows, skips = load(file, Columns(), user=None)
    assert [(user, row.id, row.occurred_at) for user, row in rows] == [("ann", "row-1", WHEN)]
    assert skips == {"author is deleted, anonymous or a bot": 1}


def test_one_user_is_the_only_one(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("author,question,answer\nann,Tea?,yes\nbob,Tea?,no\n")
    rows, skips = load(file, Columns(), user="bob")
    assert [(user, row.response) for user, row in rows] == [("bob", "no")]
    assert skips == {"of another user than the one asked for": 1}
    file.write_text("question,answer\nTea?,yes\n")
    assert [user for user, _ in load(file, Columns(), user="bob")[0]] == ["bob"]


@pytest.mark.parametrize(
    ("columns", "user", "complaint"),
    [
        (Columns(prompt="ask"), None, "lacks the column 'ask'; found author, question, text"),
        (Columns(prompt="question"), None, "name the column of the response with --response; found author"),
        (
            Columns(prompt="question", response="text", user="a b"),
            None,
            r"lacks the column 'a b'; found author, question, text \(one user for all rows: --one-user 'a b'\)$",
        ),
        (Columns(prompt="question", response="text"), "nobody-here", None),
    ],
)
def test_columns_that_are_not_there(tmp_path: Path, columns: Columns, user: str | None, complaint: str | None) -> None:
    file = tmp_path / "t.csv"
    file.write_text("author,question,text\nann,Tea?,yes\n")
    if complaint is None:
        assert load(file, columns, user)[1] == {"of another user than the one asked for": 1}
        return
    with pytest.raises(BadImport, match=complaint):
        load(file, columns, user)


def test_a_table_without_users_asks_for_one(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("question,answer\nTea?,yes\n")
    with pytest.raises(BadImport, match="of the user with --user, or one user for all rows with --one-user"):
        load(tmp_path / "t.csv", Columns(), user=None)


def test_days_before_months_need_a_format(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("author,question,answer,date\nann,Tea?,yes,3/4/2017\n")
    _, skips = load(file, Columns(), user=None)
    assert [row.reason for row in skips.places] == [
        "time cannot be read: '3/4/2017' (day and month cannot be told apart)"
    ]
    rows, _ = load(file, Columns(), user=None, time_format="%d/%m/%Y")
    assert rows[0][1].occurred_at == datetime(2017, 4, 3, tzinfo=UTC)


def test_a_later_answer_under_the_same_id_wins(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text(
        "id,author,question,answer\n1,ann,Tea?,yes\n1,bob,Tea?,yes\n1,ann,Tea?,no\n1,ann,Tea?,no\n1,ann,Tea?,\n"
    )
    rows, skips = load(file, Columns(), user=None)
    assert [(user, row.response) for user, row in rows] == [("bob", "yes"), ("ann", "no")]
    assert skips == {
        "a later one of the same user replaces it": 1,
        "id is repeated": 1,
        "answer is empty, deleted or removed": 1,
    }


def test_fields_inside_of_a_column(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(json.dumps({"q": "Tea?", "meta": {"who": "ann", "said": True}}) + "\n")
    rows, _ = load(file, Columns(prompt="q", response="meta.said", user="meta.who"))
    assert [(user, row.response) for user, row in rows] == [("ann", "true")]


@pytest.mark.parametrize(
    ("value", "choices"),
    [
        (["a", 1], ["a", "1"]),
        ('["a", "b"]', ["a", "b"]),
        ("['it\\'s', \"b\"]", ["it's", "b"]),
        (" a | b|c ", ["a", "b", "c"]),
        ("a", None),
        ("", None),
        (None, None),
        ([], None),
    ],
)
def test_lists_of_choices(value: object, choices: list[str] | None) -> None:
    assert choices_of(value) == choices


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, ".parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(BadImport, match=r"Parquet needs pyarrow: run `pip install 'mindprint\[tables\]'`"):
        load(file)


def test_a_file_that_is_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(BadImport, match=r"t\.parquet: is no Parquet"):
        load(tmp_path / "t.parquet")


@given(
    st.lists(
        st.tuples(
            *[st.text(st.characters(exclude_categories=("Cs", "Cc"), include_characters='\n",'), min_size=1)] * 2
        ),
        min_size=1,
        max_size=8,
    )
)
def test_what_csv_holds_comes_in_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, cells: Any) -> None:
    file = tmp_path_factory.mktemp("t") / "t.csv"
    out = io.StringIO()
    csv.writer(out).writerows([("prompt", "response"), *cells])
    file.write_bytes(out.getvalue().encode())
    rows, skips = load(file, Columns(), user="ann")
    usable = [(prose(prompt), prose(response)) for prompt, response in cells if prose(prompt) and prose(response)]
    assert [(row.prompt, row.response) for _, row in rows] == usable
    assert skips.bad == 0


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("t.csv", "question,answer\n", "table"),
        ("t.tsv", "prompt\tchosen\trejected\n", "pairs"),
        ("t.jsonl", '{"messages": []}', "chat"),
        ("t.jsonl", 'broken\n{"prompt": "p", "chosen": "a", "rejected": "b", "messages": []}', "pairs"),
        ("t.jsonl", '{"input": {}, "preferred_output": []}', "pairs"),
        ("t.jsonl", '{"query": "q", "target": "t"}', "ndjson"),
        ("t.jsonl", '{"prompt": "q", "response": "t"}', "ndjson"),
        ("t.jsonl", '{"question": "q", "answer": "t", "author": "ann"}', "table"),
        ("t.json", '[{"messages": []}]', "chat"),
        ("t.json", '[{"prompt": "p", "chosen": "a", "rejected": "b"}]', "pairs"),
    ],
)
def test_format_is_detected_by_keys(tmp_path: Path, name: str, content: str, kind: Known) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert detect(tmp_path / name) == kind


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"id": 1, "speaker": "a", "reply-to": None, "text": "t"}, "name the folder of the corpus"),
        ({"user_id": "a", "history": []}, "holds histories of a dataset folder"),
    ],
)
def test_files_of_a_folder_alone(tmp_path: Path, row: dict[str, Any], complaint: str) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps(row))
    with pytest.raises(BadImport, match=complaint):
        detect(tmp_path / "t.jsonl")


@pytest.mark.parametrize(
    ("users", "names"),
    [
        ("1234567890123456.0,1234567890123457.0", ["1234567890123456", "1234567890123457"]),
        ("12.0,13.0", ["12", "13"]),
        ("0.1,0.10000000000000002", [user_name("0.1"), user_name("0.10000000000000002")]),
    ],
)
def test_different_numbers_are_different_people(tmp_path: Path, users: str, names: list[str]) -> None:
    rows = [f'{{"user": {user}, "question": "q", "answer": "a"}}\n' for user in users.split(",")]
    (tmp_path / "t.jsonl").write_text("".join(rows))
    found, skips = load(tmp_path / "t.jsonl", Columns(), user=None)
    assert [user for user, _ in found] == names
    assert not skips


@pytest.mark.parametrize(("name", "kind"), [("t.jsonl", "table"), ("own.jsonl", "ndjson")])
def test_ids_that_were_rounded_are_nobodys(tmp_path: Path, name: str, kind: Known) -> None:
    """9007199254740993 and 9007199254740992 are one float: two people may stand behind it."""
    keys = ("user", "question", "answer") if kind == "table" else ("user_id", "prompt", "response")
    row = dict(zip(keys, (float(2**53), "q", "a"), strict=True)) | {"occurred_at": "2020-01-01", "id": "1"}
    (tmp_path / name).write_text(json.dumps(row))
    found, skips = load(tmp_path / name, Columns(), user=None)
    assert not found
    assert skips.bad == 1
    assert "write ids as texts or whole numbers" in skips.places[0].reason


@pytest.mark.parametrize("kind", ["table", "ndjson"])
def test_a_key_that_stands_twice_is_a_fault(tmp_path: Path, kind: Known) -> None:
    answer = '"question": "q", "answer": "a"' if kind == "table" else '"prompt": "q", "response": "a"'
    name = "user" if kind == "table" else "user_id"
    row = f'{{"{name}": "ann", "{name}": "bob", "id": "1", "occurred_at": "2020-01-01", {answer}}}'
    (tmp_path / "t.jsonl").write_text(f"{row}\n")
    skips = Skips()
    assert not list(read(tmp_path / "t.jsonl", kind, skips, options=ReadOptions()))
    assert skips.bad == 1
    assert f"key '{name}' stands twice" in skips.places[0].reason


def test_trls_rows_of_messages_are_texts(tmp_path: Path) -> None:
    turn = {"role": "user", "content": "Tea?"}
    row = {"user": "ann", "prompt": [turn], "completion": [{"role": "assistant", "content": "yes"}]}
    (tmp_path / "t.jsonl").write_text(json.dumps(row))
    ((user, found),), _ = load(tmp_path / "t.jsonl", Columns(), user=None)
    assert (user, found.prompt, found.response) == ("ann", "Tea?", "yes")


@pytest.mark.parametrize("label", [False, "False", 0, "0"])
def test_answers_that_a_user_rejected_are_not_the_users(tmp_path: Path, label: Any) -> None:
    rows = [
        {"user": "ann", "prompt": "Tea?", "completion": "yes", "label": True, "id": "1"},
        {"user": "ann", "prompt": "Tea?", "completion": "no", "label": label, "id": "1"},
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, skips = load(tmp_path / "t.jsonl", Columns(), user=None)
    assert [row.response for _, row in found] == ["yes"]
    assert skips == {"answer was rejected: its label is false": 1}


def test_of_answers_under_one_id_the_latest_counts(tmp_path: Path) -> None:
    """Many exports have the newest row first."""
    (tmp_path / "t.csv").write_text(
        "user,id,question,answer,date\nann,1,q,new,2020-02-01\nann,1,q,old,2020-01-01\n"
        "bob,1,q,old,\nbob,1,q,new,2020-01-01\n"
    )
    rows, skips = load(tmp_path / "t.csv", Columns(), user=None)
    assert [(user, row.response) for user, row in rows] == [("ann", "new"), ("bob", "new")]
    assert skips == {"a later one of the same user replaces it": 2}


@pytest.mark.parametrize(
    "content",
    [
        'user;"question, in full, as it was asked";answer\nann;Tea?;yes\n',
        '"user";"question\nin, two, lines, here";"answer"\nann;Tea?;yes\n',
        "sep=;\nuser;question;answer\nann;Tea?;yes\n",
    ],
)
def test_the_delimiter_is_the_one_outside_of_quotes(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    names = content.partition("user")[2]
    prompt = names.split(";")[1].strip('"')
    ((user, row),), skips = load(tmp_path / "t.csv", Columns(prompt=prompt, response="answer", user="user"))
    assert (user, row.prompt, row.response) == ("ann", "Tea?", "yes")
    assert not skips


def test_lines_are_counted_from_the_line_that_names_the_delimiter(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("sep=;\nuser;question;answer\nann;Tea?\n")
    _, skips = load(tmp_path / "t.csv", Columns(), user=None)
    assert skips.places[0].where.endswith("t.csv:3")


def test_columns_that_differ_in_case_only_must_be_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("user,question,Answer,answer\nann,Tea?,yes,no\n")
    with pytest.raises(BadImport, match="has the columns 'Answer', 'answer': name one with --response"):
        load(tmp_path / "t.csv", Columns(), user=None)
    rows, _ = load(tmp_path / "t.csv", Columns(response="answer", user="user"))
    assert [row.response for _, row in rows] == ["no"]


def test_utf_16_without_a_mark_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("user,question,answer\n".encode("utf-16-le"))
    with pytest.raises(BadImport, match="is no UTF-8 text: save it as UTF-8"):
        load(tmp_path / "t.csv", Columns(), user=None)


def test_rows_of_no_known_format_say_what_they_have(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"user": "ann", "question": "q", "winner": "b"}')
    with pytest.raises(BadImport, match="no known format has rows with the keys user, question, winner: name"):
        detect(tmp_path / "t.jsonl")


def test_lines_that_end_with_a_carriage_return_alone(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b'user,question,answer\rann,"Tea,\rhot?",yes\rbob,Tea?\rcyd,Tea?,no\r')
    rows, skips = load(tmp_path / "t.csv", Columns(), user=None)
    assert [(user, row.prompt, row.response) for user, row in rows] == [
        ("ann", "Tea,\rhot?", "yes"),
        ("cyd", "Tea?", "no"),
    ]
    assert skips.places[0].where.endswith("t.csv:4")


@pytest.mark.parametrize("cell", ["tea;coffee", "tea", '{"A": "tea"}'])
def test_named_choices_that_are_no_list_do_not_make_an_open_question(tmp_path: Path, cell: str) -> None:
    with (tmp_path / "t.csv").open("w", newline="") as out:
        rows = [("user", "question", "answer", "allowed"), ("ann", "Tea?", "tea", cell), ("bob", "Tea?", "tea", "")]
        csv.writer(out).writerows(rows)
    found, skips = load(tmp_path / "t.csv", Columns(choices="allowed"), user=None)
    assert [(user, row.choices) for user, row in found] == [("bob", None)]
    assert [(row.reason[:40], row.bad) for row in skips.places] == [("choices are no list of two or more: writ", True)]
