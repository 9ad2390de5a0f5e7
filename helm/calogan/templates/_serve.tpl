{{/* The application of Ray Serve that the values describe, and settings that all applications share. */}}
{{- define "calogan.serveConfig" -}}
proxy_location: EveryNode
http_options:
  host: 0.0.0.0
  port: 8000
applications:
{{- with .Values.serve.applications }}
  {{- toYaml . | nindent 2 }}
{{- else }}
  - name: calogan
    import_path: calogan.serving.app:build
    route_prefix: /
    args:
      model: {{ .Values.serve.model }}
      precisions: {{ toJson .Values.serve.precisions }}
      threads: {{ .Values.serve.cpus }}
      max_showers: {{ .Values.serve.maxShowers }}
      {{- if .Values.storage.enabled }}
      productions: {{ .Values.storage.mountPath }}/productions
      {{- end }}
      # A model may be registered after the service has started.
      wait_for_model: true
    deployments:
      - name: ShowerService
        # One replica on a worker: the death of a pod, or of its node, costs one replica.
        max_replicas_per_node: 1
        graceful_shutdown_timeout_s: {{ .Values.ray.drainSeconds }}
        autoscaling_config:
          min_replicas: {{ .Values.serve.minReplicas }}
          max_replicas: {{ .Values.serve.maxReplicas }}
          target_ongoing_requests: {{ .Values.serve.targetOngoingRequests }}
          upscale_delay_s: 5
          downscale_delay_s: {{ .Values.serve.downscaleDelaySeconds }}
{{- end }}
{{- end }}
