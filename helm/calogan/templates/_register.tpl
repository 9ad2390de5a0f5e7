{{/* The Job that registers a packaged model. */}}
{{- define "calogan.registerSpec" -}}
backoffLimit: 6
template:
  metadata:
    labels:
      {{- include "calogan.podLabels" (list . "register") | nindent 6 }}
      {{- with .Values.podLabels }}{{ toYaml . | nindent 6 }}{{ end }}
    {{- with .Values.podAnnotations }}
    annotations:
      {{- toYaml . | nindent 6 }}
    {{- end }}
  spec:
    {{- include "calogan.podDefaults" (dict "root" .) | nindent 4 }}
    restartPolicy: Never
    containers:
      - name: register
        {{- include "calogan.containerDefaults" . | nindent 8 }}
        command:
          - calogan
          - register
          - --model={{ .Values.registration.model }}
          - --keep-champion
          - --wait=600
        workingDir: /tmp
        env:
          {{- include "calogan.envDefaults" . | nindent 10 }}
          {{- include "calogan.mlflowClient" . | nindent 10 }}
        resources:
          {{- toYaml .Values.registration.resources | nindent 10 }}
        volumeMounts:
          - name: tmp
            mountPath: /tmp
    volumes:
      - name: tmp
        emptyDir: {}
{{- end }}
