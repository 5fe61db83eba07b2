{{- /* Every template below takes (dict "root" $ "name" COMPONENT …). */ -}}

{{- define "headwater.fullname" -}}
{{- $release := .root.Release.Name -}}
{{- $base := ternary $release (printf "%s-headwater" $release) (contains "headwater" $release) -}}
{{- printf "%s-%s" ($base | trunc 40 | trimSuffix "-") .name -}}
{{- end -}}

{{- define "headwater.selectorLabels" -}}
app.kubernetes.io/name: headwater
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .name }}
{{- end -}}

{{- define "headwater.labels" -}}
{{ include "headwater.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: headwater
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- /* Where a service is: every address behind the name, so that callers balance by themselves. */ -}}
{{- define "headwater.address" -}}
dns:///{{ include "headwater.fullname" . }}:50051
{{- end -}}

{{- define "headwater.shards" -}}
{{- $root := .root -}}
{{- $addresses := list -}}
{{- range $shard := until (int $root.Values.retrieval.shards) -}}
{{- $addresses = append $addresses (include "headwater.address" (dict "root" $root "name" (printf "retrieval-%d" $shard))) -}}
{{- end -}}
{{- $addresses | toJson -}}
{{- end -}}

{{- /* Where the bundled broker is, and says that it is; KEDA asks it from a namespace of its own. */ -}}
{{- define "headwater.kafka" -}}
{{ include "headwater.fullname" (dict "root" .root "name" "kafka") }}
{{- if .root.Values.ingestionWorker.keda.enabled }}.{{ .root.Release.Namespace }}.svc{{ end }}:9092
{{- end -}}

{{- define "headwater.bootstrapServers" -}}
{{- $bundled := include "headwater.kafka" . -}}
{{- if .root.Values.log.bootstrapServers -}}
{{ .root.Values.log.bootstrapServers }}
{{- else -}}
{{ .root.Values.kafka.enabled | ternary $bundled "" | required "log.bootstrapServers: name your brokers, or set kafka.enabled" }}
{{- end -}}
{{- end -}}

{{- define "headwater.image" -}}
{{ .root.Values.image.registry }}headwater-{{ .image }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end -}}

{{- /* What every process is told. */ -}}
{{- define "headwater.env.common" -}}
- {name: HEADWATER_TELEMETRY__LOG_LEVEL, value: {{ .root.Values.logLevel | quote }}}
{{- with .root.Values.otlpEndpoint }}
- {name: HEADWATER_TELEMETRY__OTLP_ENDPOINT, value: {{ . | quote }}}
{{- end }}
# Callers look for new replicas as often as their connections end; an ending pod waits until callers know.
- {name: HEADWATER_SERVER__MAX_CONNECTION_AGE_SECONDS, value: "30"}
- {name: HEADWATER_SERVER__DRAIN_PAUSE_SECONDS, value: {{ eq .name "ingestion-worker" | ternary "0" "5" | quote }}}
- {name: HEADWATER_SERVER__DRAIN_SECONDS, value: "30"}
{{- end -}}

{{- define "headwater.env.log" -}}
- {name: HEADWATER_LOG__KIND, value: kafka}
- {name: HEADWATER_LOG__BOOTSTRAP_SERVERS, value: {{ include "headwater.bootstrapServers" . | quote }}}
- {name: HEADWATER_LOG__SECURITY_PROTOCOL, value: {{ .root.Values.log.securityProtocol | quote }}}
{{- if hasPrefix "SASL" .root.Values.log.securityProtocol }}
- {name: HEADWATER_LOG__SASL_MECHANISM, value: {{ .root.Values.log.saslMechanism | quote }}}
{{- range $name, $key := dict "USERNAME" "username" "PASSWORD" "password" }}
- name: HEADWATER_LOG__SASL_{{ $name }}
  valueFrom:
    secretKeyRef:
      name: {{ $.root.Values.log.existingSecret | required "log.existingSecret: SASL needs a secret with username and password" }}
      key: {{ $key }}
{{- end }}
{{- end }}
{{- if hasSuffix "SSL" .root.Values.log.securityProtocol }}
- {name: HEADWATER_LOG__TLS_CA_PATH, value: /etc/headwater/log/ca.pem}
{{- end }}
{{- end -}}

{{- define "headwater.mounts.log" -}}
{{- if hasSuffix "SSL" .root.Values.log.securityProtocol }}
- {name: log-ca, mountPath: /etc/headwater/log, readOnly: true}
{{- end }}
{{- end -}}

{{- define "headwater.volumes.log" -}}
{{- if hasSuffix "SSL" .root.Values.log.securityProtocol }}
- name: log-ca
  secret:
    secretName: {{ .root.Values.log.existingSecret | required "log.existingSecret: SSL needs a secret with ca.pem" }}
    items: [{key: ca.pem, path: ca.pem}]
{{- end }}
{{- end -}}

{{- /* Pod security "restricted", and no right to ask the cluster anything. */ -}}
{{- define "headwater.podSecurity" -}}
serviceAccountName: {{ include "headwater.fullname" (dict "root" .root "name" "services") }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .uid | default 10001 }}
  runAsGroup: {{ .uid | default 10001 }}
  fsGroup: {{ .uid | default 10001 }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "headwater.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{- define "headwater.placement" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: {{ .root.Values.topologySpread.topologyKey }}
    whenUnsatisfiable: {{ .root.Values.topologySpread.whenUnsatisfiable }}
    labelSelector:
      matchLabels: {{- include "headwater.selectorLabels" . | nindent 8 }}
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* A service's container. A shard that catches up is alive and not ready. */ -}}
{{- define "headwater.container" -}}
- name: {{ .container }}
  image: {{ include "headwater.image" . }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  {{- with .args }}
  args: {{ toJson . }}
  {{- end }}
  env:
    {{- include "headwater.env.common" . | nindent 4 }}
    {{- if .log }}
    {{- include "headwater.env.log" . | nindent 4 }}
    {{- end }}
    {{- with .env }}
    {{- . | trim | nindent 4 }}
    {{- end }}
    {{- with .values.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    - {name: grpc, containerPort: {{ .grpc }}}
    - {name: metrics, containerPort: {{ .metrics }}}
  startupProbe:
    grpc: {port: {{ .grpc }}}
    periodSeconds: 2
    timeoutSeconds: 2
    failureThreshold: {{ .startupFailures | default 150 }}
  readinessProbe:
    grpc: {port: {{ .grpc }}}
    periodSeconds: 5
    timeoutSeconds: 2
    failureThreshold: 2
  livenessProbe:
    httpGet: {path: /live, port: metrics}
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 6
  resources: {{- toYaml .values.resources | nindent 4 }}
  {{- include "headwater.containerSecurity" . | nindent 2 }}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
    {{- if .log }}
    {{- include "headwater.mounts.log" . | nindent 4 }}
    {{- end }}
    {{- with .mounts }}
    {{- . | trim | nindent 4 }}
    {{- end }}
{{- end -}}
