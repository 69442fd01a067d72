{{/* A Job of `python -m roost_operator.install`: (dict "root" $ "name" NAME "arguments" LIST "hook" HOOK) */}}
{{- define "roost.installJob" -}}
{{- $root := .root }}
{{- $about := dict "root" $root "component" "install" }}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .name }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "roost.labels" $about | nindent 4 }}
  annotations:
    helm.sh/hook: {{ .hook }}
    helm.sh/hook-weight: "0"
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
    helm.sh/hook-output-log-policy: hook-failed
spec:
  backoffLimit: {{ .retries }}
  activeDeadlineSeconds: 300
  ttlSecondsAfterFinished: 600
  template:
    metadata:
      labels: {{- include "roost.labels" $about | nindent 8 }}
    spec:
      serviceAccountName: {{ .name }}
      restartPolicy: Never
      securityContext: {{- include "roost.podSecurity" $root | nindent 8 }}
      {{- include "roost.pullSecrets" $root | nindent 6 }}
      {{- include "roost.placement" $root.Values.operator | nindent 6 }}
      containers:
        - name: install
          image: {{ include "roost.image" (dict "root" $root "image" $root.Values.operator.image) }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          command: {{- append (initial $root.Values.operator.command) "roost_operator.install" | toYaml | nindent 12 }}
          args: {{- toYaml .arguments | nindent 12 }}
          terminationMessagePolicy: FallbackToLogsOnError
          securityContext: {{- include "roost.containerSecurity" $root | nindent 12 }}
          env:
            - name: POD_NAMESPACE
              valueFrom: { fieldRef: { fieldPath: metadata.namespace } }
            {{- with $root.Values.operator.env }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          resources: {{- toYaml $root.Values.operator.resources | nindent 12 }}
          volumeMounts:
            - { name: tmp, mountPath: /tmp }
            {{- with $root.Values.operator.volumeMounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
      volumes:
        - name: tmp
          emptyDir: { sizeLimit: 64Mi }
        {{- with $root.Values.operator.volumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
{{- end }}

{{/* The account of such a Job: (dict "root" $ "name" NAME "kind" Role|ClusterRole "rules" YAML "hook" HOOK) */}}
{{- define "roost.installAccount" -}}
{{- $root := .root }}
{{- $labels := include "roost.labels" (dict "root" $root "component" "install") }}
{{- $hook := printf "helm.sh/hook: %s\nhelm.sh/hook-weight: \"-1\"\nhelm.sh/hook-delete-policy: before-hook-creation,hook-succeeded" .hook }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ .name }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- $labels | nindent 4 }}
  annotations: {{- $hook | nindent 4 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ .kind }}
metadata:
  name: {{ .name }}
  {{- if eq .kind "Role" }}
  namespace: {{ $root.Release.Namespace }}
  {{- end }}
  labels: {{- $labels | nindent 4 }}
  annotations: {{- $hook | nindent 4 }}
rules: {{- .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ .kind }}Binding
metadata:
  name: {{ .name }}
  {{- if eq .kind "Role" }}
  namespace: {{ $root.Release.Namespace }}
  {{- end }}
  labels: {{- $labels | nindent 4 }}
  annotations: {{- $hook | nindent 4 }}
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: {{ .kind }}, name: {{ .name }} }
subjects:
  - { kind: ServiceAccount, name: {{ .name }}, namespace: {{ $root.Release.Namespace }} }
{{- end }}
