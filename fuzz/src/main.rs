//! Runs one target of `test-fuzzed`, which `FUZZ_TARGET` names, under libFuzzer. `scripts/fuzz` builds and calls this.
#![no_main]

use std::sync::OnceLock;

static RUN: OnceLock<fn(&[u8])> = OnceLock::new();

fn chosen() -> fn(&[u8]) {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    test_fuzzed::target(&name).unwrap_or_else(|| {
        let names: Vec<&str> = test_fuzzed::TARGETS.iter().map(|(name, _)| *name).collect();
        eprintln!("FUZZ_TARGET={name:?} is none of {}", names.join(" "));
        std::process::exit(2)
    })
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    RUN.get_or_init(chosen)(data);
});
