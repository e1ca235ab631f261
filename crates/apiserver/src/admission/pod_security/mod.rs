//! PodSecurity: namespaces say by labels which of the Pod Security Standards their Pods keep.
//!
//! Follows <https://kubernetes.io/docs/concepts/security/pod-security-admission/>. Without labels everything is allowed.

mod checks;

use std::collections::BTreeMap;
use std::fmt;

use api::facts::Kind;
use api::{FieldError, Status};
use checks::Pod;
use serde_json::Value;

use super::Operation;
use crate::Core;
use crate::object::{self, at, items, text};
use crate::registry::{Context, codec, store_status};

/// Pods of a namespace that are looked at when its level changes.
const PODS_LOOKED_AT: usize = 3000;

/// How much a Pod may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    fn parse(label: &str) -> Option<Self> {
        Some(match label {
            "privileged" => Self::Privileged,
            "baseline" => Self::Baseline,
            "restricted" => Self::Restricted,
            _ => return None,
        })
    }
}

/// The version of the standards: a minor of Kubernetes 1, or the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Latest,
    Minor(u32),
}

impl Version {
    fn parse(label: &str) -> Option<Self> {
        if label == "latest" {
            return Some(Self::Latest);
        }
        let digits = label.strip_prefix("v1.")?;
        let canonical = digits == "0" || !digits.starts_with(['0', '+']);
        digits.parse().ok().filter(|_| canonical).map(Self::Minor)
    }

    /// The minor version whose checks count.
    fn minor(self) -> u32 {
        let served = api::MINOR;
        match self {
            Self::Latest => served,
            Self::Minor(minor) => minor.min(served),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Standard {
    level: Level,
    version: Version,
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.version {
            Version::Latest => write!(f, "{level}:latest"),
            Version::Minor(minor) => write!(f, "{level}:v1.{minor}"),
        }
    }
}

/// What a namespace asks for.
struct Policy {
    enforce: Standard,
    audit: Standard,
    warn: Standard,
    /// Labels that say nothing known.
    errors: Vec<FieldError>,
}

impl Policy {
    fn of(namespace: &Value) -> Self {
        let mut errors = Vec::new();
        let mut standard = |mode: &str, if_unknown: Level| {
            let label = |suffix: &str| {
                let key = format!("pod-security.kubernetes.io/{mode}{suffix}");
                let value = namespace["metadata"]["labels"][&key].as_str();
                value.map(|v| (format!("metadata.labels[{key}]"), v))
            };
            let level = label("").map(|(path, value)| {
                Level::parse(value).unwrap_or_else(|| {
                    let detail = "must be one of privileged, baseline, restricted";
                    errors.push(FieldError::invalid_str(path, value, detail));
                    if_unknown
                })
            });
            let version = label("-version").map(|(path, value)| {
                Version::parse(value).unwrap_or_else(|| {
                    let detail = "must be \"latest\" or \"v1.x\"";
                    errors.push(FieldError::invalid_str(path, value, detail));
                    Version::Latest
                })
            });
            (level, version)
        };
        // An unknown level is the strictest where Pods are refused, and none where they are only told of.
        let (enforce_level, enforce_version) = standard("enforce", Level::Restricted);
        let (audit_level, audit_version) = standard("audit", Level::Privileged);
        let (warn_level, warn_version) = standard("warn", Level::Privileged);
        let of = |level: Option<Level>, version: Option<Version>| Standard {
            level: level.unwrap_or(Level::Privileged),
            version: version.unwrap_or(Version::Latest),
        };
        let enforce = of(enforce_level, enforce_version);
        let mut warn = of(warn_level, warn_version);
        let known = !errors.iter().any(|e| e.field.ends_with("/enforce]"));
        if warn_level.is_none() && enforce_level.is_some() && known && enforce.level > warn.level {
            warn.level = enforce.level;
            if warn_version.is_none() {
                warn.version = enforce.version;
            }
        }
        Self {
            enforce,
            audit: of(audit_level, audit_version),
            warn,
            errors,
        }
    }
}

/// Refuses a Pod, or warns of a Pod or a template, as its namespace says; refuses labels of a namespace that say nothing.
pub async fn validate(
    core: &Core,
    context: &Context,
    kind: &Kind,
    operation: Operation,
    new: Option<&Value>,
    old: Option<&Value>,
    subresource: &str,
) -> Result<(), Status> {
    let Some(new) = new else { return Ok(()) };
    match (kind.group, kind.plural) {
        ("", "namespaces") if subresource.is_empty() => {
            of_namespace(core, context, kind, operation, new, old).await
        }
        ("", "pods") if matches!(subresource, "" | "ephemeralcontainers" | "resize") => {
            if old.is_some_and(|old| !images_differ(new, old)) {
                return Ok(());
            }
            let pod = Pod {
                annotations: &new["metadata"]["annotations"],
                spec: &new["spec"],
            };
            of_pod(core, context, kind, new, &pod, true).await
        }
        _ if subresource.is_empty() => {
            let Some(path) = template_of(kind) else {
                return Ok(());
            };
            let Some(template) = at(new, path) else {
                return Ok(());
            };
            let pod = Pod {
                annotations: &template["metadata"]["annotations"],
                spec: &template["spec"],
            };
            of_pod(core, context, kind, new, &pod, false).await
        }
        _ => Ok(()),
    }
}

/// Where a kind has the template of its Pods.
fn template_of(kind: &Kind) -> Option<&'static [&'static str]> {
    Some(match (kind.group, kind.plural) {
        ("", "podtemplates") => &["template"],
        ("", "replicationcontrollers")
        | ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => &["spec", "template"],
        ("batch", "cronjobs") => &["spec", "jobTemplate", "spec", "template"],
        _ => return None,
    })
}

/// Whether a change of a Pod can matter: nothing else that is looked at may change.
fn images_differ(new: &Value, old: &Value) -> bool {
    ["containers", "initContainers", "ephemeralContainers"]
        .iter()
        .any(|list| {
            let images = |pod: &Value| -> Vec<(String, String)> {
                let containers = items(pod, &["spec", list]).iter();
                let pair = |c: &Value| {
                    (
                        text(c, &["name"]).to_owned(),
                        text(c, &["image"]).to_owned(),
                    )
                };
                containers.map(pair).collect()
            };
            images(new) != images(old)
        })
}

async fn of_pod(
    core: &Core,
    context: &Context,
    kind: &Kind,
    object: &Value,
    pod: &Pod<'_>,
    enforced: bool,
) -> Result<(), Status> {
    let name = text(object, &["metadata", "namespace"]);
    let key = format!("/registry/namespaces/{name}");
    let Some(entry) = core.store.get(&key).await.map_err(store_status)? else {
        return Ok(());
    };
    let policy = Policy::of(&codec::decode(&entry)?);
    if enforced && let Some(why) = violated(pod, policy.enforce) {
        let why = format!("violates PodSecurity \"{}\": {why}", policy.enforce);
        return Err(Status::forbidden(
            kind.group,
            kind.plural,
            object::name(object),
            why,
        ));
    }
    if let Some(why) = violated(pod, policy.audit) {
        // The audit log takes this as an annotation when there is one.
        tracing::info!(
            namespace = name,
            name = object::name(object),
            "would violate PodSecurity \"{}\": {why}",
            policy.audit
        );
    }
    if let Some(why) = violated(pod, policy.warn) {
        context.warn(format!(
            "would violate PodSecurity \"{}\": {why}",
            policy.warn
        ));
    }
    Ok(())
}

/// What of a Pod is not within a standard, with details; none if all is.
fn violated(pod: &Pod<'_>, standard: Standard) -> Option<String> {
    let violations = checks::violations(pod, standard.level, standard.version);
    let told = violations.iter().map(|v| {
        if v.detail.is_empty() {
            v.reason.clone()
        } else {
            format!("{} ({})", v.reason, v.detail)
        }
    });
    let told: Vec<String> = told.collect();
    (!told.is_empty()).then(|| told.join(", "))
}

async fn of_namespace(
    core: &Core,
    context: &Context,
    kind: &Kind,
    operation: Operation,
    new: &Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    let policy = Policy::of(new);
    let before = old.map(Policy::of);
    let already = before.as_ref().is_some_and(|b| b.errors == policy.errors);
    if !policy.errors.is_empty() && !already {
        let name = object::name(new);
        return Err(Status::invalid(kind.group, kind.kind, name, policy.errors));
    }
    let (Operation::Update, Some(before)) = (operation, before) else {
        return Ok(());
    };
    let (now, before) = (policy.enforce, before.enforce);
    let not_stricter = now.version == before.version && now.level <= before.level;
    if now == before || now.level == Level::Privileged || not_stricter {
        return Ok(());
    }
    for warning in existing_pods(core, object::name(new), now).await? {
        context.warn(warning);
    }
    Ok(())
}

/// Which Pods that are there already are not within the new standard.
async fn existing_pods(
    core: &Core,
    namespace: &str,
    standard: Standard,
) -> Result<Vec<String>, Status> {
    let prefix = format!("/registry/pods/{namespace}/");
    let range = core.store.range(&prefix, None, None, 0).await;
    let entries = range.map_err(store_status)?.entries;
    let mut by_reason: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in entries.iter().take(PODS_LOOKED_AT) {
        let object = codec::decode(entry)?;
        let pod = Pod {
            annotations: &object["metadata"]["annotations"],
            spec: &object["spec"],
        };
        let violations = checks::violations(&pod, standard.level, standard.version);
        if violations.is_empty() {
            continue;
        }
        let reasons: Vec<String> = violations.into_iter().map(|v| v.reason).collect();
        let names = by_reason.entry(reasons.join(", ")).or_default();
        names.push(object::name(&object).to_owned());
    }
    let mut warnings = Vec::new();
    if entries.len() > PODS_LOOKED_AT {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {PODS_LOOKED_AT} of {} existing pods",
            entries.len()
        ));
    }
    if !by_reason.is_empty() {
        warnings.push(format!(
            "existing pods in namespace \"{namespace}\" violate the new PodSecurity enforce level \"{standard}\""
        ));
    }
    let mut told: Vec<String> = by_reason
        .iter()
        .map(|(reason, names)| match &names[..] {
            [one] => format!("{one}: {reason}"),
            [one, _] => format!("{one} (and 1 other pod): {reason}"),
            [one, rest @ ..] => format!("{one} (and {} other pods): {reason}", rest.len()),
            [] => reason.clone(),
        })
        .collect();
    told.sort();
    warnings.append(&mut told);
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(spec: Value, level: Level) -> Option<String> {
        let annotations = json!({});
        let pod = Pod {
            annotations: &annotations,
            spec: &spec,
        };
        let standard = Standard {
            level,
            version: Version::Latest,
        };
        violated(&pod, standard)
    }

    #[test]
    fn a_plain_pod_is_baseline_but_not_restricted() {
        let spec = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        assert_eq!(told(spec.clone(), Level::Baseline), None);
        assert_eq!(
            told(spec, Level::Restricted).unwrap(),
            "allowPrivilegeEscalation != false (containers \"a\", \"b\" must set securityContext.allowPrivilegeEscalation=false), \
             unrestricted capabilities (containers \"a\", \"b\" must set securityContext.capabilities.drop=[\"ALL\"]), \
             runAsNonRoot != true (pod or containers \"a\", \"b\" must set securityContext.runAsNonRoot=true), \
             seccompProfile (pod or containers \"a\", \"b\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        );
        let kept = json!({
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "a", "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
            }}],
        });
        assert_eq!(told(kept, Level::Restricted), None);
    }

    #[test]
    fn what_baseline_forbids() {
        let spec = json!({
            "hostNetwork": true, "hostPID": true,
            "securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}], "seLinuxOptions": {"role": "x"}},
            "volumes": [{"name": "h", "hostPath": {"path": "/"}}],
            "initContainers": [{"name": "i", "securityContext": {"privileged": true}}],
            "containers": [{
                "name": "c", "ports": [{"hostPort": 80}, {"hostPort": 443}],
                "livenessProbe": {"httpGet": {"host": "h"}},
                "securityContext": {
                    "capabilities": {"add": ["NET_ADMIN", "CHOWN"]}, "procMount": "Unmasked",
                    "seccompProfile": {"type": "Unconfined"}, "appArmorProfile": {"type": "Unconfined"},
                },
            }],
        });
        assert_eq!(
            told(spec, Level::Baseline).unwrap(),
            "forbidden AppArmor profile (container \"c\" must not set AppArmor profile type to \"Unconfined\"), \
             non-default capabilities (container \"c\" must not include \"NET_ADMIN\" in securityContext.capabilities.add), \
             host namespaces (hostNetwork=true, hostPID=true), \
             hostPath volumes (volume \"h\"), \
             hostPort (container \"c\" uses hostPorts 443, 80), \
             probe or lifecycle host (container \"c\" uses probe or lifecycle host \"h\"), \
             privileged (container \"i\" must not set securityContext.privileged=true), \
             procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\"), \
             seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: role may not be set), \
             seccompProfile (container \"c\" must not set securityContext.seccompProfile.type to \"Unconfined\"), \
             forbidden sysctls (kernel.msgmax)"
        );
    }

    #[test]
    fn labels_of_a_namespace() {
        let namespace = |labels: Value| json!({"metadata": {"labels": labels}});
        let policy = Policy::of(&namespace(
            json!({"pod-security.kubernetes.io/enforce": "baseline"}),
        ));
        assert_eq!(
            policy.warn, policy.enforce,
            "what is refused is also warned of"
        );
        let policy = Policy::of(&namespace(json!({
            "pod-security.kubernetes.io/enforce": "none",
            "pod-security.kubernetes.io/warn-version": "v1.09",
        })));
        let errors: Vec<String> = policy.errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"none\": must be one of privileged, baseline, restricted",
                "metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: \"v1.09\": must be \"latest\" or \"v1.x\"",
            ]
        );
    }
}
