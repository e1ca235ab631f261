//! Real containers: needs root, cgroups and overlayfs. Each test has directories and a cgroup subtree of its own, and
//! checks at its end that nothing is left.

#![allow(unsafe_code, clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use runtime::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

struct Node {
    dir: tempfile::TempDir,
    cgroup: String,
    runtime: Arc<Embedded>,
}

/// A `docker save` archive with busybox in it.
fn busybox(tag: &str, config: &str) -> Vec<u8> {
    use sha2::{Digest, Sha256};
    let mut layer = tar::Builder::new(Vec::new());
    let mut add = |path: &str, mode: u32, data: &[u8]| {
        let mut h = tar::Header::new_gnu();
        h.set_mode(mode);
        h.set_size(data.len() as u64);
        h.set_cksum();
        layer.append_data(&mut h, path, data).unwrap();
    };
    add("bin/busybox", 0o755, &fs::read("/bin/busybox").unwrap());
    add(
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/var/www:/bin/sh\n",
    );
    add("etc/group", 0o644, b"root:x:0:\nwww:x:34:\nlogs:x:4:web\n");
    add("tmp/x", 0o644, b"");
    for name in [
        "sh", "echo", "cat", "sleep", "env", "id", "ls", "true", "hostname", "mount", "ps", "nc",
        "wc", "stty", "mkdir", "grep", "head", "tail", "kill", "dd", "ip", "unshare", "seq",
        "touch", "mknod",
    ] {
        let mut h = tar::Header::new_gnu();
        h.set_entry_type(tar::EntryType::Symlink);
        h.set_size(0);
        layer
            .append_link(&mut h, format!("bin/{name}"), "busybox")
            .unwrap();
    }
    let layer = layer.into_inner().unwrap();
    let digest: String = Sha256::digest(&layer)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let config = format!(
        r#"{{"config":{config},"rootfs":{{"type":"layers","diff_ids":["sha256:{digest}"]}}}}"#
    );
    let manifest =
        format!(r#"[{{"Config":"config.json","RepoTags":["{tag}"],"Layers":["l/layer.tar"]}}]"#);
    let mut image = tar::Builder::new(Vec::new());
    for (path, data) in [
        ("config.json", config.as_bytes()),
        ("l/layer.tar", &layer),
        ("manifest.json", manifest.as_bytes()),
    ] {
        let mut h = tar::Header::new_gnu();
        h.set_mode(0o644);
        h.set_size(data.len() as u64);
        h.set_cksum();
        image.append_data(&mut h, path, data).unwrap();
    }
    image.into_inner().unwrap()
}

fn options(dir: &Path, cgroup: &str) -> Options {
    Options {
        root: dir.join("root"),
        state: dir.join("s"),
        network: Arc::new(LoopbackOnly),
        world: world::World::real(),
        self_exe: env!("CARGO_BIN_EXE_runtime-node").into(),
        cgroup_root: cgroup.into(),
        cgroup_driver: CgroupDriver::Cgroupfs,
    }
}

impl Node {
    async fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("rt")
            .tempdir_in("/tmp")
            .unwrap();
        let cgroup = format!(
            "skiff-test-{}",
            dir.path().file_name().unwrap().to_str().unwrap()
        );
        let runtime = Embedded::open(options(dir.path(), &cgroup)).await.unwrap();
        let image = busybox(
            "busybox:test",
            r#"{"Cmd":["sh"],"Env":["PATH=/bin","FROM=image"]}"#,
        );
        runtime
            .import_image(Box::new(std::io::Cursor::new(image)))
            .await
            .unwrap();
        Self {
            dir,
            cgroup,
            runtime,
        }
    }
    /// As after a crash: a new runtime on the same directories.
    async fn reopen(&mut self) {
        self.runtime = Embedded::open(options(self.dir.path(), &self.cgroup))
            .await
            .unwrap();
    }
    async fn sandbox_with(&self, change: impl FnOnce(&mut SandboxConfig)) -> SandboxId {
        let mut config = SandboxConfig {
            metadata: SandboxMetadata {
                name: "p".into(),
                namespace: "d".into(),
                uid: "u".into(),
                attempt: 0,
            },
            hostname: "web-0".into(),
            log_directory: self.dir.path().join("logs"),
            ..SandboxConfig::default()
        };
        change(&mut config);
        self.runtime.run_pod_sandbox(config).await.unwrap()
    }
    async fn sandbox(&self) -> SandboxId {
        self.sandbox_with(|_| ()).await
    }
    async fn create(
        &self,
        s: &SandboxId,
        name: &str,
        script: &str,
        change: impl FnOnce(&mut ContainerConfig),
    ) -> ContainerId {
        let mut config = ContainerConfig {
            metadata: ContainerMetadata {
                name: name.into(),
                attempt: 0,
            },
            image: "busybox:test".into(),
            command: vec!["sh".into(), "-c".into(), script.into()],
            log_path: format!("{name}.log").into(),
            ..ContainerConfig::default()
        };
        config.linux.security_context.seccomp = SeccompProfile::RuntimeDefault;
        config.linux.security_context.masked_paths =
            DEFAULT_MASKED_PATHS.iter().map(|s| (*s).into()).collect();
        config.linux.security_context.readonly_paths =
            DEFAULT_READONLY_PATHS.iter().map(|s| (*s).into()).collect();
        change(&mut config);
        self.runtime.create_container(s, config).await.unwrap()
    }
    async fn run(
        &self,
        s: &SandboxId,
        name: &str,
        script: &str,
        change: impl FnOnce(&mut ContainerConfig),
    ) -> ContainerId {
        let id = self.create(s, name, script, change).await;
        self.runtime.start_container(&id).await.unwrap();
        id
    }
    async fn exited(&self, id: &ContainerId) -> ContainerStatus {
        for _ in 0..2000 {
            let status = self.runtime.container_status(id).await.unwrap();
            if status.state == ContainerState::Exited {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!(
            "doesn't exit: {:?}",
            self.runtime.container_status(id).await
        );
    }
    /// The log's lines without times.
    fn log(&self, name: &str) -> String {
        let text = fs::read_to_string(self.dir.path().join("logs").join(format!("{name}.log")))
            .unwrap_or_default();
        text.lines()
            .map(|l| l.split_once(' ').unwrap().1.to_owned() + "\n")
            .collect()
    }
    async fn output(
        &self,
        s: &SandboxId,
        name: &str,
        script: &str,
        change: impl FnOnce(&mut ContainerConfig),
    ) -> String {
        let id = self.run(s, name, script, change).await;
        self.exited(&id).await;
        self.log(name)
    }
    async fn sh(&self, id: &ContainerId, script: &str) -> String {
        let out = self
            .runtime
            .exec_sync(id, vec!["sh".into(), "-c".into(), script.into()], None)
            .await
            .unwrap();
        String::from_utf8(out.stdout).unwrap() + &String::from_utf8(out.stderr).unwrap()
    }
    /// Removes all sandboxes and checks that nothing is left.
    async fn end(self) {
        for s in self.runtime.list_pod_sandboxes().await.unwrap() {
            self.runtime.remove_pod_sandbox(&s.id).await.unwrap();
        }
        let dir = self.dir.path().to_str().unwrap().to_owned();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&dir), "mounts are left");
        for sub in ["s/s", "s/c", "root/containers", "root/tmp"] {
            assert_eq!(
                fs::read_dir(self.dir.path().join(sub)).unwrap().count(),
                0,
                "{sub}"
            );
        }
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            assert!(
                !String::from_utf8_lossy(&line).contains(&dir),
                "{process:?} is left"
            );
        }
        let mut dirs: Vec<PathBuf> = fs::read_dir("/sys/fs/cgroup")
            .unwrap()
            .flatten()
            .map(|d| d.path())
            .collect();
        dirs.push("/sys/fs/cgroup".into());
        for d in dirs
            .iter()
            .map(|d| d.join(&self.cgroup))
            .filter(|d| d.exists())
        {
            for below in fs::read_dir(d.join("skiff"))
                .into_iter()
                .flatten()
                .flatten()
            {
                assert!(!below.path().is_dir(), "{} is left", below.path().display());
            }
            let _ = fs::remove_dir(d.join("skiff"));
            fs::remove_dir(&d).unwrap();
        }
    }
}

#[tokio::test]
async fn a_container_runs_logs_and_exits() {
    let n = Node::new().await;
    let mut events = n.runtime.events();
    let s = n.sandbox().await;
    let log = n
        .output(&s, "a", "echo out; echo err >&2; printf 'no newline'; echo $FROM $MINE $HOSTNAME; hostname; exit 3", |c| {
            c.envs = vec![("MINE".into(), "config".into())];
        })
        .await;
    assert!(
        log.contains("stdout F out\n") && log.contains("stderr F err\n"),
        "{log}"
    );
    assert!(
        log.contains("stdout F no newlineimage config web-0\n") && log.contains("stdout F web-0\n"),
        "{log}"
    );
    let status = &n.runtime.list_containers().await.unwrap()[0];
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"));
    assert!(status.started_at.unwrap() <= status.finished_at.unwrap());
    let mut kinds = Vec::new();
    while kinds.len() < 4 {
        kinds.push(events.next().await.unwrap().kind);
    }
    use ContainerEventKind as K;
    assert_eq!(kinds[..2], [K::Started, K::Created]);
    assert!(kinds[2..].contains(&K::Started) && kinds[2..].contains(&K::Stopped));
    n.end().await;
}

#[tokio::test]
async fn it_is_confined() {
    let n = Node::new().await;
    let s = n.sandbox().await;
    let script = "id; echo pid $$; grep -E 'Cap(Eff|Bnd)|Seccomp:|NoNewPrivs' /proc/self/status; unshare -m true; \
        echo x > /proc/sys/kernel/hostname; ls /proc/1/fd; cat /proc/kcore | wc -c; dd if=/dev/zero of=/dev/null count=1; \
        touch /sys/x; ls -d /dev/shm /dev/mqueue /dev/pts; touch /root-is-mine && echo writable";
    let log = n.output(&s, "root", script, |_| ()).await;
    for want in [
        "uid=0(root) gid=0(root)",
        "pid 1\n",
        "Seccomp:\t2",
        "CapBnd:\t00000000a80425fb",
        "unshare(0x20000): Operation not permitted",
        "can't create /proc/sys/kernel/hostname: Read-only file system",
        "stdout F 0\n",
        "1+0 records out",
        "/sys/x: Read-only file system",
        "/dev/shm\n",
        "writable",
    ] {
        assert!(log.contains(want), "{want:?} in\n{log}");
    }
    let log = n
        .output(&s, "user", "id; grep -E 'CapEff|NoNewPrivs' /proc/self/status; echo $HOME; touch /x; echo fine > /dev/stdout", |c| {
            let security = &mut c.linux.security_context;
            security.run_as_username = "web".into();
            security.supplemental_groups = vec![5000];
            security.no_new_privs = true;
            security.readonly_rootfs = true;
        })
        .await;
    for want in [
        "uid=33(web) gid=34(www) groups=4(logs),34(www),5000",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
        "/var/www",
        "Read-only file system",
        "stdout F fine",
    ] {
        assert!(log.contains(want), "{want:?} in\n{log}");
    }
    let log = n
        .output(&s, "priv", "grep -E 'Seccomp:' /proc/self/status; ls /dev; touch /proc/sys/kernel/hostname && echo ok", |c| {
            c.linux.security_context.privileged = true;
        })
        .await;
    assert!(
        log.contains("Seccomp:\t0") && log.contains("stdout F ok") && log.contains("kmsg"),
        "{log}"
    );
    n.end().await;
}

#[tokio::test]
async fn mounts_are_seen_as_asked() {
    let n = Node::new().await;
    let s = n
        .sandbox_with(|c| {
            c.dns_config = Some(DnsConfig {
                servers: vec!["10.43.0.10".into()],
                searches: vec!["a.b".into()],
                options: vec!["ndots:5".into()],
            })
        })
        .await;
    let host = n.dir.path().join("volume");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("f"), "hello\n").unwrap();
    let mount = |at: &str, path: PathBuf, readonly| Mount {
        host_path: path,
        container_path: at.into(),
        readonly,
        ..Mount::default()
    };
    let log = n
        .output(
            &s,
            "m",
            "cat /v/f /etc/resolv.conf /deep/er/file; touch /v/new; touch /v-ro/no; hostname",
            |c| {
                c.mounts = vec![
                    mount("/v", host.clone(), false),
                    mount("/v-ro", host.clone(), true),
                    mount("/deep/er/file", host.join("f"), true),
                ];
            },
        )
        .await;
    for want in [
        "hello",
        "nameserver 10.43.0.10",
        "search a.b",
        "options ndots:5",
        "/v-ro/no: Read-only file system",
    ] {
        assert!(log.contains(want), "{want:?} in\n{log}");
    }
    assert!(host.join("new").exists());

    // Device nodes work in /dev alone, and only the usual ones there.
    let node = |name: &str, minor| {
        let path = std::ffi::CString::new(host.join(name).to_str().unwrap()).unwrap();
        let device = libc::makedev(1, minor);
        // SAFETY: a terminated string and numbers.
        let made = unsafe { libc::mknod(path.as_ptr(), libc::S_IFCHR | 0o666, device) };
        assert_eq!(made, 0);
    };
    node("null", 3);
    node("kmsg", 11);
    let script = "echo x > /v/null; echo x > /single && echo single; mknod /null c 1 3; echo x > /null; \
        mknod /dev/kmsg c 1 11 && head -c 1 /dev/kmsg; grep -c nodev /proc/self/mounts; touch /ro";
    for readonly in [false, true] {
        let log = n
            .output(&s, &format!("d{readonly}"), script, |c| {
                c.linux.security_context.readonly_rootfs = readonly;
                c.mounts = vec![
                    mount("/v", host.clone(), false),
                    mount("/single", "/dev/null".into(), false),
                ];
            })
            .await;
        for want in [
            "can't create /v/null: Permission denied",
            "stdout F single",
            "/dev/kmsg: Operation not permitted",
            if readonly {
                "/ro: Read-only"
            } else {
                "can't create /null: Permission denied"
            },
        ] {
            assert!(log.contains(want), "{want:?} in\n{log}");
        }
    }
    n.end().await;
}

#[tokio::test]
async fn stopping_gives_grace_and_then_kills() {
    let n = Node::new().await;
    let s = n.sandbox().await;
    let polite = n
        .run(
            &s,
            "polite",
            "trap 'echo bye; exit 7' TERM; echo up; while true; do sleep 0.05; done",
            |_| (),
        )
        .await;
    let deaf = n
        .run(
            &s,
            "deaf",
            "trap '' TERM; sleep 1000 & wait; sleep 1000",
            |_| (),
        )
        .await;
    while !n.log("polite").contains("up") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    n.runtime
        .stop_container(&polite, Duration::from_secs(10))
        .await
        .unwrap();
    assert_eq!(
        n.runtime.container_status(&polite).await.unwrap().exit_code,
        7
    );
    assert!(n.log("polite").ends_with("stdout F bye\n"));
    n.runtime
        .stop_container(&deaf, Duration::from_millis(200))
        .await
        .unwrap();
    let status = n.runtime.container_status(&deaf).await.unwrap();
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
    n.end().await;
}

#[tokio::test]
async fn failures_to_start_are_told() {
    let n = Node::new().await;
    let s = n.sandbox().await;
    for (command, message) in [
        (
            "nonesuch",
            "unable to start container process: exec: \"nonesuch\": executable file not found in $PATH",
        ),
        (
            "/no/such",
            "unable to start container process: exec: \"/no/such\": stat /no/such: no such file or directory",
        ),
        (
            "/etc/passwd",
            "unable to start container process: exec: \"/etc/passwd\": permission denied",
        ),
    ] {
        let id = n
            .create(&s, "x", "", |c| c.command = vec![command.into()])
            .await;
        let error = n.runtime.start_container(&id).await.unwrap_err();
        assert_eq!(error.to_string(), message);
        let status = n.runtime.container_status(&id).await.unwrap();
        assert_eq!(
            (status.state, status.exit_code, status.reason.as_str()),
            (ContainerState::Exited, 128, "StartError")
        );
        assert_eq!(status.message, message);
    }
    let config = ContainerConfig {
        image: "absent".into(),
        ..ContainerConfig::default()
    };
    assert!(matches!(
        n.runtime.create_container(&s, config).await,
        Err(Error::ImageNotFound(_))
    ));
    n.end().await;
}

#[tokio::test]
async fn too_much_memory_is_an_oom_kill() {
    let n = Node::new().await;
    let s = n.sandbox().await;
    let id = n
        .run(&s, "oom", "tail -c 200m /dev/zero", |c| {
            c.command = vec![
                "tail".into(),
                "-c".into(),
                "209715200".into(),
                "/dev/zero".into(),
            ];
            c.linux.resources.memory_limit_in_bytes = Some(32 << 20);
        })
        .await;
    let status = n.exited(&id).await;
    assert_eq!(
        (status.exit_code, status.reason.as_str()),
        (137, "OOMKilled")
    );
    n.end().await;
}

#[tokio::test]
async fn containers_outlive_the_runtime_and_are_adopted() {
    let mut n = Node::new().await;
    let s = n.sandbox().await;
    let stays = n
        .run(
            &s,
            "stays",
            "while true; do echo tick; sleep 0.05; done",
            |_| (),
        )
        .await;
    let ends = n.run(&s, "ends", "sleep 0.3; exit 5", |_| ()).await;
    let pid = n
        .runtime
        .container_status(&stays)
        .await
        .unwrap()
        .pid
        .unwrap();
    // Not the same as kill -9 of a process, but shims can't tell: all that they have of us is sockets, and those close.
    let (dir, cgroup) = (n.dir, n.cgroup);
    drop(n.runtime);
    tokio::time::sleep(Duration::from_millis(600)).await;
    let runtime = Embedded::open(options(dir.path(), &cgroup)).await.unwrap();
    n = Node {
        dir,
        cgroup,
        runtime,
    };
    let status = n.runtime.container_status(&stays).await.unwrap();
    assert_eq!(
        (status.state, status.pid),
        (ContainerState::Running, Some(pid))
    );
    let status = n.runtime.container_status(&ends).await.unwrap();
    assert_eq!(
        (status.state, status.exit_code),
        (ContainerState::Exited, 5)
    );
    assert_eq!(
        n.runtime.pod_sandbox_status(&s).await.unwrap().state,
        SandboxState::Ready
    );
    assert_eq!(n.sh(&stays, "echo still here").await, "still here\n");
    n.runtime
        .stop_container(&stays, Duration::ZERO)
        .await
        .unwrap();
    n.reopen().await;
    assert_eq!(
        n.runtime.container_status(&stays).await.unwrap().exit_code,
        137
    );
    n.end().await;
}

#[tokio::test]
async fn records_that_cannot_be_read_are_kept() {
    let n = Node::new().await;
    let s = n.sandbox().await;
    let c = n.run(&s, "c", "sleep 1000", |_| ()).await;
    let state = n.dir.path().join("s");
    for file in [
        state.join("c").join(c.as_str()).join("container.json"),
        state.join("s").join(s.as_str()).join("sandbox.json"),
    ] {
        let good = fs::read(&file).unwrap();
        fs::write(&file, &good[..good.len() / 2]).unwrap();
        let error = match Embedded::open(options(n.dir.path(), &n.cgroup)).await {
            Ok(_) => panic!("{} was taken", file.display()),
            Err(error) => error.to_string(),
        };
        assert!(error.contains(file.to_str().unwrap()), "{error}");
        fs::write(&file, &good).unwrap();
    }
    // What has no record yet was never told of.
    let unfinished = state.join("c/unfinished");
    fs::create_dir(&unfinished).unwrap();
    let reopened = Embedded::open(options(n.dir.path(), &n.cgroup))
        .await
        .unwrap();
    let status = reopened.container_status(&c).await.unwrap();
    assert_eq!(status.state, ContainerState::Running);
    assert!(!unfinished.exists());
    drop(reopened);
    n.end().await;
}

#[tokio::test]
async fn killing_the_owner_leaves_its_containers() {
    let mut n = Node::new().await;
    let mut owner = tokio::process::Command::new(env!("CARGO_BIN_EXE_runtime-node"))
        .arg("own")
        .args([n.dir.path().join("root"), n.dir.path().join("s")])
        .args([&n.cgroup, "busybox:test", "sleep", "1000"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut id = vec![0; 33];
    owner
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut id)
        .await
        .unwrap();
    owner.kill().await.unwrap();
    let id = ContainerId::from(String::from_utf8(id).unwrap().trim());
    n.reopen().await;
    let status = n.runtime.container_status(&id).await.unwrap();
    assert_eq!(status.state, ContainerState::Running);
    assert_eq!(n.sh(&id, "cat /proc/1/comm").await, "sleep\n");
    n.runtime.stop_container(&id, Duration::ZERO).await.unwrap();
    assert_eq!(n.exited(&id).await.exit_code, 137);
    n.end().await;
}

#[tokio::test]
async fn a_lost_shim_takes_its_containers_along() {
    let n = Node::new().await;
    let s = n.sandbox().await;
    let c = n.run(&s, "c", "sleep 1000", |_| ()).await;
    let shim = n
        .runtime
        .pod_sandbox_status(&s)
        .await
        .unwrap()
        .shim_pid
        .unwrap();
    let binary = fs::File::open(format!("/proc/{shim}/exe")).unwrap();
    // SAFETY: takes numbers only; our own shim.
    unsafe { libc::kill(shim, libc::SIGKILL) };
    let status = n.exited(&c).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (255, "Unknown"));
    assert_eq!(
        n.runtime.pod_sandbox_status(&s).await.unwrap().state,
        SandboxState::NotReady
    );
    // What a container could reach through /proc of a process that enters it: never writable, also when nothing runs it.
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&binary));
    let error = fs::OpenOptions::new()
        .append(true)
        .open(path)
        .unwrap_err()
        .raw_os_error();
    assert!(
        matches!(error, Some(libc::EROFS | libc::ETXTBSY)),
        "{error:?}"
    );
    n.end().await;
}

#[tokio::test]
async fn a_pod_shares_network_ipc_and_if_asked_processes() {
    let n = Node::new().await;
    let s = n
        .sandbox_with(|c| c.linux.namespaces.pid = PidMode::Pod)
        .await;
    let server = n
        .run(
            &s,
            "server",
            "echo shared > /dev/shm/x; while true; do echo hi | nc -l -p 8080; done",
            |_| (),
        )
        .await;
    let other = n.run(&s, "other", "sleep 1000", |_| ()).await;
    let mut answer = String::new();
    for _ in 0..100 {
        answer = n.sh(&other, "nc 127.0.0.1 8080 < /dev/null").await;
        if answer == "hi\n" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(answer, "hi\n");
    assert_eq!(n.sh(&other, "cat /dev/shm/x").await, "shared\n");
    let processes = n.sh(&other, "ps -o pid,args").await;
    assert!(
        processes.contains("nc -l -p 8080") && processes.contains("sleep 1000"),
        "{processes}"
    );
    assert!(
        n.sh(&other, "ls -l /proc/1/exe /proc/1/root")
            .await
            .contains("Permission denied")
    );
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut stream = n.runtime.port_forward(&s, 8080).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hi\n");
    n.runtime
        .stop_container(&server, Duration::ZERO)
        .await
        .unwrap();
    assert!(!n.sh(&other, "ps -o args").await.contains("nc -l"));
    n.end().await;
}

#[tokio::test]
async fn commands_run_inside() {
    let n = Node::new().await;
    let s = n.sandbox().await;
    let c = n
        .run(&s, "c", "sleep 1000", |c| {
            c.linux.security_context.run_as_user = Some(33)
        })
        .await;
    let words = |text: &str| text.split(' ').map(String::from).collect::<Vec<_>>();
    let out = n
        .runtime
        .exec_sync(
            &c,
            vec![
                "sh".into(),
                "-c".into(),
                "id -u; echo e >&2; cat /proc/1/comm; exit 9".into(),
            ],
            None,
        )
        .await
        .unwrap();
    assert_eq!(
        out,
        ExecSync {
            stdout: b"33\nsleep\n".to_vec(),
            stderr: b"e\n".to_vec(),
            exit_code: 9
        }
    );
    let error = n
        .runtime
        .exec_sync(&c, words("nope x"), None)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, Error::Start { message, exit_code: 127 } if message.contains("exec: \"nope\": executable file not found in $PATH")),
        "{error:?}"
    );
    let out = n
        .sh(&c, "dd if=/dev/zero bs=100000 count=10 2>/dev/null")
        .await;
    assert_eq!(out.len(), 16 << 10, "more is read, but not kept");
    let limit = Some(Duration::from_millis(200));
    assert!(matches!(
        n.runtime.exec_sync(&c, words("sleep 77"), limit).await,
        Err(Error::DeadlineExceeded { .. })
    ));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!n.sh(&c, "ps -o args").await.contains("sleep 77"));

    let request = ExecRequest {
        cmd: words("cat"),
        stdin: true,
        stdout: true,
        ..ExecRequest::default()
    };
    let mut streams = n.runtime.exec(&c, request).await.unwrap();
    streams
        .stdin
        .as_mut()
        .unwrap()
        .write_all(b"through")
        .await
        .unwrap();
    streams.stdin = None;
    let mut text = String::new();
    streams
        .stdout
        .as_mut()
        .unwrap()
        .read_to_string(&mut text)
        .await
        .unwrap();
    assert_eq!((text.as_str(), streams.exit.await.unwrap()), ("through", 0));

    let request = ExecRequest {
        cmd: vec!["sh".into()],
        tty: true,
        stdin: true,
        stdout: true,
        stderr: false,
    };
    let mut streams = n.runtime.exec(&c, request).await.unwrap();
    streams
        .resize
        .send(TerminalSize {
            width: 101,
            height: 37,
        })
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    streams
        .stdin
        .as_mut()
        .unwrap()
        .write_all(b"stty size; exit 4\n")
        .await
        .unwrap();
    let mut text = String::new();
    streams
        .stdout
        .as_mut()
        .unwrap()
        .read_to_string(&mut text)
        .await
        .unwrap();
    assert!(text.contains("37 101"), "{text}");
    assert_eq!(streams.exit.await.unwrap(), 4);
    n.end().await;
}

#[tokio::test]
async fn attaching_and_rotating_logs() {
    let n = Node::new().await;
    let s = n.sandbox().await;
    let c = n
        .run(
            &s,
            "c",
            "echo one; while read line; do echo got $line; done; echo end",
            |c| {
                c.stdin = true;
                c.stdin_once = true;
            },
        )
        .await;
    let mut streams = n.runtime.attach(&c, true).await.unwrap();
    let log = n.dir.path().join("logs/c.log");
    while !n.log("c").contains("one") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    fs::rename(&log, log.with_extension("old")).unwrap();
    n.runtime.reopen_container_log(&c).await.unwrap();
    streams
        .stdin
        .as_mut()
        .unwrap()
        .write_all(b"x\n")
        .await
        .unwrap();
    streams.stdin = None;
    assert_eq!(streams.exit.await.unwrap(), 0);
    let mut text = String::new();
    streams
        .stdout
        .as_mut()
        .unwrap()
        .read_to_string(&mut text)
        .await
        .unwrap();
    assert!(text.ends_with("got x\nend\n"), "{text}");
    assert_eq!(n.log("c"), "stdout F got x\nstdout F end\n");

    let t = n
        .run(&s, "t", "read x; echo tty $x", |c| {
            (c.tty, c.stdin) = (true, true)
        })
        .await;
    let mut streams = n.runtime.attach(&t, true).await.unwrap();
    streams
        .stdin
        .as_mut()
        .unwrap()
        .write_all(b"hey\n")
        .await
        .unwrap();
    let mut text = String::new();
    streams
        .stdout
        .as_mut()
        .unwrap()
        .read_to_string(&mut text)
        .await
        .unwrap();
    assert!(text.contains("tty hey\r\n"), "{text:?}");
    let long = n
        .output(
            &s,
            "long",
            "head -c 40000 /dev/zero | busybox tr '\\0' a; echo",
            |_| (),
        )
        .await;
    let parts: Vec<_> = long.lines().map(|l| (&l[..8], l.len() - 9)).collect();
    assert_eq!(
        parts,
        [("stdout P", 16384), ("stdout P", 16384), ("stdout F", 7232)]
    );
    n.end().await;
}

#[tokio::test]
async fn usage_and_limits_are_read_and_changed() {
    let n = Node::new().await;
    let mut of_the_node = SandboxConfig::default();
    let name = "vm.swappiness".to_owned();
    of_the_node.linux.sysctls.insert(name, "61".into());
    assert!(matches!(
        n.runtime.run_pod_sandbox(of_the_node).await,
        Err(Error::InvalidArgument(why)) if why.contains("vm.swappiness")
    ));
    let s = n
        .sandbox_with(|c| {
            c.linux
                .sysctls
                .insert("net.ipv4.ip_unprivileged_port_start".into(), "0".into())
                .map_or((), |_| ())
        })
        .await;
    let c = n
        .run(&s, "c", "echo x > /file; while true; do :; done", |c| {
            c.linux.resources.memory_limit_in_bytes = Some(64 << 20)
        })
        .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let stats = n.runtime.container_stats(&c).await.unwrap();
    assert!(
        stats.cpu_usage_core_nanos > 0 && stats.memory_usage > 0 && stats.writable_layer_used > 0,
        "{stats:?}"
    );
    let resources = LinuxResources {
        memory_limit_in_bytes: Some(48 << 20),
        ..LinuxResources::default()
    };
    n.runtime
        .update_container_resources(&c, resources)
        .await
        .unwrap();
    assert_eq!(
        n.sh(
            &c,
            "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null"
        )
        .await
        .trim(),
        (48 << 20).to_string()
    );
    assert_eq!(
        n.sh(&c, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start")
            .await,
        "0\n"
    );
    n.end().await;
}

#[tokio::test]
async fn damaged_and_hostile_images_are_refused() {
    let n = Node::new().await;
    let import = |data: Vec<u8>| n.runtime.import_image(Box::new(std::io::Cursor::new(data)));
    assert!(matches!(
        import(b"nonsense".to_vec()).await,
        Err(Error::BadImage(_))
    ));
    let good = busybox("evil:1", "{}");
    // A layer that is there is not unpacked again, so begin without.
    n.runtime.remove_image("busybox:test").await.unwrap();
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    let error = import(bad).await.unwrap_err().to_string();
    assert!(error.contains("has digest"), "{error}");
    let mut escape = tar::Builder::new(Vec::new());
    let mut h = tar::Header::new_gnu();
    h.as_gnu_mut().unwrap().name[..9].copy_from_slice(b"../escape");
    h.set_size(1);
    h.set_cksum();
    escape.append(&h, &b"x"[..]).unwrap();
    let error = import(escape.into_inner().unwrap())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("leads out"), "{error}");
    assert!(!n.dir.path().join("root/escape").exists());
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&good).unwrap();
    let images = import(packed.finish().unwrap()).await.unwrap();
    assert_eq!(images[0].repo_tags, ["docker.io/library/evil:1"]);
    assert!(n.runtime.image_status("evil:1").await.unwrap().is_some());
    // A layer may be named twice.
    let mut unpacked = tar::Archive::new(&good[..]);
    let mut twice = tar::Builder::new(Vec::new());
    for entry in unpacked.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        let mut data = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut data).unwrap();
        let text = |data: &[u8]| String::from_utf8(data.to_vec()).unwrap();
        if path == Path::new("manifest.json") {
            let two = r#"["l/layer.tar","l/layer.tar"]"#;
            data = text(&data)
                .replace(r#"["l/layer.tar"]"#, two)
                .replace("evil", "twice")
                .into_bytes();
        } else if path == Path::new("config.json") {
            let text = text(&data);
            let at = text.find("\"sha256:").unwrap();
            let id = text[at..at + 73].to_owned();
            data = text.replace(&id, &format!("{id},{id}")).into_bytes();
        }
        let mut h = tar::Header::new_gnu();
        h.set_mode(0o644);
        h.set_size(data.len() as u64);
        h.set_cksum();
        twice.append_data(&mut h, path, &data[..]).unwrap();
    }
    let before = images[0].size;
    n.runtime.remove_image("evil:1").await.unwrap();
    let images = import(twice.into_inner().unwrap()).await.unwrap();
    assert_eq!(images[0].size, 2 * before);
    n.runtime.remove_image("twice:1").await.unwrap();
    assert!(n.runtime.image_status("evil:1").await.unwrap().is_none());
    assert_eq!(
        fs::read_dir(n.dir.path().join("root/layers"))
            .unwrap()
            .count(),
        0
    );
    n.end().await;
}
