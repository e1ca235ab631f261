//! kubectl's server-side apply, against an API server in memory: no containers are needed.

use std::path::Path;

use serde_json::Value;
use test_support::Server;
use tokio::process::Command;

use crate::clients::kubectls;

const CONFIG: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  namespace: default
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: localhost/web:1
        ports: [{containerPort: 80}]
        env: [{name: A, value: "1"}]
"#;

struct Kubectl<'a> {
    program: &'a Path,
    dir: &'a Path,
}

impl Kubectl<'_> {
    /// Exit code and everything that was said.
    async fn run(&self, line: &str) -> (i32, String) {
        let script = format!("{} {line} 2>&1", self.program.display());
        let output = Command::new("sh")
            .args(["-c", &script])
            .current_dir(self.dir)
            .env("KUBECONFIG", self.dir.join("kubeconfig"))
            .env("HOME", self.dir)
            .output()
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        (output.status.code().unwrap_or(-1), text)
    }

    #[track_caller]
    fn ok(&self, line: &str) -> impl Future<Output = String> {
        let line = line.to_owned();
        async move {
            let (code, text) = self.run(&line).await;
            assert_eq!(code, 0, "kubectl {line}: {text}");
            text
        }
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.join(name), text).unwrap();
    }

    async fn managers(&self) -> Vec<String> {
        let text = self
            .ok("get deployment web -o json --show-managed-fields")
            .await;
        let object: Value = serde_json::from_str(&text).unwrap();
        let entries = object["metadata"]["managedFields"].as_array().unwrap();
        let show = |e: &Value| {
            format!(
                "{} {}",
                e["manager"].as_str().unwrap(),
                e["operation"].as_str().unwrap()
            )
        };
        let mut shown: Vec<String> = entries.iter().map(show).collect();
        // The server sorts them by time.
        shown.sort();
        shown
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apply_diff_conflict_force_and_migrate() {
    for program in kubectls() {
        let server = Server::start().await;
        let dir = tempfile::tempdir().unwrap();
        let k = Kubectl {
            program: &program,
            dir: dir.path(),
        };
        println!("{}", program.display());
        k.write("kubeconfig", &server.kubeconfig().await);
        k.write("a.yaml", CONFIG);
        k.write("b.yaml", &CONFIG.replace("web:1", "web:2"));
        let said = k.ok("apply --server-side -f a.yaml").await;
        assert_eq!(said, "deployment.apps/web serverside-applied");
        assert_eq!(k.managers().await, ["kubectl Apply"]);
        // Nothing changes, and nothing differs.
        let version = "get deployment web -o jsonpath={.metadata.resourceVersion}";
        let before = k.ok(version).await;
        k.ok("apply --server-side -f a.yaml").await;
        k.ok("diff --server-side -f a.yaml").await;
        k.ok("diff -f a.yaml").await;
        assert_eq!(k.ok(version).await, before);
        let (code, text) = k.run("diff --server-side -f b.yaml").await;
        assert!(
            code == 1 && text.contains("+      - image: localhost/web:2")
                || text.contains("+        image: localhost/web:2"),
            "{text}"
        );
        // Somebody else's field.
        k.ok("scale deployment web --replicas=5").await;
        let (code, text) = k.run("apply --server-side -f a.yaml").await;
        assert_eq!(code, 1);
        assert!(
            text.contains(" with subresource \"scale\" using apps/v1: .spec.replicas")
                && text.contains("--force-conflicts"),
            "{text}"
        );
        k.ok("apply --server-side --force-conflicts -f a.yaml")
            .await;
        assert_eq!(
            k.ok("get deployment web -o jsonpath={.spec.replicas}")
                .await,
            "2"
        );
        assert_eq!(k.managers().await, ["kubectl Apply"]);
        // By default kubectl hides them.
        let shown = k.ok("get deployment web -o yaml").await;
        assert!(!shown.contains("managedFields"), "{shown}");
        k.ok("delete deployment web").await;

        // From client-side apply to server-side apply and on.
        k.ok("apply -f a.yaml").await;
        assert_eq!(k.managers().await, ["kubectl-client-side-apply Update"]);
        k.ok("apply --server-side -f b.yaml").await;
        // kubectl keeps its annotation under a name of its own.
        assert_eq!(
            k.managers().await,
            ["kubectl Apply", "kubectl-last-applied Apply"]
        );
        let without_env = CONFIG.replace("        env: [{name: A, value: \"1\"}]\n", "");
        k.write("c.yaml", &without_env);
        k.ok("apply --server-side -f c.yaml").await;
        let env = "get deployment web -o jsonpath={.spec.template.spec.containers[0].env}";
        assert_eq!(k.ok(env).await, "");
        k.ok("apply --server-side --field-manager=other --force-conflicts -f c.yaml")
            .await;
        let (_, text) = k
            .run("apply --server-side --field-manager=third -f b.yaml")
            .await;
        let image = "- .spec.template.spec.containers[name=\"web\"].image";
        assert!(
            text.contains("Apply failed with 2 conflicts: conflicts with \"kubectl\":")
                && text.contains(&format!("conflicts with \"other\":\n{image}")),
            "{text}"
        );
    }
}
