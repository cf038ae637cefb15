# What everything that the chart renders must keep to, for any engine of Rego v1. Input: the list of all objects. Answer:
# data.tidegate.security.deny, a set of sentences, empty where all is well.
package tidegate.security

import rego.v1

workloads contains w if {
	some w in input
	w.kind in {"Deployment", "StatefulSet", "DaemonSet", "Job"}
}

name(it) := sprintf("%s/%s", [it.kind, it.metadata.name])

pod(w) := w.spec.template.spec

containers(w) := array.concat(
	object.get(pod(w), "initContainers", []),
	object.get(pod(w), "containers", []),
)

# -- what restricted-v2 would refuse, or only allow by luck ------------------------------------------------------------------

deny contains sprintf("%s: the pod must say runAsNonRoot", [name(w)]) if {
	some w in workloads
	not pod(w).securityContext.runAsNonRoot == true
}

deny contains sprintf("%s: the pod must take the seccomp profile RuntimeDefault", [name(w)]) if {
	some w in workloads
	not pod(w).securityContext.seccompProfile.type == "RuntimeDefault"
}

deny contains sprintf("%s: %s is for the platform to give", [name(w), field]) if {
	some w in workloads
	some field in {"runAsUser", "runAsGroup", "fsGroup", "seLinuxOptions", "supplementalGroups"}
	some context in array.concat(
		[object.get(pod(w), "securityContext", {})],
		[object.get(c, "securityContext", {}) | some c in containers(w)],
	)
	field in object.keys(context)
}

deny contains sprintf("%s: %s shares what is the node's", [name(w), field]) if {
	some w in workloads
	some field in {"hostNetwork", "hostPID", "hostIPC"}
	pod(w)[field] == true
}

deny contains sprintf("%s: volume %s is of a kind that is not allowed", [name(w), volume.name]) if {
	some w in workloads
	some volume in object.get(pod(w), "volumes", [])
	some kind in object.keys(volume)
	not kind in {"name", "configMap", "secret", "projected", "emptyDir", "persistentVolumeClaim", "ephemeral", "downwardAPI"}
}

deny contains sprintf("%s: %s must not gain rights", [name(w), c.name]) if {
	some w in workloads
	some c in containers(w)
	not c.securityContext.allowPrivilegeEscalation == false
}

deny contains sprintf("%s: %s is privileged", [name(w), c.name]) if {
	some w in workloads
	some c in containers(w)
	c.securityContext.privileged == true
}

deny contains sprintf("%s: %s must drop all capabilities and add none", [name(w), c.name]) if {
	some w in workloads
	some c in containers(w)
	not drops_all(c)
}

drops_all(c) if {
	c.securityContext.capabilities.drop == ["ALL"]
	not c.securityContext.capabilities.add
}

deny contains sprintf("%s: the root of %s must be read-only", [name(w), c.name]) if {
	some w in workloads
	some c in containers(w)
	not c.securityContext.readOnlyRootFilesystem == true
}

# -- what an operator would regret -------------------------------------------------------------------------------------------

deny contains sprintf("%s: the image of %s must be named by digest", [name(w), c.name]) if {
	some w in workloads
	some c in containers(w)
	not regex.match(`@sha256:[0-9a-f]{64}$`, c.image)
}

deny contains sprintf("%s: %s must ask for CPU and memory and limit its memory", [name(w), c.name]) if {
	some w in workloads
	some c in containers(w)
	not bounded(c)
}

bounded(c) if {
	c.resources.requests.cpu
	c.resources.requests.memory
	c.resources.limits.memory
}

deny contains sprintf("%s: volume %s has no size", [name(w), volume.name]) if {
	some w in workloads
	some volume in object.get(pod(w), "volumes", [])
	volume.emptyDir
	not volume.emptyDir.sizeLimit
}

deny contains sprintf("%s: %s takes a secret from the environment, where every child and every dump has it", [name(w), c.name]) if {
	some w in workloads
	some c in containers(w)
	some variable in object.get(c, "env", [])
	variable.valueFrom.secretKeyRef
}

deny contains sprintf("%s: %s takes a secret from the environment, where every child and every dump has it", [name(w), c.name]) if {
	some w in workloads
	some c in containers(w)
	some source in object.get(c, "envFrom", [])
	source.secretRef
}

deny contains sprintf("%s: no pod needs the token of its account", [name(w)]) if {
	some w in workloads
	not pod(w).automountServiceAccountToken == false
}

deny contains sprintf("%s: the default account is anybody's", [name(w)]) if {
	some w in workloads
	object.get(pod(w), "serviceAccountName", "default") == "default"
}

deny contains sprintf("%s: a service is reached through the route, not from outside by itself", [name(s)]) if {
	some s in input
	s.kind == "Service"
	object.get(s.spec, "type", "ClusterIP") != "ClusterIP"
}

deny contains sprintf("%s: callers come by TLS alone", [name(r)]) if {
	some r in input
	r.kind == "Route"
	not r.spec.tls.insecureEdgeTerminationPolicy in {"None", "Redirect"}
}

deny contains sprintf("%s: a role names what it may, and no secrets", [name(r)]) if {
	some r in input
	r.kind in {"Role", "ClusterRole"}
	some rule in r.rules
	some word in array.concat(rule.verbs, rule.resources)
	word in {"*", "secrets", "escalate", "bind", "impersonate"}
}

deny contains sprintf("%s: rights outside the project", [name(r)]) if {
	some r in input
	r.kind in {"ClusterRole", "ClusterRoleBinding"}
}

# -- nobody is without a policy ----------------------------------------------------------------------------------------------

deny contains sprintf("%s: no network policy denies it everything that no other allows", [name(w)]) if {
	some w in workloads
	not denied(w)
}

denied(w) if {
	some policy in input
	policy.kind == "NetworkPolicy"
	not passes_over(policy, w)
	not policy.spec.podSelector.matchExpressions
	"Ingress" in policy.spec.policyTypes
	"Egress" in policy.spec.policyTypes
	not policy.spec.ingress
	not policy.spec.egress
}

passes_over(policy, w) if {
	some key, value in object.get(policy.spec.podSelector, "matchLabels", {})
	object.get(w.spec.template.metadata.labels, key, "") != value
}
