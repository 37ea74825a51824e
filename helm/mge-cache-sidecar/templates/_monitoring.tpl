{{/* All objects for monitoring that are enabled. Takes the context of the chart that includes it. */}}
{{- define "mge-cache-sidecar.monitoring" -}}
{{- $values := include "mge-cache-sidecar.values" . | fromYaml -}}
{{- if $values.enabled -}}
{{- include "mge-cache-sidecar.checkMonitors" . -}}
{{- if $values.serviceMonitor.enabled }}
---
{{ include "mge-cache-sidecar.metricsService" . }}
---
{{ include "mge-cache-sidecar.serviceMonitor" . }}
{{- end }}
{{- if $values.podMonitor.enabled }}
---
{{ include "mge-cache-sidecar.podMonitor" . }}
{{- end }}
{{- if $values.prometheusRule.enabled }}
---
{{ include "mge-cache-sidecar.prometheusRule" . }}
{{- end }}
{{- if $values.dashboard.enabled }}
---
{{ include "mge-cache-sidecar.dashboard" . }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* The headless Service of the ServiceMonitor. Pods that are not ready are scraped too. */}}
{{- define "mge-cache-sidecar.metricsService" -}}
{{- $values := include "mge-cache-sidecar.values" . | fromYaml -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "mge-cache-sidecar.metricsName" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "mge-cache-sidecar.labels" (dict "context" . "component" "mge-cache-metrics") | nindent 4 }}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector:
    {{- include "mge-cache-sidecar.selectorLabels" . | nindent 4 }}
  ports:
    # A number: names of ports of native sidecars reach EndpointSlices only from Kubernetes 1.32.
    - name: mge-http
      port: {{ int $values.httpPort }}
      targetPort: {{ int $values.httpPort }}
      protocol: TCP
{{- end -}}

{{- define "mge-cache-sidecar.serviceMonitor" -}}
{{- $values := include "mge-cache-sidecar.values" . | fromYaml -}}
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  name: {{ include "mge-cache-sidecar.metricsName" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "mge-cache-sidecar.labels" (dict "context" . "component" "mge-cache-metrics" "more" $values.serviceMonitor.additionalLabels) | nindent 4 }}
spec:
  selector:
    matchLabels:
      app.kubernetes.io/name: {{ .Chart.Name }}
      app.kubernetes.io/instance: {{ .Release.Name }}
      app.kubernetes.io/component: mge-cache-metrics
  endpoints:
    - port: mge-http
      {{- include "mge-cache-sidecar.endpoint" $values.serviceMonitor | nindent 6 }}
{{- end -}}

{{- define "mge-cache-sidecar.podMonitor" -}}
{{- $values := include "mge-cache-sidecar.values" . | fromYaml -}}
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata:
  name: {{ include "mge-cache-sidecar.metricsName" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "mge-cache-sidecar.labels" (dict "context" . "component" "mge-cache-metrics" "more" $values.podMonitor.additionalLabels) | nindent 4 }}
spec:
  selector:
    matchLabels:
      {{- include "mge-cache-sidecar.selectorLabels" . | nindent 6 }}
  {{- with $values.podMonitor.namespaceSelector }}
  namespaceSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  podMetricsEndpoints:
    - portNumber: {{ int $values.httpPort }}
      {{- include "mge-cache-sidecar.endpoint" $values.podMonitor | nindent 6 }}
{{- end -}}

{{/* What both monitors say about scraping. Takes the monitor's values. */}}
{{- define "mge-cache-sidecar.endpoint" -}}
path: /metrics
scheme: http
{{- with .interval }}
interval: {{ . }}
{{- end }}
{{- with .scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
{{- with .relabelings }}
relabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "mge-cache-sidecar.prometheusRule" -}}
{{- $values := include "mge-cache-sidecar.values" . | fromYaml -}}
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: {{ include "mge-cache-sidecar.rulesName" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "mge-cache-sidecar.labels" (dict "context" . "component" "mge-cache-rules" "more" $values.prometheusRule.additionalLabels) | nindent 4 }}
spec:
  {{- $rules := (index .Subcharts "mge-cache-sidecar").Files.Get "files/rules.yaml" }}
  {{- with $values.prometheusRule.runbookUrl }}
  {{- $rules = replace "docs/runbook.md" . $rules }}
  {{- end }}
  {{- toYaml (pick (fromYaml $rules) "groups") | nindent 2 }}
{{- end -}}

{{- define "mge-cache-sidecar.dashboard" -}}
{{- $values := include "mge-cache-sidecar.values" . | fromYaml -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "mge-cache-sidecar.dashboardName" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "mge-cache-sidecar.labels" (dict "context" . "component" "mge-cache-dashboard" "more" $values.dashboard.additionalLabels) | nindent 4 }}
  {{- with $values.dashboard.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
data:
  # The library's own context: .Files of this one are the chart's.
  mge-cache.json: |-
    {{- (index .Subcharts "mge-cache-sidecar").Files.Get "files/dashboard.json" | trim | nindent 4 }}
{{- end -}}
