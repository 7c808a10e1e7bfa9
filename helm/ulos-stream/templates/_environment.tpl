{{- /* The environment of a node, as a list of EnvVar. Takes the root and the pool. */}}
{{- define "ulos-stream.environment" -}}
{{- $root := index . 0 }}
{{- $pool := index . 1 }}
{{- with $root.Values.broker }}
- name: MESSAGE_BROKER_HOST
  value: {{ required "broker.host: name the RabbitMQ server" .host | quote }}
- name: MESSAGE_BROKER_PORT
  value: {{ .port | quote }}
- name: MESSAGE_BROKER_USERNAME
  valueFrom:
    secretKeyRef:
      name: {{ include "ulos-stream.secretName" (list $root "broker") }}
      key: {{ .usernameKey }}
- name: MESSAGE_BROKER_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "ulos-stream.secretName" (list $root "broker") }}
      key: {{ .passwordKey }}
- name: MESSAGE_BROKER_LOGS_EXCHANGE
  value: {{ .logs.exchange | quote }}
- name: MESSAGE_BROKER_LOGS_ROUTING_KEY
  value: {{ .logs.routingKey | quote }}
- name: MESSAGE_BROKER_CRASH_EXCHANGE
  value: {{ .crash.exchange | quote }}
- name: MESSAGE_BROKER_CRASH_ROUTING_KEY
  value: {{ .crash.routingKey | quote }}
- name: MESSAGE_BROKER_CONSUMPTION_QUEUE
  value: {{ $pool.queue | quote }}
- name: MESSAGE_BROKER_PREFETCH_COUNT
  value: {{ $pool.prefetch | quote }}
- name: MESSAGE_BROKER_REQUEUE_ON_REJECT
  value: {{ .requeueOnReject | quote }}
- name: ULOS_VIRTUAL_HOST
  value: {{ .virtualHost | quote }}
- name: ULOS_DELIVERY_TIMEOUT_S
  value: {{ int .deliveryTimeoutSeconds | quote }}
- name: ULOS_BROKER_TLS
  value: {{ .tls.enabled | quote }}
{{- if or .tls.ca.secret .tls.ca.configMap }}
- name: ULOS_BROKER_CA_FILE
  value: /etc/ulos/broker-ca/{{ .tls.ca.key }}
{{- end }}
{{- with .managementUrl }}
- name: ULOS_MANAGEMENT_URL
  value: {{ . | quote }}
{{- end }}
{{- end }}
{{- with $root.Values.storage }}
- name: ULOS_STORAGE_URL
  value: {{ .url | quote }}
{{- if regexMatch "^s?ftp" .url }}
- name: REMOTE_STORAGE_HOST
  value: {{ required "storage.host: name the server" .host | quote }}
- name: REMOTE_STORAGE_PORT
  value: {{ .port | quote }}
{{- end }}
{{- if include "ulos-stream.hasCredentials" (list $root "storage") }}
- name: REMOTE_STORAGE_USERNAME
  valueFrom:
    secretKeyRef:
      name: {{ include "ulos-stream.secretName" (list $root "storage") }}
      key: {{ .usernameKey }}
- name: REMOTE_STORAGE_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "ulos-stream.secretName" (list $root "storage") }}
      key: {{ .passwordKey }}
{{- end }}
{{- if or .ca.secret .ca.configMap }}
- name: ULOS_STORAGE_CA_FILE
  value: /etc/ulos/storage-ca/{{ .ca.key }}
{{- end }}
{{- if .sftp.knownHosts.configMap }}
- name: ULOS_STORAGE_KNOWN_HOSTS
  value: /etc/ulos/known-hosts/{{ .sftp.knownHosts.key }}
{{- end }}
{{- if .sftp.privateKey.secret }}
- name: ULOS_STORAGE_PRIVATE_KEY_FILE
  value: /etc/ulos/private-key/{{ .sftp.privateKey.key }}
{{- end }}
{{- end }}
{{- with $root.Values.journal }}
{{- if .existingSecret }}
- name: ULOS_JOURNAL_KEY
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .key }}
{{- end }}
{{- end }}
- name: ULOS_NODE
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: ULOS_MAX_TIMEOUT_S
  value: {{ int $pool.taskTimeoutSeconds | quote }}
- name: ULOS_FAULT_BUDGET_S
  value: {{ int $pool.faultBudgetSeconds | quote }}
{{- /* The pod's grace without what comes after it: machines come to rest, and 10 s for the node's own end. */}}
- name: ULOS_GRACE_S
  value: {{ sub (int $pool.grace) (add $pool.stopSeconds 10) | quote }}
- name: ULOS_WORK_DIR
  value: /work
- name: ULOS_HTTP_PORT
  value: {{ $root.Values.http.port | quote }}
- name: ULOS_HTTP_HOST
  value: {{ $root.Values.http.host | quote }}
- name: ULOS_LOG_LEVEL
  value: {{ $root.Values.telemetry.logLevel }}
{{- with $root.Values.telemetry.otlpEndpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- $folders := $pool.executors.folders }}
{{- if or $pool.executors.inline $pool.executors.configMaps }}
{{- $folders = append $folders "/etc/ulos/executors" }}
{{- end }}
{{- with $folders }}
- name: ULOS_EXECUTORS_PATH
  value: {{ join ":" . | quote }}
{{- end }}
{{- with $pool.executors.require }}
- name: ULOS_REQUIRE_EXECUTORS
  value: {{ join "," . | quote }}
{{- end }}
{{- if eq $pool.engine.kind "remote" }}
- name: DOCKER_HOST
  value: {{ $pool.engine.remote.host | quote }}
- name: DOCKER_TLS_VERIFY
  value: "1"
- name: DOCKER_CERT_PATH
  value: /etc/ulos/engine
{{- end }}
{{- if eq $pool.engine.kind "jobs" }}
{{- with $pool.engine.jobs }}
- name: ULOS_ENGINE
  value: kubernetes
- name: ULOS_KUBERNETES_NAMESPACE
  value: {{ default $root.Release.Namespace .namespace | quote }}
- name: ULOS_KUBERNETES_CARRIER_IMAGE
  value: {{ include "ulos-stream.image" $root | quote }}
{{- with .registry }}
- name: ULOS_KUBERNETES_REGISTRY
  value: {{ . | quote }}
{{- end }}
- name: ULOS_KUBERNETES_POD_SECURITY
  value: {{ .podSecurity }}
- name: ULOS_KUBERNETES_USER_NAMESPACES
  value: {{ .userNamespaces | quote }}
- name: ULOS_KUBERNETES_START_S
  value: {{ int .startSeconds | quote }}
{{- if eq (default $root.Release.Namespace .namespace) $root.Release.Namespace }}
{{- /* Jobs go with the pod they belong to. An owner in another namespace does not count as there: they would go at once. */}}
- name: ULOS_KUBERNETES_POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: ULOS_KUBERNETES_POD_UID
  valueFrom:
    fieldRef:
      fieldPath: metadata.uid
{{- end }}
{{- end }}
{{- end }}
{{- range $name, $value := $pool.env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- with $pool.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}
