"""Where values change nothing, nothing changes; and releases leave each other alone."""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING

import pytest

from tests.helm.charts import CI_VALUES, HELM, RenderError, of_kind, read_objects
from tests.helm.second_opinion import problems

if TYPE_CHECKING:
    from pathlib import Path

    from tests.helm.charts import Charts

LONG = "a-release-whose-name-is-as-long-as-helm-will-have-it"


@pytest.mark.parametrize("values", CI_VALUES, ids=lambda values: str(values.name))
def test_an_upgrade_without_a_change_changes_nothing(charts: Charts, values: Path) -> None:
    first = charts.text(values)
    assert charts.text(values) == first
    assert charts.text(values, more=("--is-upgrade",)) == first


def test_a_new_version_of_the_chart_restarts_nothing(charts: Charts) -> None:
    # A label with the version, or a random value, in a pod's template would replace every pod.
    [deployment] = of_kind(charts.objects(), "Deployment")
    template = json.dumps(deployment["spec"]["template"])
    assert deployment["metadata"]["labels"]["helm.sh/chart"].startswith("mge-cache-")
    assert "helm.sh" not in template
    assert "0.1.0" not in template.replace("mge-cache:0.1.0", "")


def test_no_template_looks_at_the_cluster_or_rolls_dice(charts: Charts) -> None:
    for file in charts.folder.glob("mge-cache*/templates/*"):
        text = file.read_text()
        for word in ("lookup ", "randAlpha", "genCA", "genSigned", "uuidv4", " now"):
            assert word not in text, file.name


@pytest.mark.parametrize("values", CI_VALUES, ids=lambda values: str(values.name))
def test_two_releases_in_one_namespace(charts: Charts, values: Path) -> None:
    both = [*charts.objects(values, release="one"), *charts.objects(values, release="two")]
    if "pod-monitor" in values.name:  # it names the release's pods itself
        both = [each for each in both if each["kind"] != "PodMonitor"]
    assert problems(both) == []


def test_long_names_stay_two(charts: Charts) -> None:
    [values] = [each for each in CI_VALUES if each.name == "service-monitor-values.yaml"]
    names = [f"{LONG[:52]}{letter}" for letter in "xy"]
    both = [each for name in names for each in charts.objects(values, release=name)]
    assert problems(both) == []


def test_a_release_that_is_called_like_the_chart(charts: Charts) -> None:
    [deployment] = of_kind(charts.objects(release="mge-cache"), "Deployment")
    assert deployment["metadata"]["name"] == "mge-cache"


def test_notes_tell_how_to_see_a_hit(charts: Charts) -> None:
    said = charts.run(
        "install", "release", "mge-cache", "--dry-run=client", "--namespace", "answers"
    )
    notes = said.partition("NOTES:")[2]
    assert "mge-cache" in notes
    assert 'set --model demo --answer "Hi there" "Hello"' in notes
    assert "get --model demo" in notes
    assert "exec deploy/release-mge-cache --container mge-cache" in notes
    assert "There is no Redis" in notes


def test_hooks_and_cluster_wide_objects_are_opt_in(charts: Charts) -> None:
    kinds = {each["kind"] for each in read_objects(charts.text())}
    assert kinds == {"Deployment"}


def test_the_readmes_commands_do_what_they_say(charts: Charts) -> None:
    readme = (HELM / "mge-cache" / "README.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", readme, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    [install] = [line for line in lines if line.startswith("helm install")]
    [secret] = [line for line in lines if line.startswith("kubectl create secret")]
    [upgrade] = [line for line in lines if line.startswith("helm upgrade")]
    for line in (install, upgrade):
        _, _, release, chart, *flags = shlex.split(line)
        assert (release, chart) == ("trial", "helm/mge-cache")
        flags = [flag for flag in flags if flag != "--reuse-values"]
        assert read_objects(charts.text(release=release, more=tuple(flags)))
    with pytest.raises(RenderError) as refused:
        charts.text(release="trial", settings=("valkey.enabled=true",))
    assert shlex.split(secret)[4] in str(refused.value)
