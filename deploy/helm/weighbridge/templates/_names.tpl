{{- define "weighbridge.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-{{ .Chart.Name }}{{ end -}}
{{- end }}

{{- define "weighbridge.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "weighbridge.labels" -}}
{{ include "weighbridge.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "weighbridge.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "weighbridge.name" .) }}
{{- else }}{{ .Values.serviceAccount.name | default "default" }}{{ end -}}
{{- end }}

{{- define "weighbridge.scaling" -}}
scaleUp:
  stabilizationWindowSeconds: 30
  policies: [{type: Percent, value: 100, periodSeconds: 60}]
# A replica takes minutes to come back, and its cache with it.
scaleDown:
  stabilizationWindowSeconds: 600
  policies: [{type: Pods, value: 1, periodSeconds: 120}]
{{- end }}
