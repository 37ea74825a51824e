{{/* The container of the sidecar as a map. Takes a dict of context and native. */}}
{{- define "mge-cache-sidecar.containerObject" -}}
{{- $values := include "mge-cache-sidecar.values" .context | fromYaml -}}
{{- include "mge-cache-sidecar.check" .context -}}
name: mge-cache
image: {{ include "mge-cache-sidecar.image" .context | quote }}
imagePullPolicy: {{ $values.image.pullPolicy }}
command: [mge-cache, serve]
{{- if .native }}
restartPolicy: Always
{{- end }}
env:
  {{- include "mge-cache-sidecar.serverEnv" . | nindent 2 }}
ports:
  - name: mge-http
    containerPort: {{ int $values.httpPort }}
    protocol: TCP
startupProbe:
  {{- include "mge-cache-sidecar.probe" (dict "path" "/readyz" "port" $values.httpPort "times" $values.startupProbe) | nindent 2 }}
livenessProbe:
  {{- include "mge-cache-sidecar.probe" (dict "path" "/healthz" "port" $values.httpPort "times" $values.livenessProbe) | nindent 2 }}
readinessProbe:
  {{- include "mge-cache-sidecar.probe" (dict "path" "/readyz" "port" $values.httpPort "times" $values.readinessProbe) | nindent 2 }}
{{- with $values.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ int64 $values.runAsUser }}
  runAsGroup: {{ int64 $values.runAsGroup }}
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
  seccompProfile:
    type: RuntimeDefault
{{- $mounts := list }}
{{- if eq $values.transport "unix" }}
{{- $mounts = append $mounts (dict "name" "mge-cache-socket" "mountPath" "/run/mge-cache") }}
{{- end }}
{{- range (include "mge-cache-sidecar.secrets" .context | fromYaml).secrets }}
{{- $mounts = append $mounts (dict "name" .volume "mountPath" (include "mge-cache-sidecar.secretFolder" .volume) "readOnly" true) }}
{{- end }}
{{- with concat $mounts ($values.extraVolumeMounts | default list) }}
volumeMounts:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* A probe over HTTP. The port is a number: names of ports of native sidecars are news to old versions. */}}
{{- define "mge-cache-sidecar.probe" -}}
httpGet:
  path: {{ .path }}
  port: {{ int .port }}
  scheme: HTTP
{{ toYaml .times }}
{{- end -}}

{{- define "mge-cache-sidecar.secretFolder" -}}
/etc/mge-cache/{{ trimPrefix "mge-cache-" . }}
{{- end -}}

{{/* The sidecar's own environment, as items. Takes a dict of context and native. */}}
{{- define "mge-cache-sidecar.serverEnv" -}}
{{- $values := include "mge-cache-sidecar.values" .context | fromYaml -}}
{{- $env := list (dict "name" "MGE_CACHE_TARGET" "value" (include "mge-cache-sidecar.target" .context)) -}}
{{- if eq $values.transport "unix" -}}
{{- $env = concat $env (list
  (dict "name" "MGE_CACHE_UNIX_SOCKET" "value" "/run/mge-cache/mge.sock")
  (dict "name" "MGE_CACHE_UNIX_MODE" "value" "660")
  (dict "name" "MGE_CACHE_LISTEN" "value" "")) -}}
{{- else -}}
{{- $env = append $env (dict "name" "MGE_CACHE_LISTEN" "value" (printf "127.0.0.1:%d" (int $values.grpcPort))) -}}
{{- end -}}
{{- $env = append $env (dict "name" "MGE_CACHE_HTTP_LISTEN" "value" (printf "%s:%d" $values.httpHost (int $values.httpPort))) -}}
{{- $env = append $env (dict "name" "MGE_CACHE_REDIS_URL" "value" (include "mge-cache-sidecar.redisUrl" .context)) -}}
{{- with $values.redis.username -}}
{{- $env = append $env (dict "name" "MGE_CACHE_REDIS_USERNAME" "value" .) -}}
{{- end -}}
{{- range $secret := (include "mge-cache-sidecar.secrets" .context | fromYaml).secrets -}}
{{- range $secret.files -}}
{{- $env = append $env (dict "name" .env "value" (printf "%s/%s" (include "mge-cache-sidecar.secretFolder" $secret.volume) .key)) -}}
{{- end -}}
{{- end -}}
{{- if not .native -}}
{{- $env = append $env (dict "name" "MGE_CACHE_SHUTDOWN_DELAY" "value" (printf "%ds" (int $values.shutdownDelaySeconds))) -}}
{{- end -}}
{{- $names := include "mge-cache-sidecar.settingNames" . | fromYaml -}}
{{- range $name, $value := $values.settings -}}
{{- if not (kindIs "invalid" $value) -}}
{{- $env = append $env (dict "name" (get $names $name) "value" (include "mge-cache-sidecar.settingText" $value)) -}}
{{- end -}}
{{- end -}}
{{- toYaml (concat $env ($values.extraEnv | default list)) -}}
{{- end -}}

{{/* A setting's value as the environment has it; a map becomes "a=1,b=2". */}}
{{- define "mge-cache-sidecar.settingText" -}}
{{- if kindIs "map" . -}}
{{- $parts := list -}}
{{- range $name, $value := . -}}
{{- $parts = append $parts (printf "%s=%s" $name (include "mge-cache-sidecar.text" $value)) -}}
{{- end -}}
{{- join "," $parts -}}
{{- else -}}
{{- include "mge-cache-sidecar.text" . -}}
{{- end -}}
{{- end -}}
