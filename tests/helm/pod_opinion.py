"""What schemas miss within a pod."""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.helm.charts import Object

_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(|m|k|Ki|[MGT]i?)")
_FACTORS = {"": Fraction(1), "k": Fraction(1000), "m": Fraction(1, 1000)} | {
    f"{letter}{suffix}": Fraction(base) ** power
    for power, letter in enumerate("KMGT", start=1)
    for suffix, base in (("", 1000), ("i", 1024))
}
_VOLUMES = {"configMap", "emptyDir", "projected", "secret", "persistentVolumeClaim", "csi"}
_PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
_HOST = ("hostNetwork", "hostPID", "hostIPC")


def quantity(text: object) -> Fraction:
    """Read a quantity; raises ValueError if it is none."""
    match = _QUANTITY.fullmatch(str(text))
    if match is None:
        raise ValueError(f"no quantity: {text}")
    return Fraction(match[1]) * _FACTORS[match[2]]


def pod_problems(pod: Object) -> list[str]:
    """Return a line for each thing that is wrong in a pod's spec."""
    containers = [*pod.get("initContainers", ()), *pod["containers"]]
    said = [*_volumes(pod, containers), *_pod_security(pod)]
    names = Counter(container["name"] for container in containers)
    said += [f"two containers are called {name}" for name, n in names.items() if n > 1]
    for container in containers:
        found = [
            *_container_security(pod, container),
            *_resources(container),
            *_environment(container),
            *_probes(container, initial=container in pod.get("initContainers", ())),
        ]
        said += [f"{container['name']}: {problem}" for problem in found]
    return said


def _volumes(pod: Object, containers: list[Object]) -> Iterator[str]:
    volumes = [volume["name"] for volume in pod.get("volumes", ())]
    yield from (f"two volumes {name}" for name, n in Counter(volumes).items() if n > 1)
    mounted = set()
    for container in containers:
        mounts = container.get("volumeMounts", ())
        mounted |= {mount["name"] for mount in mounts}
        paths = Counter(mount["mountPath"] for mount in mounts)
        yield from (f"two mounts at {path}" for path, n in paths.items() if n > 1)
        if any("subPath" in mount for mount in mounts):
            yield f"{container['name']}: a subPath does not follow a rotation"
    yield from (f"no volume {name}" for name in sorted(mounted - set(volumes)))
    yield from (f"nobody mounts {name}" for name in sorted(set(volumes) - mounted))


def _pod_security(pod: Object) -> Iterator[str]:
    """Check the pod's half of the standard "restricted"."""
    yield from (f"{name} is set" for name in _HOST if pod.get(name))
    for volume in pod.get("volumes", ()):
        kinds = set(volume) - {"name"}
        if not kinds <= _VOLUMES:
            yield f"volume {volume['name']} is a {kinds}"
    if pod.get("automountServiceAccountToken") is not False:
        yield "the service account's token is mounted"


def _container_security(pod: Object, container: Object) -> Iterator[str]:
    """Check the container's half of the standard "restricted", and a little more."""
    effective: dict[str, Any] = {
        **pod.get("securityContext", {}),
        **container.get("securityContext", {}),
    }
    if effective.get("runAsNonRoot") is not True:
        yield "may run as root"
    if not effective.get("runAsUser"):
        yield "no numeric user"
    if effective.get("seccompProfile", {}).get("type") not in {"RuntimeDefault", "Localhost"}:
        yield "no seccomp profile"
    if effective.get("allowPrivilegeEscalation") is not False or effective.get("privileged"):
        yield "may gain privileges"
    capabilities = effective.get("capabilities", {})
    if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
        yield "has capabilities"
    if effective.get("readOnlyRootFilesystem") is not True:
        yield "may write to its root"
    if any("hostPort" in port for port in container.get("ports", ())):
        yield "has a port of the host"


def _resources(container: Object) -> Iterator[str]:
    resources = container.get("resources", {})
    for name in ("cpu", "memory"):
        asked = resources.get("requests", {}).get(name)
        limit = resources.get("limits", {}).get(name)
        try:
            if asked is None or limit is None:
                yield f"no request or no limit of {name}"
            elif quantity(asked) > quantity(limit):
                yield f"asks for more {name} than its limit"
        except ValueError as error:
            yield str(error)


def _environment(container: Object) -> Iterator[str]:
    variables = container.get("env", ())
    names = Counter(variable["name"] for variable in variables)
    yield from (f"two variables {name}" for name, n in names.items() if n > 1)
    for variable in variables:
        if "secretKeyRef" in variable.get("valueFrom", {}):
            yield f"{variable['name']} is a secret in the environment"


def _probes(container: Object, *, initial: bool) -> Iterator[str]:
    probes = [container[name] for name in _PROBES if name in container]
    if probes and initial and container.get("restartPolicy") != "Always":
        yield "probes are not for init containers that end"
    ports = [
        port
        for each in container.get("ports", ())
        for port in (each["containerPort"], each["name"])
    ]
    for probe in probes:
        for how in ("httpGet", "tcpSocket"):
            if how in probe and probe[how]["port"] not in ports:
                yield f"a probe asks port {probe[how]['port']}"
