"""The committed dashboard is what ``make dashboard`` writes, and it asks for metrics we have."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import promql_parser
import pytest
import yaml

from tests.observe.queries import queries_of, substituted
from tools.dashboard import DASHBOARD, dashboard_json

if TYPE_CHECKING:
    from pathlib import Path

RULES = "helm/mge-cache-sidecar/files/rules.yaml"
_SUFFIXES = r"_(?:bucket|count|sum)$"


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    made: dict[str, Any] = json.loads(dashboard_json())
    return made


def metrics_in(promql: str) -> set[str]:
    """The metrics that an expression selects."""
    promql_parser.parse(promql)  # raises ValueError
    # Without label names and values, an identifier before a brace is a metric's name.
    return set(re.findall(r"([a-zA-Z_:][\w:]*)\{", promql))


def test_it_is_the_committed_one(repository: Path) -> None:
    committed = (repository / DASHBOARD).read_text()
    assert committed == dashboard_json(), "run `make dashboard`"


def test_every_query_parses_and_selects_by_the_variables(dashboard: dict[str, Any]) -> None:
    queries = queries_of(dashboard)
    assert queries
    for query in queries:
        promql_parser.parse(substituted(query))
        selectors = re.findall(r"\{([^}]*)\}", query)
        assert selectors
        for selector in selectors:
            assert 'namespace=~"$namespace",pod=~"$pod"' in selector, query


def test_every_metric_is_documented(dashboard: dict[str, Any], repository: Path) -> None:
    documented = set(re.findall(r"`(\w+)", (repository / "docs/metrics.md").read_text("utf-8")))
    selected = {name for query in queries_of(dashboard) for name in metrics_in(substituted(query))}
    assert {re.sub(_SUFFIXES, "", name) for name in selected} - documented == set()


def test_ids_are_unique_and_panels_do_not_overlap(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells


def test_variables_are_data_source_namespace_and_pod(dashboard: dict[str, Any]) -> None:
    variables = dashboard["templating"]["list"]
    assert [variable["name"] for variable in variables] == ["datasource", "namespace", "pod"]


def test_every_alert_has_a_section_of_the_runbook(repository: Path) -> None:
    groups = yaml.safe_load((repository / RULES).read_text())["groups"]
    alerts = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    runbook = (repository / "docs/runbook.md").read_text("utf-8")
    headings = re.findall(r"^## (\w+)$", runbook, re.MULTILINE)
    assert [rule["annotations"]["runbook_url"] for rule in alerts] == [
        f"docs/runbook.md#{heading.lower()}" for heading in headings
    ]
    assert [rule["alert"] for rule in alerts] == headings
