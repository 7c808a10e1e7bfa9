{{- /*
One pool: its own values over `poolDefaults`, checked, with `grace` (seconds until it is killed). As YAML.
Takes the root and the pool's name.
*/}}
{{- define "ulos-stream.pool" -}}
{{- $root := index . 0 }}
{{- $name := index . 1 }}
{{- $own := index $root.Values.pools $name | default dict }}
{{- $pool := mergeOverwrite (deepCopy $root.Values.poolDefaults) (deepCopy $own) }}
{{- $at := printf "pools.%s" $name }}
{{- $timeout := int $pool.taskTimeoutSeconds }}

{{- if not $pool.queue }}
{{- fail (printf "%s.queue: name the queue that this pool consumes" $at) }}
{{- end }}

{{- if and (ne $pool.scaling.kind "fixed") (eq (int $pool.prefetch) 0) }}
{{- fail (printf "%s.prefetch is 0, so nobody knows how much one node takes, and nothing can scale: set it, or scaling.kind to fixed" $at) }}
{{- end }}
{{- if gt (int $pool.scaling.min) (int $pool.scaling.max) }}
{{- fail (printf "%s.scaling: min (%d) is more than max (%d)" $at (int $pool.scaling.min) (int $pool.scaling.max)) }}
{{- end }}
{{- if and (eq $pool.scaling.kind "hpa") (eq (int $pool.scaling.min) 0) }}
{{- fail (printf "%s.scaling.min is 0: without a node there is no processor time to go by; set it to 1, or scaling.kind to keda" $at) }}
{{- end }}
{{- if and (eq $pool.scaling.kind "hpa") (not (($pool.resources).requests).cpu) }}
{{- fail (printf "%s.resources.requests.cpu is not set: scaling by processor time is by a share of it" $at) }}
{{- end }}
{{- if and (eq $pool.scaling.kind "keda") (not $root.Values.broker.managementUrl) }}
{{- fail (printf "%s.scaling.kind is keda, which asks RabbitMQ's management API: set broker.managementUrl" $at) }}
{{- end }}

{{- $needed := add $timeout $pool.drainSeconds $pool.stopSeconds }}
{{- $grace := int (default $needed $pool.terminationGracePeriodSeconds) }}
{{- if lt $grace (int $needed) }}
{{- fail (printf "%s.terminationGracePeriodSeconds is %d, but a stage may need %d (taskTimeoutSeconds %d + drainSeconds %d + stopSeconds %d): leave it out, or lower those" $at $grace $needed $timeout (int $pool.drainSeconds) (int $pool.stopSeconds)) }}
{{- end }}
{{- $held := add $timeout $pool.faultBudgetSeconds }}
{{- if gt $held (int64 $root.Values.broker.deliveryTimeoutSeconds) }}
{{- fail (printf "%s: taskTimeoutSeconds %d + faultBudgetSeconds %d is more than broker.deliveryTimeoutSeconds %d, after which RabbitMQ takes the message away from a node at work: raise its consumer_timeout and that value, or lower the others" $at $timeout (int $pool.faultBudgetSeconds) (int $root.Values.broker.deliveryTimeoutSeconds)) }}
{{- end }}

{{- if and (hasPrefix "sftp:" $root.Values.storage.url) (not $root.Values.storage.sftp.knownHosts.configMap) }}
{{- fail "storage.sftp.knownHosts.configMap: name the ConfigMap with the server's host key (ssh-keyscan writes it); an unknown server is not trusted" }}
{{- end }}
{{- if eq $pool.engine.kind "none" }}
{{- $containers := $root.Files.Get "containers.txt" | splitList "\n" }}
{{- $keys := $pool.executors.require }}
{{- range $pool.binds }}
{{- $keys = append $keys .routingKey }}
{{- end }}
{{- range $executor, $files := $pool.executors.inline }}
{{- if eq (get (index $files "executor.toml" | fromToml) "kind" | toString) "container" }}
{{- $containers = append $containers $executor }}
{{- $keys = append $keys $executor }}
{{- end }}
{{- end }}
{{- range $key := $keys }}
{{- if has $key $containers }}
{{- fail (printf "%s: %s is a container, and this pool has no engine to run it on: set engine.kind to remote or jobs" $at $key) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $executor, $files := $pool.executors.inline }}
{{- $descriptor := index $files "executor.toml" | default "" | fromToml }}
{{- if $descriptor.Error }}
{{- fail (printf "%s.executors.inline.%s: its executor.toml is no TOML: %s" $at $executor $descriptor.Error) }}
{{- end }}
{{- if gt (float64 ($descriptor.stop_s | default 0)) (float64 $pool.stopSeconds) }}
{{- fail (printf "%s.stopSeconds is %d, but the machine of %s gets %v seconds to come to rest (stop_s): set it to that" $at (int $pool.stopSeconds) $executor $descriptor.stop_s) }}
{{- end }}
{{- end }}
{{- if eq $pool.engine.kind "remote" }}
{{- if not (and $pool.engine.remote.host $pool.engine.remote.tlsSecret) }}
{{- fail (printf "%s.engine.remote: set host and tlsSecret; an engine without TLS gives its machine to whoever reaches it" $at) }}
{{- end }}
{{- end }}

{{- toYaml (set $pool "grace" $grace) }}
{{- end }}
