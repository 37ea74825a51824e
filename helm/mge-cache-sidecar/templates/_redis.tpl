{{/*
Which Redis, and the files of its secrets.
*/}}

{{- define "mge-cache-sidecar.redisUrl" -}}
{{- $values := include "mge-cache-sidecar.values" . | fromYaml -}}
{{- tpl ($values.redis.url | default "") . | trim -}}
{{- end -}}

{{- define "mge-cache-sidecar.passwordSecret" -}}
{{- $values := include "mge-cache-sidecar.values" . | fromYaml -}}
{{- tpl ($values.redis.passwordSecret.name | default "") . | trim -}}
{{- end -}}

{{/*
The secrets that are named, as a YAML map of "secrets": each with the volume, the Secret, and its files with the
variable that points to each. A folder for each Secret: a mount of a single file would not follow a rotation.
*/}}
{{- define "mge-cache-sidecar.secrets" -}}
{{- $values := include "mge-cache-sidecar.values" . | fromYaml -}}
{{- $redis := $values.redis -}}
{{- $secrets := list
  (dict "volume" "mge-cache-redis-password" "secret" (include "mge-cache-sidecar.passwordSecret" .)
    "files" (list (dict "key" $redis.passwordSecret.key "env" "MGE_CACHE_REDIS_PASSWORD_FILE")))
  (dict "volume" "mge-cache-sentinel-password" "secret" $redis.sentinelPasswordSecret.name
    "files" (list (dict "key" $redis.sentinelPasswordSecret.key "env" "MGE_CACHE_SENTINEL_PASSWORD_FILE")))
  (dict "volume" "mge-cache-redis-ca" "secret" $redis.tls.caSecret.name
    "files" (list (dict "key" $redis.tls.caSecret.key "env" "MGE_CACHE_REDIS_TLS_CA_FILE")))
  (dict "volume" "mge-cache-redis-cert" "secret" $redis.tls.certSecret.name
    "files" (list
      (dict "key" $redis.tls.certSecret.certKey "env" "MGE_CACHE_REDIS_TLS_CERT_FILE")
      (dict "key" $redis.tls.certSecret.keyKey "env" "MGE_CACHE_REDIS_TLS_KEY_FILE")))
  (dict "volume" "mge-cache-anthropic-key" "secret" $values.anthropicKeySecret.name
    "files" (list (dict "key" $values.anthropicKeySecret.key "env" "MGE_CACHE_ANTHROPIC_API_KEY_FILE")))
-}}
{{- $named := list -}}
{{- range $secrets -}}
{{- if .secret -}}{{- $named = append $named . -}}{{- end -}}
{{- end -}}
{{- toYaml (dict "secrets" $named) -}}
{{- end -}}
