{{/*
What goes into a pod: the sidecar, its volumes, and what the application's container needs. All of these take the
context of the chart that includes them and write items of a list.
*/}}

{{/* The sidecar as an item of initContainers: it starts before the application and ends after it. */}}
{{- define "mge-cache-sidecar.native" -}}
{{- $values := include "mge-cache-sidecar.values" . | fromYaml -}}
{{- if $values.enabled -}}
{{- toYaml (list (include "mge-cache-sidecar.containerObject" (dict "context" . "native" true) | fromYaml)) -}}
{{- end -}}
{{- end -}}

{{/* The sidecar as an item of containers, where native sidecars are not wanted. */}}
{{- define "mge-cache-sidecar.plain" -}}
{{- $values := include "mge-cache-sidecar.values" . | fromYaml -}}
{{- if $values.enabled -}}
{{- toYaml (list (include "mge-cache-sidecar.containerObject" (dict "context" . "native" false) | fromYaml)) -}}
{{- end -}}
{{- end -}}

{{/* For env of the application's container. */}}
{{- define "mge-cache-sidecar.env" -}}
{{- $values := include "mge-cache-sidecar.values" . | fromYaml -}}
{{- if $values.enabled -}}
- name: MGE_CACHE_TARGET
  value: {{ include "mge-cache-sidecar.target" . | quote }}
{{- end -}}
{{- end -}}

{{/* For volumeMounts of the application's container; nothing unless the transport is a unix socket. */}}
{{- define "mge-cache-sidecar.volumeMounts" -}}
{{- $values := include "mge-cache-sidecar.values" . | fromYaml -}}
{{- if and $values.enabled (eq $values.transport "unix") -}}
- name: mge-cache-socket
  mountPath: /run/mge-cache
{{- end -}}
{{- end -}}

{{/* For volumes of the pod. */}}
{{- define "mge-cache-sidecar.volumes" -}}
{{- $values := include "mge-cache-sidecar.values" . | fromYaml -}}
{{- if $values.enabled -}}
{{- $volumes := list -}}
{{- if eq $values.transport "unix" -}}
{{- $volumes = append $volumes (dict "name" "mge-cache-socket" "emptyDir" (dict "medium" "Memory" "sizeLimit" "1Mi")) -}}
{{- end -}}
{{- range (include "mge-cache-sidecar.secrets" . | fromYaml).secrets -}}
{{- $items := list -}}
{{- range .files -}}{{- $items = append $items (dict "key" .key "path" .key) -}}{{- end -}}
{{- /* For all to read, as the pod need not have an fsGroup: only the sidecar mounts it. */ -}}
{{- $volumes = append $volumes (dict "name" .volume "secret" (dict "secretName" .secret "defaultMode" 292 "items" $items)) -}}
{{- end -}}
{{- if $volumes -}}{{- toYaml $volumes -}}{{- end -}}
{{- end -}}
{{- end -}}

{{- define "mge-cache-sidecar.target" -}}
{{- $values := include "mge-cache-sidecar.values" . | fromYaml -}}
{{- if eq $values.transport "unix" -}}unix:/run/mge-cache/mge.sock{{- else -}}127.0.0.1:{{ int $values.grpcPort }}{{- end -}}
{{- end -}}

{{- define "mge-cache-sidecar.image" -}}
{{- $values := include "mge-cache-sidecar.values" . | fromYaml -}}
{{- $image := $values.image -}}
{{- if $image.digest -}}
{{- $image.repository }}@{{ $image.digest }}
{{- else -}}
{{- /* The library's own context: this one is the chart's, with the chart's appVersion. */ -}}
{{- $image.repository }}:{{ $image.tag | default (index .Subcharts "mge-cache-sidecar").Chart.AppVersion }}
{{- end -}}
{{- end -}}
