"""Every alert fires when it should, not just below, and resolves; every record has its value.

All of that is said by Prometheus's own promtool (Debian's package ``prometheus``).
"""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.observe.alert_cases import ALERTS
from tests.observe.prometheus import find_promtool
from tests.observe.record_cases import RECORDS
from tests.observe.rule_cases import JOB, AlertCase, RecordCase, metric
from tests.servers.fixtures import require

if TYPE_CHECKING:
    from pathlib import Path

LONG_MIN = 300
RULES = "helm/mge-cache-sidecar/files/rules.yaml"


@pytest.fixture(scope="module")
def promtool() -> str:
    return require(find_promtool)


@pytest.fixture(scope="module")
def rules(repository: Path) -> list[dict[str, Any]]:
    groups = yaml.safe_load((repository / RULES).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def run(promtool: str, tests: dict[str, Any], folder: Path, repository: Path, *, step: str) -> None:
    """Run promtool's tests; what it finds wrong is the assertion's text."""
    file = folder / "tests.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "rule_files": [str(repository / RULES)],
                "evaluation_interval": step,
                "tests": [{"interval": "1m", **tests}],
            }
        )
    )
    done = subprocess.run(
        [promtool, "test", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def series_of(case: AlertCase | RecordCase) -> list[dict[str, str]]:
    return [{"series": name, "values": values} for name, values in case.series.items()]


def expected(case: AlertCase, rule: dict[str, Any], description: str) -> dict[str, Any]:
    job = dict(re.findall(r'(\w+)="([^"]*)"', JOB))
    return {
        "exp_labels": {**job, **case.labels, **rule["labels"]},
        "exp_annotations": {**rule["annotations"], "description": description},
    }


def test_promtool_finds_nothing_to_say(promtool: str, repository: Path) -> None:
    done = subprocess.run(
        [promtool, "check", "rules", "--lint=all", "--lint-fatal", str(repository / RULES)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("case", ALERTS, ids=lambda case: f"{case.alert}: {case.what}")
def test_alert(
    case: AlertCase,
    rules: list[dict[str, Any]],
    promtool: str,
    tmp_path: Path,
    repository: Path,
) -> None:
    [rule] = [rule for rule in rules if rule.get("alert") == case.alert]
    moments = [
        {
            "eval_time": f"{minute}m",
            "alertname": case.alert,
            "exp_alerts": [expected(case, rule, case.fires[minute])]
            if minute in case.fires
            else [],
        }
        for minute in sorted((*case.fires, *case.quiet))
    ]
    tests = {"input_series": series_of(case), "alert_rule_test": moments}
    # Days are long, minute by minute.
    step = "1m" if max(case.fires or case.quiet) < LONG_MIN else "5m"
    run(promtool, tests, tmp_path, repository, step=step)


@pytest.mark.parametrize("case", RECORDS, ids=lambda case: f"{case.record}: {case.what}")
def test_record(case: RecordCase, promtool: str, tmp_path: Path, repository: Path) -> None:
    samples = [
        {"labels": metric("", labels), "value": value} for labels, value in case.values.items()
    ]
    tests = {
        "input_series": series_of(case),
        "promql_expr_test": [
            {
                # promtool compares to the last bit of a float.
                "expr": f"round({case.record}, 0.000001)",
                "eval_time": f"{case.minute}m",
                "exp_samples": samples,
            }
        ],
    }
    run(promtool, tests, tmp_path, repository, step="1m")


def test_every_rule_has_cases(rules: list[dict[str, Any]]) -> None:
    alerts = {rule["alert"] for rule in rules if "alert" in rule}
    assert {case.alert for case in ALERTS if case.fires} == alerts
    assert {case.alert for case in ALERTS if not case.fires} == alerts, "not just below"
    assert {case.record for case in RECORDS} == {
        rule["record"] for rule in rules if "record" in rule
    }
