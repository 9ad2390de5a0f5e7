{{/*
What all pods have in common, from (dict "root" $ "account" a ServiceAccount): no rights, no root. The image is made for
user 10001.
*/}}
{{- define "calogan.podDefaults" -}}
serviceAccountName: {{ .account | default (include "calogan.serviceAccountName" .root) }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{- define "calogan.containerDefaults" -}}
image: {{ include "calogan.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{/* The only directory every container may write to is /tmp. */}}
{{- define "calogan.envDefaults" -}}
- name: HOME
  value: /tmp
- name: MLFLOW_DISABLE_TELEMETRY
  value: "true"
- name: DO_NOT_TRACK
  value: "true"
{{- end }}

{{- define "calogan.authOptions" -}}
mode: token
{{- with .Values.ray.tokenSecret }}
secretName: {{ . }}
{{- end }}
{{- end }}

{{/* CPU and memory of a pod that Ray counts, from (dict "cpus" "cpuRequest" "memory"). */}}
{{- define "calogan.wholeCores" -}}
requests: {cpu: {{ .cpuRequest | default .cpus | quote }}, memory: {{ .memory }}}
limits: {cpu: {{ .cpus | quote }}, memory: {{ .memory }}}
{{- end }}

{{/*
A Ray pod, from a dict: "root" $; "name" of the container; "component"; "group" with nodeSelector and tolerations;
"resources", "affinity" and "spread" as YAML; "account", a ServiceAccount; "ports"; "autoscaler", whether it has one.
*/}}
{{- define "calogan.rayPod" -}}
{{- $values := .root.Values -}}
metadata:
  labels:
    {{- include "calogan.podLabels" (list .root .component) | nindent 4 }}
    {{- with $values.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- with merge (dict) (default dict .annotations) $values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- include "calogan.podDefaults" (dict "root" .root "account" .account) | nindent 2 }}
  # The head runs no replicas, so there is nothing to wait for; KubeRay clears Redis when it is gone.
  terminationGracePeriodSeconds: {{ ternary 30 (add $values.ray.drainSeconds 30) (eq .name "ray-head") }}
  {{- with .group.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .affinity }}
  affinity:
    {{- . | nindent 4 }}
  {{- end }}
  {{- with .group.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .spread }}
  topologySpreadConstraints:
    {{- . | nindent 4 }}
  {{- end }}
  containers:
    - name: {{ .name }}
      {{- include "calogan.containerDefaults" .root | nindent 6 }}
      ports:
        {{- range $name, $port := .ports }}
        - name: {{ $name }}
          containerPort: {{ $port }}
        {{- end }}
      env:
        {{- include "calogan.envDefaults" .root | nindent 8 }}
        - name: RAY_USAGE_STATS_ENABLED
          value: "0"
        # Bodies are read whole before a replica sees them, and Ray's own errors have the endpoint's form.
        - name: RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH
          value: calogan.serving.edge:middlewares
        - name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S
          value: {{ $values.ray.drainSeconds | quote }}
        {{- include "calogan.mlflowClient" .root | nindent 8 }}
        {{- if eq .component "ray" }}
        - name: CALOGAN_API_KEY
          valueFrom:
            secretKeyRef:
              name: {{ include "calogan.apiKeySecret" .root }}
              key: {{ $values.apiKey.key }}
        {{- end }}
        {{- with $values.extraEnv }}{{ toYaml . | nindent 8 }}{{ end }}
      resources:
        {{- .resources | nindent 8 }}
      volumeMounts:
        {{- include "calogan.rayMounts" .root | nindent 8 }}
  volumes:
    {{- include "calogan.rayVolumes" .root | nindent 4 }}
    {{- if .autoscaler }}
    {{- include "calogan.tokenVolume" .root | nindent 4 }}
    {{- end }}
{{- end }}
