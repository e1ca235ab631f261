//! The server is killed amid writers: what was acknowledged is there, and containers are the same processes.

use std::collections::BTreeSet;

use crate::examples::with_examples;

/// 64 clients create ConfigMaps until the server goes away; each acknowledged name is a line of output.
const WRITERS: &str = r#"
import base64, http.client, json, os, ssl, sys, tempfile, threading
text = open(os.environ['KUBECONFIG']).read()
field = lambda name: base64.b64decode(next(l.split(':', 1)[1] for l in text.splitlines() if name in l).strip())
server = next(l.split(':', 1)[1] for l in text.splitlines() if ' server' in l).strip().removeprefix('https://')
context = ssl.create_default_context(cadata=field('certificate-authority-data').decode())
with tempfile.NamedTemporaryFile() as f:
    f.write(field('client-certificate-data') + b'\n' + field('client-key-data')); f.flush()
    context.load_cert_chain(f.name)
lock = threading.Lock()
def write(worker):
    connection = http.client.HTTPSConnection(server, context=context, timeout=10)
    for i in range(100000):
        name = f'w{sys.argv[1]}-{worker}-{i}'
        body = json.dumps({'metadata': {'name': name}, 'data': {'x': 'y' * 500}})
        try:
            connection.request('POST', '/api/v1/namespaces/demo/configmaps', body, {'Content-Type': 'application/json'})
            answer = connection.getresponse(); answer.read()
        except OSError:
            return
        except http.client.HTTPException:
            return
        if answer.status == 201:
            with lock: print(name, flush=True)
threads = [threading.Thread(target=write, args=(w,), daemon=True) for w in range(64)]
for t in threads: t.start()
for t in threads: t.join()
"#;

#[test]
fn what_was_acknowledged_survives_and_containers_go_on() {
    let rounds = if std::env::var_os("SKIFF_NIGHTLY").is_some() {
        20
    } else {
        3
    };
    let node = with_examples("crash");
    let processes = || node.sh("pgrep -x httpd | sort -n");
    let before = processes();
    let script = node.dir().join("writers.py");
    std::fs::write(&script, WRITERS).unwrap();
    let mut acknowledged = BTreeSet::new();
    for round in 0..rounds {
        let said = node.dir().join(format!("written-{round}"));
        let mut writers = node
            .command(&format!("python3 {} {round}", script.display()))
            .stdout(std::fs::File::create(&said).unwrap())
            .spawn()
            .unwrap();
        node.eventually(&format!("[ -s {} ]", said.display()));
        // Amid the writes, at another moment each time.
        std::thread::sleep(std::time::Duration::from_millis(100 + 37 * round));
        node.kill_server();
        writers.wait().unwrap();
        let names = std::fs::read_to_string(&said).unwrap();
        let names: Vec<String> = names.lines().map(str::to_owned).collect();
        acknowledged.extend(names);
        node.start_server();
        let stored = node.sh("kubectl get configmaps -n demo -o name | sed 's,.*/,,'");
        let stored: BTreeSet<&str> = stored.lines().collect();
        let lost: Vec<&String> = acknowledged
            .iter()
            .filter(|n| !stored.contains(n.as_str()))
            .collect();
        assert!(lost.is_empty(), "round {round} lost {lost:?}");
        assert_eq!(
            processes(),
            before,
            "round {round}: containers are other processes"
        );
    }
    println!(
        "{} acknowledged writes over {rounds} kills",
        acknowledged.len()
    );
    node.eventually("curl -fsS --max-time 2 http://127.0.0.1:30080");
    let restarts = node.sh("kubectl get pods -n demo -o jsonpath='{.items[*].status.containerStatuses[*].restartCount}'");
    assert!(restarts.split_whitespace().all(|r| r == "0"), "{restarts}");
}

#[test]
fn a_secret_is_nowhere_on_disk_in_the_clear() {
    let node = with_examples("secret");
    let found = node.sh("grep -rl correct-horse-battery-staple $SKIFF_DATA_DIR/store || true");
    assert_eq!(found, "");
    let known = node.sh("grep -rl 'Hello from a Service' $SKIFF_DATA_DIR/store | head -n 1");
    assert_ne!(known, "", "the search finds what is not secret");
}
