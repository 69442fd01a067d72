{{- define "roost.name" -}}
{{- if contains "roost" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-roost" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end -}}
{{- end }}

{{/* Labels of an object: (dict "root" $ "component" "gateway") */}}
{{- define "roost.labels" -}}
{{ include "roost.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: roost
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "roost.selector" -}}
app.kubernetes.io/name: roost
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "roost.image" -}}
{{ printf "%s/%s:%s" .root.Values.image.registry .image (default .root.Chart.AppVersion .root.Values.image.tag) }}
{{- end }}

{{- define "roost.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "roost.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{/* Where pods go: a component's own values. */}}
{{- define "roost.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "roost.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* A quantity in bytes, for comparing: the API server writes 1024Mi as 1Gi. */}}
{{- define "roost.bytes" -}}
{{- $unit := regexFind "[a-zA-Z]*$" . }}
{{- $binary := dict "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 "Ei" 1152921504606846976 }}
{{- $units := merge $binary (dict "" 1 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18) }}
{{- round (mulf (trimSuffix $unit . | float64) (get $units $unit)) 0 -}}
{{- end }}

{{/* Fails when the volume of the Redis that is there is not as the values say: Kubernetes refuses to change it, with a text
     that names neither the value nor the way. Without a cluster to ask (helm template) it says nothing. */}}
{{- define "roost.checkVolume" -}}
{{- $name := printf "%s-redis" (include "roost.name" .) }}
{{- $there := lookup "apps/v1" "StatefulSet" .Release.Namespace $name }}
{{- range (dig "spec" "volumeClaimTemplates" list ($there | default dict)) }}
{{- $was := dict "size" .spec.resources.requests.storage "storageClass" (.spec.storageClassName | default "") }}
{{- $wanted := $.Values.redis.persistence }}
{{- $grown := ne (include "roost.bytes" $was.size) (include "roost.bytes" $wanted.size) }}
{{- if or $grown (ne $was.storageClass $wanted.storageClass) }}
{{- fail (printf "redis.persistence: %s is installed with size %s and storageClass %q, and Kubernetes lets neither be changed; set them back. For more room: kubectl patch pvc data-%s-0 --namespace %s --patch '{\"spec\": {\"resources\": {\"requests\": {\"storage\": %q}}}}' && kubectl delete statefulset %s --namespace %s --cascade=orphan, then this again" $name $was.size $was.storageClass $name $.Release.Namespace $wanted.size $name $.Release.Namespace) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "roost.storeSecret" -}}
{{- if .Values.redis.enabled }}{{ include "roost.name" . }}-store{{ else }}{{ required "redis.external.existingSecret: name a Secret with the keys gateway-url, operator-url and worker-url, or set redis.enabled to true" .Values.redis.external.existingSecret }}{{ end -}}
{{- end }}

{{/* The Secret that the Job draws, and the one with the values' keys. Never one for both: Helm does not take over what
     is there without it, and deletes what it made. */}}
{{- define "roost.drawnApiKeys" -}}
{{ include "roost.name" . }}-api-keys
{{- end }}

{{- define "roost.givenApiKeys" -}}
{{ include "roost.name" . }}-given-api-keys
{{- end }}

{{- define "roost.apiKeysSecret" -}}
{{- if .Values.apiKeys.existingSecret }}{{ .Values.apiKeys.existingSecret }}{{ else if .Values.apiKeys.keys }}{{ include "roost.givenApiKeys" . }}{{ else }}{{ include "roost.drawnApiKeys" . }}{{ end -}}
{{- end }}

{{/* After an uninstall that was refused: Helm takes the release for one that is half gone (helm issue 9700). */}}
{{- define "roost.keepRelease" -}}
helm rollback {{ .Release.Name }} {{ .Release.Revision }} --namespace {{ .Release.Namespace }}
{{- end }}
