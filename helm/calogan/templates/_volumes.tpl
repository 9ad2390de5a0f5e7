{{/* Volumes of Ray pods and where they are mounted. */}}
{{- define "calogan.rayVolumes" -}}
- name: tmp
  emptyDir: {}
- name: ray
  emptyDir: {}
{{- include "calogan.sharedVolume" . }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "calogan.rayMounts" -}}
- name: tmp
  mountPath: /tmp
- name: ray
  mountPath: /tmp/ray
{{- if .Values.storage.enabled }}
- name: shared
  mountPath: {{ .Values.storage.mountPath }}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "calogan.sharedVolume" -}}
{{- if .Values.storage.enabled }}
- name: shared
  {{- with .Values.storage.hostPath }}
  hostPath: {path: {{ . }}, type: Directory}
  {{- else }}
  persistentVolumeClaim:
    claimName: {{ .Values.storage.existingClaim | default (printf "%s-shared" (include "calogan.fullname" .)) }}
  {{- end }}
{{- end }}
{{- end }}

{{/* The token of the head's ServiceAccount, for the container of the autoscaler only: Ray's own container runs jobs. */}}
{{- define "calogan.tokenVolume" -}}
- name: token
  projected:
    sources:
      - serviceAccountToken: {path: token}
      - configMap:
          name: kube-root-ca.crt
          items: [{key: ca.crt, path: ca.crt}]
      - downwardAPI:
          items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]
{{- end }}

{{/* Ray's autoscaler, from (dict "root" $ "idleSeconds" 60). */}}
{{- define "calogan.autoscaler" -}}
enableInTreeAutoscaling: true
autoscalerOptions:
  version: v2
  idleTimeoutSeconds: {{ .idleSeconds }}
  resources:
    {{- toYaml .root.Values.ray.autoscaler.resources | nindent 4 }}
  securityContext:
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities:
      drop: [ALL]
  volumeMounts:
    - {name: token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
    - {name: tmp, mountPath: /tmp}
{{- end }}
