"""The doctor on machines made of files, each with one thing wrong; and on this one."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path
from threading import Thread
from time import time_ns

import orjson
import pytest

from engine.config import Settings
from tools.cli import main
from tools.doctor import machine, rights, software
from tools.doctor.command import CHECKS
from tools.doctor.finding import Finding, Host, Level, examine

GOOD = {
    "proc/loadavg": "0.50 0.40 0.30 1/200 4242", "proc/swaps": "Filename Type Size Used Priority\n",
    "proc/sys/kernel/sched_autogroup_enabled": "1", "proc/sys/kernel/sched_rt_runtime_us": "950000",
    "proc/sys/kernel/numa_balancing": "0", "proc/self/status": "Name:\tbot4\nCapEff:\t0000000000000000\n",
    "proc/self/limits": (
        "Limit                     Soft Limit           Hard Limit           Units     \n"
        "Max open files            4096                 4096                 files     \n"
        "Max locked memory         8388608              8388608              bytes     \n"
        "Max realtime priority     10                   10                             \n"
    ),
    "sys/fs/cgroup/cpu.max": "max 100000", "sys/devices/system/node/online": "0",
    "sys/devices/system/cpu/isolated": "1-5", "sys/devices/system/cpu/nohz_full": "1-5",
    "sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
    "sys/kernel/mm/transparent_hugepage/defrag": "always defer defer+madvise [madvise] never",
    **{f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor": "performance" for core in range(8)},
    **{f"sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list": str(core) for core in range(8)},
    **{f"sys/devices/system/cpu/cpu7/cpuidle/state{n}/{name}": value for n, state in enumerate(
        ({"name": "POLL", "latency": "0", "disable": "0"}, {"name": "C1", "latency": "2", "disable": "0"})
    ) for name, value in state.items()},
}  # fmt: skip


def host_of(folder: Path, files: dict[str, str | None], cores: int = 8, settings: Settings | None = None) -> Host:
    """A machine that is good but for these files; None: it is not there."""
    for name, text in (GOOD | files).items():
        if text is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(f"{text}\n")
    (folder / "dev/shm").mkdir(parents=True, exist_ok=True)
    return Host(folder, settings or Settings(), cores=tuple(range(cores)))


def of_topic(findings: list[Finding], topic: str) -> Finding:
    (found,) = [finding for finding in findings if finding.topic == topic]
    return found


def test_a_good_machine_has_nothing_to_mend(tmp_path: Path) -> None:
    findings = examine(host_of(tmp_path, {}), (*machine.CHECKS, *rights.CHECKS[:4]))
    assert [(one.topic, one.level) for one in findings if one.level != Level.OK] == []
    assert len(findings) >= 18


CLOCK_SOURCE = "sys/devices/system/clocksource/clocksource0/current_clocksource"
CPU = "sys/devices/system/cpu"
FAULTS = [
    ("cpu quota", {"sys/fs/cgroup/cpu.max": "150000 100000"}, Level.WARNING, "1.50 cores"),
    ("cpu quota", {
        "proc/self/cgroup": "0::/system.slice/bot4.service",
        "sys/fs/cgroup/cpu.max": None,  # the root of cgroup v2 has none
        "sys/fs/cgroup/system.slice/bot4.service/cpu.max": "max 100000",
        "sys/fs/cgroup/system.slice/cpu.max": "50000 100000",
    }, Level.WARNING, "0.50 cores' time in each 100 ms (/sys/fs/cgroup/system.slice)"),
    ("cpu quota", {
        "proc/self/cgroup": "4:memory:/box\n1:cpu,cpuacct:/box/inner", "sys/fs/cgroup/cpu.max": None,
        "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us": "800000",
        "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/cpu,cpuacct/box/inner/cpu.cfs_quota_us": "25000",
        "sys/fs/cgroup/cpu,cpuacct/box/inner/cpu.cfs_period_us": "100000",
    }, Level.WARNING, "0.25 cores"),
    ("cpu quota", {  # a container is shown the path outside, and a mount that begins with its group
        "proc/self/cgroup": "1:cpu:/kubepods/pod7", "sys/fs/cgroup/cpu.max": None,
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
    }, Level.WARNING, "2.00 cores"),
    ("hyper-threads", {f"{CPU}/cpu{core}/topology/thread_siblings_list": "2-3" for core in (2, 3)}, Level.NOTE, "2+3"),
    ("isolated cores", {f"{CPU}/isolated": "1-3"}, Level.NOTE, "not: 4,5"),
    ("isolated cores", {f"{CPU}/isolated": ""}, Level.NOTE, "not: 1,2,3,4,5"),
    ("cores without tick", {f"{CPU}/nohz_full": "(null)"}, Level.NOTE, "not: 1,2,3,4,5"),
    ("governor", {f"{CPU}/cpu3/cpufreq/scaling_governor": "powersave"}, Level.WARNING, "powersave"),
    ("sleep states", {f"{CPU}/cpu7/cpuidle/state1/latency": "133"}, Level.NOTE, "C1, wakes up in 133 us"),
    ("clock source", {CLOCK_SOURCE: "hpet"}, Level.WARNING, "hpet"),
    ("huge pages", {
        "sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never",
        "sys/kernel/mm/transparent_hugepage/defrag": "[always] defer never",
    }, Level.NOTE, "transparent always"),
    ("swap", {"proc/swaps": "Filename Type\n/dev/sda2 partition 8388604 0 -2"}, Level.WARNING, "/dev/sda2"),
    ("memory nodes", {
        "sys/devices/system/node/online": "0-1", "proc/sys/kernel/numa_balancing": "1",
    }, Level.NOTE, "2, balancing on"),
    ("real-time share", {"proc/sys/kernel/sched_rt_runtime_us": "0"}, Level.WARNING, "none"),
    ("load", {"proc/loadavg": "9.25 3 3 1/2 3"}, Level.WARNING, "9.2 on 8"),
    ("real-time priority", {"proc/self/limits": "Max realtime priority     0   0"}, Level.WARNING, "not permitted"),
    ("locked memory", {"proc/self/limits": "Max locked memory         65536  65536 bytes"}, Level.WARNING, "64 KiB"),
    ("open files", {"proc/self/limits": "Max open files   256  256 files"}, Level.WARNING, "256"),
]  # fmt: skip


@pytest.mark.parametrize(("topic", "files", "level", "words"), FAULTS)
def test_what_is_wrong_is_named_with_effect_and_remedy(
    topic: str, files: dict[str, str | None], level: Level, words: str, tmp_path: Path
) -> None:
    found = of_topic(examine(host_of(tmp_path, files), (*machine.CHECKS, *rights.CHECKS[:4])), topic)
    assert found.level == level
    assert words in found.found
    assert found.effect and found.remedy


@pytest.mark.parametrize("files", [
    {"proc/self/cgroup": "1:cpu:/\n0::/", "sys/fs/cgroup/cpu.max": None, "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1"},
    {"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/cpu.max": "800000 100000", "sys/fs/cgroup/a/cpu.max": "max 1"},
    {"proc/self/cgroup": None, "sys/fs/cgroup/cpu.max": None},
])  # fmt: skip
def test_no_group_takes_time_away(files: dict[str, str | None], tmp_path: Path) -> None:
    assert of_topic(examine(host_of(tmp_path, files), machine.CHECKS), "cpu quota").level == Level.OK


def test_capabilities_stand_for_limits(tmp_path: Path) -> None:
    files: dict[str, str | None] = {
        "proc/self/limits": "Max locked memory 0 0\nMax realtime priority 0 0",
        "proc/self/status": f"CapEff:\t{1 << 14 | 1 << 23:016x}",
    }
    findings = examine(host_of(tmp_path, files), rights.CHECKS[:2])
    assert [finding.level for finding in findings] == [Level.OK, Level.OK]


def test_few_cores_and_a_table_that_does_not_fit(tmp_path: Path) -> None:
    files: dict[str, str | None] = {}
    assert of_topic(examine(host_of(tmp_path, files, cores=2), machine.CHECKS), "cores").level == Level.WARNING
    assert of_topic(examine(host_of(tmp_path, files, cores=2), machine.CHECKS), "scheduler").level == Level.NOTE
    pinned = replace(Settings(), engine=replace(Settings().engine, placement="pinned"))
    assert of_topic(examine(host_of(tmp_path, files, settings=pinned), machine.CHECKS), "cores").level == Level.PROBLEM


def test_a_file_that_cannot_be_understood_stops_no_other_check(tmp_path: Path) -> None:
    findings = examine(host_of(tmp_path, {"sys/fs/cgroup/cpu.max": "so much"}), machine.CHECKS)
    assert "could not be looked at" in of_topic(findings, "quota").found
    assert of_topic(findings, "clock source").level == Level.OK


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    findings = examine(host_of(tmp_path, dict.fromkeys(GOOD)), (*machine.CHECKS, *rights.CHECKS[:4]))
    assert all(finding.level < Level.PROBLEM for finding in findings)


# --- live trading -----------------------------------------------------------------------------------------------------


def live(**changes: object) -> Settings:
    return replace(Settings(), venue=replace(Settings().venue, embedded=False, **changes))


def test_keys_are_looked_at_and_never_shown(tmp_path: Path) -> None:
    key = tmp_path / "key.toml"
    key.write_text('api_key = "the-key-itself"\nsecret = "the-secret-itself"\n')
    key.chmod(0o644)
    host = host_of(tmp_path / "root", {}, settings=live(credentials_file=str(key)))
    open_to_all = examine(host, (rights.check_credentials,))
    assert [finding.level for finding in open_to_all] == [Level.PROBLEM, Level.NOTE, Level.NOTE]
    key.chmod(0o600)
    closed = examine(host, (rights.check_credentials,))
    assert [finding.level for finding in closed] == [Level.OK, Level.NOTE, Level.NOTE]
    assert "itself" not in repr(open_to_all + closed)
    none = examine(host_of(tmp_path / "root", {}, settings=live()), (rights.check_credentials,))
    assert none[0].level == Level.PROBLEM


def test_a_market_that_is_recorded_alone_lacks_nothing_of_trading(tmp_path: Path) -> None:
    host = host_of(tmp_path, {}, settings=live(market="kraken_spot", rest_url="https://api.kraken.com"))
    checks = (rights.check_credentials, rights.check_operator_secret, rights.check_buttons)
    keys, secret, button = examine(host, checks)
    assert (keys.level, secret.level, button.level) == (Level.NOTE, Level.OK, Level.OK)
    assert "kraken_spot" in keys.found and "bot4 record" in keys.remedy
    (traded, *_) = examine(host_of(tmp_path, {}, settings=live()), checks)
    assert traded.level == Level.PROBLEM and "record" in traded.effect, "this one can be recorded without a key too"


def test_folders_that_are_not_ours_or_full_of_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    settings = replace(Settings(), engine=replace(Settings().engine, data_folder=str(data / "deep" / "down")))
    host = host_of(tmp_path / "root", {}, settings=settings)
    assert examine(host, (rights.check_data_folder,))[0].level <= Level.WARNING  # by the room on this disk
    assert not data.exists(), "the doctor makes nothing"
    (data / "deep" / "down").mkdir(parents=True)
    (data / "deep" / "down").chmod(0o777)
    (found,) = examine(host, (rights.check_data_folder,))
    assert found.level == Level.PROBLEM and "0777" in found.found


def test_a_folder_that_we_may_not_write_is_not_to_be_taken_from_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(Settings(), engine=replace(Settings().engine, data_folder=str(tmp_path / "data")))
    host = host_of(tmp_path / "root", {}, settings=settings)
    monkeypatch.setattr(rights.os, "access", lambda path, mode: False)  # root may write everywhere
    (found,) = examine(host, (rights.check_data_folder,))
    assert found.level == Level.PROBLEM and str(tmp_path) in found.found
    assert "chown" not in found.remedy and "engine.data_folder" in found.remedy
    (tmp_path / "data").mkdir()
    (found,) = examine(host, (rights.check_data_folder,))
    assert found.remedy == f"`chmod u+rwx {tmp_path / 'data'}`"


def test_the_configuration_that_is_looked_at_is_the_one_that_was_given(tmp_path: Path) -> None:
    config = tmp_path / "mine.toml"
    config.write_text("")
    config.chmod(0o666)
    host = replace(host_of(tmp_path / "root", {}), config=config)
    (found,) = examine(host, (rights.check_config_file,))
    assert found.level == Level.PROBLEM and str(config) in found.found


def test_pins_are_looked_at_though_no_button_is_asked_for(tmp_path: Path) -> None:
    (found,) = examine(host_of(tmp_path / "without", {}), (rights.check_pins,))
    assert (found.level, found.found) == (Level.OK, "none on this machine")
    with_pins: dict[str, str | None] = {"dev/gpiochip0": "", "dev/gpiochip1": ""}
    (found,) = examine(host_of(tmp_path / "with", with_pins), (rights.check_pins,))
    assert found.level == Level.OK and "gpiochip0, gpiochip1" in found.found and "off" in found.found
    (found,) = examine(host_of(tmp_path / "with", with_pins, settings=live()), (rights.check_pins,))
    assert found.level == Level.NOTE and found.effect and "[gpio]" in found.remedy


def test_a_remount_makes_room_beside_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A /dev/shm of 64 GiB that is full must not be made smaller than what is in it."""
    full = os.statvfs_result((4096, 4096, 64 << 18, 1 << 8, 1 << 8, 0, 0, 0, 0, 255))
    monkeypatch.setattr(rights.os, "statvfs", lambda path: full)
    (found,) = examine(host_of(tmp_path, {}), (rights.check_shared_memory_room,))
    assert found.level == Level.WARNING
    assert f"size={(64 << 10) - 1 + 2 * 192}M " in found.remedy


def test_limits_are_raised_for_a_name_not_for_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("USER", raising=False)
    host = host_of(tmp_path, {"proc/self/limits": "Max realtime priority     0   0"})
    name = pwd.getpwuid(os.geteuid()).pw_name
    assert f"`{name} - rtprio 10`" in of_topic(examine(host, rights.CHECKS[:1]), "real-time priority").remedy
    monkeypatch.setattr(rights.os, "geteuid", lambda: 54321)  # a container's user, whom no list names
    assert "`54321:54321 - rtprio 10`" in of_topic(examine(host, rights.CHECKS[:1]), "real-time priority").remedy


class _Clock(BaseHTTPRequestHandler):
    ahead_ms = 0

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(orjson.dumps({"serverTime": time_ns() // 1_000_000 + self.ahead_ms}))

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing on the terminal."""


@pytest.mark.parametrize(("ahead_ms", "level"), [(0, Level.OK), (2_000, Level.PROBLEM), (-2_000, Level.PROBLEM)])
def test_the_clock_of_a_venue(ahead_ms: int, level: Level, tmp_path: Path) -> None:
    handler = type("Clock", (_Clock,), {"ahead_ms": ahead_ms})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        host = host_of(tmp_path, {}, settings=live(rest_url=f"http://127.0.0.1:{server.server_address[1]}"))
        (found,) = examine(host, (software.check_venue,))
        server.shutdown()
    assert found.level == level, found
    (gone,) = examine(host, (software.check_venue,))
    assert gone.level == Level.PROBLEM and "ConnectionError" in gone.found


def test_the_kernel_tells_of_its_clock() -> None:
    _, error_us = software.kernel_clock()
    assert 0 < error_us <= 16_000_000  # what the kernel holds for the worst


def test_libraries_are_as_tested_only_where_they_were_compared(tmp_path: Path) -> None:
    (found,) = examine(host_of(tmp_path, {}), (software.check_versions,))
    assert found.level == Level.NOTE and "constraints.txt" in found.found and found.effect and found.remedy
    numpy = f"numpy=={version('numpy')}"
    there = str(software.CONSTRAINTS.relative_to("/"))
    (found,) = examine(host_of(tmp_path, {there: numpy}), (software.check_versions,))
    assert found.level == Level.NOTE and "not compared: " in found.found and "numpy" not in found.found
    found, _ = examine(host_of(tmp_path, {there: "numpy==0.1"}), (software.check_versions,))
    assert found.level == Level.WARNING and f"numpy {version('numpy')} (tested: 0.1)" in found.found
    (found,) = examine(Host(Path("/"), Settings()), (software.check_versions,))
    assert found.level == Level.OK and "as tested" in found.found


KERNELS = """
from engine.kernel import kernel

@kernel()
def helper(value):
    return value + FIGURE

@kernel("int64(int64)")
def entry(value):
    return helper(value)
"""


def test_kernels_are_in_the_cache_when_what_is_in_the_source_was_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "shm" / "some_kernels.py"
    file.parent.mkdir()
    compiling = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(file.parent)!r}); import some_kernels"]

    looking = [
        sys.executable, "-c", "import sys, pathlib; from tools.doctor.software import uncompiled; "
        f"print([file.name for file in uncompiled(pathlib.Path({str(tmp_path)!r}))])",
    ]

    def uncompiled() -> str:  # a process reads a source file once, and there are two versions of this one
        return subprocess.run(looking, check=True, capture_output=True, text=True).stdout.strip()

    file.write_text(KERNELS.replace("FIGURE", "1"))
    assert uncompiled() == "['some_kernels.py']"
    subprocess.run(compiling, check=True)
    assert uncompiled() == "[]"
    file.write_text(KERNELS.replace("FIGURE", "2"))
    assert uncompiled() == "['some_kernels.py']", "what was compiled before an edit is not the kernel"
    subprocess.run(compiling, check=True)
    assert uncompiled() == "[]"
    # Where the folder cannot be written the user's own cache folder counts, whatever lies beside the source.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    monkeypatch.setattr(software.os, "access", lambda path, mode: not str(path).startswith(str(file.parent)))
    assert software.uncompiled(tmp_path) == [file]


def test_kernels_that_are_not_in_the_cache_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "uncompiled", lambda: [Path("a.py"), Path("b.py")])
    (found,) = examine(host_of(tmp_path, {}), (software.check_kernels,))
    assert (found.level, found.found) == (Level.NOTE, "of 2 files not in the cache, such as a.py")
    assert "procs.warm" in found.remedy
    monkeypatch.setattr(software.os, "access", lambda path, mode: False)
    (found,) = examine(host_of(tmp_path, {}), (software.check_kernels,))
    assert found.level == Level.WARNING and "can be written" in found.found and "XDG_CACHE_HOME" in found.remedy


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_on_this_machine(capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> None:
    code = main(["doctor", "--json"])
    answer = orjson.loads(capsysbinary.readouterr().out)
    assert code == (1 if answer["problems"] else 0)
    assert len(answer["findings"]) >= len(CHECKS) - 2
    assert {finding["level"] for finding in answer["findings"]} <= {"ok", "note", "warning", "problem"}
    for finding in answer["findings"]:
        assert finding["level"] == "ok" or (finding["effect"] and finding["remedy"]), finding


def test_a_problem_is_the_exit_code_and_stands_in_words(tmp_path: Path) -> None:
    config = tmp_path / "bot4.toml"
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o777)
    config.write_text(f'[engine]\ndata_folder = "{data}"\n')
    command = [sys.executable, "-m", "tools.cli", "doctor", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "PROBLEM  data folder" in done.stdout and "chmod" in done.stdout
    config.write_text("")
    config.chmod(0o666)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "PROBLEM  configuration" in done.stdout
    config.write_text("[engine\n")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and str(config) in done.stderr
