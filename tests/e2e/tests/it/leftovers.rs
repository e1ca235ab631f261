//! `skiff uninstall` leaves nothing, and the command line says what is wrong.

use crate::examples::with_examples;

#[test]
fn uninstall_leaves_nothing() {
    let node = with_examples("gone");
    let refused = node.run("$SKIFF uninstall --yes");
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
