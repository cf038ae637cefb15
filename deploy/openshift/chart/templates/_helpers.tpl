{{/* Names. A component's parts take (dict "root" $ "component" "gateway"). */}}
{{- define "tidegate.fullname" -}}
{{- if eq .Release.Name .Chart.Name }}{{ .Release.Name }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "tidegate.name" -}}
{{ include "tidegate.fullname" .root }}-{{ .component }}
{{- end }}

{{/* What a selector may hold: it can never be changed. */}}
{{- define "tidegate.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "tidegate.labels" -}}
{{ include "tidegate.selector" . }}
app.kubernetes.io/part-of: {{ .root.Chart.Name }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{/* What stands behind the gateway: component, its port, and the port of its metrics. */}}
{{- define "tidegate.inner" -}}
{{- $inner := list -}}
{{- if .Values.knowledge.enabled }}{{ $inner = append $inner (dict "component" "knowledge" "port" 8090 "management" 9091) }}{{ end -}}
{{- if .Values.agents.enabled }}{{ $inner = append $inner (dict "component" "agents" "port" 8092 "management" 9092) }}{{ end -}}
{{- range .Values.mcpServers }}{{ $inner = append $inner (dict "component" (printf "mcp-%s" .name) "port" 8200 "management" 8200) }}{{ end -}}
{{- range .Values.models }}{{ $inner = append $inner (dict "component" (printf "model-%s" .name) "port" 8000 "management" 8000) }}{{ end -}}
{{- toYaml $inner -}}
{{- end }}

{{/* An image by digest: (dict "root" $ "image" "gateway"). */}}
{{- define "tidegate.image" -}}
{{- $image := get .root.Values.images .image -}}
{{- if not $image.digest }}{{ fail (printf "images.%s.digest is not set: images are taken by digest only, see deploy/openshift/README.md" .image) }}{{ end -}}
{{- with .root.Values.global.imageRegistry }}{{ . }}/{{ end }}{{ $image.repository }}@{{ $image.digest }}
{{- end }}

{{/* What every pod has. No user, group or SELinux label is named: restricted-v2 gives them. */}}
{{- define "tidegate.pod" -}}
automountServiceAccountToken: false
serviceAccountName: {{ include "tidegate.name" . }}
{{- with .root.Values.global.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  seccompProfile:
    type: RuntimeDefault
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "tidegate.spread" -}}
topologySpreadConstraints:
  {{- range list .root.Values.topologyKey "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "tidegate.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}

{{- define "tidegate.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Liveness is the event loop's alone; readiness also waits for resources. */}}
{{- define "tidegate.probes" -}}
startupProbe:
  httpGet: { path: /healthz, port: {{ .port }} }
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: { path: /healthz, port: {{ .port }} }
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: { path: {{ .ready | default "/readyz" }}, port: {{ .port }} }
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 2
{{- end }}

{{/* The secrets a process may see, and no others: (dict "root" $ "files" (list "key_pepper")). */}}
{{- define "tidegate.secrets" -}}
name: secrets
projected:
  defaultMode: 0440
  sources:
    {{- if .database }}
    - secret:
        name: {{ .root.Values.database.existingSecret }}
        items:
          - { key: {{ .root.Values.database.passwordKey }}, path: database_password }
    {{- end }}
    {{- with .redis }}
    {{- if .existingSecret }}
    - secret:
        name: {{ .existingSecret }}
        items:
          {{- with .passwordKey }}
          - { key: {{ . }}, path: redis_password }
          {{- end }}
          {{- with .caKey }}
          - { key: {{ . }}, path: redis_ca.crt }
          {{- end }}
    {{- end }}
    {{- end }}
    {{- with .files }}
    - secret:
        name: {{ $.root.Values.keys.existingSecret }}
        items:
          {{- range . }}
          - { key: {{ . }}, path: {{ . }} }
          {{- end }}
    {{- end }}
{{- end }}
