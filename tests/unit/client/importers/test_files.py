"""`mindprint.importers`: large JSON files entry by entry, ids and times made to fit, formats told apart."""

from __future__ import annotations

import gzip
import html
import json
import math
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from mindprint.datasets import load_users
from mindprint.importers import BadImport, SameId, Skips, check_bad_share, detect, read
from mindprint.importers.json_stream import entries, located_entries
from mindprint.importers.people import is_nobody
from mindprint.importers.rows import prose
from mindprint.importers.texts import decode_entities
from mindprint.importers.timestamps import START, TICK, DistinctTimes, in_order, moment
from mindprint.types import EngagementId, Name
from mindprint.valid_ids import EngagementIds, UserIds, engagement_id, user_name

VALUES: list[Any] = [{"a": 'é"\\\n', "b": [1, -2.5e3, None]}, "🙂" * 40, 12345678901, {}, [], True, -1.5]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("ascii", [True, False])
def test_entries_wherever_the_pieces_end(tmp_path: Path, chunk: int, start: str, ascii: bool) -> None:
    file = tmp_path / "data.json"
    keyed = {f"k{n}": value for n, value in enumerate(VALUES)}
    for data, found in ((VALUES, list(enumerate(VALUES, 1))), (keyed, list(keyed.items())), ([], []), ({}, [])):
        written = start + json.dumps(data, indent=1, ensure_ascii=ascii).replace("\n", "\r\n") + "\r\n"
        file.write_bytes(written.encode())
        assert list(entries(file, chunk=chunk)) == found


def test_nan_is_taken_for_json(tmp_path: Path) -> None:
    (tmp_path / "n.json").write_text("[NaN, 1]")
    (_, value), _ = entries(tmp_path / "n.json", chunk=2)
    assert math.isnan(value)


@pytest.mark.parametrize("chunk", [1, 1 << 20])
@pytest.mark.parametrize(
    ("content", "line", "complaint"),
    [
        (b"", 1, "the file is empty"),
        (b"\n7", 2, "a JSON array or object is needed"),
        (b'[{"a": 1},\n{"b": }]', 2, "is no JSON (Expecting value)"),
        (b'[{"a": 1},\n{"b": "c', 2, "is no JSON (Unterminated string"),
        (b"[1,\n2", 2, "is no JSON (, or ] is needed)"),
        (b"{\n7: 1}", 2, "a key in double quotes is needed"),
        (b'[1]\n\n["more"]', 3, "there is more behind the end"),
        (b'["a",\n\n"\xff"]', 3, "is no UTF-8 text"),
        (b"[" * 100_000, 1, "is no JSON"),
    ],
)
def test_malformed_files_are_refused_with_their_line(
    tmp_path: Path, content: bytes, line: int, complaint: str, chunk: int
) -> None:
    file = tmp_path / "bad.json"
    file.write_bytes(content)
    with pytest.raises(BadImport) as told:
        list(entries(file, chunk=chunk))
    assert str(told.value).startswith(f"{file}:{line}: ")
    assert complaint in str(told.value)
    assert "\n" not in str(told.value)


@given(st.text(min_size=1, max_size=200))
def test_every_id_can_be_made_to_fit(raw: str) -> None:
    TypeAdapter(Name).validate_python(user_name(raw))
    TypeAdapter(EngagementId).validate_python(engagement_id(raw))


def test_names() -> None:
    assert user_name("ann-1.b") == "ann-1.b"
    assert user_name("ann b") == f"ann-b-{user_name('ann b')[-16:]}"
    assert len({user_name(raw) for raw in ("ann b", "ann/b", "ann-b", "ann..b", "ann b ", "x" * 64, "x" * 65)}) == 7
    assert user_name("日本").startswith("user-")
    assert user_name("\ud800").startswith("user-")
    assert engagement_id("q/1:a") == "q/1:a"


@pytest.mark.parametrize(
    ("value", "when"),
    [
        (1_500_000_000, datetime(2017, 7, 14, 2, 40, tzinfo=UTC)),
        ("1500000000", datetime(2017, 7, 14, 2, 40, tzinfo=UTC)),
        (1_500_000_000_000, datetime(2017, 7, 14, 2, 40, tzinfo=UTC)),
        (1_500_000_000.5, datetime(2017, 7, 14, 2, 40, 0, 500_000, tzinfo=UTC)),
        (2017, datetime(2017, 1, 1, tzinfo=UTC)),
        ("2017", datetime(2017, 1, 1, tzinfo=UTC)),
        ("2017-07-14", datetime(2017, 7, 14, tzinfo=UTC)),
        ("20170714", datetime(2017, 7, 14, tzinfo=UTC)),
        (" 2017-07-14T04:40:00+02:00 ", datetime(2017, 7, 14, 2, 40, tzinfo=UTC)),
        (None, None),
        (math.nan, None),
        ("", None),
    ],
)
def test_moments(value: object, when: datetime | None) -> None:
    assert moment(value) == when


@pytest.mark.parametrize("value", ["soon", True, [], math.inf, 1e300, "9" * 40])
def test_no_moments(value: object) -> None:
    with pytest.raises(ValueError, match=r"no time|Invalid isoformat"):
        moment(value)


def test_times_that_are_missing_follow_the_file() -> None:
    day = datetime(2020, 5, 1, tzinfo=UTC)
    assert in_order([None, None]) == [START, START + TICK]
    assert in_order([None, day, None, day]) == [day + n * TICK for n in range(4)]
    assert in_order([day, None, day - timedelta(days=1)]) == [day, day + TICK, day - timedelta(days=1)]
    assert in_order([]) == []


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("rows.jsonl", "[", "ndjson"),
        ("rows.txt", '{"choices": ["a", "b"], "id": "e"}', "ndjson"),
        ("rows.txt", "{", "ndjson"),
        ("q.json", '\ufeff [{"id": 1, "input": "?", "profile": []}]', "lamp"),
        ("q.json", '[{"author": "ann", "posts": []}]', "cmv"),
        ("q.json", '{"ann": []}', "cmv"),
        ("q.json", '[{"user_id": "ann", "id": "1", "prompt": "p", "response": "r"}]', "ndjson"),
        ("q.jsonl", '[\n {"user": "ann", "question": "p", "answer": "r"}]', "table"),
        ("q.json", '[{"user": "ann", "question": "p", "answer": "r"}]', "table"),
        ("history_data.json", "", "cmv"),
    ],
)
def test_format_is_detected_by_its_file(tmp_path: Path, name: str, content: str, kind: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert detect(tmp_path / name) == kind


def test_format_is_detected_by_its_folder(tmp_path: Path) -> None:
    with pytest.raises(BadImport, match=r"is a folder without votes\.csv"):
        detect(tmp_path)
    (tmp_path / "evaluation_data.json").write_text("{}")
    assert detect(tmp_path) == "cmv"
    (tmp_path / "votes.csv").write_text("")
    assert detect(tmp_path) == "polis"
    with pytest.raises(BadImport, match=r"is a part of a pol\.is export: name its folder"):
        detect(tmp_path / "votes.csv")


@pytest.mark.parametrize(
    ("content", "complaint"), [('{"task": "LaMP_1", "golds": []}', "with --outputs"), ("[{]", ":1: is no JSON")]
)
def test_files_that_are_no_format(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(BadImport, match=complaint):
        detect(tmp_path / "x.json")


@given(st.text(max_size=80), st.text(max_size=80))
def test_two_ids_stay_two_and_lead_back(one: str, other: str) -> None:
    users = UserIds()
    made = [users.of(one), users.of(other)]
    assert len(set(made)) == len({one, other})
    assert [users.changed.get(id, id) for id in made] == [one, other]


@given(st.lists(st.text(max_size=140), max_size=4))
def test_ids_of_engagements_lead_back(raws: list[str]) -> None:
    ids = EngagementIds()
    made = [ids.of(raw) for raw in raws]
    assert made == [engagement_id(raw) for raw in raws]
    assert [ids.changed.get(id, id) for id in made] == raws
    assert all(made != raw for made, raw in ids.changed.items()), "only ids that change are kept"


def test_two_users_or_engagements_that_would_become_one_are_refused() -> None:
    users = UserIds()
    users.of("ann@example.com")
    with pytest.raises(SameId, match=r"users 'ann@example.com' and .* both become 'ann-example-com-"):
        users.of(user_name("ann@example.com"))
    ids = EngagementIds()
    assert ids.of("a b") == ids.of("a b")
    with pytest.raises(SameId, match=r"ids of rows 'a b' and .* both become 'a-b-"):
        ids.of(engagement_id("a b"))


OWN = {"prompt": "Tea?", "response": "Yes", "occurred_at": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("name", "content", "kind", "original"),
    [
        ("r.jsonl", json.dumps({"user_id": "ann", **OWN, "id": "über/1"}), "ndjson", "über/1"),
        ("r.jsonl", json.dumps({"user_id": "ann", **OWN, "id": 7.0}), "ndjson", None),
        ("r.jsonl", '{"user_id": "ann", "id": "über/1", "query": "Tea?", "target": "Yes"}', "ndjson", "über/1"),
        ("r.csv", "user,id,prompt,response\nann,über/1,Tea?,Yes\n", "table", "über/1"),
        ("r.tsv", "user\tid\tprompt\tresponse\nann\t#4 (b)\tTea?\tYes\n", "table", "#4 (b)"),
    ],
)
def test_changed_ids_of_rows_lead_back_in_every_format(
    tmp_path: Path, name: str, content: str, kind: Any, original: str | None
) -> None:
    (tmp_path / name).write_text(content)
    skips = Skips()
    ((user, row),) = read(tmp_path / name, kind, skips)
    assert (user, row.id) == ("ann", "7" if original is None else engagement_id(original))
    assert skips.engagements.changed == ({} if original is None else {row.id: original})
    assert not skips


@pytest.mark.parametrize(
    ("value", "when"),
    [
        ("Fri Jul 14 02:40:00 +0000 2017", "2017-07-14T02:40:00"),
        ("Fri Jul 14 02:40:00 UTC 2017", "2017-07-14T02:40:00"),
        ("Fri, 14 Jul 2017 04:40:00 +0200", "2017-07-14T02:40:00"),
        ("Fri, 14 Jul 2017 02:40:00 GMT", "2017-07-14T02:40:00"),
        ("Fri Jul 14 2017 04:40:00 GMT+0200 (Central European Summer Time)", "2017-07-14T02:40:00"),
        ("July 14, 2017", "2017-07-14T00:00:00"),
        ("July 14th, 2017 at 2:40 PM", "2017-07-14T14:40:00"),
        ("14-Jul-2017", "2017-07-14T00:00:00"),
        ("2017-07-14 02:40:00 UTC", "2017-07-14T02:40:00"),
        ("2017-07-14 02:40:00.25 +0000", "2017-07-14T02:40:00.250000"),
        ("2017-07-14T02:40:00.123456789Z", "2017-07-14T02:40:00.123456"),
        ("2017-07-14T04:40:00+0200", "2017-07-14T02:40:00"),
        ("2017/07/14 02:40", "2017-07-14T02:40:00"),
        ("2017-7-4", "2017-07-04T00:00:00"),
        ("7/14/2017 2:40 am", "2017-07-14T02:40:00"),
        ("14/07/2017", "2017-07-14T00:00:00"),
        ("4.7.2017", "2017-07-04T00:00:00"),
        ("7/7/2017 12:05 AM", "2017-07-07T00:05:00"),
        ("20170714024000", "2017-07-14T02:40:00"),
        (20170714, "2017-07-14T00:00:00"),
        ("2017-07", "2017-07-01T00:00:00"),
        ("1.5E+09", "2017-07-14T02:40:00"),
        (1_500_000_000_000_000, "2017-07-14T02:40:00"),
        ("1500000000000000000", "2017-07-14T02:40:00"),
        (date(2017, 7, 14), "2017-07-14T00:00:00"),
        (datetime(2017, 7, 14, 2, 40), "2017-07-14T02:40:00"),
    ],
)
def test_moments_as_dumps_write_them(value: object, when: str) -> None:
    assert moment(value) == datetime.fromisoformat(when).replace(tzinfo=UTC)


@given(st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(2099, 12, 31)))
def test_a_moment_reads_what_it_is_written_as(when: datetime) -> None:
    whole, aware = when.replace(microsecond=0), when.replace(tzinfo=UTC)
    assert moment(when.isoformat()) == moment(f"{when}") == moment(f"{when}Z") == aware
    for form in ("%a %b %d %H:%M:%S +0000 %Y", "%a, %d %b %Y %H:%M:%S GMT", "%B %d, %Y %I:%M:%S %p", "%Y%m%d%H%M%S"):
        assert moment(whole.strftime(form)) == whole.replace(tzinfo=UTC)
    seconds = int(whole.replace(tzinfo=UTC).timestamp())
    if seconds >= 100_000_000:
        assert moment(seconds) == moment(str(seconds)) == moment(seconds * 1000) == whole.replace(tzinfo=UTC)


@pytest.mark.parametrize("value", ["3/4/2017", "03-04-2017 10:00"])
def test_day_and_month_in_either_order_are_no_moment_without_a_format(value: str) -> None:
    with pytest.raises(ValueError, match="day and month cannot be told apart"):
        moment(value)


def test_a_moment_in_a_named_format() -> None:
    assert moment("3/4/2017", "%d/%m/%Y") == datetime(2017, 4, 3, tzinfo=UTC)


@pytest.mark.parametrize(
    "value", ["Fri Jul 14 02:40:00 XYZ 2017", "31 Feb 2017", "14:40 PM 2017", "13/13/2017", "15:00"]
)
def test_texts_that_only_look_like_a_moment(value: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        moment(value)


def test_rows_of_one_time_get_different_ones_in_order() -> None:
    times, when = DistinctTimes(), datetime(2020, 5, 1, tzinfo=UTC)
    assert [times.after("ann", when) for _ in range(3)] == [when, when + TICK, when + 2 * TICK]
    assert times.after("bob", when) == when
    assert times.after("ann", when + TICK) == when + 3 * TICK


@pytest.mark.parametrize(
    "name",
    ["", "  ", "[deleted]", "[removed]", "u/[deleted]", "deleted", "[deleted user]", "Deleted User#0000", "None",
     "nan", "Anonymous", "anonymous_user", "Anonymous Coward", "AutoModerator", "u/AutoModerator",
     "dependabot[bot]", "DeltaBot", "***", "n/a", "[account deleted]", "ghost"],
)  # fmt: skip
def test_names_of_nobody(name: str) -> None:
    assert is_nobody(name)


@pytest.mark.parametrize(
    "name", ["ann", "none-of-your-business", "deleted_scenes", "NA", "0", "-1", "abbot", "ann[1]", "Unknown Artist"]
)
def test_names_of_somebody(name: str) -> None:
    assert not is_nobody(name)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("&gt; quote", "> quote"),
        ("a &amp;amp; b", "a & b"),
        ("&amp;gt;", ">"),
        ("it&#39;s &quot;so&quot; &#x2014; caf&eacute;", 'it\'s "so" \u2014 caf\u00e9'),
        ("http://a.b/?a=1&copy=2&lt=3", "http://a.b/?a=1&copy=2&lt=3"),
        ("AT&T & co; &unknown;", "AT&T & co; &unknown;"),
        ("[removed]", ""),
        ("[deleted by user]", ""),
        ("[ Removed by Reddit ]", ""),
        ("[removed by moderator]", ""),
        ("&#91;deleted&#93;", ""),
        ("[removed] but not all", "[removed] but not all"),
        ("deleted", "deleted"),
    ],
)
def test_prose(written: str, read: str) -> None:
    assert prose(written) == read


@given(st.text(alphabet=st.characters(exclude_characters="&", exclude_categories=["Cs"])))
def test_texts_without_ampersands_stay(written: str) -> None:
    once, twice = html.escape(written), html.escape(html.escape(written))
    assert decode_entities(written) == decode_entities(once) == decode_entities(twice) == written


def test_rows_of_a_dataset_folder_are_engagements(tmp_path: Path) -> None:
    rows = [
        {
            "id": f"ann/{n}",
            "user_id": "ann",
            "query": f"q{n} ",
            "choices": ["a", "b"],
            "target": "b",
            "timestamp": "2020-05-01",
            "history_upto": n,
            "pair": math.nan,
        }
        for n in range(2)
    ]
    history = [
        {"prompt": "q0 ", "response": "b", "reason": "because"},
        {"prompt": "other", "response": "a", "reason": "no"},
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "eval.jsonl").write_text(json.dumps(rows[0]) + "\n")
    (tmp_path / "users.jsonl").write_text(json.dumps({"user_id": "ann", "history": history}) + "\n")
    skips = Skips()
    found = [row for _, row in read(tmp_path, detect(tmp_path), skips)]
    known = load_users(tmp_path, users=1, engagements=2, held_out=0)[0].engagements
    assert found == known
    assert [row.reason for row in found] == ["because", None]
    assert skips == {"later question of eval.jsonl, which is for scoring": 1}
    assert [row for _, row in read(tmp_path / "train.jsonl", "ndjson", Skips())][1] == known[1]


def test_own_rows_of_nobody_and_removed_answers_are_left_out(tmp_path: Path, samples: Any) -> None:
    rows = [
        samples.engagement(1, user_id="[deleted]"),
        samples.engagement(2, user_id=None),
        samples.engagement(3, user_id="ann", response="[removed]"),
        samples.engagement(4, user_id="ann@example.com"),
        samples.engagement(5, user_id="ann", response="&gt; as written"),
    ]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    skips = Skips()
    found = list(read(tmp_path / "r.jsonl", "ndjson", skips))
    assert [(user, row.id) for user, row in found] == [(user_name("ann@example.com"), "e4"), ("ann", "e5")]
    assert found[1][1].response == "&gt; as written"
    assert skips.users.changed == {user_name("ann@example.com"): "ann@example.com"}
    assert [(row.where.rpartition(":")[2], row.bad) for row in skips.places] == [
        ("1", False),
        ("2", False),
        ("3", False),
    ]


@pytest.mark.parametrize(
    ("bad", "share", "fits"), [(1, 0.1, True), (2, 0.1, False), (1, 0.0, False), (0, 0.0, True), (10, 1.0, True)]
)
def test_share_of_bad_rows(bad: int, share: float, fits: bool) -> None:
    skips = Skips()
    for number in range(bad):
        skips.reject("x", f"f:{number + 1}", "has no x")
    if fits:
        return check_bad_share(skips, 10 - bad, share)
    with pytest.raises(BadImport, match=r"^f:1: has no x; \d of 10 rows .* --max-bad-share"):
        check_bad_share(skips, 10 - bad, share)


def test_places_of_the_first_rows_of_each_reason_are_kept() -> None:
    skips = Skips(max_places=1)
    skips.leave_out("deleted", "f:1")
    skips.leave_out("deleted", "f:2")
    skips.reject("x", "f:3", "x is 7")
    assert [(row.where, row.reason, row.bad) for row in skips.places] == [
        ("f:1", "deleted", False),
        ("f:3", "x is 7", True),
    ]
    assert (skips.total(), skips.bad) == (3, 1)


def test_entries_know_their_lines(tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text('[\n{"a":\n1},\n\n"b", 3]')
    for chunk in (1, 5, 1 << 20):
        assert [line for line, _, _ in located_entries(tmp_path / "e.json", chunk=chunk)] == [2, 5, 5]


def test_own_rows_from_windows(tmp_path: Path, samples: Any) -> None:
    """With a byte order mark, CRLF, and NaN where a table had nothing."""
    rows = [samples.engagement(n, user_id="ann", reason=math.nan, prompt="Tee?\u2028süß") for n in (1, 2)]
    written = "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows)
    (tmp_path / "r.jsonl").write_bytes(b"\xef\xbb\xbf" + written.encode())
    found = list(read(tmp_path / "r.jsonl", "ndjson", Skips()))
    assert [(user, row.id, row.reason) for user, row in found] == [("ann", "e1", None), ("ann", "e2", None)]
    assert found[0][1].prompt == "Tee?\u2028süß"


@pytest.mark.parametrize(
    ("name", "begin", "advice"),
    [
        ("rows.jsonl.gz", gzip.compress(b"{}"), r"is compressed \(gzip\): unpack it"),
        ("RC_2020.zst", b"\x28\xb5\x2f\xfd\x04", r"is compressed \(zstd\): unpack it"),
        ("export.zip", b"PK\x03\x04\x14", "is a zip archive: unpack it, and name the file or the folder in it"),
        ("rows.xlsx", b"PK\x03\x04\x14", "is a spreadsheet: save its rows as CSV"),
        ("rows.xls", b"\xd0\xcf\x11\xe0\xa1", "is a spreadsheet: save its rows as CSV"),
        ("rows.db", b"SQLite format 3\x00", "is a database: save its rows as CSV"),
    ],
)
def test_files_that_are_no_texts_say_what_to_do(tmp_path: Path, name: str, begin: bytes, advice: str) -> None:
    (tmp_path / name).write_bytes(begin)
    with pytest.raises(BadImport, match=advice):
        detect(tmp_path / name)
    with pytest.raises(BadImport, match=advice):
        read(tmp_path / name, "ndjson", Skips())


@pytest.mark.parametrize("key", ["data", "rows", "engagements"])
def test_rows_under_one_key_are_not_one_author(tmp_path: Path, samples: Any, key: str) -> None:
    rows = [samples.engagement(n, user_id=user) for n, user in enumerate(("ann", "bob"))]
    (tmp_path / "q.json").write_text(json.dumps({key: rows}))
    with pytest.raises(BadImport, match=f"holds its rows under '{key}': save that list alone"):
        detect(tmp_path / "q.json")


def test_one_object_over_several_lines_is_named(tmp_path: Path, samples: Any) -> None:
    (tmp_path / "q.json").write_text(json.dumps(samples.engagement(1, user_id="ann"), indent=1))
    with pytest.raises(BadImport, match="holds one JSON object over several lines: write each row in one line"):
        detect(tmp_path / "q.json")


def test_rows_of_others_are_named(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps({name: [{"title": "T", "positive": "p"}] for name in ("ann", "bob")}))
    skips = Skips()
    assert [user for user, _ in read(tmp_path / "p.json", "cmv", skips, user="ann")] == ["ann"]
    assert [row.where for row in skips.places] == [f"{tmp_path / 'p.json'}: bob, id history/row-1"]
