{{/*
Names and labels. All of these take the context of the chart that includes them.
*/}}

{{/* The values of this library within those of the chart. */}}
{{- define "mge-cache-sidecar.values" -}}
{{- $values := index .Values "mge-cache-sidecar" -}}
{{- if not (kindIs "map" $values) -}}
{{- fail (printf "chart %s: there are no values mge-cache-sidecar: name the library mge-cache-sidecar, without an alias, among the dependencies in Chart.yaml" .Chart.Name) -}}
{{- end -}}
{{- range splitList " " (include "mge-cache-sidecar.needed" .) -}}
{{- $at := $values -}}
{{- range $name := splitList "." . -}}
{{- if kindIs "map" $at -}}{{- $at = index $at $name -}}{{- end -}}
{{- end -}}
{{- if kindIs "invalid" $at -}}
{{- fail (printf "mge-cache-sidecar.%s: must not be null; leave it out to have its default" .) -}}
{{- end -}}
{{- end -}}
{{- toYaml $values -}}
{{- end -}}

{{/*
The values that must not be null. (In values.schema.json, "required" would have linting of the library fail.)
*/}}
{{- define "mge-cache-sidecar.needed" -}}
enabled image image.repository image.pullPolicy transport grpcPort httpPort httpHost redis redis.passwordSecret
{{- " redis.passwordSecret.key redis.sentinelPasswordSecret redis.sentinelPasswordSecret.key redis.tls" -}}
{{- " redis.tls.caSecret redis.tls.caSecret.key redis.tls.certSecret redis.tls.certSecret.certKey" -}}
{{- " redis.tls.certSecret.keyKey anthropicKeySecret anthropicKeySecret.key settings runAsUser runAsGroup" -}}
{{- " startupProbe livenessProbe readinessProbe shutdownDelaySeconds serviceMonitor podMonitor" -}}
{{- " prometheusRule dashboard" -}}
{{- end -}}

{{/*
A name of at most 63 characters that ends in a suffix. What is cut off is replaced by a digest of the
whole, so that two long names stay two. Takes a dict of text and suffix.
*/}}
{{- define "mge-cache-sidecar.name63" -}}
{{- $whole := printf "%s%s" .text .suffix -}}
{{- if le (len $whole) 63 -}}
{{- $whole -}}
{{- else -}}
{{- $room := int (sub 63 (add (len .suffix) 9)) -}}
{{- printf "%s-%s%s" (.text | trunc $room | trimSuffix "-") (.text | sha256sum | trunc 8) .suffix -}}
{{- end -}}
{{- end -}}

{{/* The release and the chart: what this library makes is called after them. */}}
{{- define "mge-cache-sidecar.owner" -}}
{{- if eq .Release.Name .Chart.Name -}}{{ .Release.Name }}{{- else -}}{{ .Release.Name }}-{{ .Chart.Name }}{{- end -}}
{{- end -}}

{{- define "mge-cache-sidecar.metricsName" -}}
{{- include "mge-cache-sidecar.name63" (dict "text" (include "mge-cache-sidecar.owner" .) "suffix" "-mge-metrics") -}}
{{- end -}}

{{- define "mge-cache-sidecar.rulesName" -}}
{{- include "mge-cache-sidecar.name63" (dict "text" (include "mge-cache-sidecar.owner" .) "suffix" "-mge-rules") -}}
{{- end -}}

{{- define "mge-cache-sidecar.dashboardName" -}}
{{- include "mge-cache-sidecar.name63" (dict "text" (include "mge-cache-sidecar.owner" .) "suffix" "-mge-dashboard") -}}
{{- end -}}

{{/* The labels by which the application's pods are found. */}}
{{- define "mge-cache-sidecar.selectorLabels" -}}
{{- $values := include "mge-cache-sidecar.values" . | fromYaml -}}
{{- with $values.selectorLabels -}}
{{- toYaml . -}}
{{- else -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}
{{- end -}}

{{/* The labels of an object. Takes a dict of context, component, and more (a map, maybe empty). */}}
{{- define "mge-cache-sidecar.labels" -}}
{{- $values := include "mge-cache-sidecar.values" .context | fromYaml -}}
{{- $own := dict
  "app.kubernetes.io/name" .context.Chart.Name
  "app.kubernetes.io/instance" .context.Release.Name
  "app.kubernetes.io/managed-by" .context.Release.Service
  "app.kubernetes.io/component" .component
  "helm.sh/chart" (printf "%s-%s" .context.Chart.Name .context.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
-}}
{{- toYaml (mergeOverwrite (deepCopy ($values.additionalLabels | default dict)) (deepCopy (.more | default dict)) $own) -}}
{{- end -}}
