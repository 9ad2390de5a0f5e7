{{- define "calogan.loginSecret" -}}
{{ .Values.mlflow.login.existingSecret | default (printf "%s-login" (include "calogan.mlflowName" .)) }}
{{- end }}

{{/* Whether MLflow's volume holds anything: "true" or empty. */}}
{{- define "calogan.mlflowVolume" -}}
{{- if not (and .Values.mlflow.database.existingSecret .Values.mlflow.artifacts.uri) }}true{{ end }}
{{- end }}

{{/* An environment variable from a Secret: (list "NAME" "secret" "key"). */}}
{{- define "calogan.secretVariable" -}}
- name: {{ index . 0 }}
  valueFrom: {secretKeyRef: {name: {{ index . 1 }}, key: {{ index . 2 }}}}
{{- end }}

{{/* Where pods find MLflow, and their account there. */}}
{{- define "calogan.mlflowClient" -}}
- name: MLFLOW_TRACKING_URI
  value: {{ include "calogan.mlflowUri" . }}
{{- if .Values.mlflow.login.enabled }}
{{ include "calogan.secretVariable" (list "MLFLOW_TRACKING_USERNAME" (include "calogan.loginSecret" .) "username") }}
{{ include "calogan.secretVariable" (list "MLFLOW_TRACKING_PASSWORD" (include "calogan.loginSecret" .) "password") }}
{{- end }}
{{- end }}

{{/* Variables of the server. */}}
{{- define "calogan.mlflowServer" -}}
{{- with .Values.mlflow.database }}
{{- if .existingSecret }}
{{ include "calogan.secretVariable" (list "MLFLOW_BACKEND_STORE_URI" .existingSecret .key) }}
{{- else }}
- name: MLFLOW_BACKEND_STORE_URI
  value: sqlite:////mlflow/mlflow.db
{{- end }}
{{- end }}
- name: MLFLOW_ARTIFACTS_DESTINATION
  value: {{ .Values.mlflow.artifacts.uri | default "/mlflow/artifacts" }}
{{- with .Values.mlflow.artifacts }}
{{- with .endpoint }}
- name: MLFLOW_S3_ENDPOINT_URL
  value: {{ . }}
{{- end }}
{{- if .existingSecret }}
{{ include "calogan.secretVariable" (list "AWS_ACCESS_KEY_ID" .existingSecret "AWS_ACCESS_KEY_ID") }}
{{ include "calogan.secretVariable" (list "AWS_SECRET_ACCESS_KEY" .existingSecret "AWS_SECRET_ACCESS_KEY") }}
{{- end }}
{{- end }}
{{- if .Values.mlflow.login.enabled }}
{{- $secret := include "calogan.loginSecret" . }}
{{ include "calogan.secretVariable" (list "MLFLOW_AUTH_ADMIN_USERNAME" $secret "username") }}
{{ include "calogan.secretVariable" (list "MLFLOW_AUTH_ADMIN_PASSWORD" $secret "password") }}
{{ include "calogan.secretVariable" (list "MLFLOW_FLASK_SERVER_SECRET_KEY" $secret "secretKey") }}
- name: MLFLOW_AUTH_CONFIG_PATH
  value: /tmp/login.ini
{{- end }}
{{- end }}

{{/*
The command of the server. MLflow reads the address of the database of its accounts from a file only, so one is written.
It is the database of the runs, in which the accounts have tables of their own. A password is looked up once a minute: that takes
longer than most requests.
*/}}
{{- define "calogan.mlflowCommand" -}}
{{- $login := .Values.mlflow.login.enabled -}}
{{- if $login }}
- bash
- -ec
- |
  printf '[mlflow]\ndefault_permission = READ\nauth_cache_ttl_seconds = 60\ndatabase_uri = %s\n' "${MLFLOW_BACKEND_STORE_URI//%/%%}" > "$MLFLOW_AUTH_CONFIG_PATH"
  exec "$@"
- bash
{{- end }}
- mlflow
- server
- --host=0.0.0.0
- --port=5000
- --workers={{ .Values.mlflow.workers }}
- --allowed-hosts={{ include "calogan.mlflowHosts" . }}
{{- if $login }}
- --app-name=basic-auth
{{- end }}
{{- end }}
