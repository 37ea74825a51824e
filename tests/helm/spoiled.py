"""Ways to spoil the objects of ci/service-monitor, by what the second opinion must say of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.helm.charts import Object, of_kind

if TYPE_CHECKING:
    from collections.abc import Callable


def _first(objects: list[Object], kind: str) -> Any:
    return of_kind(objects, kind)[0]


def _pod(objects: list[Object]) -> Any:
    return _first(objects, "Deployment")["spec"]["template"]["spec"]


WAYS: dict[str, Callable[[list[Object]], object]] = {
    "selects 0 workloads": lambda x: _first(x, "Service")["spec"]["selector"].update(a="b"),
    "does not match its pods": lambda x: _first(x, "Deployment")["spec"]["template"]["metadata"][
        "labels"
    ].pop("app.kubernetes.io/name"),
    "selects 0 Services": lambda x: _first(x, "Service")["metadata"].pop("labels"),
    "no port mge-http": lambda x: _first(x, "Service")["spec"]["ports"][0].update(name="x"),
    "no container has the port": lambda x: _first(x, "Service")["spec"]["ports"][0].update(
        targetPort=1
    ),
    "named ports": lambda x: _first(x, "Service")["spec"]["ports"][0].update(targetPort="mge-http"),
    "is there twice": lambda x: x.append(x[0]),
    "no good name": lambda x: x[0]["metadata"].update(name="a" * 64),
    "no good label": lambda x: x[0]["metadata"]["labels"].update(a="b!"),
    "no namespace": lambda x: x[0]["metadata"].pop("namespace"),
    "no volume": lambda x: _pod(x).pop("volumes"),
    "nobody mounts": lambda x: _pod(x)["volumes"].append({"name": "x", "emptyDir": {}}),
    "probes are not for": lambda x: _pod(x)["initContainers"][0].pop("restartPolicy"),
    "a probe asks port": lambda x: _pod(x)["initContainers"][0]["livenessProbe"]["httpGet"].update(
        port=1
    ),
    "may run as root": lambda x: _pod(x)["initContainers"][0]["securityContext"].update(
        runAsNonRoot=False
    ),
    "no seccomp": lambda x: (
        _pod(x)["securityContext"].pop("seccompProfile"),
        _pod(x)["initContainers"][0]["securityContext"].pop("seccompProfile"),
    ),
    "may gain": lambda x: _pod(x)["containers"][0].pop("securityContext"),
    "has capabilities": lambda x: _pod(x)["containers"][0]["securityContext"].pop("capabilities"),
    "its root": lambda x: _pod(x)["containers"][0]["securityContext"].pop("readOnlyRootFilesystem"),
    "token is mounted": lambda x: _pod(x).pop("automountServiceAccountToken"),
    "no quantity": lambda x: _pod(x)["containers"][0]["resources"]["limits"].update(cpu="1x"),
    "than its limit": lambda x: _pod(x)["containers"][0]["resources"]["limits"].update(cpu="1m"),
    "two variables": lambda x: _pod(x)["containers"][0]["env"].append(
        {"name": "MGE_CACHE_TARGET", "value": ""}
    ),
    "secret in the environment": lambda x: _pod(x)["containers"][0]["env"].append(
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}
    ),
    "is a {'hostPath'}": lambda x: _pod(x)["volumes"].append({"name": "x", "hostPath": {}}),
}
