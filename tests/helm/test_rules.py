"""The rules in the chart are those of the file, and their alerts link where the values say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from tests.helm.charts import HELM, of_kind

if TYPE_CHECKING:
    from tests.helm.charts import Charts

RULES = HELM / "mge-cache-sidecar/files/rules.yaml"
PROMETHEUS_RULE = "mge-cache-sidecar.prometheusRule"
ADDRESS = "https://git.example/mge-cache/runbook.md"


def groups(charts: Charts, *settings: str) -> list[dict[str, Any]]:
    made = charts.objects(settings=(f"{PROMETHEUS_RULE}.enabled=true", *settings))
    [rule] = of_kind(made, "PrometheusRule")
    found: list[dict[str, Any]] = rule["spec"]["groups"]
    return found


def test_they_are_the_files(charts: Charts) -> None:
    assert groups(charts) == yaml.safe_load(RULES.read_text())["groups"]


def test_alerts_link_to_the_runbook_that_is_named(charts: Charts) -> None:
    made = groups(charts, f'{PROMETHEUS_RULE}.runbookUrl="{ADDRESS}"')
    links = [
        rule["annotations"]["runbook_url"]
        for group in made
        for rule in group["rules"]
        if "alert" in rule
    ]
    assert links
    assert [link for link in links if not link.startswith(f"{ADDRESS}#mgecache")] == []
