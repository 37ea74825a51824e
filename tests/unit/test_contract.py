"""The contract is well formed, breaks nobody, and the committed code is what it generates."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools import protos

BASELINE = "protos/baseline/mge_cache.binpb"


def buf(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    beside = shutil.which("buf", path=Path(sys.executable).parent) or shutil.which("buf")
    assert beside is not None, "there is no buf; it comes with the extra `dev`"
    return subprocess.run(
        [beside, *arguments], cwd=repository, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("lint",), id="lint"),
        pytest.param(("format", "--diff", "--exit-code", "protos"), id="format"),
        pytest.param(("breaking", "--against", BASELINE), id="breaking"),
    ],
)
def test_buf_has_nothing_to_say(repository: Path, arguments: tuple[str, ...]) -> None:
    done = buf(repository, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_breaking_change_is_seen(repository: Path, tmp_path: Path) -> None:
    shutil.copytree(repository / "protos", tmp_path / "protos")
    shutil.copy(repository / "buf.yaml", tmp_path)
    contract = tmp_path / "protos/mge_cache/v1/cache_service.proto"
    text = contract.read_text()
    assert text.count("rpc Invalidate(") == 1
    contract.write_text(text.replace("rpc Invalidate(", "rpc Forget("))

    done = buf(tmp_path, "breaking", "--against", BASELINE)

    assert done.returncode != 0
    assert "Invalidate" in done.stdout


def test_the_generated_code_is_fresh(repository: Path, tmp_path: Path) -> None:
    protos.generate(tmp_path)
    assert protos.differences(repository / "client", tmp_path) == []


def test_stale_code_is_seen(repository: Path, tmp_path: Path) -> None:
    generated = tmp_path / protos.PACKAGE
    shutil.copytree(repository / "client" / protos.PACKAGE, generated)
    changed, missing = sorted(generated.glob("*_pb2*.pyi"))
    changed.write_text(changed.read_text() + "\n")
    missing.unlink()
    (generated / "removed_service_pb2.py").touch()

    assert protos.differences(repository / "client", tmp_path) == sorted(
        (changed.name, missing.name, "removed_service_pb2.py")
    )
