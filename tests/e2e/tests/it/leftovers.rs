//! `skiff uninstall` leaves nothing, and the command line says what is wrong.

use crate::examples::with_examples;

#[test]
fn uninstall_leaves_nothing() {
    let node = with_examples("gone");
    let refused = node.run("$SKIFF uninstall --yes");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("a server is running"));
    let refused = node.run("$SKIFF server --secure-port 7443");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("a server is running"));
    node.kill_server();
    node.sh("$SKIFF uninstall --yes");
    let left = |what: &str| node.sh(&format!("{what} || true"));
    assert_eq!(left("ls $SKIFF_DATA_DIR 2>/dev/null"), "");
    assert_eq!(left("pgrep -x httpd"), "");
    assert_eq!(left("nft list tables | grep skiff"), "");
    assert_eq!(left("ip -o link | grep -E ' sk[0-9a-f]'"), "");
    assert_eq!(left("ip route | grep 10.42."), "");
    assert_eq!(left("ip -4 addr | grep 10.43."), "");
    assert_eq!(
        left("grep -E ' /run/skiff| /var/lib/kubelet' /proc/mounts"),
        ""
    );
}

#[test]
fn two_clusters_share_a_machine_and_leave_each_other_alone() {
    let node = with_examples("shared");
    let second = node.dir().join("second");
    let (dir, k) = (
        second.display(),
        format!("kubectl --kubeconfig {}/kubeconfig", second.display()),
    );
    node.tell(
        "second",
        &format!(
            "$SKIFF server --data-dir {dir} --node-name second --secure-port 7443 --kubelet-port 11250 \
             --cluster-cidr 10.52.0.0/16 --service-cidr 10.53.0.0/16"
        ),
    );
    node.eventually(&format!("{k} get nodes second | grep -qw Ready"));
    assert_eq!(node.sh("kubectl get nodes -o name"), "node/shared");
    node.sh(&format!(
        "$SKIFF image import --data-dir {dir} {0}/skiff-demo-1.tar && {k} create deployment web --image=localhost/skiff-demo:1 && \
         {k} expose deployment web --port=80 --target-port=8080 && {k} rollout status deployment/web --timeout=60s",
        node.dir().display()
    ));
    let ip = node.sh(&format!(
        "{k} get service web -o jsonpath='{{.spec.clusterIP}}'"
    ));
    assert!(ip.starts_with("10.53."), "{ip}");
    let first = "curl -fsS --max-time 2 http://127.0.0.1:30080";
    node.eventually(&format!("curl -fsS --max-time 2 http://{ip}"));
    node.eventually(&format!(
        "{k} exec deploy/web -- wget -qO- -T 2 http://web.default.svc.cluster.local"
    ));
    node.sh(first);
    let links = |prefix: &str| node.sh(&format!("ip -o link | grep -cE ' {prefix}' || true"));
    assert_eq!(node.sh("nft list tables | grep -c skiff"), "4");
    let (all, mine) = (
        links("sk[0-9a-f]"),
        node.sh("kubectl get pods -A --no-headers | wc -l"),
    );
    assert_eq!(
        all.parse::<u32>().unwrap(),
        mine.parse::<u32>().unwrap() + 1
    );

    node.kill("second");
    node.sh(&format!("$SKIFF uninstall --yes --data-dir {dir}"));
    assert_eq!(node.sh("nft list tables | grep -c skiff"), "2");
    assert_eq!(
        links("sk[0-9a-f]"),
        mine,
        "the first cluster's Pods keep their links"
    );
    assert_eq!(node.sh("ip route | grep -c 10.52. || true"), "0");
    assert_eq!(node.sh("ip -4 addr | grep -c 10.53. || true"), "0");
    node.sh(first);
    node.sh("kubectl exec -n demo rc/clock -- wget -qO- -T 2 http://web.demo.svc.cluster.local");
}

#[test]
fn the_command_line_says_what_is_wrong() {
    let dir = std::env::temp_dir().join(format!("skiff-words-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let run = |script: &str| {
        let output = std::process::Command::new("unshare")
            .args([
                "--net",
                "--mount",
                "sh",
                "-c",
                &format!("ip link set lo up; {script}"),
            ])
            .env("SKIFF", test_support::node::skiff())
            .env("SKIFF_DATA_DIR", &dir)
            .output()
            .unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let cases = [
        ("$SKIFF nonsense", 2, "unrecognized subcommand"),
        (
            "$SKIFF server --datastore none",
            2,
            "it is embedded or memory",
        ),
        ("$SKIFF server --disable none", 2, "there is no such part"),
        ("$SKIFF server --config /none", 2, "cannot read /none"),
        ("$SKIFF kubeconfig", 1, "start `skiff server` first"),
        ("$SKIFF kubelet", 2, "--kubeconfig <KUBECONFIG>"),
        (
            "$SKIFF proxy --kubeconfig /none",
            2,
            "cannot read /none: No such file or directory",
        ),
        (
            "echo 'clusters: []' > $SKIFF_DATA_DIR/k; $SKIFF dns --kubeconfig $SKIFF_DATA_DIR/k",
            2,
            "has no current-context",
        ),
        (
            "printf '{clusters: [{name: c, cluster: {server: \"https://x\", certificate-authority-data: eA==}}], users: [{name: u, user: {exec: {command: x}}}], contexts: [{name: x, context: {cluster: c, user: u}}]}' > $SKIFF_DATA_DIR/k; $SKIFF scheduler --kubeconfig $SKIFF_DATA_DIR/k",
            2,
            "exec is not supported",
        ),
        ("$SKIFF image list", 1, "start `skiff server`"),
        (
            "python3 -c 'import socket,time; s=socket.socket(); s.setsockopt(1,2,1); s.bind((\"0.0.0.0\",6443)); s.listen(); time.sleep(20)' & p=$!; sleep 1; $SKIFF server; c=$?; kill $p; exit $c",
            1,
            "port 6443 is in use by process",
        ),
        (
            "mkdir -p $SKIFF_DATA_DIR/pki; echo nonsense > $SKIFF_DATA_DIR/pki/ca.crt; $SKIFF server --disable kubelet,proxy,dns",
            1,
            "ca.key is missing",
        ),
    ];
    for (script, code, said) in cases {
        let (got, stderr) = run(script);
        assert_eq!(got, code, "{script}: {stderr}");
        assert!(stderr.contains(said), "{script}: {stderr}");
        assert!(!stderr.contains("panicked"), "{script}: {stderr}");
    }
    std::fs::remove_dir_all(dir).unwrap();
}
