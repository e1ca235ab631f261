//! A node of the tests' own: a whole `skiff server` in network, mount, UTS and PID namespaces under a small init, so that
//! tests neither touch the machine's own network nor each other, run in parallel, and leave nothing.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long a node may take to get ready on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running node. Everything in it ends when this is dropped, since its init is PID 1 of its PID namespace.
pub struct Node {
    init: Child,
    dir: PathBuf,
    name: String,
}

/// The program under test: `SKIFF_BIN`, or what `make build` left.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn skiff() -> PathBuf {
    if let Some(path) = std::env::var_os("SKIFF_BIN") {
        return path.into();
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    for profile in ["release-lite", "release"] {
        let path = target.join(profile).join("skiff");
        if path.exists() {
            return path;
        }
    }
    panic!("there is no program to test; run `make build`, or set SKIFF_BIN");
}

/// What the init does: its own mounts, an uplink of its own, a cgroup subtree, then the server; it reaps what is orphaned
/// and takes everything with it when it ends. `$DIR`, `$SKIFF`, `$NAME` and `$ARGS` are set.
const INIT: &str = r#"
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mkdir -p $DIR/var-lib $DIR/var-log $DIR/etc
hostname $NAME
ip link set lo up
ip link add up0 type veth peer name up1
ip link set up1 up
ip addr add 192.0.2.77/24 dev up0
ip link set up0 up
ip route add default dev up0
echo "nameserver 127.0.0.1" > $DIR/etc/resolv.conf
mount --bind $DIR/etc/resolv.conf /etc/resolv.conf
touch $DIR/ready
trap 'exit 0' TERM
# Commands for the server arrive in files, so that a test can stop and start it while the node lives on.
while :; do
  if [ -e $DIR/start ]; then
    rm $DIR/start
    $SKIFF server --data-dir $DIR/data --node-name $NAME $ARGS >> $DIR/server.log 2>&1 &
    echo $! > $DIR/server.pid
  fi
  sleep 0.02
done
"#;

impl Node {
    /// Starts a node and its server, and waits until the node is Ready.
    ///
    /// # Panics
    /// If it does not get ready.
    #[must_use]
    pub fn start(name: &str) -> Self {
        Self::start_with(name, "")
    }

    /// As [`Self::start`], with more flags for the server.
    ///
    /// # Panics
    /// If it does not get ready.
    #[must_use]
    pub fn start_with(name: &str, args: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("skiff-test-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory for the node");
        let init = Command::new("unshare")
            .args([
                "--net",
                "--mount",
                "--uts",
                "--ipc",
                "--pid",
                "--fork",
                "--kill-child=KILL",
                "sh",
                "-c",
                INIT,
            ])
            .env("DIR", &dir)
            .env("SKIFF", skiff())
            .env("NAME", name)
            .env("ARGS", args)
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(dir.join("init.log")).expect("a log"))
            .stderr(std::fs::File::create(dir.join("init.err")).expect("a log"))
            .spawn()
            .expect("unshare");
        let node = Self {
            init,
            dir,
            name: name.to_owned(),
        };
        node.until("the init to be ready", || node.dir.join("ready").exists());
        node.start_server();
        node
    }

    /// Starts the server (again) and waits until the node is Ready.
    ///
    /// # Panics
    /// If it does not get ready.
    pub fn start_server(&self) {
        let ready = |log: &str| log.matches("the node is Ready").count();
        let before = ready(&self.log());
        std::fs::write(self.dir.join("start"), "").expect("a file");
        self.until("the node to be Ready", || ready(&self.log()) > before);
    }

    /// Kills the server as `kill -9` does, and waits until all of its threads are gone; containers go on.
    ///
    /// # Panics
    /// If it cannot be killed.
    pub fn kill_server(&self) {
        let output = self.run(&format!("p=$(cat {0}/server.pid); kill -9 $p; until ! kill -0 $p 2>/dev/null || {{ grep -q 'State:.*Z' /proc/$p/status && [ $(ls /proc/$p/task | wc -l) = 1 ]; }}; do sleep 0.01; done; rm -f {0}/server.pid", self.dir.display()));
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// The node's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the server logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("server.log")).unwrap_or_default()
    }

    /// Runs a shell script inside the node.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn run(&self, script: &str) -> Output {
        self.command(script).output().expect("nsenter")
    }

    /// A shell script to be run inside the node, with the administrator's kubeconfig.
    #[must_use]
    pub fn command(&self, script: &str) -> Command {
        let pid = self.namespaces_of();
        let mut command = Command::new("nsenter");
        command
            .args([
                "-t",
                &pid.to_string(),
                "-n",
                "-m",
                "-u",
                "-i",
                "-p",
                "sh",
                "-c",
                script,
            ])
            .env("KUBECONFIG", self.dir.join("data/kubeconfig"))
            .env("SKIFF", skiff())
            .env("SKIFF_DATA_DIR", self.dir.join("data"))
            .env("KUBECACHEDIR", self.dir.join("kube-cache"))
            .stdin(Stdio::null());
        command
    }

    /// The init's PID: unshare forks, its child is in the namespaces.
    fn namespaces_of(&self) -> u32 {
        let path = format!("/proc/{0}/task/{0}/children", self.init.id());
        let children = std::fs::read_to_string(path).unwrap_or_default();
        children
            .split_whitespace()
            .next()
            .and_then(|p| p.parse().ok())
            .unwrap_or(self.init.id())
    }

    /// Runs a shell script inside the node and returns what it printed.
    ///
    /// # Panics
    /// If it fails, with what it said and the server's last lines.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        let output = self.run(script);
        let stdout = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            panic!(
                "on {}: {script}\nfailed: {stdout}\n{stderr}\nserver:\n{}",
                self.name,
                tail.join("\n")
            );
        }
        stdout
    }

    /// Repeats `script` until it succeeds, and returns what it printed.
    ///
    /// # Panics
    /// If it does not succeed in time.
    #[track_caller]
    pub fn eventually(&self, script: &str) -> String {
        let begin = Instant::now();
        loop {
            if begin.elapsed() > PATIENCE {
                return self.sh(script);
            }
            let output = self.run(script);
            if output.status.success() {
                return String::from_utf8_lossy(&output.stdout).trim().to_owned();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    #[track_caller]
    fn until(&self, what: &str, done: impl Fn() -> bool) {
        let begin = Instant::now();
        while !done() {
            if begin.elapsed() > PATIENCE {
                let mut errors = String::new();
                if let Ok(mut file) = std::fs::File::open(self.dir.join("init.err")) {
                    drop(file.read_to_string(&mut errors));
                }
                panic!(
                    "{} waited in vain for {what}\n{errors}\n{}",
                    self.name,
                    self.log()
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Makes the demo's images and imports them.
    pub fn import_demo_images(&self) {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/demo-image");
        self.sh(&format!(
            "{} {dir} && $SKIFF image import {dir}/skiff-demo-1.tar {dir}/skiff-demo-2.tar",
            scripts.display(),
            dir = self.dir.display()
        ));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // With the init all of its PID namespace ends, and with the mount namespace its mounts.
        drop(self.init.kill());
        drop(self.init.wait());
        if std::thread::panicking() {
            eprintln!("the node's files are in {}", self.dir.display());
            return;
        }
        for _ in 0..50 {
            if std::fs::remove_dir_all(&self.dir).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
