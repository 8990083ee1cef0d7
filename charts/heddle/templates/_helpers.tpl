{{- define "heddle.labels" -}}
app.kubernetes.io/name: heddle
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: heddle
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end }}

{{- define "heddle.selector" -}}
app.kubernetes.io/name: heddle
app.kubernetes.io/component: control-plane
{{- end }}

{{/* An image by name: heddle.image (list $ "heddle-sidecar") */}}
{{- define "heddle.image" -}}
{{- $root := index . 0 }}
{{- $image := $root.Values.image }}
{{- with $image.registry }}{{ . | trimSuffix "/" }}/{{ end }}{{ index . 1 }}:{{ default $root.Chart.AppVersion $image.tag }}
{{- end }}

{{/* Namespaces whose pods are never touched: a cluster must be able to start without the mesh, and the mesh without itself. */}}
{{- define "heddle.otherNamespaces" -}}
- key: kubernetes.io/metadata.name
  operator: NotIn
  values:
    - kube-system
    - {{ .Release.Namespace }}
{{- end }}

{{/* The address that stands for all addresses of the pod. [::] takes IPv4 too. */}}
{{- define "heddle.any" -}}
{{- if has "IPv6" .Values.ipFamilies }}[::]{{ else }}0.0.0.0{{ end }}
{{- end }}
