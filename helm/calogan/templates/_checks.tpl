{{/* Combinations of values that cannot work; the schema checks each value by itself. */}}
{{- define "calogan.checks" -}}
{{- $values := .Values -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" (include "calogan.fullname" .)) -}}
{{- fail (printf "objects cannot be named %q: a name begins with a lower-case letter; set fullnameOverride" (include "calogan.fullname" .)) -}}
{{- end -}}
{{- if not $values.apiKey.existingSecret -}}
{{- fail (printf "apiKey.existingSecret is not set: the endpoint needs a key that its clients send; make one with `kubectl create secret generic calogan-api-key --from-literal=%s=\"$(openssl rand -hex 32)\"` and set apiKey.existingSecret=calogan-api-key" $values.apiKey.key) -}}
{{- end -}}
{{- if and $values.mlflow.enabled $values.mlflow.trackingUri -}}
{{- fail "mlflow.trackingUri is set, but so is mlflow.enabled: either leave the address empty, or set mlflow.enabled=false" -}}
{{- end -}}
{{- if not (or $values.mlflow.enabled $values.mlflow.trackingUri) -}}
{{- fail "mlflow.enabled is false and mlflow.trackingUri is empty: models come from MLflow; give the address of your server" -}}
{{- end -}}
{{- if and $values.networkPolicy.enabled (not $values.mlflow.enabled) (not $values.networkPolicy.extraEgress) -}}
{{- fail "the network policy keeps Ray from mlflow.trackingUri: allow the way there in networkPolicy.extraEgress" -}}
{{- end -}}
{{- if not (or $values.serviceAccount.create $values.serviceAccount.name) -}}
{{- fail "serviceAccount.create is false and serviceAccount.name is empty: name the ServiceAccount to use" -}}
{{- end -}}
{{- end }}
