from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import made_evaluation
from made_outcomes import made, outcome, table, unanswered
from mindprint_eval.arms import ARMS
from mindprint_eval.metrics import metrics
from mindprint_eval.metrics.statistics import COHORT_PAIRS, COMPARED_PAIRS
from mindprint_eval.report import analysis, build
from mindprint_eval.report.table import (
    NOT_MEASURED,
    Cell,
    Table,
    format_interval,
    format_number,
    number_cell,
    p_value_cell,
)
from mindprint_eval.report.tables import arms, comparisons

VOID = {"meta", "link", "br", "hr", "img"}


class Balance(HTMLParser):
    """Tags that were opened and not closed, and all that were seen."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.ids: list[str] = []
        self.problems: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}> at {self.getpos()}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = made_evaluation.write(tmp_path_factory.mktemp("eval") / "made", made(without_adapter=("eve",)))
    build.write_report(folder)
    return folder


@pytest.fixture(scope="module")
def minimal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One user, two arms, and nothing that was left out of the folder on the way."""
    table = made(arms=("A1", "A3"), users=("ann",), items=2, seeds=(0,))
    answers = table[table["measure"] == "answer"]
    folder = made_evaluation.write(tmp_path_factory.mktemp("eval") / "few", answers, queries=False, adapters=[])
    (folder / "candidates.jsonl.gz").unlink()
    build.write_report(folder)
    return folder


def page(folder: Path, name: str = "report.html") -> str:
    return (folder / name).read_text(encoding="utf-8")


def row(made: Table, first: str) -> dict[str, Cell]:
    cells = next(cells for group in made.groups for cells in group.rows if cells[0].text == first)
    return dict(zip((column.title for column in made.columns), cells, strict=True))


@pytest.mark.parametrize("name", ["report.html", "report.md"])
def test_sections_stand_in_order(whole: Path, name: str) -> None:
    text = page(whole, name)
    found = [text.index(f"{number}. {title}") for number, title in enumerate(build.TITLES, 1)]
    assert found == sorted(found)


@pytest.mark.parametrize("folder", ["whole", "minimal"])
def test_the_page_is_one_file_of_sound_html(folder: str, request: pytest.FixtureRequest) -> None:
    text = page(request.getfixturevalue(folder))
    balance = Balance()
    balance.feed(text)
    assert not balance.problems
    assert not balance.open
    assert len(balance.ids) == len(set(balance.ids))
    assert not balance.seen & {"script", "link", "img", "iframe", "object"}
    assert not re.findall(r'(?:src|href)="(?!#)|@import|url\((?!#)', text)
    assert text.count("<svg") == len(re.findall("<figure", text))


@pytest.mark.parametrize("folder", ["whole", "minimal"])
def test_rows_of_markdown_have_as_many_cells_as_their_head(folder: str, request: pytest.FixtureRequest) -> None:
    text = re.sub(r"```+text.*?```+", "", page(request.getfixturevalue(folder), "report.md"), flags=re.DOTALL)
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(counts) == 1, block


def test_what_users_wrote_is_text(whole: Path) -> None:
    assert "<script" not in page(whole)
    assert html.escape("<script>alert('walk')</script> | by the *lake*?", quote=False).replace("'", "&#39;") in page(
        whole
    )
    assert f"```text\n{made_evaluation.QUERY}\n```" in page(whole, "report.md")


def test_what_users_wrote_is_text_in_names_and_reasons_too(tmp_path: Path) -> None:
    nasty = "<script>x</script>"
    lost = unanswered("failed", arm="A9", item=nasty, why=f"{nasty} | `a` [b](c)")
    rows = [outcome(arm=arm, item=nasty, answer=nasty, thinking=f"```\n{nasty}") for arm in ("A1", "A3")]
    folder = made_evaluation.write(tmp_path / "made", table([lost, *rows]), name=nasty)
    build.write_report(folder)
    assert "<script" not in page(folder)
    assert "<script" not in page(folder, "report.md")
    assert r"\| \`a\` \[b](c)" in page(folder, "report.md")


def test_a_block_cannot_be_ended_by_its_text() -> None:
    assert build.fence_text("a ```` b") == "`````text\na ```` b\n`````"


def test_the_same_tables_make_the_same_bytes(whole: Path) -> None:
    files = [path for path in whole.rglob("*") if path.suffix in (".html", ".md", ".svg")]
    before = {path: path.read_bytes() for path in files}
    build.write_report(whole)
    assert len(files) == 7
    assert {path: path.read_bytes() for path in files} == before


def test_figures_are_those_of_the_tables(whole: Path) -> None:
    found = analysis.load_analysis(whole)
    a9 = row(arms.arms_table(found), "A9")
    accuracy = metrics.scores_by_user(found.outcomes).query("arm == 'A9'").groupby("user")["accuracy"].mean().mean()
    assert a9["accuracy, %"].text == f"{100 * accuracy:.1f}"
    assert a9["missing"].text == "16 of 80"
    assert a9["general score, %"] == Cell(a9["general score, %"].text, "as A9-direct")
    assert a9["accuracy, %"].text in page(whole)
    assert row(arms.arms_table(found), "copy")["log-probability, nats"].text == "\N{EN DASH}"
    assert [group.heading for group in arms.arms_table(found).groups] == ["", "Baselines, which use no language model"]


def test_hypotheses_are_stated_in_words(whole: Path, minimal: Path) -> None:
    told = [group[1].text for group in arms.claims_table(analysis.load_analysis(whole)).groups[0].rows]
    assert "held" in told
    assert {cells[1].text for cells in arms.claims_table(analysis.load_analysis(minimal)).groups[0].rows} == {
        "cannot be said"
    }


def test_the_missing_are_counted_with_their_reasons(whole: Path) -> None:
    text = page(whole, "report.md")
    assert "| A9 | answer | no adapter | made to be no\\_adapter | 16 |" in text
    assert "fast, refused: user/ann.fast@1: collapse &lt;0.02&gt; (1)" in text
    assert "selected, no adapter: no trace was accepted (1)" in text


def test_what_was_run_and_how_to_run_it_again(whole: Path) -> None:
    text = page(whole, "report.md")
    assert "mindprint eval --data records" in text
    assert "base\\_digest | sha256:00" in text
    assert build.table_digests(whole)["outcomes.jsonl.gz"] in text
    assert "mindprint eval report made" in text


def test_a_gap_is_stated(minimal: Path) -> None:
    text = page(minimal, "report.md")
    for gap in (
        "Arms of the method that were not run, and are not measured: A0, A2, A4,",
        "Baselines without a language model: not measured.",
        "Not measured: no arm has both answers and thinking",
        "Not measured: fewer than two of A9,",
        "Not measured: no arm was asked to think from the bare",
        "Not measured: the tables have no candidates.",
        "Not measured: no arm was asked again after changed thinking.",
        "Not measured: no reason that a user wrote was scored.",
        "Not measured: no user has questions that both A9 and A3 answered.",
        "Not measured: candidates.jsonl.gz has no rows.",
        "Not measured: no adapter was wanted.",
        "None is missing",
        "candidates.jsonl.gz | not there",
    ):
        assert gap in text
    assert sorted(path.name for path in (minimal / "figures").iterdir()) == ["cost.svg"]
    a3 = row(arms.arms_table(analysis.load_analysis(minimal)), "A3")
    assert (a3["collapse, bare, %"].text, a3["accuracy, %"].below) == (NOT_MEASURED, "one user")


def test_an_evaluation_without_outcomes(tmp_path: Path) -> None:
    folder = made_evaluation.write(tmp_path / "none", made(arms=()))
    assert "no arm" in page(build.write_report(folder).parent)


def test_a_figure_of_an_earlier_report_goes(whole: Path, tmp_path: Path) -> None:
    folder = made_evaluation.write(tmp_path / "made", made(arms=("A1", "A5"), users=("ann", "bob")))
    (folder / "figures").mkdir()
    (folder / "figures" / "swaps.svg").write_text("old")
    build.write_report(folder)
    assert not (folder / "figures" / "swaps.svg").exists()


@pytest.mark.parametrize(("kind", "column"), [("rating", "MAE"), ("open", "ROUGE-L"), ("ranking", "Hit@1")])
def test_other_kinds_of_questions(tmp_path: Path, kind: str, column: str) -> None:
    table = made(arms=("A1", "A9", "A9-direct"), users=("ann", "bob"), kind=kind)
    found = analysis.load_analysis(made_evaluation.write(tmp_path / "made", table))
    assert row(arms.kinds_table(found), "A9")[column].text != NOT_MEASURED
    build.write_report(tmp_path / "made")


def test_whether_the_sample_is_enough(whole: Path, minimal: Path) -> None:
    [told] = comparisons.sample_notes(analysis.load_analysis(whole))
    assert "enough for some comparisons only" in told
    assert "With 5 users the test of signs gives no p below 0.062" in told
    [said] = comparisons.sample_notes(analysis.load_analysis(minimal))
    assert said == "Whether the sample is enough cannot be said: no named pair of arms answered the same questions."


def test_one_user_shows_no_spread(tmp_path: Path) -> None:
    folder = made_evaluation.write(tmp_path / "made", made(arms=("A1", "A5"), users=("ann",)))
    [told] = comparisons.sample_notes(analysis.load_analysis(folder))
    assert "one user shows no spread over users" in told
    row(comparisons.comparison_table(analysis.load_analysis(folder)), "A5 \N{MINUS SIGN} A1")


def test_comparisons(whole: Path) -> None:
    found = comparisons.comparison_table(analysis.load_analysis(whole))
    assert found.rows == len(COMPARED_PAIRS)
    assert row(found, "A9 \N{MINUS SIGN} A3")["users"].text == "4"
    assert set(comparisons.PAIR_QUESTIONS) == {*COMPARED_PAIRS, *COHORT_PAIRS}


def test_reasons_that_users_wrote(tmp_path: Path) -> None:
    logprobs = {"R-none": -8.0, "R-generic": -7.0, "R-trace": -4.0, "R-other-none": -8.0, "R-other-trace": -7.0}
    rows = [
        outcome(measure="reason", arm=arm, user=user, logprob=logprob, tokens=4, kind="open")
        for arm, logprob in logprobs.items()
        for user in ("ann", "bob")
    ]
    found = analysis.load_analysis(made_evaluation.write(tmp_path / "made", table(rows)))
    cells = comparisons.rationale_table(found).groups[0].rows
    assert [row[1].text for row in cells] == ["+1.000", "+0.250", "+0.750", "+0.250", "+0.750"]
    assert found.arms == [arm for arm in ARMS if arm in logprobs]


def test_numbers() -> None:
    assert format_number(-0.004) == "0.00"
    assert format_number(-0.26, 1, sign=True) == "\N{MINUS SIGN}0.3"
    assert format_number(0.5, 1, scale=100, sign=True) == "+50.0"
    assert number_cell(float("nan")).gap
    assert number_cell(None).text == NOT_MEASURED
    assert format_interval(-0.1, 0.2) == "[\N{MINUS SIGN}0.10, 0.20]"
    assert format_interval(float("nan"), 0.2) == "no interval"
    assert (p_value_cell(0.0004).text, p_value_cell(0.04).text, p_value_cell(None).gap) == ("< 0.001", "0.040", True)
