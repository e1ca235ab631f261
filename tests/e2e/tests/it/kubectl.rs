//! Every verb of kubectl that needs no container, on a cluster with a hollow node: exit codes and what is printed, which
//! is what the same kubectl prints of upstream's server.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::clients::{debians, kubectls};
use crate::hollow::Hollow;

/// One call: the first version (1.x) that knows it, the arguments, and what is printed. A `!` before the arguments: it
/// fails. In what is printed `*` stands for anything.
type Call = (u32, &'static str, &'static str);

const FILES: &[(&str, &str)] = &[
    (
        "d.yaml",
        "apiVersion: apps/v1
kind: Deployment
metadata: {name: d, labels: {app: d}}
spec:
  selector: {matchLabels: {app: d}}
  template:
    metadata: {labels: {app: d}}
    spec: {containers: [{name: c, image: localhost/a:1}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: m, labels: {app: d}}
data: {a: '1'}
",
    ),
    (
        "m.yaml",
        "apiVersion: v1
kind: ConfigMap
metadata: {name: m, labels: {app: d}}
data: {a: '2'}
",
    ),
    (
        "kustomization.yaml",
        "resources: [m.yaml]\nnamePrefix: k-\n",
    ),
    (
        "role.yaml",
        "apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: reader}
rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]
",
    ),
    (
        "other.json",
        r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "other"}}"#,
    ),
    (
        "bad.json",
        r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "bad"}, "dat": {}}"#,
    ),
];

/// `create` and its generators, `run`, `expose`, `autoscale`.
const CREATE: &[Call] = &[
    (0, "create namespace t", "namespace/t created"),
    (
        0,
        "config set-context --current --namespace=t",
        "Context \"test\" modified.",
    ),
    (0, "config current-context", "test"),
    (
        0,
        "create configmap cm --from-literal=a=1 --from-literal=b=2",
        "configmap/cm created",
    ),
    (
        0,
        "!create configmap cm",
        "error: failed to create configmap: configmaps \"cm\" already exists",
    ),
    (
        0,
        "create secret generic sec --from-literal=a=1",
        "secret/sec created",
    ),
    (
        0,
        "create secret docker-registry reg --docker-server=r --docker-username=u --docker-password=p",
        "secret/reg created",
    ),
    (0, "create serviceaccount sa", "serviceaccount/sa created"),
    (24, "create token sa --duration=10m", "ey*.*.*"),
    (
        0,
        "create role r --verb=get,list --resource=pods,deployments.apps/scale",
        "role.rbac.authorization.k8s.io/r created",
    ),
    (
        0,
        "create rolebinding rb --role=r --serviceaccount=t:sa --user=joe",
        "rolebinding.rbac.authorization.k8s.io/rb created",
    ),
    (
        0,
        "create clusterrole cr --verb=get --non-resource-url=/logs/*",
        "clusterrole.rbac.authorization.k8s.io/cr created",
    ),
    (
        0,
        "create clusterrolebinding crb --clusterrole=cr --group=g",
        "clusterrolebinding.rbac.authorization.k8s.io/crb created",
    ),
    (
        0,
        "create quota q --hard=pods=40,services=10",
        "resourcequota/q created",
    ),
    (
        0,
        "create pdb pdb --selector=app=none --min-available=1",
        "poddisruptionbudget.policy/pdb created",
    ),
    (
        0,
        "create priorityclass pc --value=10 --description=d",
        "priorityclass.scheduling.k8s.io/pc created",
    ),
    (
        0,
        "create deployment web --image=localhost/web:1 --replicas=2 --port=80",
        "deployment.apps/web created",
    ),
    (
        0,
        "create service clusterip cip --tcp=80:80",
        "service/cip created",
    ),
    (
        0,
        "create service nodeport np --tcp=80:80 --node-port=31234",
        "service/np created",
    ),
    (
        0,
        "create service loadbalancer lb --tcp=80",
        "service/lb created",
    ),
    (
        0,
        "create service externalname en --external-name=example.com",
        "service/en created",
    ),
    (
        0,
        "create ingress ing --class=nginx --rule=foo.com/bar=svc1:8080",
        "*ingress.networking.k8s.io/ing created",
    ),
    (
        0,
        "create job j --image=localhost/x:1 -- echo hi",
        "*job.batch/j created",
    ),
    (
        0,
        "create cronjob cj --image=localhost/x:1 --schedule='*/5 * * * *' -- echo hi",
        "*cronjob.batch/cj created",
    ),
    (
        0,
        "create job j2 --from=cronjob/cj",
        "*job.batch/j2 created",
    ),
    (
        0,
        "create -f other.json --dry-run=server -o name",
        "configmap/other",
    ),
    (
        0,
        "create --raw /api/v1/namespaces/t/configmaps -f other.json",
        "{*\"name\":\"other\"*}",
    ),
    (
        27,
        "!create -f bad.json",
        "Error from server (BadRequest): error when creating \"bad.json\": ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"dat\"",
    ),
    (
        27,
        "create --validate=warn -f bad.json",
        "Warning: unknown field \"dat\"\nconfigmap/bad created",
    ),
    (
        0,
        "run one --image=localhost/x:1 --labels=a=b --env=X=Y --port=8080 --expose",
        "service/one created\npod/one created",
    ),
    (
        0,
        "!run A --image=x",
        "The Pod \"A\" is invalid: *metadata.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of*",
    ),
    (
        0,
        "expose deployment web --port=80 --target-port=8080",
        "service/web exposed",
    ),
    (
        0,
        "autoscale deployment web --min=1 --max=3 --cpu-percent=50",
        "*horizontalpodautoscaler.autoscaling/web autoscaled",
    ),
];

/// `set`, `rollout`, `scale`, `label`, `annotate`, `patch`, `edit`, `wait`.
const CHANGE: &[Call] = &[
    (
        0,
        "rollout status deployment web --timeout=30s",
        "*deployment \"web\" successfully rolled out",
    ),
    (
        0,
        "set image deployment/web web=localhost/web:2",
        "deployment.apps/web image updated",
    ),
    (
        0,
        "set env deployment/web A=B",
        "deployment.apps/web env updated",
    ),
    (0, "set env deployment/web --list", "# *eployment*web*\nA=B"),
    (
        0,
        "set resources deployment/web -c=web --limits=cpu=200m,memory=512Mi",
        "deployment.apps/web resource requirements updated",
    ),
    (
        0,
        "set selector service/cip x=y",
        "service/cip selector updated",
    ),
    (
        0,
        "set serviceaccount deployment/web sa",
        "deployment.apps/web serviceaccount updated",
    ),
    (
        0,
        "set subject rolebinding rb --user=mary",
        "rolebinding.rbac.authorization.k8s.io/rb subjects updated",
    ),
    (
        0,
        "rollout status deployment web --timeout=30s",
        "*deployment \"web\" successfully rolled out",
    ),
    (
        0,
        "rollout history deployment web",
        "deployment.apps/web*REVISION  CHANGE-CAUSE\n1         <none>\n2         <none>\n*",
    ),
    (
        0,
        "rollout history deployment web --revision=2",
        "deployment.apps/web with revision #2\nPod Template:*Image:\tlocalhost/web:2*",
    ),
    (
        0,
        "rollout pause deployment web",
        "deployment.apps/web paused",
    ),
    (
        0,
        "!rollout pause deployment web",
        "error: deployments.apps \"web\" is already paused",
    ),
    (
        0,
        "rollout resume deployment web",
        "deployment.apps/web resumed",
    ),
    (
        0,
        "rollout undo deployment web --to-revision=1",
        "deployment.apps/web rolled back",
    ),
    (
        0,
        "rollout restart deployment web",
        "deployment.apps/web restarted",
    ),
    (
        0,
        "rollout status deployment web --timeout=30s",
        "*deployment \"web\" successfully rolled out",
    ),
    (
        0,
        "scale deployment web --replicas=3 --current-replicas=2",
        "deployment.apps/web scaled",
    ),
    (
        0,
        "!scale deployment web --replicas=2 --current-replicas=1",
        "error: Expected replicas to be 1, was 3",
    ),
    (
        0,
        "annotate deploy web k=v",
        "deployment.apps/web annotate*",
    ),
    (
        0,
        "!annotate deploy web k=w",
        "error: --overwrite is false but found the following declared annotation(s): 'k' already has a value (v)",
    ),
    (
        0,
        "annotate deploy web k=w --overwrite",
        "deployment.apps/web annotate*",
    ),
    (0, "label pods --all x=y", "pod/one labeled\npod/web-*"),
    (0, "label pod one x-", "pod/one *labeled"),
    (
        0,
        r#"patch deploy web -p '{"spec":{"replicas":2}}'"#,
        "deployment.apps/web patched",
    ),
    (
        0,
        r#"patch deploy web -p '{"spec":{"replicas":2}}'"#,
        "deployment.apps/web patched (no change)",
    ),
    (
        0,
        r#"patch deploy web --type=json -p '[{"op":"replace","path":"/spec/replicas","value":1}]'"#,
        "deployment.apps/web patched",
    ),
    (
        0,
        r#"patch deploy web --type=merge -p '{"spec":{"replicas":2}}'"#,
        "deployment.apps/web patched",
    ),
    (
        0,
        r#"!patch deploy web --type=json -p '[{"op":"test","path":"/spec/replicas","value":9}]'"#,
        "The request is invalid: the server rejected our request due to an error in our request",
    ),
    (
        27,
        r#"patch deploy web --subresource=scale --type=merge -p '{"spec":{"replicas":1}}'"#,
        "scale.autoscaling/web patched",
    ),
    (
        27,
        "get deploy web --subresource=scale",
        "NAME   DESIRED   AVAILABLE   AGE\nweb    1         *",
    ),
    (
        27,
        "get deploy web --subresource=status",
        "NAME   READY   UP-TO-DATE   AVAILABLE   AGE\nweb*",
    ),
    (
        0,
        "wait --for=condition=Available deploy/web --timeout=20s",
        "deployment.apps/web condition met",
    ),
    (
        23,
        "wait --for=jsonpath='{.spec.replicas}'=1 deploy/web --timeout=10s",
        "deployment.apps/web condition met",
    ),
    (
        31,
        "wait --for=create cm/cm --timeout=5s",
        "configmap/cm condition met",
    ),
    (
        0,
        "!wait --for=condition=Never pod/one --timeout=1s",
        "error: timed out waiting for the condition on pods/one",
    ),
    (0, "edit cm cm", "configmap/cm edited"),
    (0, "get cm cm -o jsonpath={.data.a}", "one"),
    (0, "edit cm cm", "Edit cancelled, no changes made."),
];

/// `get` in its forms, `describe`, `events`, `explain`, and what tells about the cluster.
const READ: &[Call] = &[
    (
        0,
        "get deploy,svc web -o wide",
        "NAME                  READY   UP-TO-DATE   AVAILABLE   AGE   CONTAINERS   IMAGES            SELECTOR\n\
         deployment.apps/web   1/1     1            1 *web          localhost/web:1   app=web\n\n\
         NAME          TYPE        CLUSTER-IP*PORT(S)   AGE   SELECTOR\nservice/web   ClusterIP   10.43.*app=web",
    ),
    (
        0,
        "get endpoints lb",
        "Warning: v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\nNAME   ENDPOINTS   AGE\nlb     <none>*",
    ),
    (
        0,
        "get svc en",
        "NAME   TYPE           CLUSTER-IP   EXTERNAL-IP   PORT(S)   AGE\nen     ExternalName   <none>       example.com   <none>*",
    ),
    (
        0,
        "get all -o name",
        "pod/one\npod/web-*service/cip\n*deployment.apps/web\nreplicaset.apps/web-*horizontalpodautoscaler.autoscaling/web\ncronjob.batch/cj\njob.batch/j\njob.batch/j2",
    ),
    (
        0,
        "get cm cm -o yaml",
        "apiVersion: v1\ndata:\n  a: one\n  b: \"2\"\nkind: ConfigMap\nmetadata:\n  creationTimestamp: \"*\"\n  name: cm\n  namespace: t\n  resourceVersion: \"*\"\n  uid: *",
    ),
    (
        0,
        "get cm cm -o json",
        "{\n    \"apiVersion\": \"v1\",\n    \"data\": {*",
    ),
    (0, "get cm cm -o go-template='{{.data.b}}'", "2"),
    (
        0,
        "get cm cm -o custom-columns=N:.metadata.name,D:.data.b",
        "N *D\ncm *2",
    ),
    (
        0,
        "get pod one --show-labels --no-headers",
        "one   1/1   Running   0     *a=b",
    ),
    (
        0,
        "get pods -l a=b -L a",
        "NAME   READY   STATUS    RESTARTS   AGE   A\none    1/1     Running   0          *b",
    ),
    (
        0,
        "get pods --field-selector=metadata.name=one -o name",
        "pod/one",
    ),
    (
        0,
        "!get pods --field-selector=a=b",
        "Error from server (BadRequest): Unable to find \"/v1, Resource=pods\" that match label selector \"\", field selector \"a=b\": field label not supported: a",
    ),
    (
        0,
        "get cm --chunk-size=1 --sort-by=.metadata.name -o name",
        "configmap/bad\nconfigmap/cm\nconfigmap/kube-root-ca.crt\nconfigmap/other",
    ),
    (
        0,
        "!get pod nope",
        "Error from server (NotFound): pods \"nope\" not found",
    ),
    (
        0,
        "!get nope",
        "error: the server doesn't have a resource type \"nope\"",
    ),
    (
        27,
        "!get bindings",
        "Error from server (MethodNotAllowed): the server does not allow this method on the requested resource",
    ),
    (
        0,
        "get pods -n none",
        "No resources found in none namespace.",
    ),
    (0, "get --raw /healthz", "ok"),
    (
        0,
        "get --raw /readyz?verbose",
        "[+]ping ok\n*readyz check passed",
    ),
    (
        27,
        "events --for deployment/web",
        "LAST SEEN   TYPE     REASON              OBJECT           MESSAGE\n*Normal   ScalingReplicaSet   Deployment/web   Scaled up replica set web-* from 0 to 2*",
    ),
    (
        0,
        "get events --field-selector=involvedObject.name=one",
        "LAST SEEN   TYPE     REASON      OBJECT    MESSAGE\n*Normal   Scheduled   pod/one   Successfully assigned t/one to node-1",
    ),
    (
        0,
        "describe deployment web",
        "Name:                   web\nNamespace:              t\n*StrategyType:           RollingUpdate\n*NewReplicaSet:   web-*Events:*ScalingReplicaSet*",
    ),
    (
        0,
        "describe pod one",
        "Name: *one\nNamespace: *t\n*Node: *node-1/192.0.2.20\n*Events:*Successfully assigned t/one to node-1",
    ),
    (
        0,
        "describe node node-1",
        "Name: *node-1\n*Lease:\n  HolderIdentity:  node-1\n*Non-terminated Pods:*Allocated resources:*",
    ),
    (
        0,
        "explain deployment.spec.replicas",
        "*KIND: *Deployment\nVERSION: *v1\n\nFIELD: *replicas <integer>*Number of desired pods*",
    ),
    (
        0,
        "explain hpa.spec --api-version=autoscaling/v1",
        "*targetCPUUtilizationPercentage\t<integer>*",
    ),
    (
        0,
        "!explain pod.nope",
        "*error: field \"nope\" does not exist",
    ),
    (0, "!top nodes", "error: Metrics API not available"),
    (0, "!top pods", "error: Metrics API not available"),
    (
        0,
        "cluster-info",
        "*Kubernetes control plane*is running at*https://127.0.0.1:*To further debug and diagnose cluster problems, use 'kubectl cluster-info dump'.",
    ),
    (
        0,
        "cluster-info dump --namespaces=t | head -n 2",
        "{\n    \"kind\": \"NodeList\",",
    ),
    (0, "version", "*Server Version: *v1.36.0*"),
    (
        0,
        "api-versions",
        "admissionregistration.k8s.io/v1\n*apps/v1\n*autoscaling/v1\nautoscaling/v2\n*v1",
    ),
    (
        0,
        "api-resources --api-group=apps --no-headers",
        "controllerrevisions *\ndaemonsets *ds *\ndeployments *deploy *\nreplicasets *rs *\nstatefulsets *sts *StatefulSet",
    ),
    (
        0,
        "api-resources --namespaced=false --verbs=list -o name | head -n 3",
        "namespaces\nnodes\npersistentvolumes",
    ),
    (
        0,
        "config view --minify -o jsonpath={.contexts[0].context.namespace}",
        "t",
    ),
];

/// `apply` and its kin, `diff`, `replace`, `kustomize`.
const APPLY: &[Call] = &[
    (
        0,
        "apply -f d.yaml",
        "deployment.apps/d created\nconfigmap/m created",
    ),
    (
        0,
        "apply -f d.yaml",
        "deployment.apps/d unchanged\nconfigmap/m unchanged",
    ),
    (
        0,
        "apply view-last-applied -f m.yaml",
        "apiVersion: v1\ndata:\n  a: \"1\"\nkind: ConfigMap\nmetadata:\n  annotations: {}\n*",
    ),
    (
        0,
        "!diff -f m.yaml",
        "diff -u -N *-  a: \"1\"\n+  a: \"2\"\n*",
    ),
    (
        0,
        "apply -f m.yaml --dry-run=server",
        "configmap/m configured (server dry run)",
    ),
    (0, "apply -f m.yaml", "configmap/m configured"),
    (0, "diff -f m.yaml", ""),
    (
        0,
        "!apply set-last-applied -f other.json",
        "error: no last-applied-configuration annotation found on resource: other, to create the annotation, run the command with --create-annotation",
    ),
    (
        0,
        "apply set-last-applied --create-annotation -f other.json",
        "configmap/other configured",
    ),
    (
        0,
        "apply edit-last-applied cm/other",
        "Edit cancelled, no changes made.",
    ),
    (
        0,
        "apply -f m.yaml --prune -l app=d",
        "configmap/m unchanged\n*deployment.apps/d pruned",
    ),
    (0, "replace -f m.yaml", "configmap/m replaced"),
    (
        0,
        "replace --force -f m.yaml",
        "configmap \"m\" deleted*\nconfigmap/m replaced",
    ),
    (
        0,
        "kustomize .",
        "apiVersion: v1\ndata:\n  a: \"2\"\nkind: ConfigMap\nmetadata:\n  labels:\n    app: d\n  name: k-m",
    ),
    (0, "apply -k .", "configmap/k-m created"),
    (0, "delete -k .", "configmap \"k-m\" deleted*"),
];

/// `auth`, `certificate`.
const ACCESS: &[Call] = &[
    (0, "auth can-i create pods", "yes"),
    (0, "!auth can-i create pods --as joe", "no"),
    (
        0,
        "auth can-i --list",
        "Resources                                       Non-Resource URLs   Resource Names   Verbs\n\
         *.*                                             []                  []               [*]\n   \
         *[*]                 []               [*]\nself*",
    ),
    (
        28,
        "auth whoami",
        "ATTRIBUTE*VALUE\nUsername*admin\nGroups*[system:masters system:authenticated]*",
    ),
    (
        0,
        "auth reconcile -f role.yaml",
        "clusterrole.rbac.authorization.k8s.io/reader reconciled\n\treconciliation required create\n\tmissing rules added:\n\t\t{Verbs:[get] APIGroups:[] Resources:[pods]*",
    ),
    (
        0,
        "auth reconcile -f role.yaml",
        "clusterrole.rbac.authorization.k8s.io/reader reconciled",
    ),
    (
        0,
        "create -f csr.yaml",
        "*certificatesigningrequest.certificates.k8s.io/yes created\n*certificatesigningrequest.certificates.k8s.io/no created",
    ),
    (
        0,
        "certificate approve yes",
        "certificatesigningrequest.certificates.k8s.io/yes approved",
    ),
    (
        0,
        "certificate deny no",
        "certificatesigningrequest.certificates.k8s.io/no denied",
    ),
    (
        0,
        "get csr --no-headers",
        "no    * kubernetes.io/kube-apiserver-client   admin *Denied\nyes   *Approved",
    ),
    (
        0,
        "delete csr yes no",
        "certificatesigningrequest.certificates.k8s.io \"yes\" deleted*\ncertificatesigningrequest.certificates.k8s.io \"no\" deleted*",
    ),
];

/// `cordon`, `drain`, `taint`, and `delete` in its cascades.
const END: &[Call] = &[
    (0, "cordon node-1", "node/node-1 cordoned"),
    (
        0,
        "get nodes --no-headers",
        "node-1   Ready,SchedulingDisabled   <none>   *v1.36.0",
    ),
    (0, "uncordon node-1", "node/node-1 uncordoned"),
    (
        0,
        "taint node node-1 k=v:PreferNoSchedule",
        "node/node-1 tainted",
    ),
    (
        0,
        "!taint node node-1 k=v:Bogus",
        "error: invalid taint effect: Bogus, unsupported taint effect*",
    ),
    (0, "taint node node-1 k-", "node/node-1 untainted"),
    (
        0,
        "!drain node-1",
        "node/node-1 cordoned\n*cannot delete *t/one*",
    ),
    (
        0,
        "drain node-1 --force --timeout=30s",
        "node/node-1 already cordoned\n*pod/one evicted\n*node/node-1 *",
    ),
    (0, "uncordon node-1", "node/node-1 uncordoned"),
    (
        0,
        "delete deploy web --cascade=orphan",
        "deployment.apps \"web\" deleted*",
    ),
    (0, "get rs -l app=web -o name", "replicaset.apps/web-*"),
    (
        0,
        "delete rs -l app=web --cascade=foreground --timeout=30s",
        "replicaset.apps \"web-*\" deleted*",
    ),
    (0, "get pods", "No resources found in t namespace."),
    (
        0,
        "delete job j j2 --cascade=background",
        "job.batch \"j\" deleted*\njob.batch \"j2\" deleted*",
    ),
    (
        0,
        "!delete cm nope",
        "Error from server (NotFound): configmaps \"nope\" not found",
    ),
    (0, "delete cm nope --ignore-not-found", ""),
    (
        0,
        "delete --raw /api/v1/namespaces/t/configmaps/other",
        "{*\"Success\"*}",
    ),
    (
        0,
        "delete clusterrole/cr clusterrole/reader clusterrolebinding/crb priorityclass/pc",
        "clusterrole.rbac.authorization.k8s.io \"cr\" deleted*\n*deleted*",
    ),
    (0, "delete ns t --timeout=30s", "namespace \"t\" deleted"),
    (
        0,
        "!get ns t",
        "Error from server (NotFound): namespaces \"t\" not found",
    ),
    (
        0,
        "config set-context --current --namespace=default",
        "Context \"test\" modified.",
    ),
];

/// Whether `text` is `pattern`, in which `*` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap()) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// 27 of `kubectl.1.27`.
fn minor(program: &Path) -> u32 {
    let said = std::process::Command::new(program)
        .args(["version", "--client"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let (_, rest) = said.split_once("v1.").unwrap();
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

async fn call(program: &Path, dir: &Path, line: &str) -> (bool, String) {
    let script = format!("timeout 60 {} {line} 2>&1", program.display());
    let output = Command::new("sh")
        .args(["-c", &script])
        .current_dir(dir)
        .env("KUBECONFIG", dir.join("kubeconfig"))
        .env("HOME", dir)
        .env("KUBE_EDITOR", "sed -i 's/  a: \"1\"/  a: one/'")
        .stdin(std::process::Stdio::null())
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success(), text)
}

async fn walk(hollow: &Hollow, program: &Path, tables: &[&[Call]]) {
    let version = minor(program);
    for (name, text) in FILES {
        std::fs::write(hollow.dir().join(name), text).unwrap();
    }
    std::fs::write(hollow.dir().join("csr.yaml"), requests()).unwrap();
    let mut wrong = String::new();
    for (since, line, expected) in tables.iter().copied().flatten() {
        if version < *since {
            continue;
        }
        let (fails, line) = line
            .strip_prefix('!')
            .map_or((false, *line), |line| (true, line));
        let (succeeded, said) = call(program, hollow.dir(), line).await;
        if succeeded == fails || !matches(expected, &said) {
            wrong += &format!("\n$ kubectl {line}\n{said}\n--- instead of\n{expected}\n");
        }
    }
    assert!(wrong.is_empty(), "1.{version}:{wrong}");
}

/// Two requests for a certificate.
fn requests() -> String {
    let made = std::process::Command::new("sh")
        .args(["-c", "openssl req -new -newkey rsa:2048 -nodes -keyout /dev/null -subj /O=g/CN=joe 2>/dev/null | base64 -w0"])
        .output()
        .unwrap();
    let request = String::from_utf8(made.stdout).unwrap();
    let one = |name: &str| {
        format!(
            "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: '{name}'}}\n\
             spec: {{request: {request}, signerName: kubernetes.io/kube-apiserver-client, usages: [client auth]}}\n"
        )
    };
    [one("yes"), one("no")].join("---\n")
}

async fn every_verb(programs: &[PathBuf]) {
    let hollow = Hollow::start().await;
    for program in programs {
        walk(
            &hollow,
            program,
            &[CREATE, CHANGE, READ, APPLY, ACCESS, END],
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_verb_without_containers() {
    let programs = kubectls();
    let ends = [
        programs.first().unwrap().clone(),
        programs.last().unwrap().clone(),
    ];
    every_verb(&ends).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "every version: make nightly"]
async fn every_verb_with_every_version() {
    let programs = kubectls();
    let dir = programs.first().unwrap().parent().unwrap().to_owned();
    let all = (27..=33).map(|v| dir.join(format!("kubectl.1.{v}")));
    every_verb(&all.filter(|p| p.exists()).collect::<Vec<_>>()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_is_explained_and_described() {
    let hollow = Hollow::start().await;
    let program = kubectls().pop().unwrap();
    let ask = |line: String| {
        let (program, dir) = (program.clone(), hollow.dir().to_owned());
        async move {
            let (succeeded, said) = call(&program, &dir, &line).await;
            assert!(succeeded, "kubectl {line}: {said}");
            said
        }
    };
    for kind in ask("api-resources -o name".into()).await.lines() {
        // kubectl takes the first dot in this name for a field's.
        let (kind, version) = match kind {
            "events.events.k8s.io" => ("events", "--api-version=events.k8s.io/v1"),
            _ => (kind, ""),
        };
        let said = ask(format!("explain {kind} --recursive {version}")).await;
        assert!(
            said.contains("FIELDS:") && said.contains("metadata\t<ObjectMeta>"),
            "{kind}: {said}"
        );
        assert!(!said.contains("<no description>"), "{kind}: {said}");
    }
    for kind in ask("api-resources --verbs=list -o name".into())
        .await
        .lines()
    {
        ask(format!("describe {kind} -A")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn debians_kubectl_creates_changes_reads_and_deletes() {
    let hollow = Hollow::start().await;
    let daily = DEBIAN;
    walk(&hollow, &debians(), &[daily]).await;
}

/// What Debian 12's kubectl, of 2020, is asked for.
const DEBIAN: &[Call] = &[
    (
        0,
        "apply -f d.yaml",
        "deployment.apps/d created\nconfigmap/m created",
    ),
    (
        0,
        "apply -f d.yaml",
        "deployment.apps/d unchanged\nconfigmap/m unchanged",
    ),
    (0, "apply -f m.yaml", "configmap/m configured"),
    (
        0,
        "apply --server-side --force-conflicts -f m.yaml",
        "configmap/m serverside-applied",
    ),
    (
        0,
        "rollout status deployment d --timeout=30s",
        "*deployment \"d\" successfully rolled out",
    ),
    (
        0,
        "get deploy,cm,nodes -o wide",
        "NAME *deployment.apps/d   1/1 *configmap/m *node/node-1   Ready *",
    ),
    (
        0,
        "get pods -l app=d -o jsonpath={.items[*].status.phase}",
        "Running",
    ),
    (
        0,
        "scale deployment d --replicas=2",
        "deployment.apps/d scaled",
    ),
    (
        0,
        r#"patch deploy d -p '{"metadata":{"labels":{"x":"y"}}}'"#,
        "deployment.apps/d patched",
    ),
    (
        0,
        r#"patch deploy d --type=json -p '[{"op":"remove","path":"/metadata/labels/x"}]'"#,
        "deployment.apps/d patched",
    ),
    (
        0,
        "set image deployment/d c=localhost/a:2",
        "deployment.apps/d image updated",
    ),
    (
        0,
        "rollout status deployment d --timeout=30s",
        "*deployment \"d\" successfully rolled out",
    ),
    (
        0,
        "rollout history deployment d",
        "deployment.apps/d *\nREVISION  CHANGE-CAUSE\n1         <none>\n2         <none>",
    ),
    (
        0,
        "rollout undo deployment d",
        "deployment.apps/d rolled back",
    ),
    (0, "create cm cm --from-literal=a=1", "configmap/cm created"),
    (0, "edit cm cm", "configmap/cm edited"),
    (0, "get cm cm -o jsonpath={.data.a}", "one"),
    (
        0,
        "describe deployment d",
        "Name: *d\n*Events:*ScalingReplicaSet*",
    ),
    (
        0,
        "explain deployment.spec.replicas",
        "KIND:     Deployment\nVERSION:  apps/v1\n\nFIELD:    replicas <integer>*",
    ),
    (
        0,
        "!run A --image=x",
        "The Pod \"A\" is invalid: *metadata.name: Invalid value: \"A\": a *",
    ),
    (
        0,
        "version --short",
        "Client Version: v1.20.2\nServer Version: v1.36.0*",
    ),
    (
        0,
        "delete -f d.yaml --timeout=30s",
        "deployment.apps \"d\" deleted\nconfigmap \"m\" deleted",
    ),
    (0, "delete cm cm", "configmap \"cm\" deleted"),
];
