{{/* Labels of every object. No release name and no chart version: `warren install` makes the same objects. */}}
{{- define "warren.labels" -}}
app.kubernetes.io/name: warren
app.kubernetes.io/part-of: warren
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* By these pods are selected. Takes a component's name. */}}
{{- define "warren.selector" -}}
app.kubernetes.io/name: warren
app.kubernetes.io/component: {{ . }}
{{- end }}

{{- define "warren.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "warren.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Before 1.21 there is no policy/v1, before 1.22 no maxSurge of DaemonSets, before 1.30 no field for AppArmor. */}}
{{- define "warren.before" -}}
{{- if semverCompare (printf "<%s.0-0" .version) .root.Capabilities.KubeVersion.Version }}yes{{ end }}
{{- end }}
