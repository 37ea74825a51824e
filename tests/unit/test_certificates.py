"""When certificates end, as openssl says it."""

from __future__ import annotations

import shutil
import subprocess
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from mge_cache_server.certificates import certificate_ends_s

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def pem_of(tmp_path_factory: pytest.TempPathFactory) -> PemOf:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl in PATH (apt install openssl)")
    return PemOf(tmp_path_factory.mktemp("certificates"))


class PemOf:
    """Makes certificates that are good for a number of days."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, days: int) -> str:
        name = self._folder / str(days)
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"),
                *("ec_paramgen_curve:prime256v1", "-nodes", "-days", str(days)),
                *("-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", "/CN=test"),
            ],
            check=True,
            capture_output=True,
        )
        return name.with_suffix(".pem").read_text()


def told_by_openssl(pem: str) -> float:
    said = subprocess.run(
        ["openssl", "x509", "-noout", "-enddate"],
        input=pem,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    ends = said.strip().replace("GMT", "+0000")
    return datetime.strptime(ends, "notAfter=%b %d %H:%M:%S %Y %z").timestamp()


@pytest.mark.parametrize("days", [1, 400, 40000], ids=["short", "long", "beyond 2050"])
def test_a_certificate(pem_of: PemOf, days: int) -> None:
    pem = pem_of(days)
    assert certificate_ends_s(pem) == [told_by_openssl(pem)]


def test_several_with_other_things_between(pem_of: PemOf) -> None:
    pems = [pem_of(1), pem_of(400)]
    key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    assert certificate_ends_s(f"a comment\n{pems[0]}{key}{pems[1]}") == [
        told_by_openssl(pem) for pem in pems
    ]


def test_none() -> None:
    assert certificate_ends_s("") == []


def test_a_damaged_one_is_a_value_error_wherever_it_is_cut(pem_of: PemOf) -> None:
    head, *body, tail = pem_of(1).splitlines()
    text = "".join(body)
    for length in range(0, len(text) - 4, 4):
        damaged = f"{head}\n{text[:length]}\n{tail}\n"
        with pytest.raises(ValueError, match=r"certificate"):
            certificate_ends_s(damaged)
