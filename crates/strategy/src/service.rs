//! Services. IP addresses and node ports are given out by the API server, not here.

use api::{FieldError, names};
use serde_json::{Value, json};

use crate::tree::{
    age, each, int, invalid_all, items, labels, name, object, one_of, required_one_of, set,
    set_default, show_map, text,
};
use crate::{AGE, Errors, NAME, Names, Strategy, column, wide};

fn default(o: &mut Value) {
    let Some(spec) = object(o, "spec") else {
        return;
    };
    set_default(spec, "sessionAffinity", "None");
    set_default(spec, "type", "ClusterIP");
    if spec["sessionAffinity"] == "None" {
        crate::tree::remove(spec, "sessionAffinityConfig");
    } else if spec["sessionAffinity"] == "ClientIP"
        && let Some(client) =
            object(spec, "sessionAffinityConfig").and_then(|c| object(c, "clientIP"))
    {
        set_default(client, "timeoutSeconds", 10800);
    }
    each(spec, "ports", |port| {
        set_default(port, "protocol", "TCP");
        let target = &port["targetPort"];
        if target.is_null() || *target == "" || *target == 0 {
            let number = port["port"].clone();
            set(port, "targetPort", number);
        }
    });
    let kind = text(&spec["type"]).to_owned();
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        set_default(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
        set_default(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        set_default(spec, "allocateLoadBalancerNodePorts", true);
    }
}

/// Addresses are of one family, as the cluster's are.
fn families(o: &mut Value) {
    set(o, "status", json!({ "loadBalancer": {} }));
    if let Some(spec) = object(o, "spec")
        && spec["type"] != "ExternalName"
    {
        set_default(spec, "ipFamilyPolicy", "SingleStack");
        set_default(spec, "ipFamilies", json!(["IPv4"]));
    }
}

/// What was given out stays where the writer leaves it open.
fn keep_allocated(new: &mut Value, old: &Value) {
    let old = &old["spec"];
    let Some(spec) = object(new, "spec") else {
        return;
    };
    if spec["type"] == "ExternalName" {
        // A former type's addresses are given back.
        for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if spec[key] == old[key] {
                crate::tree::remove(spec, key);
            }
        }
        return;
    }
    for key in [
        "clusterIP",
        "clusterIPs",
        "ipFamilies",
        "ipFamilyPolicy",
        "healthCheckNodePort",
    ] {
        let changed =
            key.starts_with("clusterIP") && text(&spec["clusterIP"]) != text(&old["clusterIP"]);
        if let (Some(value), false) = (
            old.get(key),
            changed && !text(&spec["clusterIP"]).is_empty(),
        ) {
            set_default(spec, key, value.clone());
        }
    }
    if !matches!(text(&spec["type"]), "NodePort" | "LoadBalancer") {
        // Ports that a former type needed are given back, unless they were asked for in this very write.
        each(spec, "ports", |port| {
            if items(&old["ports"])
                .iter()
                .any(|p| p["nodePort"] == port["nodePort"])
            {
                crate::tree::remove(port, "nodePort");
            }
        });
        crate::tree::remove(spec, "externalTrafficPolicy");
        return;
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

fn valid_ip(v: &str) -> bool {
    v.parse::<std::net::IpAddr>().is_ok()
}

const BAD_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

fn validate(o: &Value, errors: &mut Errors) {
    let spec = &o["spec"];
    let kind = text(&spec["type"]);
    let ports = items(&spec["ports"]);
    let headless = spec["clusterIP"] == "None";
    if ports.is_empty() && !headless && kind != "ExternalName" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    if kind == "ExternalName" {
        if spec["clusterIP"].as_str().is_some_and(|ip| !ip.is_empty()) {
            errors.push(FieldError::forbidden(
                "spec.clusterIPs",
                "may not be set when `type` is 'ExternalName'",
            ));
        }
        let external = text(&spec["externalName"]);
        let plain = external.strip_suffix('.').unwrap_or(external);
        if plain.is_empty() {
            errors.push(FieldError::required("spec.externalName", ""));
        } else {
            invalid_all(
                "spec.externalName",
                plain,
                names::dns1123_subdomain(plain),
                errors,
            );
        }
    }
    let mut seen: Vec<&str> = Vec::new();
    let mut pairs: Vec<(i64, &str)> = Vec::new();
    for (i, port) in ports.iter().enumerate() {
        let path = |key: &str| format!("spec.ports[{i}].{key}");
        let port_name = text(&port["name"]);
        if port_name.is_empty() {
            if ports.len() > 1 {
                errors.push(FieldError::required(path("name"), ""));
            }
        } else {
            invalid_all(
                &path("name"),
                port_name,
                names::dns1123_label(port_name),
                errors,
            );
            if seen.contains(&port_name) {
                errors.push(FieldError::duplicate(path("name"), &port["name"]));
            }
            seen.push(port_name);
        }
        for wrong in names::port_number(int(&port["port"])) {
            errors.push(FieldError::invalid(
                path("port"),
                &int(&port["port"]).into(),
                wrong,
            ));
        }
        required_one_of(
            &port["protocol"],
            &path("protocol"),
            &["SCTP", "TCP", "UDP"],
            errors,
        );
        match &port["targetPort"] {
            Value::String(s) => invalid_all(&path("targetPort"), s, names::port_name(s), errors),
            v => {
                for wrong in names::port_number(int(v)) {
                    errors.push(FieldError::invalid(path("targetPort"), v, wrong));
                }
            }
        }
        let protocol = text(&port["appProtocol"]);
        if !protocol.is_empty() {
            invalid_all(
                &path("appProtocol"),
                protocol,
                names::qualified_name(protocol),
                errors,
            );
        }
        if int(&port["nodePort"]) != 0 && matches!(kind, "ClusterIP" | "ExternalName") {
            let detail = format!("may not be used when `type` is '{kind}'");
            errors.push(FieldError::forbidden(path("nodePort"), detail));
        }
        let pair = (int(&port["port"]), text(&port["protocol"]));
        if pairs.contains(&pair) {
            let shown = json!({ "port": pair.0, "protocol": pair.1 });
            errors.push(FieldError::duplicate(format!("spec.ports[{i}]"), &shown));
        }
        pairs.push(pair);
    }
    labels(&spec["selector"], "spec.selector", errors);
    required_one_of(
        &spec["sessionAffinity"],
        "spec.sessionAffinity",
        &["ClientIP", "None"],
        errors,
    );
    let timeout = &spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"];
    if timeout.as_i64().is_some_and(|t| !(1..=86400).contains(&t)) {
        let path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        errors.push(FieldError::invalid(
            path,
            timeout,
            "must be greater than 0 and less than 86400",
        ));
    }
    let types = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    required_one_of(&spec["type"], "spec.type", &types, errors);
    for (i, ip) in items(&spec["clusterIPs"]).iter().enumerate() {
        if *ip != "None" && !valid_ip(text(ip)) {
            errors.push(FieldError::invalid(
                format!("spec.clusterIPs[{i}]"),
                ip,
                BAD_IP,
            ));
        }
    }
    let ip = text(&spec["clusterIP"]);
    if items(&spec["clusterIPs"]).is_empty() && !ip.is_empty() && !headless && !valid_ip(ip) {
        errors.push(FieldError::invalid_str("spec.clusterIPs[0]", ip, BAD_IP));
    }
    for (i, ip) in items(&spec["externalIPs"]).iter().enumerate() {
        if !valid_ip(text(ip)) {
            errors.push(FieldError::invalid(
                format!("spec.externalIPs[{i}]"),
                ip,
                BAD_IP,
            ));
        }
    }
    if headless && matches!(kind, "NodePort" | "LoadBalancer") {
        let detail = format!("may not be set to 'None' for {kind} services");
        errors.push(FieldError::invalid_str(
            "spec.clusterIPs[0]",
            "None",
            detail,
        ));
    }
    let policies = ["Cluster", "Local"];
    one_of(
        &spec["internalTrafficPolicy"],
        "spec.internalTrafficPolicy",
        &policies,
        errors,
    );
    one_of(
        &spec["externalTrafficPolicy"],
        "spec.externalTrafficPolicy",
        &policies,
        errors,
    );
    let external =
        !matches!(kind, "NodePort" | "LoadBalancer") && items(&spec["externalIPs"]).is_empty();
    if external && !text(&spec["externalTrafficPolicy"]).is_empty() {
        let detail = "may only be set for externally-accessible services";
        errors.push(FieldError::invalid(
            "spec.externalTrafficPolicy",
            &spec["externalTrafficPolicy"],
            detail,
        ));
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let (a, b) = (&new["spec"], &old["spec"]);
    let was = text(&b["clusterIP"]);
    if a["type"] != "ExternalName"
        && b["type"] != "ExternalName"
        && !was.is_empty()
        && a["clusterIP"] != b["clusterIP"]
    {
        let shown = if a["clusterIPs"].is_array() {
            a["clusterIPs"].clone()
        } else {
            json!([a["clusterIP"]])
        };
        errors.push(FieldError::invalid(
            "spec.clusterIPs[0]",
            &shown,
            "may not change once set",
        ));
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
    create: families,
    update: keep_allocated,
    validate,
    validate_update,
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
