"""The alerts in the chart link where the values say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.helm.charts import of_kind

if TYPE_CHECKING:
    from tests.helm.charts import Charts

PROMETHEUS_RULE = "mge-cache-sidecar.prometheusRule"
ADDRESS = "https://git.example/mge-cache/runbook.md"


def groups(charts: Charts, *settings: str) -> list[dict[str, Any]]:
    made = charts.objects(settings=(f"{PROMETHEUS_RULE}.enabled=true", *settings))
    [rule] = of_kind(made, "PrometheusRule")
    found: list[dict[str, Any]] = rule["spec"]["groups"]
    return found


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
