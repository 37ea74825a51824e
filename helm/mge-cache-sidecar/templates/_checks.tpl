{{/*
What schemas cannot say. Each of these ends the rendering with a message, or writes nothing.
*/}}

{{/*
The bytes of a quantity (384Mi, 1.5G) or of a size in the settings (64MiB, 8MB). Takes a dict of text and
name, by which a message calls it.
*/}}
{{- define "mge-cache-sidecar.bytes" -}}
{{- $text := include "mge-cache-sidecar.text" .text | nospace -}}
{{- $number := regexFind "^[0-9]+([.][0-9]+)?" $text -}}
{{- $unit := $text | trimPrefix $number | lower | trimSuffix "b" -}}
{{- $factors := dict "" 1 "k" 1000 "m" 1000000 "g" 1000000000 "t" 1000000000000 "ki" 1024 "mi" 1048576 "gi" 1073741824 "ti" 1099511627776 -}}
{{- if or (not $number) (not (hasKey $factors $unit)) -}}
{{- fail (printf "%s: must be a size such as 384Mi or 1Gi, not %s" .name $text) -}}
{{- end -}}
{{- mulf (float64 $number) (get $factors $unit) | floor | int64 -}}
{{- end -}}

{{/* Whole seconds of a duration such as 10s, 1m30s or 500ms, rounded up. Takes a dict of text and name. */}}
{{- define "mge-cache-sidecar.seconds" -}}
{{- $text := include "mge-cache-sidecar.text" .text | nospace -}}
{{- $text = ternary (printf "%ss" $text) $text (regexMatch "^[0-9.]+$" $text) -}}
{{- $units := dict "d" 86400.0 "h" 3600.0 "m" 60.0 "s" 1.0 "ms" 0.001 -}}
{{- $sum := 0.0 -}}
{{- range regexFindAll "[0-9]+([.][0-9]+)?(d|h|ms|m|s)" $text -1 -}}
{{- $number := regexFind "^[0-9.]+" . -}}
{{- $sum = addf $sum (mulf (float64 $number) (get $units (trimPrefix $number .))) -}}
{{- end -}}
{{- $sum | ceil | int64 -}}
{{- end -}}

{{/* A scalar as text; 1000000 stays 1000000, whatever YAML has made of it. */}}
{{- define "mge-cache-sidecar.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}{{ int64 . }}{{- else -}}{{ toString . }}{{- end -}}
{{- end -}}

{{/*
What the sidecar takes beside its two bounds, and by how much it may exceed them, in bytes and percent. Measured:
see the chart's README.
*/}}
{{- define "mge-cache-sidecar.baseBytes" -}}{{ mul 180 1048576 }}{{- end -}}
{{- define "mge-cache-sidecar.boundPercent" -}}130{{- end -}}

{{- define "mge-cache-sidecar.checkMemory" -}}
{{- $values := include "mge-cache-sidecar.values" . | fromYaml -}}
{{- $limit := dig "limits" "memory" "" ($values.resources | default dict) -}}
{{- if $limit -}}
{{- $l1 := get $values.settings "l1_max" | default "64MiB" -}}
{{- $index := get $values.settings "rag_index_max" | default "256MiB" -}}
{{- $bounds := add
  (include "mge-cache-sidecar.bytes" (dict "text" $l1 "name" "mge-cache-sidecar.settings.l1_max"))
  (include "mge-cache-sidecar.bytes" (dict "text" $index "name" "mge-cache-sidecar.settings.rag_index_max")) -}}
{{- $least := add (include "mge-cache-sidecar.baseBytes" .) (div (mul $bounds (include "mge-cache-sidecar.boundPercent" .)) 100) -}}
{{- if lt (include "mge-cache-sidecar.bytes" (dict "text" $limit "name" "mge-cache-sidecar.resources.limits.memory") | int64) $least -}}
{{- fail (printf "mge-cache-sidecar.resources.limits.memory: %v is too little for l1_max %v and rag_index_max %v: raise it to %dMi or lower those settings" $limit $l1 $index (div (add $least 1048575) 1048576)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "mge-cache-sidecar.checkRedis" -}}
{{- $values := include "mge-cache-sidecar.values" . | fromYaml -}}
{{- $url := include "mge-cache-sidecar.redisUrl" . -}}
{{- if not $url -}}
{{- fail "mge-cache-sidecar.redis.url: must be set: the URL of a Redis such as redis://redis:6379/0, or memory:// for a cache that only its pod knows" -}}
{{- end -}}
{{- if regexMatch "://[^/]*:[^/@]*@" $url -}}
{{- fail "mge-cache-sidecar.redis.url: must not hold a password: put it into a Secret and name that in mge-cache-sidecar.redis.passwordSecret" -}}
{{- end -}}
{{- if not (regexMatch "^(memory://$|rediss?([+](sentinel|cluster))?://.)" $url) -}}
{{- fail "mge-cache-sidecar.redis.url: must begin with redis://, rediss://, redis+sentinel://, rediss+sentinel://, redis+cluster:// or rediss+cluster://, or be memory://" -}}
{{- end -}}
{{- $tls := or $values.redis.tls.caSecret.name $values.redis.tls.certSecret.name -}}
{{- if and $tls (not (hasPrefix "rediss" $url)) -}}
{{- fail "mge-cache-sidecar.redis.tls: needs TLS in mge-cache-sidecar.redis.url (rediss://, rediss+sentinel:// or rediss+cluster://)" -}}
{{- end -}}
{{- if and $values.redis.sentinelPasswordSecret.name (not (contains "+sentinel://" $url)) -}}
{{- fail "mge-cache-sidecar.redis.sentinelPasswordSecret: needs redis+sentinel:// in mge-cache-sidecar.redis.url" -}}
{{- end -}}
{{- if and (hasPrefix "memory://" $url) (or $values.redis.username (include "mge-cache-sidecar.passwordSecret" .)) -}}
{{- fail "mge-cache-sidecar.redis: a user or a password has no use with memory:// in mge-cache-sidecar.redis.url" -}}
{{- end -}}
{{- end -}}

{{- define "mge-cache-sidecar.check" -}}
{{- $values := include "mge-cache-sidecar.values" . | fromYaml -}}
{{- include "mge-cache-sidecar.checkRedis" . -}}
{{- include "mge-cache-sidecar.checkMemory" . -}}
{{- if eq (int $values.grpcPort) (int $values.httpPort) -}}
{{- fail "mge-cache-sidecar.httpPort: must differ from mge-cache-sidecar.grpcPort" -}}
{{- end -}}
{{- range $values.extraEnv -}}
{{- if or (hasPrefix "MGE_" .name) (hasPrefix "ANTHROPIC_" .name) -}}
{{- fail (printf "mge-cache-sidecar.extraEnv: %s is a setting: it belongs into mge-cache-sidecar.settings by its name there, and a secret into a Secret" .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "mge-cache-sidecar.checkMonitors" -}}
{{- $values := include "mge-cache-sidecar.values" . | fromYaml -}}
{{- if and $values.serviceMonitor.enabled $values.podMonitor.enabled -}}
{{- fail "mge-cache-sidecar: serviceMonitor and podMonitor are both enabled: each pod would be counted twice; choose one" -}}
{{- end -}}
{{- end -}}
