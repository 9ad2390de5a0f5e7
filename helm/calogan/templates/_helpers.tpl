{{/* KubeRay appends to the name of a RayService and takes at most 47 characters, a DNS-1035 label. */}}
{{- define "calogan.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 47 | trimSuffix "-" -}}
{{- end }}

{{- define "calogan.mlflowName" -}}
{{ include "calogan.fullname" . }}-mlflow
{{- end }}

{{- define "calogan.serviceAccountName" -}}
{{ .Values.serviceAccount.name | default (include "calogan.fullname" .) }}
{{- end }}

{{- define "calogan.image" -}}
{{- with .Values.image.digest -}}
{{ $.Values.image.repository }}@{{ . }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "calogan.apiKeySecret" -}}
{{ .Values.apiKey.existingSecret | default (printf "%s-api-key" (include "calogan.fullname" .)) }}
{{- end }}

{{/* The ServiceAccount of the head: KubeRay gives it the rights of Ray's autoscaler, whose container alone has its token. */}}
{{- define "calogan.headAccountName" -}}
{{ include "calogan.fullname" . }}-head
{{- end }}

{{- define "calogan.redisAddress" -}}
{{ .Values.redis.address | default (ternary (printf "%s-redis:6379" (include "calogan.fullname" .)) "" .Values.redis.enabled) }}
{{- end }}

{{- define "calogan.mlflowUri" -}}
{{ .Values.mlflow.trackingUri | default (printf "http://%s:5000" (include "calogan.mlflowName" .)) }}
{{- end }}

{{- define "calogan.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "calogan.partOf" . }}
{{- end }}

{{/*
Labels of pods, and selectors. No app.kubernetes.io/name: KubeRay selects the head by its own value.
No version or chart either: a changed label of a Ray pod starts a new cluster.
*/}}
{{- define "calogan.partOf" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: {{ .Chart.Name }}
{{- end }}

{{/* Labels of the pods of one component, from (list $ "ray"): ray, jobs, job-cluster, mlflow, redis,
register, remove or test. */}}
{{- define "calogan.podLabels" -}}
{{ include "calogan.partOf" (first .) }}
app.kubernetes.io/component: {{ last . }}
{{- end }}

{{/* Host headers of MLflow's Service; without them MLflow answers 403 to every name but localhost. */}}
{{- define "calogan.mlflowHosts" -}}
{{- $service := include "calogan.mlflowName" . -}}
{{- $namespaced := printf "%s.%s" $service .Release.Namespace -}}
{{- $hosts := list "localhost" "127.0.0.1" $service $namespaced (printf "%s.svc" $namespaced) (printf "%s.svc.cluster.local" $namespaced) -}}
{{- $all := list -}}
{{- range $hosts }}{{ $all = concat $all (list . (printf "%s:*" .)) }}{{ end -}}
{{- concat $all .Values.mlflow.extraAllowedHosts | join "," -}}
{{- end }}
