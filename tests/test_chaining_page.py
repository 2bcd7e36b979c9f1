"""docs/chaining.md, without running what it is written from."""

from __future__ import annotations

from host.chaining import CASES, NOTHING, PAGE, Case, page, read_page


def outcome(case: Case) -> str:
    return case.expected if case.expected in ("works", NOTHING) else "refused"


def test_every_case_has_its_row_and_went_as_its_test_expects() -> None:
    text = PAGE.read_text(encoding="utf-8")
    written = read_page(text)
    assert len(written) > 1
    for found in written.values():
        found["cases"] = {name: dict.fromkeys(case.orders, outcome(case)) for name, case in CASES.items()}
    assert page(written) == text


def test_the_other_packs_of_the_cases_are_named_with_their_commits() -> None:
    for version, found in read_page(PAGE.read_text(encoding="utf-8")).items():
        assert set(found["packs"]) == {case.peer for case in CASES.values() if case.peer and case.fits(version)}
