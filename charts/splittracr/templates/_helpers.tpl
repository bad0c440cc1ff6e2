{{- define "splittracr.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- $full := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- .Values.fullnameOverride | default $full | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "splittracr.operator" -}}
{{ include "splittracr.fullname" . }}-operator
{{- end -}}

{{- define "splittracr.sensor" -}}
{{ include "splittracr.fullname" . }}-sensor
{{- end -}}

{{- define "splittracr.sensorSelector" -}}
app.kubernetes.io/name: {{ include "splittracr.sensor" . }}
{{- end -}}

{{/* Labels of the sensors' objects: those of the operator's with another name. */}}
{{- define "splittracr.sensorLabels" -}}
{{- toYaml (merge (include "splittracr.sensorSelector" . | fromYaml) (include "splittracr.labels" . | fromYaml)) -}}
{{- end -}}

{{- define "splittracr.namespace" -}}
{{ .Values.namespaceOverride | default .Release.Namespace }}
{{- end -}}

{{/* Name of an object outside of the release's namespace: unique, as no namespace has a colon. */}}
{{- define "splittracr.outerName" -}}
{{ include "splittracr.namespace" . }}:{{ include "splittracr.operator" . }}
{{- end -}}

{{/* Selects the operator's pod. Immutable in a Deployment: it never changes from version to version. */}}
{{- define "splittracr.selector" -}}
app.kubernetes.io/name: {{ include "splittracr.operator" . }}
{{- end -}}

{{- define "splittracr.labels" -}}
{{- $own := dict
  "app.kubernetes.io/name" (include "splittracr.operator" .)
  "app.kubernetes.io/instance" .Release.Name
  "app.kubernetes.io/version" (.Chart.AppVersion | replace "+" "_")
  "app.kubernetes.io/part-of" "splittracr"
  "app.kubernetes.io/managed-by" .Release.Service
  "helm.sh/chart" (printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_")) -}}
{{- toYaml (merge $own .Values.commonLabels) -}}
{{- end -}}

{{/* Reference of an image: (dict "root" $ "image" .Values.image). */}}
{{- define "splittracr.image" -}}
{{- $parts := splitList "/" .image.repository -}}
{{- $host := "" -}}
{{- if and (gt (len $parts) 1) (regexMatch "[.:]|^localhost$" (first $parts)) -}}
  {{- $host = first $parts -}}
  {{- $parts = rest $parts -}}
{{- end -}}
{{- $registry := coalesce .root.Values.global.imageRegistry .image.registry $host "" -}}
{{- with $registry }}{{ . }}/{{ end -}}
{{- join "/" $parts -}}
{{- with .image.digest }}@{{ . }}{{ else }}:{{ $.image.tag | default $.root.Chart.AppVersion }}{{ end -}}
{{- end -}}

{{/* Names of the pull secrets, as a list in JSON. */}}
{{- define "splittracr.pullSecrets" -}}
{{- $names := list -}}
{{- range .Values.global.imagePullSecrets -}}
  {{- if kindIs "string" . -}}
    {{- $names = append $names . -}}
  {{- else -}}
    {{- $names = append $names .name -}}
  {{- end -}}
{{- end -}}
{{- toJson $names -}}
{{- end -}}

{{- define "splittracr.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (include "splittracr.operator" .) }}
{{- end -}}

{{- define "splittracr.keySecret" -}}
{{ .Values.existingKeySecret | default (printf "%s-key" (include "splittracr.operator" .)) }}
{{- end -}}

{{- define "splittracr.claim" -}}
{{ .Values.persistence.existingClaim | default (printf "%s-results" (include "splittracr.fullname" .)) }}
{{- end -}}

{{- define "splittracr.podSecurityContext" -}}
{{- toYaml (.Values.openshift.enabled | ternary (omit .Values.podSecurityContext "runAsUser" "runAsGroup" "fsGroup") .Values.podSecurityContext) -}}
{{- end -}}

{{- define "splittracr.securityContext" -}}
{{- toYaml (.Values.openshift.enabled | ternary (omit .Values.securityContext "runAsUser" "runAsGroup") .Values.securityContext) -}}
{{- end -}}

{{/* "true" if pods carry scrape annotations. */}}
{{- define "splittracr.scrapeAnnotations" -}}
{{- $service := include "splittracr.rendered" (dict "root" . "kind" "ServiceMonitor" "value" "serviceMonitor") -}}
{{- $pod := include "splittracr.rendered" (dict "root" . "kind" "PodMonitor" "value" "podMonitor") -}}
{{- if not (or $service $pod) -}}true{{- end -}}
{{- end -}}

{{- define "splittracr.podAnnotations" -}}
{{- $own := dict "checksum/config" (include "splittracr.config" . | sha256sum) -}}
{{- if include "splittracr.scrapeAnnotations" . -}}
  {{- $scrape := dict "prometheus.io/scrape" "true" "prometheus.io/port" (toString .Values.port) "prometheus.io/path" "/metrics" -}}
  {{- $own = merge $own $scrape -}}
{{- end -}}
{{- toYaml (merge $own .Values.podAnnotations) -}}
{{- end -}}

{{/* "true" if an object of the Prometheus operator is to be rendered: (dict "root" $ "kind" "PodMonitor" "value" "podMonitor"). */}}
{{- define "splittracr.rendered" -}}
{{- $value := get .root.Values .value -}}
{{- $there := .root.Capabilities.APIVersions.Has (printf "monitoring.coreos.com/v1/%s" .kind) -}}
{{- if $value.enabled -}}
  {{- if or $there (eq $value.renderMode "alwaysRender") -}}
true
  {{- else if eq $value.renderMode "failIfMissing" -}}
    {{- fail (printf "The cluster has no kind %s (monitoring.coreos.com/v1): install the Prometheus operator's CustomResourceDefinitions, or set %s.renderMode to skipIfMissing." .kind .value) -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/*
"true" if `lookup` asks a cluster; it finds nothing in `helm template` and in a dry run of the client.
With rbac.scoped, look up only namespaced objects: the user may lack cluster-wide rights.
*/}}
{{- define "splittracr.reachable" -}}
{{- if lookup "v1" "ServiceAccount" (include "splittracr.namespace" .) "default" -}}
true
{{- else if not .Values.rbac.scoped -}}
  {{- if lookup "v1" "Namespace" "" "kube-system" -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{/* Requests that cannot work fail before anything is installed. */}}
{{- define "splittracr.validate" -}}
{{- if and .Values.rbac.scoped (not .Values.watchNamespaces) -}}
  {{- fail "rbac.scoped needs watchNamespaces: name the namespaces whose studies the operator runs." -}}
{{- end -}}
{{- if eq (int .Values.port) (int .Values.resultsPort) -}}
  {{- fail "port and resultsPort are the same: give the results store a port of its own." -}}
{{- end -}}
{{- with .Values.results.join -}}
  {{- if and .type (not .host) -}}
    {{- fail "results.join.type needs results.join.host: name the address under which edges reach the Service." -}}
  {{- end -}}
  {{- if and (eq .type "NodePort") (not .nodePort) -}}
    {{- fail "results.join.type NodePort needs results.join.nodePort: name a free port of the nodes, such as 30443." -}}
  {{- end -}}
{{- end -}}
{{- if not (or .Values.serviceAccount.create .Values.serviceAccount.name) -}}
  {{- fail "serviceAccount.create=false needs serviceAccount.name: name the ServiceAccount that the operator uses." -}}
{{- end -}}
{{- $namespace := include "splittracr.namespace" . -}}
{{- if include "splittracr.reachable" . -}}
  {{- if not .Values.rbac.scoped -}}
    {{- range .Values.watchNamespaces -}}
      {{- if not (lookup "v1" "Namespace" "" .) -}}
        {{- fail (printf "watchNamespaces names the namespace %s, which is missing: create it first." .) -}}
      {{- end -}}
    {{- end -}}
  {{- end -}}
  {{- with .Values.existingKeySecret -}}
    {{- if not (lookup "v1" "Secret" $namespace .) -}}
      {{- fail (printf "existingKeySecret names the Secret %s, which is missing in namespace %s: create it, or leave the value empty." . $namespace) -}}
    {{- end -}}
  {{- end -}}
  {{- with .Values.persistence -}}
    {{- if and .enabled .existingClaim -}}
      {{- if not (lookup "v1" "PersistentVolumeClaim" $namespace .existingClaim) -}}
        {{- fail (printf "persistence.existingClaim names the claim %s, which is missing in namespace %s: create it, or leave the value empty." .existingClaim $namespace) -}}
      {{- end -}}
    {{- else if and .enabled (not .storageClass) (not $.Values.rbac.scoped) -}}
      {{- if not (lookup "v1" "PersistentVolumeClaim" $namespace (include "splittracr.claim" $)) -}}
        {{- include "splittracr.defaultStorageClass" $ -}}
      {{- end -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* Fails without a default StorageClass. */}}
{{- define "splittracr.defaultStorageClass" -}}
{{- $found := false -}}
{{- range (lookup "storage.k8s.io/v1" "StorageClass" "" "").items -}}
  {{- range $key, $value := .metadata.annotations -}}
    {{- if and (has $key (list "storageclass.kubernetes.io/is-default-class" "storageclass.beta.kubernetes.io/is-default-class")) (eq $value "true") -}}
      {{- $found = true -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- if not $found -}}
  {{- fail "The cluster has no default StorageClass for the results: set persistence.storageClass or persistence.existingClaim, or persistence.enabled=false to lose results with the operator's pod." -}}
{{- end -}}
{{- end -}}

{{- define "splittracr.imagePullSecrets" -}}
{{- with include "splittracr.pullSecrets" . | fromJsonArray -}}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Defaults of worker pods: (dict "root" $ "worker" .Values.edge). */}}
{{- define "splittracr.worker" -}}
{{- $worker := .worker -}}
image: {{ include "splittracr.image" (dict "root" .root "image" $worker.image) }}
imagePullPolicy: {{ $worker.image.pullPolicy }}
{{- with $worker.liteImage }}
liteImage: {{ . | quote }}
{{- end }}
{{- with include "splittracr.pullSecrets" .root | fromJsonArray }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $worker.resources }}
resources:
{{- range $kind, $quantities := . }}
  {{ $kind }}:
  {{- range $name, $quantity := $quantities }}
    {{ $name }}: {{ toString $quantity | quote }}
  {{- end }}
{{- end }}
{{- end }}
{{- range $key := list "nodeSelector" "tolerations" "affinity" "runtimeClassName" "priorityClassName" "weightCache" "journal" }}
{{- with get $worker $key }}
{{ $key }}: {{- kindIs "string" . | ternary (printf " %s" (toYaml .)) (toYaml . | nindent 2) }}
{{- end }}
{{- end }}
{{- with $worker.tolerationSeconds }}
tolerationSeconds: {{ int64 . }}
{{- end }}
{{- with $worker.podLabels }}
labels: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $worker.podAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "splittracr.config" -}}
service: {{ include "splittracr.operator" . }}
podLabels: {{- include "splittracr.selector" . | nindent 2 }}
keySecret: {{ include "splittracr.keySecret" . }}
port: {{ .Values.port }}
resultsPort: {{ .Values.resultsPort }}
{{- with .Values.results.join }}
{{- if .type }}
{{- $port := eq .type "NodePort" | ternary .nodePort $.Values.resultsPort }}
joinAddress: {{ printf "%s:%d" .host (int $port) | quote }}
{{- end }}
{{- end }}
clientCertificates: {{ .Values.results.clientCertificates }}
watchNamespaces: {{ toJson .Values.watchNamespaces }}
keepDeletedDays: {{ .Values.results.keepDeletedDays }}
pollSeconds: {{ .Values.pollSeconds }}
resyncSeconds: {{ .Values.resyncSeconds }}
fixedUserIds: {{ not .Values.openshift.enabled }}
networkPolicy:
  enabled: {{ .Values.networkPolicy.enabled }}
{{- with .Values.monitoring }}
{{- if .enabled }}
monitoring:
  namespaceSelector: {{ toJson .namespaceSelector }}
  podSelector: {{ toJson .podSelector }}
{{- end }}
{{- end }}
scrapeAnnotations: {{ include "splittracr.scrapeAnnotations" . | default "false" }}
{{- if .Values.sensor.enabled }}
sensor:
  service: {{ include "splittracr.sensor" . }}
  port: {{ .Values.sensor.port }}
  podLabels: {{- include "splittracr.sensorSelector" . | nindent 4 }}
{{- end }}
edge: {{- include "splittracr.worker" (dict "root" . "worker" .Values.edge) | nindent 2 }}
server: {{- include "splittracr.worker" (dict "root" . "worker" .Values.server) | nindent 2 }}
{{- end -}}

{{/* Peer of a NetworkPolicy: the pods of studies, in the namespaces that the operator watches. */}}
{{- define "splittracr.workers" -}}
{{- with .Values.watchNamespaces -}}
namespaceSelector:
  matchExpressions:
    - key: kubernetes.io/metadata.name
      operator: In
      values: {{- toYaml . | nindent 8 }}
{{- else -}}
namespaceSelector: {}
{{- end }}
podSelector:
  matchLabels:
    app.kubernetes.io/name: splittracr
    app.kubernetes.io/managed-by: splittracr-operator
{{- end -}}

{{/* The same for edges only. */}}
{{- define "splittracr.edges" -}}
{{- include "splittracr.workers" . }}
    splittracr.io/role: edge
{{- end -}}

{{/* Labels of the pods of `helm test`. */}}
{{- define "splittracr.testLabels" -}}
app.kubernetes.io/name: {{ include "splittracr.fullname" . }}-test
{{- end -}}
