"""Text of headers as the index holds it."""

import pytest

from router.services.header_text import searchable


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Smith^John", "smith john"),
        ("Müller^Jürgen^^Dr.", "muller jurgen dr."),
        ("Buc^Jérôme", "buc jerome"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "yamada tarou 山田 太郎 やまた たろう"),
        ("=山田^太郎", "山田 太郎"),
        ("STRASSE^Straße", "strasse strasse"),
        ("  A  ^^^ B ", "a b"),
        ("", ""),
        ("^^^^", ""),
        ("O'Brien^Mary-Ann", "o'brien mary-ann"),
    ],
)
def test_names_are_searched_without_accents_case_and_delimiters(name: str, found: str) -> None:
    assert searchable(name) == found


@pytest.mark.parametrize("name", ["Müller^Jürgen", "山田^太郎", "ﬁ^x", "İ^x"])
def test_searching_what_is_searchable_changes_nothing(name: str) -> None:
    assert searchable(searchable(name)) == searchable(name)
