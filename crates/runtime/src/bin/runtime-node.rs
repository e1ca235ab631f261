//! The smallest program that can be the embedded runtime's `self_exe`. Tests use it, also as a runtime to be killed:
//! `runtime-node own ROOT STATE CGROUP IMAGE COMMAND…` starts a container, prints its id, and waits for ever.

use std::io::Write;
use std::sync::Arc;

use runtime::{
    CgroupDriver, ContainerConfig, Embedded, LoopbackOnly, Options, Result, Runtime, SandboxConfig,
};

fn main() {
    if let Some(code) = runtime::entry() {
        std::process::exit(code);
    }
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    if args.len() < 6 || args[0] != "own" {
        eprintln!("usage: runtime-node own ROOT STATE CGROUP IMAGE COMMAND…");
        std::process::exit(2);
    }
    let command = args.split_off(5);
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| runtime::Error::Io {
            attempt: "starting".into(),
            source,
        })
        .and_then(|executor| executor.block_on(own(&args[1..], command)));
    if let Err(why) = result {
        eprintln!("error: {why}");
        std::process::exit(1);
    }
}

async fn own(args: &[String], command: Vec<String>) -> Result<()> {
    let options = Options {
        root: args[0].clone().into(),
        state: args[1].clone().into(),
        network: Arc::new(LoopbackOnly),
        world: world::World::real(),
        self_exe: "/proc/self/exe".into(),
        cgroup_root: args[2].clone(),
        cgroup_driver: CgroupDriver::Cgroupfs,
    };
    let runtime = Embedded::open(options).await?;
    let sandbox = runtime
        .run_pod_sandbox(SandboxConfig {
            hostname: "node".into(),
            ..SandboxConfig::default()
        })
        .await?;
    let config = ContainerConfig {
        image: args[3].clone(),
        command,
        ..ContainerConfig::default()
    };
    let id = runtime.create_container(&sandbox, config).await?;
    runtime.start_container(&id).await?;
    println!("{id}");
    let _ = std::io::stdout().flush();
    std::future::pending().await
}
