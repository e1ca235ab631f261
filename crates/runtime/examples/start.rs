//! Prints how long the steps of starting a Pod take, and what an idle shim costs. Needs root and busybox-static:
//! `cargo run --release -p runtime --example start -- target/release/runtime-node`.

use std::sync::Arc;
use std::time::Duration;

use runtime::*;
use tokio::time::Instant;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    if let Some(code) = entry() {
        std::process::exit(code);
    }
    let dir = std::env::temp_dir().join(format!("start{}", std::process::id()));
    let runtime = Embedded::open(Options {
        root: dir.join("root"),
        state: dir.join("s"),
        network: Arc::new(LoopbackOnly),
        world: world::World::real(),
        self_exe: std::env::args_os()
            .nth(1)
            .unwrap_or("/proc/self/exe".into())
            .into(),
        cgroup_root: format!("skiff-start-{}", std::process::id()),
        cgroup_driver: CgroupDriver::Cgroupfs,
    })
    .await?;
    runtime
        .import_image(Box::new(std::io::Cursor::new(image())))
        .await?;
    for quiet in [Duration::ZERO, Duration::from_secs(1)] {
        println!(
            "{quiet:?} between Pods: sandbox, create, start, exec, exec, (50), stop, remove (ms); shim PSS, private (kB)"
        );
        for _ in 0..6 {
            tokio::time::sleep(quiet).await;
            let mut steps = vec![Instant::now()];
            let sandbox = runtime
                .run_pod_sandbox(SandboxConfig {
                    hostname: "p".into(),
                    ..Default::default()
                })
                .await?;
            steps.push(Instant::now());
            let mut config = ContainerConfig {
                image: "busybox:start".into(),
                command: vec!["/busybox".into(), "sleep".into(), "1000".into()],
                ..Default::default()
            };
            config.linux.security_context.seccomp = SeccompProfile::RuntimeDefault;
            let id = runtime.create_container(&sandbox, config).await?;
            steps.push(Instant::now());
            runtime.start_container(&id).await?;
            steps.push(Instant::now());
            for _ in 0..2 {
                runtime
                    .exec_sync(&id, vec!["/busybox".into(), "true".into()], None)
                    .await?;
                steps.push(Instant::now());
            }
            let shim = runtime
                .pod_sandbox_status(&sandbox)
                .await?
                .shim_pid
                .unwrap_or(0);
            // Let it become idle again.
            tokio::time::sleep(Duration::from_millis(50)).await;
            let rollup =
                std::fs::read_to_string(format!("/proc/{shim}/smaps_rollup")).unwrap_or_default();
            let field = |name: &str| {
                rollup
                    .lines()
                    .find_map(|l| l.strip_prefix(name))
                    .unwrap_or("?")
                    .trim()
                    .to_owned()
            };
            let memory = format!("{}, {}", field("Pss:"), field("Private_Dirty:"));
            steps.push(Instant::now());
            runtime.stop_container(&id, Duration::ZERO).await?;
            steps.push(Instant::now());
            runtime.remove_pod_sandbox(&sandbox).await?;
            steps.push(Instant::now());
            let times: Vec<_> = steps
                .windows(2)
                .map(|w| format!("{:.1}", (w[1] - w[0]).as_secs_f64() * 1e3))
                .collect();
            println!("{}  {memory}", times.join(" "));
        }
    }
    drop(runtime);
    std::fs::remove_dir_all(&dir).map_err(|source| Error::Io {
        attempt: "cleaning up".into(),
        source,
    })
}

fn image() -> Vec<u8> {
    use sha2::{Digest, Sha256};
    let file = |tar: &mut tar::Builder<Vec<u8>>, path: &str, data: &[u8]| {
        let mut h = tar::Header::new_gnu();
        h.set_mode(0o755);
        h.set_size(data.len() as u64);
        h.set_cksum();
        // Writing to memory can't fail.
        let _ = tar.append_data(&mut h, path, data);
    };
    let mut layer = tar::Builder::new(Vec::new());
    file(
        &mut layer,
        "busybox",
        &std::fs::read("/bin/busybox").unwrap_or_default(),
    );
    let layer = layer.into_inner().unwrap_or_default();
    let digest: String = Sha256::digest(&layer)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let mut image = tar::Builder::new(Vec::new());
    file(
        &mut image,
        "c",
        format!(r#"{{"config":{{}},"rootfs":{{"diff_ids":["sha256:{digest}"]}}}}"#).as_bytes(),
    );
    file(&mut image, "l", &layer);
    file(
        &mut image,
        "manifest.json",
        br#"[{"Config":"c","RepoTags":["busybox:start"],"Layers":["l"]}]"#,
    );
    image.into_inner().unwrap_or_default()
}
