{{/*
A MutatingAdmissionPolicy that adds the sidecar to labelled pods, and its binding. Takes a dict of context, name, label
(key and value) and namespaceSelector. The pods' Secrets are those of their own namespaces; the transport is tcp, as
nobody knows whether such a pod has an fsGroup.
*/}}
{{- define "mge-cache-sidecar.injection" -}}
{{- $values := include "mge-cache-sidecar.values" .context | fromYaml -}}
{{- if ne $values.transport "tcp" -}}
{{- fail "mge-cache-sidecar.transport: must be tcp for the injection: nobody knows whether the pods have an fsGroup" -}}
{{- end -}}
{{- if not (semverCompare ">=1.36.0-0" .context.Capabilities.KubeVersion.Version) -}}
{{- fail (printf "injection.enabled: needs Kubernetes 1.36 or later, not %s" .context.Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- $container := include "mge-cache-sidecar.containerObject" (dict "context" .context "native" true) | fromYaml -}}
{{- $sidecar := include "mge-cache-sidecar.cel" (dict "value" $container "type" "Object.spec.initContainers") -}}
{{- $volumes := include "mge-cache-sidecar.volumes" .context | fromYamlArray -}}
{{- $target := include "mge-cache-sidecar.target" .context | quote -}}
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata:
  name: {{ .name }}
  labels:
    {{- include "mge-cache-sidecar.labels" (dict "context" .context "component" "mge-cache-injection") | nindent 4 }}
spec:
  # A pod without a cache beats no pod.
  failurePolicy: Ignore
  reinvocationPolicy: IfNeeded
  matchConstraints:
    resourceRules:
      - apiGroups: [""]
        apiVersions: [v1]
        operations: [CREATE]
        resources: [pods]
    objectSelector:
      matchLabels:
        {{ .label.key }}: {{ .label.value | quote }}
  matchConditions:
    - name: has-no-sidecar-yet
      expression: >-
        (!has(object.spec.initContainers) || !object.spec.initContainers.exists(c, c.name == "mge-cache")) &&
        !object.spec.containers.exists(c, c.name == "mge-cache")
  mutations:
    {{- if $volumes }}
    - patchType: JSONPatch
      jsonPatch:
        expression: >-
          (has(object.spec.volumes) ? [] : [JSONPatch{op: "add", path: "/spec/volumes", value: []}]) +
          [
            {{- range $at, $volume := $volumes }}{{ if $at }},{{ end }}
            JSONPatch{op: "add", path: "/spec/volumes/-", value: {{ include "mge-cache-sidecar.cel" (dict "value" $volume "type" "Object.spec.volumes") }}}
            {{- end }}
          ]
    {{- end }}
    # The first of the init containers, so that the others have a cache too. A JSONPatch, as an
    # ApplyConfiguration must not hold lists such as capabilities.drop.
    - patchType: JSONPatch
      jsonPatch:
        expression: >-
          (has(object.spec.initContainers) ? [] : [JSONPatch{op: "add", path: "/spec/initContainers", value: []}]) +
          [JSONPatch{op: "add", path: "/spec/initContainers/0", value: {{ $sidecar }}}]
    # A container that names a target itself keeps it.
    - patchType: ApplyConfiguration
      applyConfiguration:
        expression: >-
          Object{spec: Object.spec{containers: object.spec.containers
          .filter(c, !has(c.env) || !c.env.exists(e, e.name == "MGE_CACHE_TARGET"))
          .map(c, Object.spec.containers{name: c.name, env: [Object.spec.containers.env{name: "MGE_CACHE_TARGET", value: {{ $target }}}]})}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata:
  name: {{ .name }}
  labels:
    {{- include "mge-cache-sidecar.labels" (dict "context" .context "component" "mge-cache-injection") | nindent 4 }}
spec:
  policyName: {{ .name }}
  matchResources:
    {{- with .namespaceSelector }}
    namespaceSelector:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    objectSelector:
      matchLabels:
        {{ .label.key }}: {{ .label.value | quote }}
{{- end -}}

{{/*
A value as a CEL literal. Maps are objects of a type that is called after their path, but for those with free keys.
Takes a dict of value and type.
*/}}
{{- define "mge-cache-sidecar.cel" -}}
{{- $type := .type -}}
{{- $parts := list -}}
{{- if kindIs "map" .value -}}
{{- $free := or (hasSuffix ".limits" $type) (hasSuffix ".requests" $type) -}}
{{- range $key, $value := .value -}}
{{- if $free -}}
{{- $parts = append $parts (printf "%s: %s" ($key | quote) (include "mge-cache-sidecar.text" $value | quote)) -}}
{{- else -}}
{{- $parts = append $parts (printf "%s: %s" $key (include "mge-cache-sidecar.cel" (dict "value" $value "type" (printf "%s.%s" $type $key)))) -}}
{{- end -}}
{{- end -}}
{{- printf "%s{%s}" (ternary "" $type $free) (join ", " $parts) -}}
{{- else if kindIs "slice" .value -}}
{{- range .value -}}
{{- $parts = append $parts (include "mge-cache-sidecar.cel" (dict "value" . "type" $type)) -}}
{{- end -}}
{{- printf "[%s]" (join ", " $parts) -}}
{{- else if kindIs "string" .value -}}
{{- .value | quote -}}
{{- else -}}
{{- include "mge-cache-sidecar.text" .value -}}
{{- end -}}
{{- end -}}
