{{/* Combinations of values that cannot work; the schema checks each value by itself. */}}
{{- define "calogan.checks" -}}
{{- $values := .Values -}}
{{- $moved := dict "replicas" "serve.minReplicas and serve.maxReplicas" "cpuFeatures" "cpu.require" "resources" "serve.cpus and serve.memory" -}}
{{- range $old, $new := $moved -}}
{{- if hasKey $values.ray.worker $old -}}
{{- fail (printf "ray.worker.%s is no longer a value: set %s instead" $old $new) -}}
{{- end -}}
{{- end -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" (include "calogan.fullname" .)) -}}
{{- fail (printf "objects cannot be named %q: a name begins with a lower-case letter; set fullnameOverride" (include "calogan.fullname" .)) -}}
{{- end -}}
{{- if lt (int $values.serve.maxReplicas) (int $values.serve.minReplicas) -}}
{{- fail (printf "serve.maxReplicas is %v, fewer than serve.minReplicas, %v: set both" $values.serve.maxReplicas $values.serve.minReplicas) -}}
{{- end -}}
{{- if lt (int $values.ray.worker.maxWorkers) (int $values.serve.maxReplicas) -}}
{{- fail (printf "ray.worker.maxWorkers is %v, fewer than serve.maxReplicas, %v: each replica needs a worker" $values.ray.worker.maxWorkers $values.serve.maxReplicas) -}}
{{- end -}}
{{- if and $values.mlflow.enabled $values.mlflow.trackingUri -}}
{{- fail "mlflow.trackingUri is set, but so is mlflow.enabled: either leave the address empty, or set mlflow.enabled=false" -}}
{{- end -}}
{{- if not (or $values.mlflow.enabled $values.mlflow.trackingUri) -}}
{{- fail "mlflow.enabled is false and mlflow.trackingUri is empty: models come from MLflow; give the address of your server" -}}
{{- end -}}
{{- if and $values.networkPolicy.enabled (not $values.networkPolicy.extraEgress) -}}
{{- if not $values.mlflow.enabled -}}
{{- fail "the network policy keeps Ray from mlflow.trackingUri: allow the way there in networkPolicy.extraEgress" -}}
{{- end -}}
{{- if $values.redis.address -}}
{{- fail "the network policy keeps Ray from redis.address: allow the way there in networkPolicy.extraEgress" -}}
{{- end -}}
{{- end -}}
{{- with $values.mlflow -}}
{{- if and .enabled $values.networkPolicy.enabled (or .database.existingSecret .artifacts.uri) (not $values.networkPolicy.mlflowEgress) -}}
{{- fail "the network policy keeps MLflow from its database or artifacts: allow the way there in networkPolicy.mlflowEgress" -}}
{{- end -}}
{{- if and (not .artifacts.uri) (or .artifacts.endpoint .artifacts.existingSecret) -}}
{{- fail "mlflow.artifacts.uri is empty: give the bucket, for example s3://calogan/mlflow" -}}
{{- end -}}
{{- if and (not .enabled) .login.enabled (not .login.existingSecret) -}}
{{- fail "mlflow.login.existingSecret is empty: name the Secret with username and password of your MLflow server" -}}
{{- end -}}
{{- end -}}
{{- if and $values.redis.enabled $values.redis.address -}}
{{- fail "redis.address is set, but so is redis.enabled: either leave the address empty, or set redis.enabled=false" -}}
{{- end -}}
{{- if and $values.storage.existingClaim $values.storage.hostPath -}}
{{- fail "storage.existingClaim and storage.hostPath are both set: choose one" -}}
{{- end -}}
{{- if and $values.jobs (not $values.storage.enabled) -}}
{{- fail "jobs need a volume that all their pods share: set storage.enabled=true" -}}
{{- end -}}
{{- if and $values.ingress.enabled (not $values.ingress.host) -}}
{{- fail "ingress.host is empty: give the host name of the endpoint" -}}
{{- end -}}
{{- if and $values.httpRoute.enabled (not $values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.parentRefs is empty: name the Gateway, for example [{name: gateway, namespace: gateways}]" -}}
{{- end -}}
{{- if not (or $values.serviceAccount.create $values.serviceAccount.name) -}}
{{- fail "serviceAccount.create is false and serviceAccount.name is empty: name the ServiceAccount to use" -}}
{{- end -}}
{{- end }}
