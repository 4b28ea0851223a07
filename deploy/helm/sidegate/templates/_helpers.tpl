{{- define "sidegate.name" -}}
{{- if contains "sidegate" .Release.Name }}{{ .Release.Name | trunc 63 | trimSuffix "-" }}{{ else }}{{ printf "%s-sidegate" .Release.Name | trunc 63 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "sidegate.selector" -}}
app.kubernetes.io/name: sidegate
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "sidegate.labels" -}}
{{ include "sidegate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- /* The port of an address. */ -}}
{{- define "sidegate.port" -}}
{{ splitList ":" . | last }}
{{- end }}

{{- define "sidegate.public" -}}
{{ include "sidegate.port" (first .Values.config.listeners).address }}
{{- end }}

{{- define "sidegate.admin" -}}
{{ include "sidegate.port" .Values.config.admin.address }}
{{- end }}

{{- define "sidegate.container" -}}
name: sidegate
image: {{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
ports:
  - { name: public, containerPort: {{ include "sidegate.public" . }} }
  - { name: admin, containerPort: {{ include "sidegate.admin" . }} }
startupProbe:
  httpGet: { path: /startupz, port: admin }
  periodSeconds: 1
  failureThreshold: 30
readinessProbe:
  httpGet: { path: /readyz, port: admin }
  periodSeconds: 5
livenessProbe:
  httpGet: { path: /livez, port: admin }
  periodSeconds: 10
resources: {{ .Values.resources | toJson }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
  seccompProfile: { type: RuntimeDefault }
volumeMounts:
  # Whole folders: a subPath mount would never see an update.
  - { name: sidegate-config, mountPath: /etc/sidegate, readOnly: true }
  {{- if .Values.secrets }}
  - { name: sidegate-secrets, mountPath: /etc/sidegate-secrets, readOnly: true }
  {{- end }}
  {{- if .Values.config.issuer }}
  - { name: sidegate-data, mountPath: /var/lib/sidegate }
  {{- end }}
{{- end }}
