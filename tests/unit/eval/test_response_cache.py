from __future__ import annotations

from pathlib import Path

from mindprint_eval.response_cache import ResponseCache, content_digest


def test_what_was_written_is_there_again(tmp_path: Path) -> None:
    with ResponseCache(tmp_path / "new" / "book.jsonl") as book:
        book.add("a", {"x": 1})
        book.add("b", {"x": 2})
        assert book.get("a") == {"x": 1}
    with ResponseCache(tmp_path / "new" / "book.jsonl") as book:
        assert len(book) == 2
        assert book.get("b") == {"x": 2}
        assert book.get("c") is None


def test_a_line_torn_by_a_kill_is_ignored_and_written_over(tmp_path: Path) -> None:
    path = tmp_path / "book.jsonl"
    with ResponseCache(path) as book:
        book.add("a", {"x": 1})
        book.add("b", {"x": 2})
    path.write_bytes(path.read_bytes()[:-4])
    with ResponseCache(path) as book:
        assert (len(book), book.get("b")) == (1, None)
        book.add("c", {"x": 3})
    with ResponseCache(path) as book:
        assert (book.get("a"), book.get("c")) == ({"x": 1}, {"x": 3})


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert content_digest({"a": 1, "b": [2, "ü"]}) == content_digest({"b": [2, "ü"], "a": 1})
    assert content_digest({"a": 1}) != content_digest({"a": 2})
