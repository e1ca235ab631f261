//! Values of errors as upstream shows them.
//!
//! Upstream writes the value of an error as the JSON of its internal Go struct: all fields by their Go names, in the
//! order of their declaration, absent ones as their zero. This says it for the structs that errors show.

use api::FieldError;
use api::field::ErrorKind;
use serde_json::Value;

/// The fields of a Go struct: name in Go, name in JSON, and what kind of thing it is.
pub(crate) struct Struct(pub &'static [(&'static str, &'static str, Shape)]);

pub(crate) enum Shape {
    Text,
    Number,
    /// A pointer, list or map of what JSON says already.
    Plain,
    /// A pointer to a struct.
    Pointer(&'static Struct),
    /// A list of structs.
    List(&'static Struct),
}

use Shape::{List, Number, Plain, Pointer, Text};

pub(crate) const SERVICE_PORT: Struct = Struct(&[
    ("Name", "name", Text),
    ("Protocol", "protocol", Text),
    ("AppProtocol", "appProtocol", Plain),
    ("Port", "port", Number),
    ("TargetPort", "targetPort", Number),
    ("NodePort", "nodePort", Number),
]);

pub(crate) const TAINT: Struct = Struct(&[
    ("Key", "key", Text),
    ("Value", "value", Text),
    ("Effect", "effect", Text),
    ("TimeAdded", "timeAdded", Plain),
]);

pub(crate) const TOLERATION: Struct = Struct(&[
    ("Key", "key", Text),
    ("Operator", "operator", Text),
    ("Value", "value", Text),
    ("Effect", "effect", Text),
    ("TolerationSeconds", "tolerationSeconds", Plain),
]);

pub(crate) const ADDRESS: Struct = Struct(&[("Type", "type", Text), ("Address", "address", Text)]);

pub(crate) const IP: Struct = Struct(&[("IP", "ip", Text)]);

pub(crate) const POD_CLAIM: Struct = Struct(&[
    ("Name", "name", Text),
    ("ResourceClaimName", "resourceClaimName", Plain),
    (
        "ResourceClaimTemplateName",
        "resourceClaimTemplateName",
        Plain,
    ),
]);

const LOCAL_PROFILE: Struct = Struct(&[
    ("Type", "type", Text),
    ("LocalhostProfile", "localhostProfile", Plain),
]);

pub(crate) const SECCOMP: Struct = LOCAL_PROFILE;

const WINDOWS: Struct = Struct(&[
    ("GMSACredentialSpecName", "gmsaCredentialSpecName", Plain),
    ("GMSACredentialSpec", "gmsaCredentialSpec", Plain),
    ("RunAsUserName", "runAsUserName", Plain),
    ("HostProcess", "hostProcess", Plain),
]);

const SELINUX: Struct = Struct(&[
    ("User", "user", Text),
    ("Role", "role", Text),
    ("Type", "type", Text),
    ("Level", "level", Text),
]);

const CAPABILITIES: Struct = Struct(&[("Add", "add", Plain), ("Drop", "drop", Plain)]);

pub(crate) const SECURITY_CONTEXT: Struct = Struct(&[
    ("Capabilities", "capabilities", Pointer(&CAPABILITIES)),
    ("Privileged", "privileged", Plain),
    ("SELinuxOptions", "seLinuxOptions", Pointer(&SELINUX)),
    ("WindowsOptions", "windowsOptions", Pointer(&WINDOWS)),
    ("RunAsUser", "runAsUser", Plain),
    ("RunAsGroup", "runAsGroup", Plain),
    ("RunAsNonRoot", "runAsNonRoot", Plain),
    ("ReadOnlyRootFilesystem", "readOnlyRootFilesystem", Plain),
    (
        "AllowPrivilegeEscalation",
        "allowPrivilegeEscalation",
        Plain,
    ),
    ("ProcMount", "procMount", Plain),
    ("SeccompProfile", "seccompProfile", Pointer(&LOCAL_PROFILE)),
    (
        "AppArmorProfile",
        "appArmorProfile",
        Pointer(&LOCAL_PROFILE),
    ),
]);

const REQUIREMENT: Struct = Struct(&[
    ("Key", "key", Text),
    ("Operator", "operator", Text),
    ("Values", "values", Plain),
]);

pub(crate) const NODE_TERM: Struct = Struct(&[
    ("MatchExpressions", "matchExpressions", List(&REQUIREMENT)),
    ("MatchFields", "matchFields", List(&REQUIREMENT)),
]);

const NODE_SELECTOR: Struct =
    Struct(&[("NodeSelectorTerms", "nodeSelectorTerms", List(&NODE_TERM))]);

pub(crate) const VOLUME_AFFINITY: Struct =
    Struct(&[("Required", "required", Pointer(&NODE_SELECTOR))]);

const SCOPE_REQUIREMENT: Struct = Struct(&[
    ("ScopeName", "scopeName", Text),
    ("Operator", "operator", Text),
    ("Values", "values", Plain),
]);

pub(crate) const SCOPE_SELECTOR: Struct = Struct(&[(
    "MatchExpressions",
    "matchExpressions",
    List(&SCOPE_REQUIREMENT),
)]);

const CONFIG_MAP_SOURCE: Struct = Struct(&[
    ("Namespace", "namespace", Text),
    ("Name", "name", Text),
    ("UID", "uid", Text),
    ("ResourceVersion", "resourceVersion", Text),
    ("KubeletConfigKey", "kubeletConfigKey", Text),
]);

pub(crate) const NODE_CONFIG: Struct =
    Struct(&[("ConfigMap", "configMap", Pointer(&CONFIG_MAP_SOURCE))]);

const ALLOCATABLE: Struct = Struct(&[("Count", "count", Plain)]);

pub(crate) const NODE_DRIVER: Struct = Struct(&[
    ("Name", "name", Text),
    ("NodeID", "nodeID", Text),
    ("TopologyKeys", "topologyKeys", Plain),
    ("Allocatable", "allocatable", Pointer(&ALLOCATABLE)),
]);

const ATTACHMENT_SOURCE: Struct = Struct(&[
    ("PersistentVolumeName", "persistentVolumeName", Plain),
    ("InlineVolumeSpec", "inlineVolumeSpec", Plain),
]);

pub(crate) const ATTACHMENT: Struct = Struct(&[
    ("Attacher", "attacher", Text),
    ("Source", "source", Pointer(&ATTACHMENT_SOURCE)),
    ("NodeName", "nodeName", Text),
]);

pub(crate) const PARENT: Struct = Struct(&[
    ("Group", "group", Text),
    ("Resource", "resource", Text),
    ("Namespace", "namespace", Text),
    ("Name", "name", Text),
]);

pub(crate) const NON_RESOURCE_ATTRIBUTES: Struct =
    Struct(&[("Path", "path", Text), ("Verb", "verb", Text)]);

/// The JSON of a value of this struct.
pub(crate) fn show(v: &Value, of: &Struct) -> String {
    let fields = of.0.iter().map(|(go, json, shape)| {
        let value = &v[*json];
        let shown = match (shape, value) {
            (Text, Value::Null) => "\"\"".to_owned(),
            (Number, Value::Null) => "0".to_owned(),
            (Pointer(inner), Value::Object(_)) => show(value, inner),
            (List(inner), Value::Array(_)) => show_list(value, inner),
            _ => value.to_string(),
        };
        format!("\"{go}\":{shown}")
    });
    format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
}

/// The JSON of a list of this struct.
pub(crate) fn show_list(list: &Value, of: &Struct) -> String {
    let Value::Array(list) = list else {
        return "null".to_owned();
    };
    let items: Vec<String> = list.iter().map(|v| show(v, of)).collect();
    format!("[{}]", items.join(","))
}

fn error(
    kind: ErrorKind,
    field: impl Into<String>,
    shown: String,
    detail: impl Into<String>,
) -> FieldError {
    FieldError {
        kind,
        field: field.into(),
        bad_value: Some(shown),
        detail: detail.into(),
    }
}

/// [`FieldError::invalid`] of a struct.
pub(crate) fn invalid(
    field: impl Into<String>,
    shown: String,
    detail: impl Into<String>,
) -> FieldError {
    error(ErrorKind::Invalid, field, shown, detail)
}

/// [`FieldError::duplicate`] of a struct.
pub(crate) fn duplicate(field: impl Into<String>, shown: String) -> FieldError {
    error(ErrorKind::Duplicate, field, shown, "")
}
