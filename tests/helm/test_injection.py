"""The admission policy: what it says, as far as it can be read without an API server.

Its CEL is taken apart here by a reader of literals: the sidecar that it adds must be the same one
that the charts make. That an API server takes the expressions is not provable here.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.helm.charts import CI_VALUES, of_kind, pod_of, sidecar_of
from tests.helm.test_rendering import schema_problems

if TYPE_CHECKING:
    from tests.helm.charts import Charts, Object

_TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[A-Za-z_][\w.]*|-?\d+|[{}\[\],:])')
_SETTINGS = ('mge-cache-sidecar.transport="tcp"',)


class Literal:
    """Reads a CEL literal of strings, numbers, lists, maps and ``Object.…{…}`` messages."""

    def __init__(self, text: str) -> None:
        self._tokens: list[str] = _TOKEN.findall(text)
        self._at = 0
        self.types: list[tuple[str, str]] = []
        """The type of each message, and the path that it stands at."""

    def read(self, path: str) -> Any:
        """Read one value; ``path`` is where it stands in an object."""
        token = self._next()
        if token.startswith('"'):
            return json.loads(token)
        if token in {"true", "false"}:
            return token == "true"
        if token == "[":
            return self._list(path)
        if token == "{":
            return self._members(path)
        if token.startswith("Object"):
            self.types.append((token, path))
            assert self._next() == "{"
            return self._members(path)
        return int(token)

    def _next(self) -> str:
        self._at += 1
        return self._tokens[self._at - 1]

    def _list(self, path: str) -> list[Any]:
        result: list[Any] = []
        while self._tokens[self._at] != "]":
            result.append(self.read(path))
            self._skip_comma()
        self._next()
        return result

    def _members(self, path: str) -> dict[str, Any]:
        result = {}
        while self._tokens[self._at] != "}":
            name = self._next()
            assert self._next() == ":"
            plain: str = json.loads(name) if name.startswith('"') else name
            result[plain] = self.read(f"{path}.{plain}")
            self._skip_comma()
        self._next()
        return result

    def _skip_comma(self) -> None:
        if self._tokens[self._at] == ",":
            self._next()


@pytest.fixture(scope="module")
def objects(charts: Charts) -> list[Object]:
    """What ci/injection makes."""
    [values] = [each for each in CI_VALUES if each.name == "injection-values.yaml"]
    return charts.objects(values)


@pytest.fixture(scope="module")
def policy(objects: list[Object]) -> Object:
    [policy] = of_kind(objects, "MutatingAdmissionPolicy")
    return policy


def patches(policy: Object, path: str) -> list[str]:
    """Return the CEL of the values that JSON patches add at a path."""
    expressions = [
        each["jsonPatch"]["expression"]
        for each in policy["spec"]["mutations"]
        if "jsonPatch" in each
    ]
    head = rf'JSONPatch{{op: "add", path: "{re.escape(path)}", value: '
    added = re.compile(head + r"(Object.*?)}\s*[,\]]\s*(?=JSONPatch|\]|$)", re.DOTALL)
    return [found for text in expressions for found in added.findall(text)]


def test_it_adds_the_sidecar_that_the_charts_make(charts: Charts, policy: Object) -> None:
    [text] = patches(policy, "/spec/initContainers/0")
    literal = Literal(text)
    added = literal.read("Object.spec.initContainers")
    settings = (
        *_SETTINGS,
        'mge-cache-sidecar.redis.url="rediss://redis.data.svc:6380/0"',
        'mge-cache-sidecar.redis.passwordSecret.name="redis"',
        'mge-cache-sidecar.redis.tls.caSecret.name="redis-ca"',
    )
    pod = pod_of(charts.objects(settings=settings))
    assert added == sidecar_of(pod)
    assert {kind for kind, path in literal.types if kind != path} == set()
    volumes = [
        Literal(each).read("Object.spec.volumes") for each in patches(policy, "/spec/volumes/-")
    ]
    assert volumes == pod["volumes"]


def test_it_is_opt_in_by_a_label(objects: list[Object], policy: Object) -> None:
    [binding] = of_kind(objects, "MutatingAdmissionPolicyBinding")
    label = {"matchLabels": {"example.com/cache": "yes"}}
    assert policy["spec"]["matchConstraints"]["objectSelector"] == label
    assert binding["spec"]["matchResources"]["objectSelector"] == label
    [rule] = policy["spec"]["matchConstraints"]["resourceRules"]
    assert (rule["resources"], rule["operations"]) == (["pods"], ["CREATE"])
    [names] = binding["spec"]["matchResources"]["namespaceSelector"]["matchExpressions"]
    assert names["operator"] == "NotIn"
    assert "kube-system" in names["values"]


def test_it_never_keeps_a_pod_from_starting(policy: Object) -> None:
    assert policy["spec"]["failurePolicy"] == "Ignore"


def test_a_pod_that_has_the_sidecar_is_left_alone(policy: Object) -> None:
    [condition] = policy["spec"]["matchConditions"]
    for where in ("initContainers", "containers"):
        assert f'!object.spec.{where}.exists(c, c.name == "mge-cache")' in condition["expression"]
    last = policy["spec"]["mutations"][-1]["applyConfiguration"]["expression"]
    assert 'e.name == "MGE_CACHE_TARGET"' in last


def test_brackets_of_every_expression_match(policy: Object) -> None:
    texts = [each["expression"] for each in policy["spec"]["matchConditions"]]
    for mutation in policy["spec"]["mutations"]:
        texts += [how["expression"] for how in mutation.values() if isinstance(how, dict)]
    closing = {")": "(", "]": "[", "}": "{"}
    for text in texts:
        opened: list[str] = []
        for letter in re.sub(r'"(?:[^"\\]|\\.)*"', "", text):
            if letter in closing.values():
                opened.append(letter)
            elif letter in closing:
                assert opened.pop() == closing[letter], text
        assert opened == []


@pytest.mark.parametrize("version", ["1.36", "1.37"])
def test_its_schema_in_both_versions_that_have_it(charts: Charts, version: str) -> None:
    [values] = [each for each in CI_VALUES if each.name == "injection-values.yaml"]
    objects = charts.objects(values, version=version)
    found = [each for each in objects if each["kind"].startswith("Mutating")]
    assert [each["apiVersion"] for each in found] == ["admissionregistration.k8s.io/v1"] * 2
    assert [problem for each in found for problem in schema_problems(each, version)] == []


def test_texts_with_quotes_survive(charts: Charts) -> None:
    awkward = 'a "quoted" \\ back\nslash <&> é'
    value = json.dumps([{"name": "AWKWARD", "value": awkward}])
    settings = (*_SETTINGS, "injection.enabled=true", f"mge-cache-sidecar.extraEnv={value}")
    [policy] = of_kind(charts.objects(settings=settings), "MutatingAdmissionPolicy")
    [text] = patches(policy, "/spec/initContainers/0")
    added = Literal(text).read("Object.spec.initContainers")
    assert added["env"][-1]["value"] == awkward
