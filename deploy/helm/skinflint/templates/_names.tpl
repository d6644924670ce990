{{- define "skinflint.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- /* Room is left for "-" and a pod's number, and for the suffix of the headless service. */ -}}
{{- define "skinflint.fullname" -}}
{{- $name := include "skinflint.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "skinflint.selector" -}}
app.kubernetes.io/name: {{ include "skinflint.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "skinflint.labels" -}}
{{ include "skinflint.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "skinflint.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{- define "skinflint.readsKafka" -}}
{{- if eq "kafka" (dig "source" "kind" "" .Values.config) -}}true{{- end -}}
{{- end -}}

{{- /* What a pod needs to be reached and to save stands over what the values say. */ -}}
{{- define "skinflint.config" -}}
{{- $needed := dict
  "http" (dict "host" "0.0.0.0" "port" 9615 "allow_beyond_loopback" true)
  "state" (dict "directory" "/var/lib/skinflint/state") -}}
{{- mergeOverwrite (deepCopy .Values.config) $needed | toYaml -}}
{{- end -}}

{{- define "skinflint.refuse" -}}
{{- $several := or .Values.keda.enabled (gt (int .Values.replicas) 1) -}}
{{- if and $several (ne "kafka" (dig "state" "backend" "" .Values.config)) -}}
{{- fail "replicas, keda.enabled: with state on a local disk one process reads all partitions, and a second ends both; expected replicas: 1 without KEDA, or config.state.backend: kafka" -}}
{{- end -}}
{{- if and .Values.keda.enabled (not (include "skinflint.readsKafka" .)) -}}
{{- fail "keda.enabled: scales by the lag of a consumer group; expected config.source.kind: kafka" -}}
{{- end -}}
{{- end -}}
