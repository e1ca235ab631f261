//! The configuration file and the administrator's kubeconfig.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Common, Failure};

const DEFAULT_FILE: &str = "/etc/skiff/config.yaml";

/// The settings of the configuration file, by flag name; empty when there is none.
///
/// # Errors
/// When a file was named and cannot be read, or is not a mapping.
pub fn settings(common: &Common) -> Result<serde_json::Map<String, Value>, Failure> {
    let path = common
        .config
        .clone()
        .unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && common.config.is_none() => {
            return Ok(serde_json::Map::new());
        }
        Err(e) => {
            return Err(Failure::usage(format!(
                "cannot read {}: {e}",
                path.display()
            )));
        }
    };
    let value: Value = serde_saphyr::from_str(&text)
        .map_err(|e| Failure::usage(format!("{} is not YAML: {e}", path.display())))?;
    match value {
        Value::Object(map) => Ok(map),
        Value::Null => Ok(serde_json::Map::new()),
        _ => Err(Failure::usage(format!(
            "{} must hold settings as `name: value`",
            path.display()
        ))),
    }
}

/// Where a server writes the administrator's kubeconfig.
#[must_use]
pub fn kubeconfig_path(data_dir: &Path) -> PathBuf {
    data_dir.join("kubeconfig")
}

/// Prints the kubeconfig, or merges it into the user's.
///
/// # Errors
/// When no server made one yet, or the user's file cannot be written.
pub fn kubeconfig(common: &Common, merge: bool) -> Result<(), Failure> {
    let path = kubeconfig_path(&common.data_dir);
    let text = std::fs::read_to_string(&path).map_err(|e| {
        Failure::new(format!("cannot read {}: {e}", path.display()))
            .hint("start `skiff server` first, or name its directory with --data-dir")
    })?;
    if !merge {
        print!("{text}");
        return Ok(());
    }
    let target = std::env::var_os("KUBECONFIG")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".kube/config")))
        .ok_or_else(|| {
            Failure::new("neither KUBECONFIG nor HOME is set")
                .hint("set KUBECONFIG to the file to change")
        })?;
    merge_into(&text, &target)?;
    println!("merged into {} as context skiff", target.display());
    Ok(())
}

fn merge_into(ours: &str, target: &Path) -> Result<(), Failure> {
    let parse = |text: &str, of: &Path| -> Result<Value, Failure> {
        serde_saphyr::from_str(text)
            .map_err(|e| Failure::new(format!("{} is not YAML: {e}", of.display())))
    };
    let ours = parse(ours, target)?;
    let mut merged = match std::fs::read_to_string(target) {
        Ok(text) if !text.trim().is_empty() => parse(&text, target)?,
        Ok(_) => serde_json::json!({"apiVersion": "v1", "kind": "Config"}),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            serde_json::json!({"apiVersion": "v1", "kind": "Config"})
        }
        Err(e) => {
            return Err(Failure::new(format!(
                "cannot read {}: {e}",
                target.display()
            )));
        }
    };
    for list in ["clusters", "users", "contexts"] {
        let mut items = merged[list].as_array().cloned().unwrap_or_default();
        for item in ours[list].as_array().into_iter().flatten() {
            items.retain(|old| old["name"] != item["name"]);
            items.push(item.clone());
        }
        merged[list] = items.into();
    }
    merged["current-context"] = ours["current-context"].clone();
    let text = serde_saphyr::to_string(&merged).map_err(Failure::new)?;
    if let Some(dir) = target.parent() {
        std::fs::create_dir_all(dir)
            .map_err(|e| Failure::new(format!("cannot make {}: {e}", dir.display())))?;
    }
    pki::files::write_private(target, &text).map_err(Failure::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_keeps_what_others_wrote_and_replaces_our_own() {
        let target = std::env::temp_dir().join(format!("skiff-kubeconfig-{}", std::process::id()));
        std::fs::write(
            &target,
            "apiVersion: v1\nkind: Config\nclusters:\n- name: other\n  cluster: {server: x}\n",
        )
        .unwrap();
        let ours = |server: &str| {
            format!(
                "clusters:\n- name: skiff\n  cluster: {{server: {server}}}\nusers: []\ncontexts: []\ncurrent-context: skiff\n"
            )
        };
        merge_into(&ours("one"), &target).unwrap();
        merge_into(&ours("two"), &target).unwrap();
        let merged: Value =
            serde_saphyr::from_str(&std::fs::read_to_string(&target).unwrap()).unwrap();
        let clusters = merged["clusters"].as_array().unwrap();
        assert_eq!(clusters.len(), 2, "{merged}");
        assert_eq!(clusters[1]["cluster"]["server"], "two");
        assert_eq!(merged["current-context"], "skiff");
        std::fs::remove_file(target).unwrap();
    }
}
