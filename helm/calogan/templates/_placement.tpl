{{/*
Affinity of workers. Nodes with AMX are preferred to those with VNNI, and these to all others, by the labels of Node
Feature Discovery; without labels, nodes are equal.
*/}}
{{- define "calogan.workerAffinity" -}}
{{- $amx := "feature.node.kubernetes.io/cpu-cpuid.AMXINT8" -}}
{{- $vnni := "feature.node.kubernetes.io/cpu-cpuid.AVX512VNNI" -}}
{{- $required := dict "amx" (list $amx) "vnni" (list $vnni) "any" (list $amx $vnni) "none" list -}}
nodeAffinity:
  {{- with get $required .Values.cpu.require }}
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
    - weight: 50
      preference:
        matchExpressions:
          - {key: {{ $vnni }}, operator: Exists}
{{- with .Values.ray.worker.affinity }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Workers on as many nodes, and in as many zones, as there are. */}}
{{- define "calogan.spread" -}}
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- maxSkew: 1
  topologyKey: {{ . }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "calogan.podLabels" (list $ "ray") | nindent 6 }}
      ray.io/node-type: worker
{{- end }}
{{- end }}
