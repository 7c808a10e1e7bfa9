{{- /*
What a pool mounts beside its work directory and /tmp, as a list of pairs: a volume, and where it is mounted. One
list, so that no volume is without its mount. Takes the root, the pool's name and the pool; gives YAML.
*/}}
{{- define "ulos-stream.mounted" -}}
{{- $root := index . 0 }}
{{- $name := index . 1 }}
{{- $pool := index . 2 }}
{{- range $which, $ca := dict "broker-ca" $root.Values.broker.tls.ca "storage-ca" $root.Values.storage.ca }}
{{- if $ca.secret }}
- volume: {name: {{ $which }}, secret: {secretName: {{ $ca.secret }}}}
  at: /etc/ulos/{{ $which }}
{{- else if $ca.configMap }}
- volume: {name: {{ $which }}, configMap: {name: {{ $ca.configMap }}}}
  at: /etc/ulos/{{ $which }}
{{- end }}
{{- end }}
{{- with $root.Values.storage.sftp.knownHosts.configMap }}
- volume: {name: known-hosts, configMap: {name: {{ . }}}}
  at: /etc/ulos/known-hosts
{{- end }}
{{- with $root.Values.storage.sftp.privateKey.secret }}
- volume: {name: private-key, secret: {secretName: {{ . }}, defaultMode: 0440}}
  at: /etc/ulos/private-key
{{- end }}
{{- if eq $pool.engine.kind "remote" }}
- volume: {name: engine, secret: {secretName: {{ $pool.engine.remote.tlsSecret }}}}
  at: /etc/ulos/engine
{{- end }}
{{- range $executor, $_ := $pool.executors.inline }}
- volume: {name: executor-{{ $executor }}, configMap: {name: {{ include "ulos-stream.executorName" (list $root $name $executor) }}, defaultMode: 0555}}
  at: /etc/ulos/executors/{{ $executor }}
{{- end }}
{{- range $pool.executors.configMaps }}
- volume: {name: executor-{{ . }}, configMap: {name: {{ . }}, defaultMode: 0555}}
  at: /etc/ulos/executors/{{ . }}
{{- end }}
{{- end }}

{{- define "ulos-stream.volumes" -}}
{{- range include "ulos-stream.mounted" . | fromYamlArray }}
- {{ .volume | toJson }}
{{- end }}
{{- with (index . 2).extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "ulos-stream.mounts" -}}
{{- range include "ulos-stream.mounted" . | fromYamlArray }}
- {name: {{ .volume.name }}, mountPath: {{ .at }}, readOnly: true}
{{- end }}
{{- with (index . 2).extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}
