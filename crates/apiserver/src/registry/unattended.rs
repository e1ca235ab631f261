//! Kinds that the API keeps but that nothing in Skiff acts on yet. Whoever creates one is told, so that nobody waits for what
//! will not come, or trusts in what is not enforced. A line leaves this list with the change that makes it untrue.

use api::facts::Kind;

/// Group, plural, and what does not happen.
const UNATTENDED: &[(&str, &str, &str)] = &[
    ("", "persistentvolumes", "volumes are not bound to claims"),
    ("", "persistentvolumeclaims", "no volume is bound or made"),
    ("apps", "daemonsets", "no Pods are made"),
    ("apps", "statefulsets", "no Pods are made"),
    ("batch", "jobs", "no Pods are made"),
    ("batch", "cronjobs", "no Jobs are made"),
    (
        "autoscaling",
        "horizontalpodautoscalers",
        "nothing is scaled",
    ),
    ("networking.k8s.io", "ingresses", "no traffic is routed"),
    (
        "networking.k8s.io",
        "networkpolicies",
        "no traffic is refused",
    ),
    (
        "networking.k8s.io",
        "servicecidrs",
        "addresses still come from the server's own range",
    ),
    (
        "storage.k8s.io",
        "volumeattachments",
        "no volume is attached",
    ),
    ("storage.k8s.io", "csidrivers", "no driver is called"),
    (
        "apiextensions.k8s.io",
        "customresourcedefinitions",
        "the kind is not served",
    ),
    (
        "apiregistration.k8s.io",
        "apiservices",
        "requests are not passed on",
    ),
    (
        "admissionregistration.k8s.io",
        "validatingwebhookconfigurations",
        "no request is checked",
    ),
    (
        "admissionregistration.k8s.io",
        "mutatingwebhookconfigurations",
        "no request is changed",
    ),
    (
        "admissionregistration.k8s.io",
        "validatingadmissionpolicies",
        "no request is checked",
    ),
    (
        "admissionregistration.k8s.io",
        "validatingadmissionpolicybindings",
        "no request is checked",
    ),
    (
        "admissionregistration.k8s.io",
        "mutatingadmissionpolicies",
        "no request is changed",
    ),
    (
        "admissionregistration.k8s.io",
        "mutatingadmissionpolicybindings",
        "no request is changed",
    ),
    (
        "flowcontrol.apiserver.k8s.io",
        "flowschemas",
        "requests are not queued",
    ),
    (
        "flowcontrol.apiserver.k8s.io",
        "prioritylevelconfigurations",
        "requests are not queued",
    ),
    (
        "certificates.k8s.io",
        "certificatesigningrequests",
        "no certificate is signed",
    ),
    (
        "resource.k8s.io",
        "resourceclaims",
        "no device is allocated",
    ),
    (
        "resource.k8s.io",
        "resourceclaimtemplates",
        "no claims are made",
    ),
];

/// What whoever creates an object of `kind` should know.
pub fn warning(kind: &Kind) -> Option<String> {
    let (_, _, lacks) = UNATTENDED
        .iter()
        .find(|(group, plural, _)| (*group, *plural) == (kind.group, kind.plural))?;
    Some(format!(
        "Skiff keeps {} objects but does not act on them yet: {lacks}",
        kind.kind
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_names_kinds() {
        for (group, plural, _) in UNATTENDED {
            let known = api::facts::KINDS
                .iter()
                .any(|k| (k.group, k.plural) == (*group, *plural));
            assert!(known, "{plural}.{group}");
        }
    }
}
