{{/* Peers of NetworkPolicies: all pods of one component of this release, from (list $ "ray"). */}}
{{- define "calogan.peer" -}}
- podSelector:
    matchLabels:
      {{- include "calogan.podLabels" . | nindent 6 }}
{{- end }}

{{/*
Operators are known by the label that its chart and its kustomization both set. They deploy through the dashboard and
ask the proxies for their health.
*/}}
{{- define "calogan.fromOperator" -}}
- from:
    - podSelector:
        matchLabels:
          app.kubernetes.io/component: kuberay-operator
      namespaceSelector:
        {{- with .Values.networkPolicy.operatorNamespace }}
        matchLabels:
          kubernetes.io/metadata.name: {{ . }}
        {{- else }} {}
        {{- end }}
  ports:
    - port: 8265
    - port: 8000
{{- end }}

{{- define "calogan.toMlflow" -}}
{{- if .Values.mlflow.enabled }}
- to:
    {{- include "calogan.peer" (list . "mlflow") | nindent 4 }}
  ports:
    - port: 5000
{{- end }}
{{- end }}

{{/* By pod: DNS servers listen on ports of their own behind port 53 of their Service. */}}
{{- define "calogan.toDns" -}}
- to:
    {{- toYaml .Values.networkPolicy.dns | nindent 4 }}
{{- end }}

{{- define "calogan.toApiServer" -}}
- ports:
    - port: 443
    - port: 6443
  {{- with .Values.networkPolicy.apiServer }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{/* The policy of Ray pods of a component, from (list $ "ray"). */}}
{{- define "calogan.rayPolicy" -}}
{{- $root := first . -}}
podSelector:
  matchLabels:
    {{- include "calogan.podLabels" . | nindent 4 }}
policyTypes: [Ingress, Egress]
ingress:
  # Ray's processes talk to each other on ports of their own choice.
  - from:
      {{- include "calogan.peer" . | nindent 6 }}
  {{- include "calogan.fromOperator" $root | nindent 2 }}
  {{- with $root.Values.networkPolicy.metricsFrom }}
  - from:
      {{- toYaml . | nindent 6 }}
    ports:
      - port: 8080
  {{- end }}
  {{- if eq (last .) "ray" }}
  - ports:
      - port: 8000
    {{- with $root.Values.networkPolicy.endpointFrom }}
    from:
      {{- toYaml . | nindent 6 }}
      {{- include "calogan.peer" (list $root "test") | nindent 6 }}
    {{- end }}
  {{- end }}
egress:
  - to:
      {{- include "calogan.peer" . | nindent 6 }}
  {{- include "calogan.toMlflow" $root | nindent 2 }}
  {{- include "calogan.toDns" $root | nindent 2 }}
  {{- if and (eq (last .) "ray") $root.Values.redis.enabled }}
  - to:
      {{- include "calogan.peer" (list $root "redis") | nindent 6 }}
    ports:
      - port: 6379
  {{- end }}
  {{- with $root.Values.networkPolicy.extraEgress }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
