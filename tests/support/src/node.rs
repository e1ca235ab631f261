//! Nodes of the tests' own: a whole `skiff server` in network, mount, UTS and PID namespaces under a small init, and
//! further nodes beside it on one link (a bridge in a namespace of its own), so that tests neither touch the machine's own
//! network nor each other, run in parallel, and leave nothing.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long a node may take to get ready on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running node. Everything in it ends when this is dropped, since its init is PID 1 of its PID namespace.
pub struct Node {
    init: Child,
    dir: PathBuf,
    name: String,
    address: String,
    /// What joins the uplinks of several nodes, once there are several.
    switch: OnceLock<Switch>,
}

/// A bridge in a network namespace of its own.
struct Switch(Child);

impl Switch {
    fn start() -> Self {
        // Bridged packets are nobody's to filter there.
        let script = "ip link add br0 type bridge && ip link set br0 up && \
                      { [ ! -e /proc/sys/net/bridge/bridge-nf-call-iptables ] || echo 0 > /proc/sys/net/bridge/bridge-nf-call-iptables; } && \
                      echo up && exec sleep infinity";
        let mut holder = Command::new("unshare")
            .args(["--net", "--kill-child=KILL", "--fork", "sh", "-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare");
        let mut up = [0; 3];
        let said = holder.stdout.as_mut().expect("a pipe").read_exact(&mut up);
        assert!(said.is_ok(), "there is no bridge");
        Self(holder)
    }

    /// Takes the other end of a node's uplink.
    fn plug(&self, node: &Node) {
        let (switch, node_pid) = (child_of(&self.0), node.namespaces_of());
        let port = format!("p{node_pid}");
        // Only their network is entered: the PIDs are ours.
        let script = format!(
            "nsenter -t {node_pid} -n ip link set up1 netns {switch} name {port} && \
             nsenter -t {switch} -n ip link set {port} master br0 up"
        );
        let output = Command::new("sh").args(["-c", &script]).output();
        let output = output.expect("sh");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// `unshare --fork` forks: its child is in the namespaces.
fn child_of(process: &Child) -> u32 {
    let path = format!("/proc/{0}/task/{0}/children", process.id());
    let children = std::fs::read_to_string(path).unwrap_or_default();
    let first = children.split_whitespace().next();
    first.and_then(|p| p.parse().ok()).unwrap_or(process.id())
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

/// What the init does: its own mounts, an uplink of its own, then what it is told to start; it reaps what is orphaned and
/// takes everything with it when it ends. `$DIR`, `$SKIFF`, `$NAME` and `$ADDRESS` are set.
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
ip addr add $ADDRESS/24 dev up0
ip link set up0 up
ip route add default dev up0
echo "nameserver 127.0.0.1" > $DIR/etc/resolv.conf
mount --bind $DIR/etc/resolv.conf /etc/resolv.conf
touch $DIR/ready
trap 'exit 0' TERM
# Commands arrive in files, so that a test can stop and start parts while the node lives on.
while :; do
  for file in $DIR/start-*; do
    [ -e $file ] || continue
    part=${file##*/start-}
    mv $file $DIR/run-$part
    sh $DIR/run-$part >> $DIR/$part.log 2>&1 &
    echo $! > $DIR/$part.pid
  done
  sleep 0.02
done
"#;

/// The parts of a node that is not a server.
const PARTS: [&str; 3] = ["proxy", "dns", "kubelet"];

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
        let node = Self::boot(name, "192.0.2.77");
        node.tell(
            "server",
            &format!("$SKIFF server --data-dir $DIR/data --node-name $NAME {args}"),
        );
        node.await_ready("server", 0);
        node
    }

    /// Starts another node on this server's link: kubelet, proxy and DNS in processes of their own, with kubeconfigs.
    /// `number` tells it from others (its address is 192.0.2.`number`). Must not outlive this node.
    ///
    /// # Panics
    /// If it does not get ready.
    #[must_use]
    pub fn join(&self, name: &str, number: u8) -> Self {
        let switch = self.switch.get_or_init(|| {
            let switch = Switch::start();
            switch.plug(self);
            switch
        });
        let node = Self::boot(name, &format!("192.0.2.{number}"));
        switch.plug(&node);
        let users = [
            (format!("system:node:{name}"), "system:nodes", "kubelet"),
            ("system:kube-proxy".to_owned(), "", "proxy"),
            ("system:kube-proxy".to_owned(), "", "dns"),
        ];
        for (user, group, part) in users {
            let config = self.kubeconfig_for(&user, group);
            std::fs::write(node.dir.join(format!("{part}.kubeconfig")), config).expect("a file");
        }
        for part in PARTS {
            node.start_part(part);
        }
        node
    }

    /// A kubeconfig by which `user` reaches this server over the network.
    ///
    /// # Panics
    /// If the server's authority cannot be used.
    #[must_use]
    pub fn kubeconfig_for(&self, user: &str, group: &str) -> String {
        let now = jiff::Timestamp::now();
        let pki = pki::Pki::open(&self.dir.join("data/pki"), now).expect("the server's keys");
        let request = pki::LeafRequest {
            common_name: user.to_owned(),
            organizations: Vec::from_iter((!group.is_empty()).then(|| group.to_owned())),
            dns_names: Vec::new(),
            ips: Vec::new(),
            usage: pki::Usage::Client,
        };
        let leaf = pki.ca.issue(&request, now).expect("a certificate");
        let server = format!("https://{}:6443", self.address);
        pki::kubeconfig::with_certificate("skiff", &server, &pki.ca.cert_pem, user, &leaf)
    }

    /// Starts a part (again) of a node that joined; waits for the kubelet to be Ready.
    ///
    /// # Panics
    /// If it does not get ready.
    pub fn start_part(&self, part: &str) {
        let node = "--hostname-override $NAME --node-ip $ADDRESS";
        let flags = match part {
            "kubelet" => format!("{node} --node-labels tests/joined=yes"),
            "proxy" => node.to_owned(),
            _ => String::new(),
        };
        let before = self.times_ready(part);
        self.tell(
            part,
            &format!(
                "$SKIFF {part} --data-dir $DIR/data --kubeconfig $DIR/{part}.kubeconfig {flags}"
            ),
        );
        if part == "kubelet" {
            self.await_ready(part, before);
        }
    }

    /// Makes the namespaces and waits for the init.
    fn boot(name: &str, address: &str) -> Self {
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
            .env("ADDRESS", address)
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(dir.join("init.log")).expect("a log"))
            .stderr(std::fs::File::create(dir.join("init.err")).expect("a log"))
            .spawn()
            .expect("unshare");
        let node = Self {
            init,
            dir,
            name: name.to_owned(),
            address: address.to_owned(),
            switch: OnceLock::new(),
        };
        node.until("the init to be ready", || node.dir.join("ready").exists());
        node
    }

    /// Has the init start `command` as a part of that name, which [`Self::kill`] ends and whose log [`Self::log_of`] has.
    ///
    /// # Panics
    /// If the command cannot be written down.
    pub fn tell(&self, part: &str, command: &str) {
        let script = self.dir.join(format!("new-{part}"));
        std::fs::write(&script, format!("exec {command}\n")).expect("a file");
        std::fs::rename(script, self.dir.join(format!("start-{part}"))).expect("a file");
    }

    fn times_ready(&self, part: &str) -> usize {
        self.log_of(part).matches("the node is Ready").count()
    }

    #[track_caller]
    fn await_ready(&self, part: &str, before: usize) {
        self.until("the node to be Ready", || self.times_ready(part) > before);
    }

    /// Starts the server again and waits until the node is Ready.
    ///
    /// # Panics
    /// If it does not get ready.
    pub fn start_server(&self) {
        let before = self.times_ready("server");
        let last = self.dir.join("run-server");
        std::fs::rename(last, self.dir.join("start-server")).expect("a file");
        self.await_ready("server", before);
    }

    /// The node's address, which the other nodes on its link reach.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The node's name in the cluster.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Kills the server as `kill -9` does, and waits until all of its threads are gone; containers go on.
    ///
    /// # Panics
    /// If it cannot be killed.
    pub fn kill_server(&self) {
        self.kill("server");
    }

    /// Kills a part as [`Self::kill_server`] does.
    ///
    /// # Panics
    /// If it cannot be killed.
    pub fn kill(&self, part: &str) {
        let output = self.run(&format!("p=$(cat {0}/{part}.pid); kill -9 $p; until ! kill -0 $p 2>/dev/null || {{ grep -q 'State:.*Z' /proc/$p/status && [ $(ls /proc/$p/task | wc -l) = 1 ]; }}; do sleep 0.01; done; rm -f {0}/{part}.pid", self.dir.display()));
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

    /// What the server, or the node's parts, logged.
    #[must_use]
    pub fn log(&self) -> String {
        ["server"]
            .iter()
            .chain(&PARTS)
            .map(|part| self.log_of(part))
            .collect()
    }

    /// What a part logged.
    #[must_use]
    pub fn log_of(&self, part: &str) -> String {
        std::fs::read_to_string(self.dir.join(format!("{part}.log"))).unwrap_or_default()
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

    /// The init's PID.
    fn namespaces_of(&self) -> u32 {
        child_of(&self.init)
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
        self.within(PATIENCE, script)
    }

    /// As [`Self::eventually`], for what takes long.
    ///
    /// # Panics
    /// If it does not succeed in time.
    #[track_caller]
    pub fn within(&self, patience: Duration, script: &str) -> String {
        let begin = Instant::now();
        loop {
            if begin.elapsed() > patience {
                return self.sh(script);
            }
            let output = self.run(script);
            if output.status.success() {
                return String::from_utf8_lossy(&output.stdout).trim().to_owned();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until `done`.
    ///
    /// # Panics
    /// If it takes a minute.
    #[track_caller]
    pub fn until(&self, what: &str, done: impl Fn() -> bool) {
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
        // The cluster's directory below /run and its cgroups have one suffix.
        let state = format!("/proc/{}/root/run", self.namespaces_of());
        let clusters: Vec<String> = std::fs::read_dir(state)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|e| Some(e.file_name().to_str()?.strip_prefix("skiff-")?.to_owned()))
            .collect();
        // With the init all of its PID namespace ends, and with the mount namespace its mounts.
        drop(self.init.kill());
        drop(self.init.wait());
        for cluster in clusters {
            remove_cgroups(&format!("kubepods-{cluster}"));
        }
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

/// Removes a cgroup that is empty or about to be, in every hierarchy.
fn remove_cgroups(name: &str) {
    fn remove(dir: &Path) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                remove(&entry.path());
            }
        }
        for _ in 0..50 {
            if std::fs::remove_dir(dir).is_ok() || !dir.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let root = Path::new("/sys/fs/cgroup");
    remove(&root.join(name));
    for hierarchy in std::fs::read_dir(root).into_iter().flatten().flatten() {
        if hierarchy.path().join(name).is_dir() {
            remove(&hierarchy.path().join(name));
        }
    }
}
