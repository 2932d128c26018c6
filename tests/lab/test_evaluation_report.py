"""The report answers in words and in one picture, missed attacks first."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from detector.lab.evaluation.picture import picture, query_axis, worst_runs
from detector.lab.evaluation.report import (
    HTML,
    MARKDOWN,
    PICTURE,
    answer,
    headline,
    html,
    markdown,
    write_reports,
)
from detector.lab.evaluation.results import HonestResult, percent
from tests.lab.labelled import evaluation, fidelity, result

SVG = "{http://www.w3.org/2000/svg}"
HONEST = (HonestResult.of("what-if", 2, 2), HonestResult.of("steady", 10, 0))


def words(*attacks: object, **changes: object) -> str:
    return "\n".join(answer(evaluation(*attacks, **changes)))  # type: ignore[arg-type]


def test_the_headline_counts_what_is_missed() -> None:
    missed, caught = result(), result(first_verdict=5)
    assert headline(evaluation(missed, missed, caught)) == "2 of 3 attack runs are missed"
    assert headline(evaluation(missed)) == "1 of 1 attack run is missed"
    assert headline(evaluation(caught)) == "The attack is caught"
    assert headline(evaluation(caught, caught)) == "All 2 attack runs are caught"
    assert headline(evaluation()) == "No attack was in the logs"


def test_the_words_say_which_are_caught_when_and_what_he_had_by_then() -> None:
    text = words(result("knockoff"), result("jbda", first_verdict=200), honest=HONEST)
    assert "knockoff (95%)" in text
    assert "jbda is caught at query 200 of 400. By then the clone agreed with the model on 70% of natural" in text
    assert "it would have reached 95%" in text
    assert text.index("knockoff") < text.index("jbda")


def test_of_several_runs_the_words_tell_the_worst() -> None:
    runs = [result(wrapper="slow"), result(first_verdict=150), result(victim="large", first_verdict=200)]
    text = words(*runs)
    assert "steps (95% in 1 of 3 runs)" in text
    assert "steps is caught in 2 of 3 runs, at the latest at query 200 of 400" in text


def test_the_words_say_so_when_nothing_was_measured() -> None:
    assert "walk (no clone)" in words(result("walk", curve=()))
    assert "No clone was measured" in words(result(first_verdict=3, curve=()))
    assert "There was no clone yet; unhindered, it would have reached 95%" in words(result(first_verdict=3))
    assert "nothing is said about false alarms" in words(result())
    assert "3 rows could not be judged" in words(result(), refused=3)


def test_what_only_a_group_shows_is_said_so_and_honest_members_are_counted() -> None:
    shown = evaluation(replace(result("jbda", first_verdict=200), by_group=True), honest=HONEST, in_groups=3)
    said = markdown(shown, with_picture=False)
    assert "jbda is caught as a group at query 200 of 400" in said
    assert "| 200 by a group |" in said
    assert "In groups: 3." in said


def test_honest_accounts_that_were_flagged_are_named_with_the_interval() -> None:
    text = words(honest=HONEST)
    assert "Of 12 honest accounts, 2 were flagged (95% interval 2.1% to 48.4%): what-if (2 of 2)." in text


@pytest.mark.parametrize(("signals", "missed", "told"), [
    (("prada",), True, True), (("prada",), False, False), (("prada", "hoda"), True, False),
])  # fmt: skip
def test_that_prada_alone_misses_attacks_is_said(signals: tuple[str, ...], missed: bool, told: bool) -> None:
    text = words(result(first_verdict=None if missed else 9), signals=signals)
    assert ("prada is the only signal" in text) == told


@pytest.mark.parametrize(
    ("share", "said"), [(0, "0%"), (1, "100%"), (0.9999, "99.9%"), (0.0001, "0.1%"), (0.5, "50%"), (1 / 3, "33.3%")]
)
def test_percent_is_never_rounded_to_all_or_nothing(share: float, said: str) -> None:
    assert percent(share) == said


def test_the_picture_has_a_line_an_attack_in_its_worst_run() -> None:
    runs = [result("b", first_verdict=150), result("b", first_verdict=300), result("a"), result("a", first_verdict=2)]
    assert [(own.run.attack, own.first_verdict) for own in worst_runs(runs)] == [("a", None), ("b", 300)]


def lines(*runs: object) -> list[ET.Element]:
    return ET.fromstring(picture(runs)).findall(f"{SVG}g")  # type: ignore[arg-type]  # noqa: S314


def circle(line: ET.Element) -> tuple[float, float]:
    (mark,) = line.findall(f"{SVG}circle")
    return float(mark.attrib["cx"]), float(mark.attrib["cy"])


def steps(line: ET.Element, kind: str) -> list[tuple[float, float]]:
    (path,) = (path for path in line.findall(f"{SVG}path") if path.attrib["class"] == kind)
    pairs = path.attrib["d"].removeprefix("M").split("L")
    return [(float(pair.split()[0]), float(pair.split()[1])) for pair in pairs]


def test_the_mark_stands_at_the_first_verdict_on_the_curve() -> None:
    runs = [result("missed"), result("caught", first_verdict=200)]
    missed, caught = lines(*runs)
    assert (missed.attrib["class"], caught.attrib["class"]) == ("missed", "caught")
    axis = query_axis(runs)
    assert (axis.low, axis.high) == (100, 1_000)
    base = float(caught.find(f"{SVG}line").attrib["y1"])  # type: ignore[union-attr]
    assert circle(caught) == pytest.approx((axis.at(200), base - 0.7 * 32), abs=0.1)
    assert steps(caught, "sooner")[-1] == steps(caught, "later")[0] == circle(caught)
    assert len(steps(caught, "sooner")) == 2
    assert len(steps(caught, "later")) == 3
    assert circle(missed) == steps(missed, "sooner")[-1]
    assert circle(missed)[0] == pytest.approx(axis.at(400), abs=0.1)


def test_each_line_says_in_which_disguise_and_what_he_got() -> None:
    runs = [result("a", wrapper="blocks"), result("b", first_verdict=200), result("c", first_verdict=9, curve=())]
    said = [[text.text for text in line.findall(f"{SVG}text")] for line in lines(*runs)]
    assert said == [
        ["a, blocks", "small", "missed: 95%", "after all 400 queries"],
        ["b", "small", "caught at query 200: 70%", "let alone: 95% after 400"],
        ["c", "small", "caught at query 9", "no clone measured in 400 queries"],
    ]


def test_a_thief_caught_before_he_had_a_clone_is_marked_at_the_bottom() -> None:
    (line,) = lines(result(first_verdict=10))
    assert circle(line)[1] == float(line.find(f"{SVG}line").attrib["y1"])  # type: ignore[union-attr]
    assert len(steps(line, "later")) == 3


def test_everything_in_the_picture_lies_in_it() -> None:
    runs = [
        result(f"a very long name of an attack, number {number}", sent=sent, curve=(fidelity(sent, 1.0),))
        for number, sent in enumerate((1, 10, 12_345, 1_000_000))
    ]
    root = ET.fromstring(picture([*runs, result("nothing", curve=())]))  # noqa: S314
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    places = [(float(mark.attrib["cx"]), float(mark.attrib["cy"])) for mark in root.iter(f"{SVG}circle")]
    places += [(float(text.attrib["x"]), float(text.attrib["y"])) for text in root.iter(f"{SVG}text")]
    assert len(places) > 20
    assert all(0 <= x <= width and 0 <= y <= height for x, y in places)
    tops = [float(line.attrib["y1"]) for line in root.iter(f"{SVG}line") if line.attrib["class"] == "base"]
    assert len(tops) == 5
    assert tops == sorted(set(tops))


def test_the_page_stands_alone_and_names_from_a_log_are_no_markup() -> None:
    page = html(evaluation(result("<script>x</script>")), picture([result("<script>x</script>")]))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "src=" not in page
    assert set(re.findall(r"https?://[^\"]+", page)) == {"http://www.w3.org/1999/xhtml", "http://www.w3.org/2000/svg"}
    text = markdown(evaluation(result("a|b_c <i>")), with_picture=False)
    assert "| a\\|b\\_c &lt;i&gt; | small |" in text


def test_missed_rows_stand_first_in_both_tables() -> None:
    shown = evaluation(result("knockoff"), result("jbda", first_verdict=200), honest=HONEST)
    text = markdown(shown, with_picture=True)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[2] == "| knockoff | small | plain | 1 | 400 | missed | - | 95% / 35% | 4 |"
    assert rows[3] == "| jbda | small | plain | 1 | 400 | 200 | 70% / 20% | 95% / 35% | 4 |"
    assert "| what-if | 2 | 2 | 100% | 15.8% to 100% |" in rows
    assert "| all | 12 | 2 | 16.7% | 2.1% to 48.4% |" in rows
    page = html(shown, picture(shown.attacks))
    assert page.index('<tr class="missed"><td class="text">knockoff') < page.index(
        '<tr class="caught"><td class="text">jbda'
    )
    assert page.index("<h1>") < page.index("<svg") < page.index("<table>")


def test_both_reports_are_written_and_an_old_picture_does_not_stay(tmp_path: Path) -> None:
    write_reports(evaluation(result()), tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {HTML, MARKDOWN, PICTURE}
    assert f"]({PICTURE})" in (tmp_path / "out" / MARKDOWN).read_text()
    assert (tmp_path / "out" / PICTURE).read_text().startswith("<svg")
    write_reports(evaluation(), tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {HTML, MARKDOWN}
