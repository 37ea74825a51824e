"""The diff of helm/README.md, applied to a chart that has no cache."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.helm.charts import (
    TOP,
    VERSIONS,
    Charts,
    copy_charts,
    environment_of,
    of_kind,
    sidecar_of,
)
from tests.helm.second_opinion import problems
from tests.helm.test_rendering import schema_problems

if TYPE_CHECKING:
    from tests.helm.charts import Object

PLAIN = Path(__file__).parent / "plain_chart"
MONITORED = {"mge-cache-sidecar": {"serviceMonitor": {"enabled": True}}}
MONITORING = '{{ include "mge-cache-sidecar.monitoring" . }}\n'


def readme_diff() -> str:
    """Return the diff that the README shows."""
    [diff] = re.findall(r"```diff\n(.*?)```", (TOP / "helm" / "README.md").read_text(), re.DOTALL)
    return str(diff)


def adopt(charts: Charts, name: str) -> None:
    """Put a chart beside the library, and apply the README's diff to it."""
    chart = charts.folder / name
    shutil.copytree(PLAIN, chart)
    # Outside of any work tree: git would look for the files there.
    subprocess.run(
        ["git", "apply", "-p1", "-"],
        input=readme_diff(),
        text=True,
        check=True,
        cwd=chart,
        env={"GIT_CEILING_DIRECTORIES": str(charts.folder.parent), "PATH": "/usr/bin:/bin"},
    )
    file = chart / "Chart.yaml"
    file.write_text(file.read_text().replace("name: answers", f"name: {name}"))
    charts.run("dependency", "update", chart)


@pytest.fixture(scope="module")
def adopted(charts: Charts, tmp_path_factory: pytest.TempPathFactory) -> Charts:
    """Charts: "answers" has adopted the sidecar, "plain" has not."""
    del charts  # it says that helm is there
    made = copy_charts(tmp_path_factory.mktemp("adopting"))
    adopt(made, "answers")
    shutil.copytree(PLAIN, made.folder / "plain")
    return made


def pod(objects: list[Object]) -> Object:
    [deployment] = of_kind(objects, "Deployment")
    return dict(deployment["spec"]["template"]["spec"])


def test_it_is_three_includes_and_a_dependency() -> None:
    added = [line[1:] for line in readme_diff().splitlines() if re.match(r"\+[^+]", line)]
    assert sum("include" in line for line in added) == 3
    assert not [line for line in readme_diff().splitlines() if re.match(r"-[^-]", line)]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_diff_gives_a_good_chart(adopted: Charts, version: str) -> None:
    assert "0 chart(s) failed" in adopted.run("lint", "--strict", "answers")
    objects = adopted.objects(chart="answers", version=version)
    assert [problem for each in objects for problem in schema_problems(each, version)] == []
    assert problems(objects) == []


def test_it_adds_and_changes_nothing_else(adopted: Charts) -> None:
    before, after = (pod(adopted.objects(chart=name)) for name in ("plain", "answers"))
    sidecar = sidecar_of(after)
    assert after.pop("initContainers") == [sidecar]
    [container] = after["containers"]
    assert container["env"].pop(0) == {"name": "MGE_CACHE_TARGET", "value": "127.0.0.1:50151"}
    assert environment_of(sidecar)["MGE_CACHE_REDIS_URL"] == "redis://redis:6379/0"
    assert after == before


def test_it_can_be_switched_off(adopted: Charts) -> None:
    objects = adopted.objects(chart="answers", settings=("mge-cache-sidecar.enabled=false",))
    after = pod(objects)
    assert after.pop("initContainers") is None
    assert after == pod(adopted.objects(chart="plain"))
    assert schema_problems(objects[0], VERSIONS[-1]) == []


def test_secrets_need_no_other_line(adopted: Charts) -> None:
    secret = 'mge-cache-sidecar.redis.passwordSecret.name="{{ .Release.Name }}-redis"'
    objects = adopted.objects(chart="answers", settings=(secret,))
    assert problems(objects) == []
    [volume] = [each for each in pod(objects)["volumes"] if "secret" in each]
    assert volume["secret"]["secretName"] == "release-redis"


def test_an_alias_is_refused(adopted: Charts) -> None:
    chart = adopted.folder / "aliased"
    shutil.copytree(
        adopted.folder / "answers", chart, ignore=shutil.ignore_patterns("charts", "*.lock")
    )
    file = chart / "Chart.yaml"
    file.write_text(f"{file.read_text()}    alias: cache\n")
    (chart / "values.yaml").write_text("image: x\n")
    adopted.run("dependency", "update", chart)
    with pytest.raises(Exception, match="name the library mge-cache-sidecar, without an alias"):
        adopted.text(chart="aliased")


def test_two_adopted_charts_in_one_release(adopted: Charts) -> None:
    adopt(adopted, "questions")
    dependencies = []
    for name in ("answers", "questions"):
        (adopted.folder / name / "templates" / "mge-cache.yaml").write_text(MONITORING)
        dependencies.append({"name": name, "version": "1.4.0", "repository": f"file://../{name}"})
        deployment = adopted.folder / name / "templates" / "deployment.yaml"
        text = deployment.read_text().replace("name: {{ .Release.Name }}\n", f"name: {name}\n", 1)
        deployment.write_text(text)
    umbrella = adopted.folder / "umbrella"
    umbrella.mkdir()
    chart = {
        "apiVersion": "v2",
        "name": "umbrella",
        "version": "1.0.0",
        "dependencies": dependencies,
    }
    (umbrella / "Chart.yaml").write_text(yaml.safe_dump(chart))
    (umbrella / "values.yaml").write_text(
        yaml.safe_dump(dict.fromkeys(("answers", "questions"), MONITORED))
    )
    adopted.run("dependency", "update", umbrella)
    objects = adopted.objects(chart="umbrella")
    assert len(of_kind(objects, "ServiceMonitor")) == 2
    assert problems(objects) == []
