//! The smallest program that can be the embedded runtime's `self_exe`. Tests and benchmarks use it.

fn main() {
    if let Some(code) = runtime::entry() {
        std::process::exit(code);
    }
    eprintln!("runtime-node: only for the embedded runtime's own use");
    std::process::exit(2);
}
