"""What guides the fuzzer: the ways that kernels took, changes that keep inputs well formed; a mistake found by both."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from typing import Any

import pytest

from engine.kernel import PROJECT_ROOT
from procs.embedded.mix import Draws
from tools.soak import guided, mutations
from tools.soak.decoder_targets import BETWEEN
from tools.soak.guided import _Finds
from tools.soak.planted import PLANTED, SEEDS, planted
from tools.soak.rewriting import Rewriting
from tools.soak.target_table import TARGET_NAMES, make_target

needs_atheris = pytest.mark.skipif(not guided.is_there(), reason="atheris is not installed (pip install '.[fuzz]')")
NUMBER_PLANT = "an exponent with a sign and two digits"
FRAME = b'{"a":[["1.50","2"],["3",0.5]],"b":{"c":-7,"d":[]},"e":null}'


def rewritten(source: str) -> tuple[dict[str, Any], list[int], set[int]]:
    """The functions of a source as kernels, their counts, and what is noted."""
    tree = ast.parse(source)
    counts: list[int] = []
    noted: set[int] = set()
    rewriting = Rewriting(counts)
    for node in tree.body:
        assert isinstance(node, ast.FunctionDef)
        rewriting.kernel(node)
    space: dict[str, Any] = {"_counts": counts, "_note": noted.add, "_turns": iter([None] * 100), "_wrapped": int}
    exec(compile(ast.fix_missing_locations(tree), "kernel", "exec"), space)
    return space, counts, noted


def test_ways_are_counted_and_answers_stay() -> None:
    space, counts, noted = rewritten(
        "def f(x, y):\n"
        "    total = 0\n"
        "    while x > 0 and y > 0:\n"
        "        if x > 2 or y > 2:\n"
        "            total += x\n"
        "        x -= 1\n"
        "    return total if x == 0 and y == 5 else -total\n"
    )
    f = space["f"]
    assert (f(4, 5), f(0, 5), f(3, 1)) == (10, 0, -3)
    # in order: the second operand of `or`, the body of `if`, what it leaves out, turns, `and`, the choice, the function
    assert counts == [0, 5, 2, 7, 0, 0, 3]
    assert noted == {0, 4, 5}


def test_a_loop_that_cannot_be_bounded_is_refused() -> None:
    with pytest.raises(ValueError, match="line 2: a while with an else"):
        rewritten("def f(x):\n    while x:\n        x -= 1\n    else:\n        x = 5\n")


@pytest.mark.parametrize("name", ["NUMBERS", "KRAKEN_SPOT_V1"])
def test_an_input_tells_its_ways_once(name: str) -> None:
    target = make_target(name)
    target.run(target.seeds[0])
    first = target.take_ways()
    assert 10 < len(first) < target.ways and all(0 <= way < target.ways for way in first)
    assert not target.take_ways()
    target.run(target.seeds[0])
    assert target.take_ways() == first
    target.run(target.seeds[-1])
    assert target.take_ways() != first


def test_another_word_keeps_a_frame_well_formed() -> None:
    draws = Draws(1, 0)
    seen = {mutations.other_word(b'{"a":"b","c":true}', ("x", "y"), draws) for _ in range(90)}
    assert len(seen) == 9 and all(json.loads(frame) for frame in seen)
    assert mutations.other_word(b"12", ("x",), draws) == b"12" and mutations.other_word(b'"a"', (), draws) == b'"a"'


def test_values_are_found_with_what_they_hold() -> None:
    found = [FRAME[start:end] for start, end in mutations.values_in(FRAME)]
    assert found[:5] == [b'"a"', b'"1.50"', b'"2"', b'["1.50","2"]', b'"3"']
    assert found[-1] == FRAME and b"[]" in found and b"-7" in found and b"null" in found
    assert mutations.values_in(b']}"x') == [] and mutations.values_in(b'[1,"') == [(1, 2)]


def test_other_values_and_numbers_leave_most_frames_well_formed() -> None:
    for change in (lambda draws: mutations.other_value(FRAME, [FRAME], draws),
                   lambda draws: mutations.other_number(FRAME, draws)):  # fmt: skip
        draws = Draws(3, 0)
        seen = {change(draws) for _ in range(300)}
        assert len(seen) > 60
        assert sum(map(well_formed, seen)) > len(seen) // 3
    assert mutations.other_value(b"}", [FRAME], draws) == b"}" and mutations.other_number(b"x", draws) == b"x"
    written = {mutations.other_number(b"1.5e3", draws) for _ in range(500)}
    assert {b"-1.5e3", b"1.5e+3", b"1.5E3", b"15e3"} <= written


def well_formed(frame: bytes) -> bool:
    try:
        json.loads(frame)
    except ValueError:
        return False
    return True


def test_other_frames_are_of_sessions() -> None:
    draws = Draws(5, 0)
    seen = {mutations.other_frames(b"a\x1eb", [b"c\x1ed"], draws) for _ in range(200)}
    frames = {tuple(session.split(BETWEEN)) for session in seen}
    assert {(b"a",), (b"b", b"a"), (b"c", b"a", b"b"), (b"a", b"b", b"a")} <= frames
    assert all(1 <= len(session) <= 3 for session in frames)


@pytest.mark.parametrize("name", TARGET_NAMES)
def test_changes_are_the_same_for_the_same_draws(name: str) -> None:
    target = make_target(name)
    made = [[mutations.changed(target.seeds[0], target, Draws(seed, 0)) for seed in range(60)] for _ in range(2)]
    assert made[0] == made[1]
    others = set(made[0]) - {None, target.seeds[0]}
    assert len(others) > 15


def test_the_latest_finds_are_changed_more_often() -> None:
    finds = _Finds()
    draws = Draws(7, 0)
    finds.note(b"first", [1, 2])  # before any change was asked for
    assert finds.chosen(draws) is None
    finds.note(b"known", [2])
    finds.note(b"new", [2, 3])
    chosen = [finds.chosen(draws) for _ in range(200)]
    assert set(chosen) == {None, b"new"} and 50 < chosen.count(b"new") < 150


@pytest.mark.parametrize("name", PLANTED)
def test_no_made_frame_shows_what_is_planted(name: str) -> None:
    target = planted(name)
    for seed in target.seeds:
        target.run(seed)


@needs_atheris
def test_guidance_finds_what_blind_changes_do_not() -> None:
    """Each test of the mistake is one more way; the same changes without being told of them do not come to its end."""
    run = subprocess.run(
        [sys.executable, "-m", "tools.soak.planted", NUMBER_PLANT], capture_output=True, text=True, cwd=PROJECT_ROOT,
        timeout=280, check=False,
    )
    lines = dict(line.rpartition(": ")[::2] for line in run.stdout.splitlines() if line.startswith(NUMBER_PLANT))
    guided_counts = lines[f"{NUMBER_PLANT}, guided"].split(" / ")
    # libFuzzer weighs inputs by the time that they took, so a seed does not say everything: one of them may miss.
    found = [int(count.replace(",", "")) for count in guided_counts if count != "-"]
    assert len(found) >= SEEDS - 1 and min(found) > 200, run.stdout
    assert lines[f"{NUMBER_PLANT}, blind"].split(" / ") == ["-"] * SEEDS, run.stdout
