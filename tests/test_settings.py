"""Settings: every refusal names file, key, value and what is allowed, and never shows a secret."""

from __future__ import annotations

import dataclasses
import random
import re
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import orjson
import pytest

from engine.config import Settings, config_hash, settings_from
from engine.settings import SettingsError, as_plain, build, section, setting
from procs.config_file import read_settings

PROJECT_ROOT = Path(__file__).resolve().parent.parent
CANARY = "c4n4ry-5ecret-value"


@dataclasses.dataclass(frozen=True)
class Inner:
    """A section with a rule over two keys."""

    low: int = setting(1, "Low.", minimum=0, maximum=10)
    high: int = setting(2, "High.", minimum=0, maximum=10)

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low is {self.low}: at most high, {self.high}, is allowed")


@dataclasses.dataclass(frozen=True)
class Asserted:
    """A section of a user's, whose rule is no ValueError."""

    near: float = setting(1.0, "Near.")
    far: float = setting(2.0, "Far; 0 cannot be divided by.")

    def __post_init__(self) -> None:
        assert self.near / self.far < 1.0, "near must be below far"


@dataclasses.dataclass(frozen=True)
class Outer:
    """One key of every kind."""

    count: int = setting(3, "How many.", minimum=1, maximum=9)
    ratio: float = setting(0.5, "A share.", minimum=0.0)
    limit: float = setting(1.0, "Bounded above only.", maximum=2.0)
    enabled: bool = setting(True, "On or off.")
    title: str = setting("x", "Any text.")
    colour: str = setting("red", "One of three.", choices=("red", "green", "blue"))
    names: tuple[str, ...] = setting(("a",), "Some names.")
    inner: Inner = section(Inner, "More.")


@pytest.mark.parametrize(("values", "message"), [
    ({"near": 3.0}, "strategies.mine.parameters: AssertionError: near must be below far"),
    ({"far": 0}, "strategies.mine.parameters: ZeroDivisionError: float division by zero"),
])  # fmt: skip
def test_whatever_a_rule_raises_is_a_setting_that_cannot_be_used(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        build(Asserted, values, "strategies.mine.parameters")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "count = 0: allowed is a whole number from 1 to 9"),
        ({"count": 10}, "count = 10: allowed is a whole number from 1 to 9"),
        ({"count": True}, "count = True: allowed is a whole number from 1 to 9"),
        ({"count": 3.0}, "count = 3.0: allowed is a whole number from 1 to 9"),
        ({"count": "3"}, "count = '3': allowed is a whole number from 1 to 9"),
        ({"count": 10**400}, "count = a number of 1329 bits: allowed is a whole number from 1 to 9"),
        ({"ratio": float("nan")}, "ratio = nan: allowed is a number, at least 0.0"),
        ({"ratio": float("inf")}, "ratio = inf: allowed is a number, at least 0.0"),
        ({"ratio": -1}, "ratio = -1: allowed is a number, at least 0.0"),
        ({"ratio": False}, "ratio = False: allowed is a number, at least 0.0"),
        ({"ratio": 10**400}, "ratio = a number of 1329 bits: allowed is a number, at least 0.0"),
        ({"limit": 2.5}, "limit = 2.5: allowed is a number, at most 2.0"),
        ({"limit": float("-inf")}, "limit = -inf: allowed is a number, at most 2.0"),
        ({"enabled": 1}, "enabled = 1: allowed is true or false"),
        ({"title": 5}, "title = 5: allowed is text"),
        ({"colour": "pink"}, "colour = 'pink': allowed is one of 'red', 'green', 'blue'"),
        ({"names": "a"}, "names = 'a': allowed is a list of texts"),
        ({"names": ["a", 5]}, "names = ['a', 5]: allowed is a list of texts"),
        ({"inner": 5}, "inner = 5: allowed is a table"),
        ({"inner": {"low": 11}}, "inner.low = 11: allowed is a whole number from 0 to 10"),
        ({"inner": {"low": 3}}, "inner: low is 3: at most high, 2, is allowed"),
        ({"cuont": 3}, "cuont: unknown key; did you mean 'count'?"),
        ({"inner": {"hihg": 3}}, "inner.hihg: unknown key; did you mean 'high'?"),
        ({"zzz": 3}, "zzz: unknown key; known here: colour, count, enabled, inner, limit, names, ratio, title"),
    ],
)  # fmt: skip
def test_every_refusal_names_key_value_and_what_is_allowed(values: dict, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        build(Outer, values)
    assert str(caught.value) == message


def test_what_is_allowed_is_taken() -> None:
    made = build(Outer, {"count": 9, "ratio": 0, "limit": -5, "enabled": False, "names": [], "inner": {"low": 2}})
    assert made == Outer(9, 0.0, -5.0, False, "x", "red", (), Inner(2, 2))
    assert type(made.ratio) is float and type(made.limit) is float and type(made.names) is tuple


@pytest.mark.parametrize(
    "key", ["secret", "api_key", "apiKey", "API-KEY", "venue_password", "passphrase", "access_token", "privateKey"]
)
@pytest.mark.parametrize("table", ["", "[venue]\n", "[venue.deeper]\n", "[binance]\n"])
def test_a_secret_is_refused_and_never_shown(tmp_path: Path, key: str, table: str) -> None:
    path = tmp_path / "bot4.toml"
    path.write_text(f'{table}{key} = "{CANARY}"\n')
    with pytest.raises(SettingsError) as caught:
        read_settings(path)
    text = str(caught.value)
    assert CANARY not in text and text.startswith(f"{path}: ")
    if table in ("", "[venue]\n"):
        assert "secrets do not belong in the configuration; use venue.credentials_file" in text


@pytest.mark.parametrize(
    "line",
    [
        f'credentials_file = {{ api_key = "{CANARY}", secret = "{CANARY}" }}',
        f'credentials_file = [ {{ secret = "{CANARY}" }} ]',
        f'symbols = [ [ "api_key", "{CANARY}" ] ]',
        f'embedded = {{ secret = "{CANARY}" }}',
    ],
)  # fmt: skip
def test_a_secret_in_the_wrong_place_is_not_shown_either(tmp_path: Path, line: str) -> None:
    path = tmp_path / "bot4.toml"
    path.write_text(f"[venue]\n{line}\n")
    with pytest.raises(SettingsError, match=r"venue\.\w+ = a (table|nested list): allowed is") as caught:
        read_settings(path)
    assert CANARY not in str(caught.value)


def test_a_broken_file_with_a_secret_is_not_quoted(tmp_path: Path) -> None:
    path = tmp_path / "bot4.toml"
    path.write_text(f'[venue]\nsecret = "{CANARY}\n')
    with pytest.raises(SettingsError) as caught:
        read_settings(path)
    assert CANARY not in str(caught.value)
    assert "line 2" in str(caught.value)


LIVE = b"""
[venue]
embedded = false
rest_url = "https://venue"
ws_url = "wss://venue"
credentials_file = "key.toml"
"""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"engine = [", "at end of document"),
        (b"[engine]\nname = \"a\"\nname = \"b\"\n", "line 3"),
        (b"\xff\xfe", "utf-8"),
        (b"seed = " + b"9" * 5000, "integer string conversion"),
        (b"x = " + b"[" * 100_000, "recursion"),
        (b"[engine]\nname = \"a/b\"\n", "engine.name = 'a/b': allowed are 1 to 32 letters, digits, '_' and '-'"),
        (b"[engine]\nname = \"\"\n", "engine.name = '': allowed are"),
        (b"[engine]\nname = \"../x\"\n", "engine.name = '../x': allowed are"),
        (b"[engine]\nmemory_budget_mib = 1e3\n", "engine.memory_budget_mib = 1000.0: allowed is a whole number"),
        (b"[venue]\nsymbols = []\n", "venue.symbols = []: allowed are 1 to 16 different names"),
        (b"[venue]\nsymbols = [\"BTCUSDT\", \"BTCUSDT\"]\n", "allowed are 1 to 16 different names"),
        (b"[venue]\nsymbols = [\"DOGEUSDT\"]\n", "the embedded exchange lists ['BTCUSDT', 'ETHUSDT']"),
        (LIVE + b"[safety]\ncooldown_s = 299.0\n", "safety.cooldown_s = 299.0: allowed is at least 300"),
        (LIVE + b"[safety]\noperator_secret = 'none'\n", "safety.operator_secret = 'none': allowed is 'required'"),
        (b"[venue]\nembedded = false\n", "venue.rest_url = '': needed when venue.embedded is false"),
        (b"[maker]\nrequote_ticks = 0\n", "maker: maker requote_ticks is 0: at least 1 is needed"),
        (b"[embedded.btcusdt]\ntick_size = \"a tick\"\n", "embedded: 'a tick' is not a number"),
        (b"[gate]\nmax_order_valeu = 1.0\n", "gate.max_order_valeu: unknown key; did you mean 'max_order_value'?"),
        (b"[gate]\nmax_order_value = nan\n", "gate.max_order_value = nan: allowed is a number, at least 0.0"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bot4.toml"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=re.escape(message)) as caught:
        read_settings(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_file_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=f"{tmp_path}/no.toml: No such file or directory"):
        read_settings(tmp_path / "no.toml")
    with pytest.raises(SettingsError, match=f"{tmp_path}: Is a directory"):
        read_settings(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert read_settings(None) == Settings()


def test_the_file_of_the_repository_is_sound() -> None:
    loaded = read_settings(PROJECT_ROOT / "bot4.toml")
    assert loaded.engine.name == "bot4" and loaded.venue.embedded, "paper trading by default"
    assert build(Settings, as_plain(loaded)) == loaded


def _values(cls: Any, dice: random.Random) -> dict[str, Any]:
    """A mapping with some keys of a settings class, drawn within what their fields allow."""
    hints = typing.get_type_hints(cls)
    made: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        kind, meta = hints[field.name], field.metadata
        low = meta.get("minimum") if meta.get("minimum") is not None else -1000
        high = meta.get("maximum") if meta.get("maximum") is not None else max(1000, low * 2)
        if dataclasses.is_dataclass(kind):
            made[field.name] = _values(kind, dice)
        elif dice.random() < 0.5:
            continue
        elif typing.get_origin(kind) is dict:
            item = typing.get_args(kind)[1]
            made[field.name] = {
                f"name{index}": _values(item, dice) if dataclasses.is_dataclass(item) else dice.choice((1, 0.5, "x"))
                for index in range(dice.randrange(3))
            }
        elif meta.get("choices"):
            made[field.name] = dice.choice(meta["choices"])
        elif kind is bool:
            made[field.name] = dice.random() < 0.5
        elif kind is int:
            made[field.name] = dice.randint(low + 1, high)
        elif kind is float:
            made[field.name] = dice.choice((dice.uniform(low, high), int(high)))
        elif kind is str:
            made[field.name] = dice.choice(("", "text", "\u00e9\n\"quoted\""))
        else:
            made[field.name] = [f"name{index}" for index in range(dice.randrange(4))]
    return made


@pytest.mark.parametrize("seed", range(40))
def test_plain_values_and_json_build_the_same_settings_again(seed: int) -> None:
    made = build(Settings, _values(Settings, random.Random(seed)))
    assert made != Settings()
    assert build(Settings, as_plain(made)) == made
    assert build(Settings, orjson.loads(orjson.dumps(as_plain(made)))) == made
    assert config_hash(build(Settings, as_plain(made))) == config_hash(made)


def _leaves(plain: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for key, value in plain.items():
        found += _leaves(value, (*path, key)) if isinstance(value, dict) else [(*path, key)]
    return found


def _changed(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return (*value, "more") if isinstance(value, tuple) else f"{value}x"


def test_the_hash_of_the_configuration_changes_with_every_value() -> None:
    plain = as_plain(Settings())
    before = config_hash(Settings())
    leaves = _leaves(plain)
    assert len(leaves) > 60
    seen = {before}
    for path in leaves:
        changed = as_plain(Settings())
        place = changed
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = _changed(place[path[-1]])
        made = Settings()
        made = _replaced(made, path, place[path[-1]])
        digest = config_hash(made)
        assert digest not in seen, path
        seen.add(digest)


def _replaced(made: Any, path: tuple[str, ...], value: Any) -> Any:
    """Settings with one value replaced, whatever its bounds."""
    inner = value if len(path) == 1 else _replaced(getattr(made, path[0]), path[1:], value)
    return dataclasses.replace(made, **{path[0]: inner})


def test_every_setting_is_documented_and_its_default_is_allowed() -> None:
    def look(cls: Any, path: str) -> int:
        hints = typing.get_type_hints(cls)
        count = 0
        for field in dataclasses.fields(cls):
            where = f"{path}.{field.name}".lstrip(".")
            assert len(field.metadata["doc"]) > 8, where
            if dataclasses.is_dataclass(hints[field.name]):
                count += look(hints[field.name], where)
            elif typing.get_origin(hints[field.name]) is dict:
                item = typing.get_args(hints[field.name])[1]
                build(cls, {field.name: {}})
                look(item, where) if dataclasses.is_dataclass(item) else None  # no leaves while there is none
            else:
                build(cls, {field.name: field.default})
                count += 1
        return count

    assert look(Settings, "") == len(_leaves(as_plain(Settings())))


def test_check_prints_a_configuration_that_gives_itself_again(tmp_path: Path) -> None:
    path = tmp_path / "given.toml"
    path.write_text(
        '[engine]\nname = "round-trip"\n[maker]\norder_value = 321.5\n[embedded.ethusdt]\nlimit_rate = 33\n'
    )

    def check(config: Path, *options: str) -> str:
        command = [sys.executable, "-m", "tools.cli", "check", "--config", str(config), *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=PROJECT_ROOT)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    answer = orjson.loads(check(path, "--json"))
    own = settings_from({"engine": {"name": "round-trip"}, "maker": {"order_value": 321.5},
                         "embedded": {"ethusdt": {"limit_rate": 33}}})
    assert answer == {
        "settings": orjson.loads(orjson.dumps(as_plain(own))), "config_hash": config_hash(own), "findings": [],
        "ignored": [],
    }
    assert build(Settings, answer["settings"]) == own
    printed = tmp_path / "printed.toml"
    printed.write_text(check(path))
    assert read_settings(printed) == own
