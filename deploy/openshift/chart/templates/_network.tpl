{{/* Parts of network policies. */}}
{{- define "tidegate.peer" }}
podSelector:
  matchLabels:
    {{- include "tidegate.selector" . | nindent 4 }}
{{- end }}

{{- define "tidegate.scrapers" -}}
{{- if .root.Values.monitoring.enabled -}}
- from:
    {{- range .root.Values.networkPolicies.monitoringNamespaces }}
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: {{ . }}
    {{- end }}
  ports:
    - { protocol: TCP, port: {{ .port }} }
{{- end }}
{{- end }}

{{- define "tidegate.collector" }}
- ports:
    - { protocol: TCP, port: 4318 }
  {{- with .Values.networkPolicies.collectorPeers }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "tidegate.outside" }}
- ports:
    - { protocol: TCP, port: {{ .Values.database.port }} }
  {{- with .Values.database.peers }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- include "tidegate.collector" . }}
{{- end }}
