"""The command line where no sidecar is needed."""

from __future__ import annotations

import gc
import io
import json
import logging
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from mge_cache import PromptRequest
from mge_cache_server.cli import serve
from mge_cache_server.cli.main import cli, run
from mge_cache_server.config import options
from mge_cache_server.logs import ConsoleFormatter, JsonFormatter

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = list(cli.list_commands(None))  # type: ignore[arg-type]  # it does not look at it


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MGE_CACHE_TARGET", raising=False)
    monkeypatch.delenv("MGE_CACHE_CONFIG", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))


def test_the_group_lists_every_command() -> None:
    result = CliRunner().invoke(cli, ["--help"])
    assert result.exit_code == 0
    for command in COMMANDS:
        assert re.search(rf"^  {command} ", result.output, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    result = CliRunner().invoke(cli, [command, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: cli {command} ")
    assert "\b" not in result.output


def test_serve_has_an_option_for_each_setting_that_is_no_secret() -> None:
    output = CliRunner().invoke(cli, ["serve", "--help"]).output
    for option in options():
        assert (f"{option.flag} " in output or f"{option.flag} / " in output) != option.spec.secret


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert re.fullmatch(r"mge-cache \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["get", "--nonsense"], "No such option"),
        (["get", "-m", "m"], "give the prompt as the argument"),
        (["get", "-m", "m", "a", "--key", "00"], "give the prompt as the argument"),
        (["get", "a"], "model: is required"),
        (["get", "--key", "xyz"], "--key must be hexadecimal"),
        (["get", "--key", "00"], "key: must be 32 bytes"),
        (["get", "--key", "00" * 32, "-t", "1"], "--key stands for"),
        (["get", "-m", "m", "a", "-p", "x"], "--param is written NAME=JSON"),
        (["get", "-m", "m", "a", "-p", "x=SECRET"], "--param x: not JSON"),
        (["get", "-m", "m", "a", "-t", "-1"], "temperature: must be finite"),
        (["get", "-m", "m", "a", "--target", "nowhere"], "target: must be"),
        (["set", "a", "--answer", "x"], "--model is required"),
        (["set", "-m", "m", "a"], "give either --answer or --answer-file"),
        (["set", "-m", "m", "a", "--answer", "x", "--ttl", "soon"], "must be a duration"),
        (["invalidate"], "give one of --key"),
        (["invalidate", "--tag", "a", "--model", "b"], "give one of --key"),
        (["invalidate", "--key", "xyz"], "--key must be hexadecimal"),
        (["stats", "--watch", "soon"], "must be a duration"),
        (["warm", "/nowhere/file"], "No such file"),
        (["warm", "/dev/null", "--concurrency", "0"], "Invalid value for '-c'"),
        (["serve", "--ttl", "soon"], "--ttl: must be a duration"),
        (["serve", "--redis-password", "x"], "No such option"),
        (["export", "x", "--redis-url", "memory://"], "memory:// is inside a sidecar"),
        (["export", "x", "-n", "a b"], "--namespace must be"),
        (["export", "/nowhere/x", "--redis-url", "redis://h"], "/nowhere/x: cannot be written"),
        (["export", "x"], "mge-cache: no such folder, so nothing to export; give the --data-dir"),
        (["completion", "tcsh"], "Invalid value for"),
    ],
)
def test_wrong_usage_is_a_line_and_2(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert captured.err.startswith("mge-cache: ")
    assert told in captured.err
    assert "SECRET" not in captured.err


@pytest.mark.parametrize(("arguments", "usage"), [([], " [OPTIONS]"), (["completion"], " comp")])
def test_without_arguments_plain_help(
    arguments: list[str], usage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"Usage: mge-cache{usage}")
    assert "mge-cache: " not in captured.err
    assert "(try " not in captured.err


def test_serve_tells_all_mistakes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MGE_CACHE_DRIAN", "1s")
    assert run(["serve", "--ttl", "soon", "--listen", "x"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("mge-cache: ") for line in lines)


@pytest.mark.parametrize(
    "arguments",
    [
        ["stats"],
        ["stats", "--json"],
        ["get", "-m", "m", "a"],
        ["set", "-m", "m", "a", "--answer", "b"],
        ["invalidate", "--tag", "a"],
        ["invalidate", "--everything", "--yes"],
    ],
)
def test_without_a_sidecar_3(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*arguments, "--target", f"unix:{tmp_path}/none.sock"]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    assert line.startswith(f"mge-cache: no answer from unix:{tmp_path}/none.sock: UNAVAILABLE")


def test_health_without_a_sidecar_is_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["health", "--target", f"unix:{tmp_path}/none.sock"]) == 1
    assert "not reachable" in capsys.readouterr().err


def test_everything_is_invalidated_only_after_yes() -> None:
    result = CliRunner().invoke(cli, ["invalidate", "--everything"], input="n\n")
    assert result.exit_code == 1
    assert "Invalidate every entry of the namespace default? [y/N]" in result.output


def test_key_is_the_clients_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = PromptRequest(
        model="m",
        prompt="Why?\n",
        temperature=0.5,
        parameters={"system": "Be brief", "max_tokens": 10},
        namespace="plans",
    )
    file = tmp_path / "prompt.txt"
    file.write_text("Why?\n")
    common = ["key", "-n", "plans", "-m", "m", "-t", "0.5", "-p", "max_tokens=10"]
    common += ["-p", 'system="Be brief"']
    assert run([*common, "Why?\n"]) == 0
    assert run([*common, "--file", str(file)]) == 0
    assert capsys.readouterr().out.split() == [request.key.hex()] * 2


def test_key_reads_stdin() -> None:
    arguments = ["key", "-m", "m", "-"]
    result = CliRunner().invoke(cli, arguments, input=b"Why?")
    assert result.output.strip() == PromptRequest(model="m", prompt="Why?").key.hex()
    assert "not UTF-8" in CliRunner().invoke(cli, arguments, input=b"\xff").output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    assert "_MGE_CACHE_COMPLETE" in capsys.readouterr().out


def test_serve_pays_for_no_library_of_the_other_commands() -> None:
    """What a pod does not need, no pod pays for."""
    program = (
        "import sys; import mge_cache_server.cli.serve, mge_cache_server.cli.main, "
        "mge_cache_server.app; "
        "print(*(name for name in ('rich', 'structlog', 'pydantic', 'mge_cache_server.cli.warm') "
        "if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout.split() == []


def test_the_line_to_try_is_quoted_for_a_shell() -> None:
    assert serve.try_line("mge-cache", "") == (
        'mge-cache set --model demo --answer "Hi there" "Hello" '
        '&& mge-cache get --model demo "Hello"'
    )
    assert "--target 'unix:/a b'" in serve.try_line("mge-cache", "unix:/a b")


def test_the_command_is_named_as_it_is_called_from_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    script = tmp_path / ".venv/bin/mge-cache"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.setenv("PATH", "/nowhere")
    assert serve.command_name() == ".venv/bin/mge-cache"
    monkeypatch.setenv("PATH", str(script.parent))
    assert serve.command_name() == "mge-cache"
    monkeypatch.setattr(sys, "argv", ["/x/mge_cache_server/__main__.py"])
    assert serve.command_name().endswith(" -m mge_cache_server")


def record(**extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord(
        {"name": "n", "levelname": "WARNING", "levelno": 30, "msg": "it %s", "args": ("broke",)}
    )
    made.__dict__.update(extra)
    return made


def test_a_log_line_in_json() -> None:
    line = JsonFormatter().format(
        record(reason="x\ny", prompt="SECRET", url="redis://me:SECRET@h", n=1)
    )
    assert "\n" not in line
    members = json.loads(line)
    assert (members["event"], members["level"], members["n"]) == ("it broke", "warning", 1)
    assert members["url"] == "redis://me:***@h"
    assert "SECRET" not in line
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", members["time"])


def test_a_log_line_for_people() -> None:
    line = ConsoleFormatter().format(record(reason="x", key=b"SECRET"))
    assert re.fullmatch(r"\d\d:\d\d:\d\d warning it broke  reason=x  key=\*\*\*", line)


def test_a_traceback_is_logged() -> None:
    try:
        io.BytesIO().read("x")  # type: ignore[arg-type]
    except TypeError:
        failed = record(exc_info=sys.exc_info())
    assert "TypeError" in json.loads(JsonFormatter().format(failed))["exception"]
    assert "TypeError" in ConsoleFormatter().format(failed)


def test_once_it_has_started_the_garbage_collector_looks_at_new_objects_only() -> None:
    gc.disable()
    try:
        serve._settle_down()
        assert gc.isenabled()
        assert gc.get_freeze_count() > len(gc.get_objects())
    finally:
        gc.unfreeze()
        gc.enable()
