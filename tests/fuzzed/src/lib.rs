//! What is fuzzed: one function a target, each of which asserts a property of whatever bytes it gets.
//!
//! `fuzz/` runs them under libFuzzer (`make fuzz`); a test here runs each over its checked-in corpus, `fuzz/corpus/<target>`,
//! so that neither rots. A function panics where the property does not hold. A new target is a function and a line in
//! [`TARGETS`], with a few inputs in its corpus; what a run found goes there too, beside the fix and its own test.

pub mod apply;
pub mod bodies;
pub mod list;
pub mod log;
pub mod made;
pub mod patches;
pub mod pem;
pub mod server;
pub mod streams;
pub mod texts;

/// A target: its name, which is also its corpus's, and what it runs.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("json", bodies::json),
    ("yaml", bodies::yaml),
    ("protobuf", bodies::protobuf),
    ("made_objects", bodies::made),
    ("json_patch", patches::json),
    ("merge_patch", patches::merge),
    ("strategic_patch", patches::strategic),
    ("made_strategic_patch", patches::made),
    ("apply", apply::configurations),
    ("managed_fields", apply::managed_fields),
    ("label_selector", texts::label_selector),
    ("field_selector", texts::field_selector),
    ("quantity", texts::quantity),
    ("cron_schedule", texts::cron_schedule),
    ("time", texts::time),
    ("request_line", texts::request_line),
    ("continue_token", list::continue_token),
    ("spdy_frames", streams::spdy_frames),
    ("spdy_exec", streams::spdy_exec),
    ("websocket_exec", streams::websocket_exec),
    ("log_damage", log::damage),
    ("log_records", log::records),
    ("pem", pem::certificates),
    ("server", server::requests),
];

/// A target by its name.
#[must_use]
pub fn target(name: &str) -> Option<fn(&[u8])> {
    TARGETS
        .iter()
        .find(|(n, _)| *n == name)
        .map(|(_, run)| *run)
}

/// An object and what is done to it: two texts with a line `---` in between.
#[must_use]
pub fn halves(data: &[u8]) -> (&[u8], &[u8]) {
    const BETWEEN: &[u8] = b"\n---\n";
    let at = data.windows(BETWEEN.len()).position(|w| w == BETWEEN);
    at.map_or((data, b""), |at| (&data[..at], &data[at + BETWEEN.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(name: &str) -> Vec<(std::path::PathBuf, Vec<u8>)> {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus");
        let folder = std::path::Path::new(corpus).join(name);
        let files = std::fs::read_dir(&folder).unwrap_or_else(|e| {
            panic!("the target {name} has no corpus {}: {e}", folder.display())
        });
        let mut paths: Vec<_> = files.map(|f| f.unwrap().path()).collect();
        paths.sort();
        let read = |path: std::path::PathBuf| (path.clone(), std::fs::read(path).unwrap());
        paths.into_iter().map(read).collect()
    }

    #[test]
    fn every_corpus_holds() {
        for (name, run) in TARGETS {
            let all = inputs(name);
            assert!(!all.is_empty(), "the corpus of {name} is empty");
            let bytes: usize = all.iter().map(|(_, data)| data.len()).sum();
            assert!(
                bytes <= 64 << 10,
                "the corpus of {name} has {bytes} bytes: keep it small"
            );
            for (path, data) in all {
                let done = std::panic::catch_unwind(|| run(&data));
                assert!(done.is_ok(), "{name} fails on {}", path.display());
            }
            run(b"");
        }
    }

    #[test]
    fn every_corpus_has_a_target() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus");
        for folder in std::fs::read_dir(corpus).unwrap() {
            let name = folder.unwrap().file_name().into_string().unwrap();
            assert!(target(&name).is_some(), "the corpus {name} has no target");
        }
    }
}
