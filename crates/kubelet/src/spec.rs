//! A Pod as the kubelet reads it: the fields it acts on, under upstream's names.

use std::collections::BTreeMap;

use client::{Informers, ObjectMeta, Resource, Selector, View, resource::kinds};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

macro_rules! object {
    ($(#[$doc:meta])* $name:ident { $($(#[$attribute:meta])* $field:ident: $kind:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        #[allow(missing_docs)]
        pub struct $name { $($(#[$attribute])* pub $field: $kind),* }
    };
}

object! {
    /// A Pod.
    Pod { metadata: ObjectMeta, spec: PodSpec, status: Value }
}

impl View for Pod {
    const RESOURCE: Resource = kinds::PODS;
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

object! { PodSpec {
    node_name: String, containers: Vec<Container>, init_containers: Vec<Container>, ephemeral_containers: Vec<Container>,
    volumes: Vec<Volume>,
    restart_policy: String, termination_grace_period_seconds: Option<i64>, active_deadline_seconds: Option<i64>,
    dns_policy: String, dns_config: Option<DnsConfig>, service_account_name: String,
    host_network: bool, #[serde(rename = "hostPID")] host_pid: bool, #[serde(rename = "hostIPC")] host_ipc: bool,
    host_users: Option<bool>, share_process_namespace: Option<bool>, security_context: PodSecurityContext, image_pull_secrets: Vec<LocalReference>,
    hostname: String, subdomain: String, #[serde(rename = "setHostnameAsFQDN")] set_hostname_as_fqdn: Option<bool>,
    host_aliases: Vec<HostAlias>, enable_service_links: Option<bool>, readiness_gates: Vec<ReadinessGate>,
    resources: Resources, overhead: Value,
} }
object! { DnsConfig { nameservers: Vec<String>, searches: Vec<String>, options: Vec<NameValue> } }
object! { NameValue { name: String, value: Option<String> } }
object! { LocalReference { name: String } }
object! { HostAlias { ip: String, hostnames: Vec<String> } }
object! { ReadinessGate { condition_type: String } }
object! { Resources { requests: BTreeMap<String, String>, limits: BTreeMap<String, String> } }
object! {
    /// A container, an init container or (with `target_container_name`) an ephemeral one.
    Container {
        name: String, image: String, command: Vec<String>, args: Vec<String>, working_dir: String,
        ports: Vec<Port>, env_from: Vec<EnvFrom>, env: Vec<EnvVar>, resources: Resources,
        volume_mounts: Vec<VolumeMount>, liveness_probe: Option<Probe>, readiness_probe: Option<Probe>,
        startup_probe: Option<Probe>, lifecycle: Lifecycle, termination_message_path: String,
        termination_message_policy: String, image_pull_policy: String, security_context: SecurityContext,
        stdin: bool, stdin_once: bool, tty: bool, restart_policy: String, target_container_name: String,
    }
}
object! { Port { name: String, container_port: u16, host_port: u16, protocol: String, #[serde(rename = "hostIP")] host_ip: String } }
object! { EnvFrom { prefix: String, config_map_ref: Option<OptionalReference>, secret_ref: Option<OptionalReference> } }
object! { OptionalReference { name: String, optional: Option<bool> } }
object! { EnvVar { name: String, value: String, value_from: Option<EnvSource> } }
object! { EnvSource {
    field_ref: Option<FieldRef>, resource_field_ref: Option<ResourceFieldRef>,
    config_map_key_ref: Option<KeyRef>, secret_key_ref: Option<KeyRef>,
} }
object! { FieldRef { api_version: String, field_path: String } }
object! { ResourceFieldRef { container_name: String, resource: String, divisor: String } }
object! { KeyRef { name: String, key: String, optional: Option<bool> } }
object! { VolumeMount {
    name: String, mount_path: String, sub_path: String, sub_path_expr: String, read_only: bool,
    mount_propagation: String, recursive_read_only: String,
} }
object! { Lifecycle { post_start: Option<Handler>, pre_stop: Option<Handler>, stop_signal: Option<String> } }
object! {
    /// What a hook or a probe does.
    Handler { exec: Option<ExecAction>, http_get: Option<HttpGet>, tcp_socket: Option<TcpSocket>, grpc: Option<Grpc>, sleep: Option<SleepAction> }
}
object! { ExecAction { command: Vec<String> } }
object! { SleepAction { seconds: u64 } }
object! { HttpGet { path: String, port: Value, host: String, scheme: String, http_headers: Vec<Header> } }
object! { Header { name: String, value: String } }
object! { TcpSocket { port: Value, host: String } }
object! { Grpc { port: u16, service: String } }
object! { Probe {
    #[serde(flatten)] handler: Handler,
    initial_delay_seconds: u64, timeout_seconds: u64, period_seconds: u64, success_threshold: u32,
    failure_threshold: u32, termination_grace_period_seconds: Option<i64>,
} }
object! { PodSecurityContext {
    run_as_user: Option<i64>, run_as_group: Option<i64>, run_as_non_root: Option<bool>,
    supplemental_groups: Vec<u32>, fs_group: Option<u32>, fs_group_change_policy: String,
    seccomp_profile: Option<Seccomp>, app_armor_profile: Option<Seccomp>, se_linux_options: Option<Value>,
    sysctls: Vec<Header>,
} }
object! { SecurityContext {
    run_as_user: Option<i64>, run_as_group: Option<i64>, run_as_non_root: Option<bool>,
    capabilities: Capabilities, privileged: bool, read_only_root_filesystem: bool,
    allow_privilege_escalation: Option<bool>, seccomp_profile: Option<Seccomp>, proc_mount: String,
    app_armor_profile: Option<Seccomp>, se_linux_options: Option<Value>,
} }
object! { Capabilities { add: Vec<String>, drop: Vec<String> } }
object! { Seccomp { #[serde(rename = "type")] kind: String, localhost_profile: String } }
object! { Volume {
    name: String, empty_dir: Option<EmptyDir>, host_path: Option<HostPath>, config_map: Option<ConfigMapVolume>,
    secret: Option<SecretVolume>, #[serde(rename = "downwardAPI")] downward_api: Option<DownwardVolume>,
    projected: Option<ProjectedVolume>, persistent_volume_claim: Option<Value>, nfs: Option<Value>, csi: Option<Value>,
} }
object! { EmptyDir { medium: String, size_limit: String } }
object! { HostPath { path: String, #[serde(rename = "type")] kind: String } }
object! { ConfigMapVolume { name: String, items: Vec<Item>, default_mode: Option<u32>, optional: Option<bool> } }
object! { SecretVolume { secret_name: String, items: Vec<Item>, default_mode: Option<u32>, optional: Option<bool> } }
object! { Item { key: String, path: String, mode: Option<u32> } }
object! { DownwardVolume { items: Vec<DownwardItem>, default_mode: Option<u32> } }
object! { DownwardItem { path: String, field_ref: Option<FieldRef>, resource_field_ref: Option<ResourceFieldRef>, mode: Option<u32> } }
object! { ProjectedVolume { sources: Vec<Source>, default_mode: Option<u32> } }
object! { Source {
    config_map: Option<ConfigMapVolume>, secret: Option<ProjectedSecret>,
    #[serde(rename = "downwardAPI")] downward_api: Option<DownwardVolume>, service_account_token: Option<TokenSource>,
} }
object! { ProjectedSecret { name: String, items: Vec<Item>, optional: Option<bool> } }
object! { TokenSource { audience: String, expiration_seconds: Option<i64>, path: String } }

/// Which of a Pod's lists a container stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container that goes on running (`restartPolicy: Always`).
    Sidecar,
    /// One of `spec.containers`.
    Main,
    /// Added for debugging; never restarted.
    Ephemeral,
}

impl Pod {
    /// All containers with their roles, in the order in which they start.
    pub fn all(&self) -> impl Iterator<Item = (Role, &Container)> {
        let init = self.spec.init_containers.iter().map(|c| (c.init_role(), c));
        let main = self.spec.containers.iter().map(|c| (Role::Main, c));
        let ephemeral = self
            .spec
            .ephemeral_containers
            .iter()
            .map(|c| (Role::Ephemeral, c));
        init.chain(main).chain(ephemeral)
    }

    /// The container of that name.
    #[must_use]
    pub fn container(&self, name: &str) -> Option<(Role, &Container)> {
        self.all().find(|(_, c)| c.name == name)
    }

    /// `name_namespace(uid)`, as upstream's messages name a Pod.
    #[must_use]
    pub fn title(&self) -> String {
        let m = &self.metadata;
        format!("{}_{}({})", m.name, m.namespace, m.uid)
    }

    /// `Guaranteed`, `Burstable` or `BestEffort`.
    #[must_use]
    pub fn qos(&self) -> &'static str {
        rules::qos_class(&self.sums())
    }

    /// What of the spec says how much the Pod asks for and may use, in the form that [`rules`] reads.
    #[must_use]
    pub fn sums(&self) -> Value {
        let of = |l: &[Container]| {
            l.iter()
                .map(|c| json!({"resources": c.resources, "restartPolicy": c.restart_policy}))
                .collect::<Vec<_>>()
        };
        let mut spec = json!({
            "containers": of(&self.spec.containers), "initContainers": of(&self.spec.init_containers),
            "overhead": self.spec.overhead,
        });
        if self.spec.resources != Resources::default() {
            spec["resources"] = json!(self.spec.resources);
        }
        spec
    }

    /// The reference for events; `container` names a part.
    #[must_use]
    pub fn reference(&self, container: Option<(Role, &str)>) -> client::ObjectReference {
        let mut to = client::ObjectReference::to(&kinds::PODS, &self.metadata);
        to.field_path = match container {
            None => String::new(),
            Some((Role::Init | Role::Sidecar, name)) => format!("spec.initContainers{{{name}}}"),
            Some((Role::Main, name)) => format!("spec.containers{{{name}}}"),
            Some((Role::Ephemeral, name)) => format!("spec.ephemeralContainers{{{name}}}"),
        };
        to
    }

    /// Seconds its containers get after TERM.
    #[must_use]
    pub fn grace(&self) -> i64 {
        let asked = self
            .metadata
            .deletion_timestamp
            .and(self.metadata.deletion_grace_period_seconds);
        asked
            .or(self.spec.termination_grace_period_seconds)
            .unwrap_or(30)
            .max(0)
    }
}

impl Volume {
    /// Whether the kubelet writes its content, so that containers only read it.
    #[must_use]
    pub fn is_content(&self) -> bool {
        self.config_map.is_some()
            || self.secret.is_some()
            || self.downward_api.is_some()
            || self.projected.is_some()
    }
}

impl Container {
    fn init_role(&self) -> Role {
        if self.restart_policy == "Always" {
            Role::Sidecar
        } else {
            Role::Init
        }
    }

    /// A port by number or by name.
    ///
    /// # Errors
    /// When there is no port of that name.
    pub fn resolve_port(&self, port: &Value) -> Result<u16, String> {
        if let Some(n) = port.as_u64().and_then(|n| u16::try_from(n).ok()) {
            return Ok(n);
        }
        let name = port.as_str().unwrap_or_default();
        let named = self
            .ports
            .iter()
            .find(|p| p.name == name)
            .map(|p| p.container_port);
        named
            .or_else(|| name.parse().ok())
            .ok_or_else(|| format!("couldn't find port: {port} in container {}", self.name))
    }
}

/// A ConfigMap or Secret: what is mounted or read into the environment.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConfigMap {
    pub metadata: ObjectMeta,
    pub data: BTreeMap<String, String>,
    pub binary_data: BTreeMap<String, String>,
}

impl View for ConfigMap {
    const RESOURCE: Resource = kinds::CONFIG_MAPS;
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

/// A Secret; its data are base64.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Secret {
    pub metadata: ObjectMeta,
    #[serde(rename = "type")]
    pub kind: String,
    pub data: BTreeMap<String, String>,
}

impl View for Secret {
    const RESOURCE: Resource = kinds::SECRETS;
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

/// A Service, for the environment.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Service {
    pub metadata: ObjectMeta,
    pub spec: ServiceSpec,
}
object! { ServiceSpec { #[serde(rename = "clusterIP")] cluster_ip: String, ports: Vec<ServicePort>, #[serde(rename = "type")] kind: String } }
object! { ServicePort { name: String, port: u16, protocol: String } }

impl View for Service {
    const RESOURCE: Resource = kinds::SERVICES;
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

/// The selector of the Pods of a node.
#[must_use]
pub fn pods_of(informers: &Informers, node: &str) -> client::Informer<Pod> {
    informers.select(Selector {
        fields: format!("spec.nodeName={node}"),
        ..Selector::default()
    })
}
