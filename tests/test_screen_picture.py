"""Screens as pictures: every character at its column, every colour that was meant, sound XML."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.screen_picture import Look, colour, look_after, picture, pieces

DOCS = Path(__file__).resolve().parent.parent / "docs"
TEXT = "{http://www.w3.org/2000/svg}text"
RECT = "{http://www.w3.org/2000/svg}rect"


@pytest.mark.parametrize(
    ("number", "wanted"), [(16, "#000000"), (75, "#5fafff"), (208, "#ff8700"), (231, "#ffffff"), (232, "#080808"),
                           (255, "#eeeeee")],
)  # fmt: skip
def test_colours_of_the_256(number: int, wanted: str) -> None:
    """Values of xterm's table."""
    assert colour(number) == wanted


def test_numbers_outside_the_256_are_refused() -> None:
    for number in (-1, 256):
        with pytest.raises(ValueError, match="0 to 255"):
            colour(number)


def test_looks() -> None:
    look = look_after(Look(), "1;38;5;208;7")
    assert look == Look(ink="#ff8700", bold=True, reverse=True) and look.colours[1] == "#ff8700"
    assert look_after(look, "22;27") == Look(ink="#ff8700") and look_after(look, "39").ink is None
    assert look_after(look, "") == look_after(look, "0") == Look() and look_after(look, "1;58;5") == look
    assert look_after(Look(), "48;5;75;34").paper == "#5fafff"


def test_a_look_goes_on_until_it_is_changed_and_other_sequences_vanish() -> None:
    found, look = pieces("a\x1b[1mb\x1b[2Jc\x1b(B\x1b[0md")
    assert found == [("a", Look()), ("b", Look(bold=True)), ("c", Look(bold=True)), ("d", Look())] and look == Look()


def texts(svg: str) -> list[tuple[float, float, str]]:
    root = ElementTree.fromstring(svg)
    return [
        (float(item.attrib["x"]), float(item.attrib["y"]), (item.text or "").replace("\u00a0", " "))
        for item in root.iter(TEXT)
    ]


def test_a_picture_has_every_piece_at_its_place() -> None:
    svg = picture("ab \x1b[7m<&>\x1b[0m\n\x1b[38;5;75m +1\x1b[0m")
    assert [(round((x - 12) / 8.4, 3), (y - 25) / 18, text) for x, y, text in texts(svg)] == [
        (0, 0, "ab "), (3, 0, "<&>"), (0, 1, " +1"),
    ]
    root = ElementTree.fromstring(svg)
    assert [item.attrib["fill"] for item in root.iter(RECT)] == ["#11151c", "#d5d9e0"]
    assert 'fill="#5fafff"' in svg


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
def test_any_text_survives(text: str) -> None:
    shown = "".join(piece for _, _, piece in texts(picture(text)))
    assert shown.strip() == text.strip()


def test_the_picture_of_the_readme_is_a_console() -> None:
    svg = (DOCS / "console.svg").read_text()
    shown = "".join(text for _, _, text in texts(svg))
    assert "[2 Market]" in shown and "spread" in shown and "? help" in shown and "frames/s" in shown
    assert len(svg) < 64_000
