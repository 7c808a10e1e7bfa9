{{- /* The beginning of the names of objects: at most 40 characters, so that a pool's name fits behind it. */}}
{{- define "ulos-stream.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- $full := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) }}
{{- default $full .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- /* What selects pods, of all pools: it can never be changed. */}}
{{- define "ulos-stream.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "ulos-stream.labels" -}}
{{ include "ulos-stream.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* What selects the pods of one pool. Takes the root and the pool's name. */}}
{{- define "ulos-stream.poolSelector" -}}
{{ include "ulos-stream.selector" (index . 0) }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- /* Labels of the objects of one pool. Takes the root and the pool's name. */}}
{{- define "ulos-stream.poolLabels" -}}
{{ include "ulos-stream.labels" (index . 0) }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "ulos-stream.image" -}}
{{- with .Values.image }}
{{- .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ default $.Chart.AppVersion .tag }}{{ end }}
{{- end }}
{{- end }}

{{- define "ulos-stream.serviceAccountName" -}}
{{- default (.Values.serviceAccount.create | ternary (include "ulos-stream.fullname" .) "default") .Values.serviceAccount.name }}
{{- end }}

{{- /* The name of the Secret with the credentials of `broker` or `storage`. Takes the root and that word. */}}
{{- define "ulos-stream.secretName" -}}
{{- $root := index . 0 }}
{{- default (printf "%s-%s" (include "ulos-stream.fullname" $root) (index . 1)) (index $root.Values (index . 1)).existingSecret }}
{{- end }}

{{- /* Whether nodes need credentials for `broker` or `storage`: not in a folder, nor where a cloud's role lets them into a bucket. */}}
{{- define "ulos-stream.hasCredentials" -}}
{{- $root := index . 0 }}
{{- $own := index $root.Values (index . 1) }}
{{- if or (eq (index . 1) "broker") (regexMatch "^s?ftp" $root.Values.storage.url) (and (hasPrefix "s3:" $root.Values.storage.url) (or $own.existingSecret $own.username)) }}true{{ end }}
{{- end }}

{{- /* The name of the ConfigMap of an executor that the values hold. Takes the root, the pool's and the executor's name. */}}
{{- define "ulos-stream.executorName" -}}
{{- printf "%s-%s-%s" (include "ulos-stream.fullname" (index . 0)) (index . 1) (index . 2) | trunc 63 | trimSuffix "-" }}
{{- end }}
