//! Law 11: a crate depends only on lower floors.

use std::collections::BTreeMap;

const FLOORS: [(&str, u8); 22] = [
    ("world", 0),
    ("api", 1),
    ("pki", 1),
    ("net", 1),
    ("skiff-http", 1),
    ("store", 2),
    ("client", 2),
    ("rules", 2),
    ("runtime", 2),
    ("strategy", 3),
    ("reconcile", 3),
    ("apiserver", 4),
    ("controllers", 4),
    ("scheduler", 4),
    ("kubelet", 4),
    ("proxy", 4),
    ("dns", 4),
    ("skiff", 5),
    ("skiff-bench", 5),
    ("test-support", 6),
    ("test-fuzzed", 7),
    ("test-api", 7),
];

#[test]
fn crates_depend_on_lower_floors_only() {
    let output = std::process::Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let floors: BTreeMap<&str, u8> = FLOORS.into();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let Some(floor) = floors.get(name) else {
            assert_eq!(name, "test-e2e", "{name} has no floor");
            continue;
        };
        seen += 1;
        for dependency in package["dependencies"].as_array().unwrap() {
            // What only tests need may come from above.
            if dependency["kind"] == "dev" {
                continue;
            }
            let other = dependency["name"].as_str().unwrap();
            if floors.get(other).is_some_and(|f| f >= floor) {
                wrong.push(format!("{name} (floor {floor}) depends on {other}"));
            }
        }
    }
    assert_eq!(seen, FLOORS.len());
    assert_eq!(wrong, Vec::<String>::new());
}
