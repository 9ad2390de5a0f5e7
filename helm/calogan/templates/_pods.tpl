{{/* What all pods have in common: no rights, no root. The image is made for user 10001. */}}
{{- define "calogan.podDefaults" -}}
serviceAccountName: {{ include "calogan.serviceAccountName" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
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

{{/* Node affinity by the labels of Node Feature Discovery; nodes with AMX are always preferred. */}}
{{- define "calogan.cpuAffinity" -}}
{{- $amx := "feature.node.kubernetes.io/cpu-cpuid.AMXINT8" -}}
{{- $vnni := "feature.node.kubernetes.io/cpu-cpuid.AVX512VNNI" -}}
{{- $required := dict "amx" (list $amx) "vnni" (list $vnni) "any" (list $amx $vnni) "none" list -}}
nodeAffinity:
  {{- with get $required .Values.ray.worker.cpuFeatures }}
  requiredDuringSchedulingIgnoredDuringExecution:
    nodeSelectorTerms:
      {{- range . }}
      - matchExpressions:
          - {key: {{ . }}, operator: Exists}
      {{- end }}
  {{- end }}
  preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      preference:
        matchExpressions:
          - {key: {{ $amx }}, operator: Exists}
{{- end }}

{{/* A Ray pod, from (dict "root" $ "name" of the container "group" its values "affinity" of the pod "ports" of the container). */}}
{{- define "calogan.rayPod" -}}
metadata:
  labels:
    {{- include "calogan.rayLabels" .root | nindent 4 }}
spec:
  {{- include "calogan.podDefaults" .root | nindent 2 }}
  terminationGracePeriodSeconds: {{ add .root.Values.ray.drainSeconds 30 }}
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
        - name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S
          value: {{ .root.Values.ray.drainSeconds | quote }}
        - name: MLFLOW_TRACKING_URI
          value: {{ include "calogan.mlflowUri" .root }}
        - name: CALOGAN_API_KEY
          valueFrom:
            secretKeyRef:
              name: {{ .root.Values.apiKey.existingSecret }}
              key: {{ .root.Values.apiKey.key }}
      resources:
        {{- toYaml .group.resources | nindent 8 }}
      volumeMounts:
        - name: tmp
          mountPath: /tmp
        - name: ray
          mountPath: /tmp/ray
  volumes:
    - name: tmp
      emptyDir: {}
    - name: ray
      emptyDir: {}
{{- end }}
