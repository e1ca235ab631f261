//! Services. IP addresses and node ports are given out by the API server, not here.

use api::{FieldError, names};
use serde_json::{Value, json};

use crate::pod_spec::validate_port as validate_port_or_name;
use crate::tree::{
    age, each, int, invalid_all, items, labels, name, object, one_of, remove, required_name,
    required_one_of, set, set_default, show_map, text,
};
use crate::{AGE, Errors, NAME, Names, Strategy, column, ip, shown, wide};

fn default(o: &mut Value) {
    let Some(spec) = object(o, "spec") else {
        return;
    };
    set_default(spec, "sessionAffinity", "None");
    set_default(spec, "type", "ClusterIP");
    default_affinity(spec);
    each(spec, "ports", |port| {
        set_default(port, "protocol", "TCP");
        let target = &port["targetPort"];
        if target.is_null() || *target == "" || *target == 0 {
            let number = port["port"].clone();
            set(port, "targetPort", number);
        }
    });
    if is_external(spec) {
        set_default(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(
        text(&spec["type"]),
        "ClusterIP" | "NodePort" | "LoadBalancer"
    ) {
        set_default(spec, "internalTrafficPolicy", "Cluster");
    }
    let balanced = spec["type"] == "LoadBalancer";
    if balanced {
        set_default(spec, "allocateLoadBalancerNodePorts", true);
    }
    if let Some(balancer) = o.get_mut("status").and_then(|s| s.get_mut("loadBalancer"))
        && balanced
    {
        each(balancer, "ingress", |ingress| {
            if !text(&ingress["ip"]).is_empty() {
                set_default(ingress, "ipMode", "VIP");
            }
        });
    }
}

fn default_affinity(spec: &mut Value) {
    if spec["sessionAffinity"] == "None" {
        remove(spec, "sessionAffinityConfig");
    } else if spec["sessionAffinity"] == "ClientIP"
        && let Some(client) =
            object(spec, "sessionAffinityConfig").and_then(|c| object(c, "clientIP"))
    {
        set_default(client, "timeoutSeconds", 10800);
    }
}

/// Whether others than Pods can reach it.
fn is_external(spec: &Value) -> bool {
    match text(&spec["type"]) {
        "NodePort" | "LoadBalancer" => true,
        "ClusterIP" => !items(&spec["externalIPs"]).is_empty(),
        _ => false,
    }
}

fn is_balancer(spec: &Value) -> bool {
    spec["type"] == "LoadBalancer"
}

fn has_node_ports(spec: &Value) -> bool {
    matches!(text(&spec["type"]), "NodePort" | "LoadBalancer")
}

/// Whether a balancer must ask each node if it has Pods of the Service.
fn needs_health_check(spec: &Value) -> bool {
    is_balancer(spec) && spec["externalTrafficPolicy"] == "Local"
}

fn is_headless(spec: &Value) -> bool {
    spec["clusterIPs"] == json!(["None"])
}

/// Addresses are of one family, as the cluster's are.
fn create(o: &mut Value) {
    set(o, "status", json!({ "loadBalancer": {} }));
    if let Some(spec) = object(o, "spec")
        && spec["type"] != "ExternalName"
    {
        let address = spec["clusterIP"].clone();
        if !text(&address).is_empty() && spec["clusterIPs"].is_null() {
            set(spec, "clusterIPs", json!([address]));
        }
        let alone = items(&spec["ipFamilies"]).len() < 2;
        if alone {
            set_default(spec, "ipFamilyPolicy", "SingleStack");
        } else {
            set_default(spec, "ipFamilyPolicy", "RequireDualStack");
        }
        set_default(spec, "ipFamilies", json!(["IPv4"]));
    }
}

/// What was given out stays where the writer leaves it open, and goes where the new type has no use for it.
fn update(new: &mut Value, old: &Value) {
    let old = &old["spec"];
    let Some(spec) = object(new, "spec") else {
        return;
    };
    if spec["type"] == "ExternalName" {
        // A former type's addresses are given back.
        for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if spec[key] == old[key] {
                remove(spec, key);
            }
        }
    } else if old["type"] != "ExternalName" {
        keep_addresses(spec, old);
    }
    if has_node_ports(spec) {
        keep_node_ports(spec, old);
    }
    drop_of_type(spec, old);
    if !is_balancer(spec) && new["status"].is_object() {
        set(new, "status", without_balancer(&new["status"]));
    }
}

fn without_balancer(status: &Value) -> Value {
    let mut status = status.clone();
    set(&mut status, "loadBalancer", json!({}));
    status
}

/// The older field is the first of the newer one: whichever was changed leads.
fn keep_addresses(spec: &mut Value, old: &Value) {
    let same = |spec: &Value, key: &str| spec[key] == old[key];
    let empty = |v: &Value| text(v).is_empty() && items(v).is_empty();
    match (empty(&spec["clusterIP"]), empty(&spec["clusterIPs"])) {
        (true, true) => {
            for key in ["clusterIP", "clusterIPs"] {
                if let Some(value) = old.get(key) {
                    set(spec, key, value.clone());
                }
            }
        }
        (false, true) if same(spec, "clusterIP") => {
            set(spec, "clusterIPs", old["clusterIPs"].clone());
        }
        (false, true) => {
            let list = json!([spec["clusterIP"]]);
            set(spec, "clusterIPs", list);
        }
        (true, false) if same(spec, "clusterIPs") => {
            set(spec, "clusterIP", old["clusterIP"].clone());
        }
        (false, false) if !same(spec, "clusterIP") && same(spec, "clusterIPs") => {
            let list = json!([spec["clusterIP"]]);
            set(spec, "clusterIPs", list);
        }
        (false, false) if same(spec, "clusterIP") && !same(spec, "clusterIPs") => {
            let first = spec["clusterIPs"][0].clone();
            set(spec, "clusterIP", first);
        }
        _ => {}
    }
    for key in ["ipFamilies", "ipFamilyPolicy"] {
        if let Some(value) = old.get(key)
            && empty(&spec[key])
        {
            set(spec, key, value.clone());
        }
    }
}

fn keep_node_ports(spec: &mut Value, old: &Value) {
    let key = "healthCheckNodePort";
    if needs_health_check(spec) && needs_health_check(old) && int(&spec[key]) == 0 {
        set(spec, key, old[key].clone());
    }
    each(spec, "ports", |port| {
        let before = items(&old["ports"])
            .iter()
            .find(|p| p["port"] == port["port"] && text(&p["protocol"]) == text(&port["protocol"]));
        if let Some(number) = before.and_then(|p| p.get("nodePort"))
            && int(&port["nodePort"]) == 0
        {
            set(port, "nodePort", number.clone());
        }
    });
}

/// Takes away what the new type cannot have, unless it was changed in this very write.
fn drop_of_type(spec: &mut Value, old: &Value) {
    if !has_node_ports(spec) {
        each(spec, "ports", |port| {
            let had = items(&old["ports"])
                .iter()
                .any(|p| p["nodePort"] == port["nodePort"]);
            if had {
                remove(port, "nodePort");
            }
        });
    }
    type Needed = (&'static str, fn(&Value) -> bool);
    let rules: [Needed; 4] = [
        ("healthCheckNodePort", needs_health_check),
        ("allocateLoadBalancerNodePorts", is_balancer),
        ("loadBalancerClass", is_balancer),
        ("externalTrafficPolicy", is_external),
    ];
    for (key, needed) in rules {
        if needed(old) && !needed(spec) && spec[key] == old[key] {
            remove(spec, key);
        }
    }
}

fn validate(o: &Value, errors: &mut Errors) {
    let spec = &o["spec"];
    let mut addresses = Vec::new();
    validate_addresses(spec, &mut addresses);
    if !addresses.is_empty() {
        // Upstream gives out addresses before it judges the rest, and says only what is wrong with them.
        *errors = addresses;
        return;
    }
    validate_annotations(&o["metadata"]["annotations"], errors);
    if items(&spec["ports"]).is_empty() && !is_headless(spec) && spec["type"] != "ExternalName" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    validate_type(spec, errors);
    validate_ports(spec, errors);
    labels(&spec["selector"], "spec.selector", errors);
    validate_affinity(spec, errors);
    for (i, address) in items(&spec["externalIPs"]).iter().enumerate() {
        let path = format!("spec.externalIPs[{i}]");
        if ip::validate(text(address), &path, errors) {
            ip::validate_non_special(text(address), &path, errors);
        }
    }
    validate_source_ranges(o, errors);
    validate_balancer(spec, errors);
    validate_traffic(spec, errors);
}

const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";

/// The older and the newer annotation of one thing.
fn validate_annotations(annotations: &Value, errors: &mut Errors) {
    let (mode, hints) = (
        annotations.get(TOPOLOGY_MODE),
        annotations.get(TOPOLOGY_HINTS),
    );
    if let (Some(mode), Some(hints)) = (mode, hints)
        && mode != hints
    {
        let detail = format!("must match annotations[{TOPOLOGY_HINTS}] when both are specified");
        let path = format!("metadata.annotations[{TOPOLOGY_MODE}]");
        errors.push(FieldError::invalid(path, mode, detail));
    }
}

fn validate_type(spec: &Value, errors: &mut Errors) {
    let types = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    required_one_of(&spec["type"], "spec.type", &types, errors);
    let kind = text(&spec["type"]);
    if has_node_ports(spec) && is_headless(spec) {
        let detail = format!("may not be set to 'None' for {kind} services");
        errors.push(FieldError::invalid_str(
            "spec.clusterIPs[0]",
            "None",
            detail,
        ));
    }
    if kind != "ExternalName" {
        return;
    }
    let addressed = !text(&spec["clusterIP"]).is_empty() || !items(&spec["clusterIPs"]).is_empty();
    for (key, given) in [
        ("clusterIPs", addressed),
        ("ipFamilies", !items(&spec["ipFamilies"]).is_empty()),
        ("ipFamilyPolicy", spec["ipFamilyPolicy"].is_string()),
    ] {
        if given {
            let detail = "may not be set for ExternalName services";
            errors.push(FieldError::forbidden(format!("spec.{key}"), detail));
        }
    }
    let external = text(&spec["externalName"]);
    let plain = external.strip_suffix('.').unwrap_or(external);
    let name = Value::from(plain);
    required_name(&name, "spec.externalName", names::dns1123_subdomain, errors);
}

fn validate_ports(spec: &Value, errors: &mut Errors) {
    let ports = items(&spec["ports"]);
    let mut seen: Vec<&str> = Vec::new();
    let protocol = |p: &Value| text(&p["protocol"]).to_owned();
    for (i, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{i}]");
        validate_port(port, ports.len() > 1, &path, errors);
        let name = text(&port["name"]);
        if !name.is_empty() && seen.contains(&name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), &port["name"]));
        }
        seen.push(name);
        let node = &port["nodePort"];
        if int(node) != 0 {
            let path = format!("{path}.nodePort");
            if spec["type"] == "ClusterIP" {
                let detail = "may not be used when `type` is 'ClusterIP'";
                errors.push(FieldError::forbidden(&path, detail));
            }
            let same = |p: &Value| p["nodePort"] == *node && protocol(p) == protocol(port);
            if ports[..i].iter().any(same) {
                errors.push(FieldError::duplicate(path, node));
            }
        }
        let same = |p: &Value| p["port"] == port["port"] && protocol(p) == protocol(port);
        if ports[..i].iter().any(same) {
            let pair = json!({ "port": port["port"], "protocol": port["protocol"] });
            let shown = shown::show(&pair, &shown::SERVICE_PORT);
            errors.push(shown::duplicate(path, shown));
        }
    }
}

fn validate_port(port: &Value, needs_name: bool, path: &str, errors: &mut Errors) {
    let at = |key: &str| format!("{path}.{key}");
    let name = text(&port["name"]);
    if !name.is_empty() {
        invalid_all(&at("name"), name, names::dns1123_label(name), errors);
    } else if needs_name {
        errors.push(FieldError::required(at("name"), ""));
    }
    let number = int(&port["port"]);
    for wrong in names::port_number(number) {
        errors.push(FieldError::invalid(at("port"), &number.into(), wrong));
    }
    let protocols = ["SCTP", "TCP", "UDP"];
    required_one_of(&port["protocol"], &at("protocol"), &protocols, errors);
    validate_port_or_name(&port["targetPort"], &at("targetPort"), errors);
    if let Some(protocol) = port["appProtocol"].as_str() {
        let wrong = names::qualified_name(protocol);
        invalid_all(&at("appProtocol"), protocol, wrong, errors);
    }
}

fn validate_affinity(spec: &Value, errors: &mut Errors) {
    const MOST_SECONDS: i64 = 86400;
    let affinity = &spec["sessionAffinity"];
    required_one_of(
        affinity,
        "spec.sessionAffinity",
        &["ClientIP", "None"],
        errors,
    );
    let timeout = &spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"];
    let path = "spec.sessionAffinityConfig";
    if affinity == "None" && spec["sessionAffinityConfig"].is_object() {
        let detail = "must not be set when session affinity is None";
        errors.push(FieldError::forbidden(path, detail));
    }
    if affinity == "ClientIP" && !(1..=MOST_SECONDS).contains(&int(timeout)) {
        let path = format!("{path}.clientIP.timeoutSeconds");
        let detail = format!("must be greater than 0 and less than {MOST_SECONDS}");
        errors.push(FieldError::invalid(path, timeout, detail));
    }
}

const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

/// Who may come in, in the field or in the older annotation.
fn validate_source_ranges(o: &Value, errors: &mut Errors) {
    let spec = &o["spec"];
    let annotation = o["metadata"]["annotations"].get(SOURCE_RANGES);
    let ranges = items(&spec["loadBalancerSourceRanges"]);
    let (path, ranges): (String, Vec<(String, &str)>) = if !ranges.is_empty() {
        // Upstream's path.
        let path = "spec.LoadBalancerSourceRanges";
        let ranges = ranges.iter().enumerate();
        let ranges = ranges.map(|(i, r)| (format!("{path}[{i}]"), text(r).trim()));
        (path.to_owned(), ranges.collect())
    } else if let Some(annotation) = annotation {
        let path = format!("metadata.annotations[{SOURCE_RANGES}]");
        let list = text(annotation).trim();
        let ranges = list.split(',').filter(|_| !list.is_empty());
        let ranges = ranges.map(|r| (path.clone(), r.trim())).collect();
        (path, ranges)
    } else {
        return;
    };
    if !is_balancer(spec) {
        errors.push(FieldError::forbidden(path, ONLY_BALANCER));
    }
    for (path, range) in ranges {
        ip::validate_cidr(range, &path, errors);
    }
}

const ONLY_BALANCER: &str = "may only be used when `type` is 'LoadBalancer'";

fn validate_balancer(spec: &Value, errors: &mut Errors) {
    let balanced = is_balancer(spec);
    for key in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
        if !balanced && !spec[key].is_null() {
            errors.push(FieldError::forbidden(format!("spec.{key}"), ONLY_BALANCER));
        }
    }
    if let Some(class) = spec["loadBalancerClass"].as_str().filter(|_| balanced) {
        let wrong = names::qualified_name(class);
        invalid_all("spec.loadBalancerClass", class, wrong, errors);
    }
}

fn validate_traffic(spec: &Value, errors: &mut Errors) {
    let policies = ["Cluster", "Local"];
    let (path, policy) = ("spec.externalTrafficPolicy", &spec["externalTrafficPolicy"]);
    if is_external(spec) {
        required_one_of(policy, path, &policies, errors);
    } else if !text(policy).is_empty() {
        let detail = "may only be set for externally-accessible services";
        errors.push(FieldError::invalid(path, policy, detail));
    }
    let (path, port) = ("spec.healthCheckNodePort", &spec["healthCheckNodePort"]);
    if int(port) != 0 {
        if needs_health_check(spec) {
            for wrong in names::port_number(int(port)) {
                errors.push(FieldError::invalid(path, port, wrong));
            }
        } else {
            let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.push(FieldError::invalid(path, port, detail));
        }
    }
    let (path, policy) = ("spec.internalTrafficPolicy", &spec["internalTrafficPolicy"]);
    one_of(policy, path, &policies, errors);
    let distributions = ["PreferClose", "PreferSameNode", "PreferSameZone"];
    let distribution = &spec["trafficDistribution"];
    one_of(
        distribution,
        "spec.trafficDistribution",
        &distributions,
        errors,
    );
}

/// Addresses and their families, each and together.
fn validate_addresses(spec: &Value, errors: &mut Errors) {
    if spec["type"] == "ExternalName" {
        return;
    }
    let (path, list) = ("spec.clusterIPs", &spec["clusterIPs"]);
    let addresses = items(list);
    let first = text(&spec["clusterIP"]);
    match addresses.first() {
        None if !first.is_empty() => errors.push(FieldError::required(path, "")),
        Some(_) if first.is_empty() => {
            let detail = "must be empty when `clusterIP` is not specified";
            errors.push(FieldError::invalid(path, list, detail));
        }
        Some(listed) if listed != first => {
            let detail = "first value must match `clusterIP`";
            errors.push(FieldError::invalid(path, list, detail));
        }
        _ => {}
    }
    validate_families(spec, errors);
    if !validate_each_address(list, errors) {
        return;
    }
    if addresses.len() > 1 && !ip::both_families(addresses.iter().map(text)) {
        let detail = "may specify no more than one IP for each IP family";
        errors.push(FieldError::invalid(path, list, detail));
    }
    if is_headless(spec) {
        return;
    }
    let families = items(&spec["ipFamilies"]);
    for (i, (address, family)) in addresses.iter().zip(families).enumerate() {
        let wanted = if ip::is_v6(text(address)) {
            "IPv6"
        } else {
            "IPv4"
        };
        let other = matches!(text(family), "IPv4" | "IPv6") && *family != wanted;
        if other {
            let family = text(family);
            let detail = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
            errors.push(FieldError::invalid(format!("{path}[{i}]"), address, detail));
        }
    }
}

fn validate_families(spec: &Value, errors: &mut Errors) {
    let families = items(&spec["ipFamilies"]);
    for (i, family) in families.iter().enumerate() {
        let path = format!("spec.ipFamilies[{i}]");
        one_of(family, &path, &["IPv4", "IPv6"], errors);
        if families[..i].contains(family) {
            errors.push(FieldError::duplicate(path, family));
        }
    }
    let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    one_of(
        &spec["ipFamilyPolicy"],
        "spec.ipFamilyPolicy",
        &policies,
        errors,
    );
}

/// Says whether all are addresses.
fn validate_each_address(list: &Value, errors: &mut Errors) -> bool {
    let path = "spec.clusterIPs";
    let addresses = items(list);
    let mut valid = true;
    for (i, address) in addresses.iter().enumerate() {
        if i == 0 && address == "None" {
            if addresses.len() > 1 {
                valid = false;
                let detail = "'None' must be the first and only value";
                errors.push(FieldError::invalid(path, list, detail));
            }
            continue;
        }
        valid &= ip::validate(text(address), &format!("{path}[{i}]"), errors);
    }
    if addresses.len() > 2 {
        let detail = "may only hold up to 2 values";
        errors.push(FieldError::invalid(path, list, detail));
    }
    valid
}

/// The cluster has one family of addresses.
fn validate_create(o: &Value, errors: &mut Errors) {
    let spec = &o["spec"];
    let anything = is_headless(spec) && crate::count(&spec["selector"]) == 0;
    if !errors.is_empty() || anything || spec["type"] == "ExternalName" {
        return;
    }
    if spec["ipFamilyPolicy"] == "RequireDualStack" {
        let detail = "this cluster is not configured for dual-stack services";
        let policy = &spec["ipFamilyPolicy"];
        errors.push(FieldError::invalid("spec.ipFamilyPolicy", policy, detail));
    }
    for (i, family) in items(&spec["ipFamilies"]).iter().enumerate() {
        if family != "IPv4" {
            let detail = "not configured on this cluster";
            errors.push(FieldError::invalid(
                format!("spec.ipFamilies[{i}]"),
                family,
                detail,
            ));
        }
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let (spec, was) = (&new["spec"], &old["spec"]);
    let named = |s: &Value| s["type"] == "ExternalName";
    if !named(spec) && !named(was) {
        if !(is_headless(spec) && is_headless(was)) {
            fixed_addresses(spec, was, errors);
        }
        if !is_headless(spec) && !is_headless(was) {
            fixed_families(spec, was, errors);
        }
    }
    let class = "loadBalancerClass";
    if is_balancer(spec) && is_balancer(was) && spec[class] != was[class] {
        let detail = "may not change once set";
        errors.push(FieldError::invalid(
            "spec.loadBalancerClass",
            &spec[class],
            detail,
        ));
    }
    let port = "healthCheckNodePort";
    let checked = needs_health_check(spec) && needs_health_check(was);
    if checked && int(&spec[port]) != int(&was[port]) {
        let detail = "field is immutable";
        errors.push(FieldError::forbidden("spec.healthCheckNodePort", detail));
    }
}

const ONCE: &str = "may not change once set";

fn fixed_addresses(spec: &Value, was: &Value, errors: &mut Errors) {
    let list = &spec["clusterIPs"];
    let (now, before) = (items(list), items(&was["clusterIPs"]));
    let path = |i: usize| format!("spec.clusterIPs[{i}]");
    if now.len() == before.len() {
        for (i, _) in now
            .iter()
            .zip(before)
            .enumerate()
            .filter(|(_, (a, b))| a != b)
        {
            errors.push(FieldError::invalid(path(i), list, ONCE));
        }
        return;
    }
    if now.is_empty() {
        let detail = "primary clusterIP can not be unset";
        errors.push(FieldError::invalid(path(0), list, detail));
    } else if !before.is_empty() && now[0] != before[0] {
        errors.push(FieldError::invalid(path(0), list, ONCE));
    }
    if now.len() == 1 && before.len() > 1 && spec["ipFamilyPolicy"] != "SingleStack" {
        let detail = "must be set to 'SingleStack' when releasing the secondary clusterIP";
        let policy = &spec["ipFamilyPolicy"];
        errors.push(FieldError::invalid("spec.ipFamilyPolicy", policy, detail));
    }
}

fn fixed_families(spec: &Value, was: &Value, errors: &mut Errors) {
    let list = &spec["ipFamilies"];
    let (now, before) = (items(list), items(&was["ipFamilies"]));
    let path = "spec.ipFamilies[0]";
    if now.len() == before.len() {
        for _ in now.iter().zip(before).filter(|(a, b)| a != b) {
            errors.push(FieldError::invalid(path, list, ONCE));
        }
        return;
    }
    if !now.is_empty() && !before.is_empty() && now[0] != before[0] {
        errors.push(FieldError::invalid(path, &spec["clusterIPs"], ONCE));
    }
    if now.len() == 1 && before.len() > 1 && spec["ipFamilyPolicy"] != "SingleStack" {
        let detail = "must be set to 'SingleStack' when releasing the secondary ipFamily";
        let policy = &spec["ipFamilyPolicy"];
        errors.push(FieldError::invalid("spec.ipFamilyPolicy", policy, detail));
    }
}

fn validate_status(new: &Value, errors: &mut Errors) {
    let path = "status.loadBalancer.ingress";
    let list = items(&new["status"]["loadBalancer"]["ingress"]);
    if !is_balancer(&new["spec"]) && !list.is_empty() {
        let detail = "may only be used when `spec.type` is 'LoadBalancer'";
        errors.push(FieldError::forbidden(path, detail));
        return;
    }
    for (i, ingress) in list.iter().enumerate() {
        validate_ingress(ingress, &format!("{path}[{i}]"), errors);
    }
}

fn validate_ingress(ingress: &Value, path: &str, errors: &mut Errors) {
    let (address, host) = (text(&ingress["ip"]), text(&ingress["hostname"]));
    if !address.is_empty() {
        ip::validate(address, &format!("{path}.ip"), errors);
    }
    let (at, mode) = (format!("{path}.ipMode"), &ingress["ipMode"]);
    match (mode.is_null(), address.is_empty()) {
        (true, false) => {
            let detail = "must be specified when `ip` is set";
            errors.push(FieldError::required(at, detail));
        }
        (false, true) => {
            let detail = "may not be specified when `ip` is not set";
            errors.push(FieldError::forbidden(at, detail));
        }
        _ => one_of(mode, &at, &["Proxy", "VIP"], errors),
    }
    if !host.is_empty() {
        let path = format!("{path}.hostname");
        invalid_all(&path, host, names::dns1123_subdomain(host), errors);
        if ip::parse_sloppy(host).is_some() {
            let detail = "must be a DNS name, not an IP address";
            errors.push(FieldError::invalid_str(path, host, detail));
        }
    }
}

fn external_ip(o: &Value) -> String {
    let spec = &o["spec"];
    let given: Vec<&str> = items(&spec["externalIPs"]).iter().map(text).collect();
    match text(&spec["type"]) {
        "LoadBalancer" => {
            let balancer = items(&o["status"]["loadBalancer"]["ingress"])
                .iter()
                .map(|i| {
                    let ip = text(&i["ip"]);
                    if ip.is_empty() {
                        text(&i["hostname"])
                    } else {
                        ip
                    }
                });
            let all: Vec<&str> = balancer
                .chain(given.iter().copied())
                .filter(|s| !s.is_empty())
                .collect();
            if all.is_empty() {
                "<pending>".into()
            } else {
                all.join(",")
            }
        }
        "ExternalName" => text(&spec["externalName"]).into(),
        _ if given.is_empty() => "<none>".into(),
        _ => given.join(","),
    }
}

fn row(o: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let spec = &o["spec"];
    let ports: Vec<String> = items(&spec["ports"])
        .iter()
        .map(|p| {
            let (port, protocol) = (int(&p["port"]), text(&p["protocol"]));
            match int(&p["nodePort"]) {
                0 => format!("{port}/{protocol}"),
                node => format!("{port}:{node}/{protocol}"),
            }
        })
        .collect();
    let or_none = |s: &str| {
        if s.is_empty() {
            "<none>".to_owned()
        } else {
            s.to_owned()
        }
    };
    vec![
        name(o),
        text(&spec["type"]).into(),
        or_none(text(&spec["clusterIP"])).into(),
        external_ip(o).into(),
        or_none(&ports.join(",")).into(),
        age(o, now),
        show_map(&spec["selector"]),
    ]
}

pub(crate) const STRATEGY: Strategy = Strategy {
    names: Names::ServiceLabel,
    default,
    create,
    update,
    validate,
    validate_create,
    validate_update,
    validate_status: |new, _, errors| validate_status(new, errors),
    columns: &[
        NAME,
        column("Type", "string", "How the Service is reached."),
        column("Cluster-IP", "string", "Its address inside the cluster."),
        column(
            "External-IP",
            "string",
            "Its addresses outside the cluster.",
        ),
        column(
            "Port(s)",
            "string",
            "Its ports, with node ports after the colon.",
        ),
        AGE,
        wide("Selector", "The labels of the Pods behind it."),
    ],
    row,
    fields: |o, out| {
        out.push(("spec.clusterIP", text(&o["spec"]["clusterIP"]).into()));
        out.push(("spec.type", text(&o["spec"]["type"]).into()));
    },
    ..Strategy::BASE
};
