{{- define "mge-cache.fullname" -}}
{{- include "mge-cache-sidecar.name63" (dict "text" (include "mge-cache-sidecar.owner" .) "suffix" "") -}}
{{- end -}}

{{- define "mge-cache.valkeyName" -}}
{{- include "mge-cache-sidecar.name63" (dict "text" (include "mge-cache-sidecar.owner" .) "suffix" "-valkey") -}}
{{- end -}}

{{/* A Redis that nobody named: the Valkey of this chart, or none. */}}
{{- define "mge-cache.redisUrl" -}}
{{- if .Values.valkey.enabled -}}redis://{{ include "mge-cache.valkeyName" . }}:6379/0{{- else -}}memory://{{- end -}}
{{- end -}}

{{- define "mge-cache.redisPasswordSecret" -}}
{{- if .Values.valkey.enabled -}}{{ .Values.valkey.passwordSecret.name }}{{- end -}}
{{- end -}}

{{/* Labels of an object of this chart. Takes a dict of context, component and more (a map, maybe empty). */}}
{{- define "mge-cache.labels" -}}
{{- include "mge-cache-sidecar.labels" . -}}
{{- end -}}

{{/* The application's pods. The name is the one by which the library finds them for monitoring. */}}
{{- define "mge-cache.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: application
{{- end -}}

{{- define "mge-cache.valkeySelectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}-valkey
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: valkey
{{- end -}}

{{/* An image by its digest, else its tag. Takes the image's values. */}}
{{- define "mge-cache.image" -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else if .tag -}}{{ .repository }}:{{ .tag }}{{- else -}}{{ .repository }}{{- end -}}
{{- end -}}

{{- define "mge-cache.check" -}}
{{- $sidecar := include "mge-cache-sidecar.values" . | fromYaml -}}
{{- $settings := $sidecar.settings | default dict -}}
{{- $drain := include "mge-cache-sidecar.seconds" (dict "text" (get $settings "drain" | default "10s") "name" "mge-cache-sidecar.settings.drain") | int -}}
{{- $delay := ternary 0 (int $sidecar.shutdownDelaySeconds) .Values.native -}}
{{- $least := add $drain $delay 5 | int -}}
{{- if lt (int .Values.pod.terminationGracePeriodSeconds) $least -}}
{{- fail (printf "pod.terminationGracePeriodSeconds: must be at least %d: the sidecar's shutdown delay (%ds) and drain (%ds), and 5 s to end" $least $delay $drain) -}}
{{- end -}}
{{- if and (eq $sidecar.transport "unix") $sidecar.enabled (not (dig "fsGroup" "" .Values.pod.securityContext)) -}}
{{- fail "pod.securityContext.fsGroup: must be set, so that the application may use the sidecar's socket; or set mge-cache-sidecar.transport to tcp" -}}
{{- end -}}
{{- if .Values.valkey.enabled -}}
{{- if not .Values.valkey.passwordSecret.name -}}
{{- fail (printf "valkey.passwordSecret.name: must be set; make the Secret with: kubectl --namespace %s create secret generic %s --from-literal=password=\"$(openssl rand -hex 24)\"" .Release.Namespace (include "mge-cache.valkeyName" .)) -}}
{{- end -}}
{{- if ne (include "mge-cache-sidecar.redisUrl" .) (include "mge-cache.redisUrl" .) -}}
{{- fail "valkey.enabled and mge-cache-sidecar.redis.url: choose one: the Valkey of this chart or a Redis of your own" -}}
{{- end -}}
{{- end -}}
{{- end -}}
