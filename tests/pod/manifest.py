"""A pod for ``podman kube play``, made from manifests for Kubernetes.

Podman 4 takes a native sidecar for an init container that never ends, ignores ``fsGroup`` and does
not mount Secrets; there is no DNS without a network. What follows does by hand what the kubelet
does: folders with the group's mode, files of Secrets and ConfigMaps, names of Services. Probes,
ports and all that is scheduling are left out. docs/image.md says what is therefore not shown.
"""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

Document = dict[str, Any]

_KEPT = ("name", "image", "command", "args", "env", "workingDir", "volumeMounts")
_SECURITY = ("allowPrivilegeEscalation", "capabilities", "readOnlyRootFilesystem")
_IDS = ("runAsUser", "runAsGroup")
_EMPTY_MODE = 0o777
_SOURCE_MODE = 0o755
_SET_GROUP = 0o2000
_FILE_MODE = 0o644
_GROUP_READS = 0o040


class ManifestError(Exception):
    """The manifests ask for something that this renderer does not know."""


@dataclass(frozen=True, slots=True)
class Volume:
    """A folder, its files, and the kubelet's modes for them; ``group`` is the pod's ``fsGroup``."""

    mode: int = _EMPTY_MODE
    files: Mapping[str, bytes] = field(default_factory=dict)
    file_mode: int = _FILE_MODE
    group: int | None = None

    def write(self, path: Path) -> None:
        """Make it. Needs root, as other groups own it."""
        path.mkdir(parents=True)
        shared = self.group is not None
        group = self.group if self.group is not None else 0
        os.chown(path, 0, group)
        path.chmod(self.mode | (_SET_GROUP if shared else 0))
        for name, content in self.files.items():
            file = path / name
            file.write_bytes(content)
            os.chown(file, 0, group)
            file.chmod(self.file_mode | (_GROUP_READS if shared else 0))


@dataclass(frozen=True, slots=True)
class Rendered:
    """A pod, and what has to be on the disk before it is played."""

    pod: Document
    volumes: dict[Path, Volume] = field(default_factory=dict)

    def write(self) -> None:
        """Make the volumes. Needs root."""
        for path, volume in self.volumes.items():
            volume.write(path)


def render(
    documents: Iterable[Document],
    *,
    name: str,
    folder: Path,
    image: Callable[[str], str],
    environment: Mapping[str, Mapping[str, str]] | None = None,
) -> Rendered:
    """Put the containers of all workloads in ``documents`` into one pod, as podman wants it.

    ``image`` gives the image to run for the one that is named; ``environment`` adds variables by
    container. Volumes become folders in ``folder``. Raises ManifestError.
    """
    documents = [document for document in documents if document]
    rendered = Rendered({"apiVersion": "v1", "kind": "Pod"})
    inits: list[Document] = []
    containers: list[Document] = []
    volumes: list[Document] = []
    for spec in _pod_specs(documents):
        group = spec.get("securityContext", {}).get("fsGroup")
        prefix = f"{len(containers)}-"
        for container in spec.get("initContainers", []):
            native = container.get("restartPolicy") == "Always"
            (containers if native else inits).append(_container(container, spec, prefix))
        containers += [_container(each, spec, prefix) for each in spec["containers"]]
        for volume in spec.get("volumes", []):
            path = folder / f"{prefix}{volume['name']}"
            rendered.volumes[path] = _volume(volume, group, documents)
            volumes.append(
                {
                    "name": prefix + volume["name"],
                    "hostPath": {"path": str(path), "type": "Directory"},
                }
            )
    names = folder / "names"
    rendered.volumes[names] = Volume(_SOURCE_MODE, {"hosts": _hosts(documents).encode()})
    volumes.append({"name": "hosts", "hostPath": {"path": str(names / "hosts"), "type": "File"}})
    for container in (*inits, *containers):
        # Podman's own hostAliases do nothing without a network.
        container["volumeMounts"].append(
            {"name": "hosts", "mountPath": "/etc/hosts", "readOnly": True}
        )
        container["image"] = image(container["image"])
        container["imagePullPolicy"] = "Never"
        variables = [_variable(each, name, documents) for each in container.get("env", [])]
        added = (environment or {}).get(container["name"], {})
        variables = [each for each in variables if each["name"] not in added]
        container["env"] = [*variables, *({"name": n, "value": v} for n, v in added.items())]
        for key in ("command", "args"):
            if key in container:
                container[key] = [_expanded(each, container["env"]) for each in container[key]]
    rendered.pod["metadata"] = {"name": name}
    rendered.pod["spec"] = {
        "restartPolicy": "Always",
        "initContainers": inits,
        "containers": containers,
        "volumes": volumes,
    }
    return rendered


def _pod_specs(documents: Iterable[Document]) -> Iterator[Document]:
    for document in documents:
        if document["kind"] == "Pod":
            if "helm.sh/hook" not in document["metadata"].get("annotations", {}):
                yield document["spec"]
        elif document["kind"] in {"Deployment", "StatefulSet"}:
            yield document["spec"]["template"]["spec"]


def _container(container: Document, spec: Document, prefix: str) -> Document:
    made = {key: container[key] for key in _KEPT if key in container}
    made["volumeMounts"] = [
        {**mount, "name": prefix + mount["name"]} for mount in container.get("volumeMounts", [])
    ]
    of_pod, own = spec.get("securityContext", {}), container.get("securityContext", {})
    made["securityContext"] = {key: own[key] for key in _SECURITY if key in own} | {
        key: {**of_pod, **own}[key] for key in _IDS if key in {**of_pod, **own}
    }
    if "fsGroup" in of_pod:
        # The kubelet makes it a further group; podman knows the first one only.
        made["securityContext"]["runAsGroup"] = of_pod["fsGroup"]
    memory = container.get("resources", {}).get("limits", {}).get("memory")
    if memory:
        made["resources"] = {"limits": {"memory": memory}}
    return made


def _expanded(text: str, variables: list[Document]) -> str:
    """Fill in ``$(NAME)``, as the kubelet does in commands."""
    for variable in variables:
        text = text.replace(f"$({variable['name']})", variable.get("value", ""))
    return text


def _hosts(documents: Iterable[Document]) -> str:
    """All Services are in this pod."""
    names = [each["metadata"]["name"] for each in documents if each["kind"] == "Service"]
    return f"127.0.0.1 {' '.join(['localhost', *names])}\n"


def _volume(volume: Document, group: int | None, documents: list[Document]) -> Volume:
    if "emptyDir" in volume:
        return Volume(group=group)
    if "configMap" in volume:
        source = volume["configMap"]
        data = _data("ConfigMap", source["name"], documents)
    elif "secret" in volume:
        source = volume["secret"]
        data = _data("Secret", source["secretName"], documents)
    else:
        raise ManifestError(f"volume {volume['name']}: {sorted(volume)}")
    items = source.get("items") or [{"key": key, "path": key} for key in data]
    files = {item["path"]: data[item["key"]] for item in items}
    return Volume(_SOURCE_MODE, files, source.get("defaultMode", _FILE_MODE), group)


def _data(kind: str, name: str, documents: list[Document]) -> dict[str, bytes]:
    for document in documents:
        if document["kind"] == kind and document["metadata"]["name"] == name:
            plain = {**document.get("stringData", {})}
            coded = document.get("data", {})
            if kind == "ConfigMap":
                return {key: text.encode() for key, text in coded.items()}
            return {key: base64.b64decode(text) for key, text in coded.items()} | {
                key: text.encode() for key, text in plain.items()
            }
    raise ManifestError(f"there is no {kind} {name}")


def _variable(variable: Document, pod: str, documents: list[Document]) -> Document:
    source = variable.get("valueFrom")
    if source is None:
        return variable
    for key, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
        if key in source:
            value = _data(kind, source[key]["name"], documents)[source[key]["key"]].decode()
            return {"name": variable["name"], "value": value}
    path = source.get("fieldRef", {}).get("fieldPath")
    values = {"metadata.name": pod, "metadata.namespace": "default", "status.podIP": "127.0.0.1"}
    if path not in values:
        raise ManifestError(f"variable {variable['name']}: {source}")
    return {"name": variable["name"], "value": values[path]}
