//! Code generation. A workspace of its own, so that its dependencies never reach a build of Skiff.
//!
//! `cargo run --manifest-path xtask/Cargo.toml -- facts` writes the tables of kinds and types into `crates/api`;
//! with `--check` it only compares, and fails if they are stale.

mod emit;
mod source;
mod table;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args[..] {
        ["facts"] => facts(false),
        ["facts", "--check"] => facts(true),
        _ => {
            eprintln!("usage: xtask facts [--check]");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn facts(check: bool) -> Result<(), String> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (openapi, pb) = source::crates(here)?;
    let schema = source::read(&openapi, &pb)?;
    let generated = emit::emit(&schema)?;
    let folder = here.join("../crates/api/src/generated");
    let (code, texts) = (
        folder.join("facts.rs"),
        folder.join("descriptions.json.zst"),
    );
    if check {
        let old = std::fs::read_to_string(&code).map_err(|e| format!("{}: {e}", code.display()))?;
        let packed = std::fs::read(&texts).map_err(|e| format!("{}: {e}", texts.display()))?;
        let plain =
            zstd::decode_all(&packed[..]).map_err(|e| format!("{}: {e}", texts.display()))?;
        if old != generated.code || plain != generated.descriptions {
            return Err("the generated facts are stale\n  run: cargo run --manifest-path xtask/Cargo.toml -- facts".into());
        }
        println!("the generated facts are fresh");
        return Ok(());
    }
    std::fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
    std::fs::write(&code, &generated.code).map_err(|e| e.to_string())?;
    let packed = zstd::encode_all(&generated.descriptions[..], 19).map_err(|e| e.to_string())?;
    std::fs::write(&texts, &packed).map_err(|e| e.to_string())?;
    println!(
        "{}: {} bytes; {}: {} bytes",
        code.display(),
        generated.code.len(),
        texts.display(),
        packed.len()
    );
    Ok(())
}
