"""What is generated is current, and what is written twice agrees. No helm is needed for these."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest
import yaml

from mge_cache._version import __version__
from mge_cache_server.config import options
from tests.helm.charts import CI_VALUES, HELM
from tests.unit.test_config import EXAMPLES
from tools import chart_files, chart_readmes

LIBRARY = HELM / "mge-cache-sidecar"
CHARTS = ("mge-cache-sidecar", "mge-cache")


def load(name: str) -> Any:
    return yaml.safe_load((HELM / name).read_text())


def schema(chart: str) -> Any:
    return json.loads((HELM / chart / "values.schema.json").read_text())


def test_settings_are_current() -> None:
    stale = [
        path.name for path, text in chart_files.generated().items() if path.read_text() != text
    ]
    assert stale == [], "run `make helm-files`"


@pytest.mark.parametrize("chart", CHARTS)
def test_the_readme_is_current(chart: str) -> None:
    current = chart_readmes.readme_with_values(HELM / chart)
    assert (HELM / chart / "README.md").read_text() == current, "run `make helm-docs`"


def test_a_value_without_a_comment_is_found() -> None:
    with pytest.raises(ValueError, match=r"a\.c: no comment"):
        chart_readmes.table("a:\n  # This has one.\n  b: 1\n  c: 2\n")


def test_every_setting_has_a_place() -> None:
    allowed = {option.name for option in chart_files.chart_options()}
    secret = {option.name for option in options() if option.spec.secret}
    assert not allowed & secret
    text = "".join(file.read_text() for file in (LIBRARY / "templates").glob("*.tpl"))
    for option in options():
        decided = chart_files.DECIDED_BY_OTHER_VALUES.fullmatch(option.name) is not None
        if decided and option.name not in {*secret, "data_dir"}:
            assert option.env in text, f"no value decides {option.name}"


def test_every_variable_of_the_templates_is_a_setting() -> None:
    known = {option.env for option in options()} | {"MGE_CACHE_TARGET"}
    for file in (LIBRARY / "templates").glob("*.tpl"):
        assert set(re.findall(r"MGE_(?:CACHE|V2)_\w+", file.read_text())) <= known, file.name


@pytest.mark.parametrize("option", chart_files.chart_options(), ids=lambda option: option.name)
def test_the_schema_takes_what_the_sidecar_takes(option: Any) -> None:
    properties = chart_files.settings_schema()["properties"][option.name]
    as_text = option.default_text or EXAMPLES.get(option.name, ("x",))[0]
    for text in (as_text, EXAMPLES.get(option.name, (as_text,))[0]):
        kind = properties["type"]
        value = yaml.safe_load(text.lower()) if kind in ("boolean", "integer", "number") else text
        if "enum" in properties:
            value = text.lower()
        jsonschema.validate(value, properties)


def test_versions_agree() -> None:
    library, application = (load(f"{chart}/Chart.yaml") for chart in CHARTS)
    assert library["appVersion"] == application["appVersion"] == __version__
    [dependency] = application["dependencies"]
    assert dependency["version"] == library["version"]


@pytest.mark.parametrize("chart", CHARTS)
def test_schema_and_values_name_the_same(chart: str) -> None:
    def compare(values: Any, part: Any, path: str) -> None:
        if part.get("additionalProperties") is not False or "properties" not in part:
            return
        assert set(values) <= set(part["properties"]), path
        for name, value in values.items():
            if isinstance(value, dict):
                compare(value, part["properties"][name], f"{path}.{name}")

    values = load(f"{chart}/values.yaml")
    compare(values, schema(chart), chart)
    unsaid = set(schema(chart)["properties"]) - set(values)
    assert unsaid == {"global"}


def switches(values: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Return the values that are true or false, by their paths."""
    found = {}
    for name, value in values.items():
        if isinstance(value, bool):
            found[(*path, name)] = value
        elif isinstance(value, dict):
            found |= switches(value, (*path, name))
    return found


def test_every_switch_is_turned_in_ci() -> None:
    all_switches = switches(load("mge-cache/values.yaml"))
    library = switches(load("mge-cache-sidecar/values.yaml"))
    all_switches |= {("mge-cache-sidecar", *path): value for path, value in library.items()}
    turned = set()
    for file in CI_VALUES:
        given = switches(yaml.safe_load(file.read_text()) or {})
        turned |= {path for path, value in given.items() if all_switches.get(path) is not value}
    fixed = {path for path in all_switches if "securityContext" in path}
    assert set(all_switches) - turned - fixed == set()


def test_rules_and_dashboard_can_be_read() -> None:
    rules = yaml.safe_load((LIBRARY / "files" / "rules.yaml").read_text())
    assert rules["groups"]
    assert json.loads((LIBRARY / "files" / "dashboard.json").read_text())["title"]
