{{/* tidegate.yaml: what the chart knows, with `settings` and `resources` on top. */}}
{{- define "tidegate.known-settings" -}}
{{- $name := include "tidegate.fullname" . -}}
gateway:
  host: 0.0.0.0
  port: 8080
  url: http://{{ $name }}-gateway:8080
  management_host: 0.0.0.0
  management_port: 9090
  workers: {{ .Values.gateway.workers }}
  drain_delay_s: {{ .Values.gateway.drainDelaySeconds }}
  shutdown_grace_s: {{ .Values.gateway.shutdownGraceSeconds }}
{{- if .Values.redis.url }}
limits:
  store: redis
  processes: {{ mul .Values.gateway.workers (eq .Values.gateway.autoscaling.type "none" | ternary .Values.gateway.replicas .Values.gateway.autoscaling.minReplicas) }}
  redis:
    url: {{ .Values.redis.url }}
    {{- with .Values.redis.username }}
    username: {{ . }}
    {{- end }}
    {{- if and .Values.redis.existingSecret .Values.redis.passwordKey }}
    password_file: /run/secrets/tidegate/redis_password
    {{- end }}
    {{- if .Values.redis.caKey }}
    {{- if not .Values.redis.existingSecret }}{{ fail "redis.existingSecret is not set: which Secret holds the certificate under redis.caKey?" }}{{ end }}
    ca_file: /run/secrets/tidegate/redis_ca.crt
    {{- end }}
{{- else if gt (int .Values.gateway.workers) 1 }}
limits:
  store: shared
{{- end }}
store:
  url: {{ required "database.url is not set: postgresql+asyncpg://user@host:5432/name, without a password" .Values.database.url }}
  password_file: /run/secrets/tidegate/database_password
journal:
  directory: /var/lib/tidegate/journal
auth:
  key_pepper_file: /run/secrets/tidegate/key_pepper
identity:
  signing_key_file: /run/secrets/tidegate/identity_private.json
  public_keys_file: /run/secrets/tidegate/identity_public.json
knowledge:
  url: http://{{ $name }}-knowledge:8090
  host: 0.0.0.0
  port: 8090
  management_host: 0.0.0.0
  management_port: 9091
  directory: /var/lib/tidegate/knowledge
  shutdown_grace_s: {{ .Values.knowledge.shutdownGraceSeconds }}
agents:
  url: http://{{ $name }}-agents:8092
  host: 0.0.0.0
  port: 8092
  management_host: 0.0.0.0
  management_port: 9092
  shutdown_grace_s: {{ .Values.agents.shutdownGraceSeconds }}
{{- with .Values.route.host }}
mcp:
  public_url: https://{{ . }}
{{- end }}
telemetry:
  sample_ratio: 0.01
{{- end }}

{{- define "tidegate.settings" -}}
{{- mergeOverwrite (fromYaml (include "tidegate.known-settings" .)) (deepCopy .Values.settings) | toYaml -}}
{{- end }}

{{- define "tidegate.configuration" -}}
{{- $name := include "tidegate.fullname" . -}}
{{- $resources := deepCopy .Values.resources -}}
{{- $models := $resources.models | default list -}}
{{- range .Values.models -}}
{{- $models = append $models (dict "name" .name "replicas" (list (dict "url" (printf "http://%s-model-%s:8000" $name .name) "discovery" "dns"))) -}}
{{- end -}}
{{- if .Values.knowledge.enabled -}}
{{- $models = append $models (dict "name" "all-minilm-l6-v2" "replicas" (list (dict "url" (printf "http://%s-knowledge:8090" $name) "audience" "knowledge"))) -}}
{{- end -}}
{{- $servers := $resources.mcp_servers | default list -}}
{{- range .Values.mcpServers -}}
{{- $servers = append $servers (dict "name" .name "url" (printf "http://%s-mcp-%s:8200" $name .name) "acts_for_caller" (.actsForCaller | default false)) -}}
{{- end -}}
{{- $_ := set $resources "models" $models -}}
{{- $_ := set $resources "mcp_servers" $servers -}}
{{- toYaml (dict "settings" (fromYaml (include "tidegate.settings" .)) "resources" $resources) -}}
{{- end }}

{{/* Services read settings at their start: a change of these rolls them out. Resources reach them through the database. */}}
{{- define "tidegate.checksum" -}}
checksum/settings: {{ include "tidegate.settings" . | sha256sum }}
{{- end }}
