"""The Python client lists, creates, watches, patches and deletes; KUBECONFIG says where. Ends with 0 if all is as it must be."""

import threading

from kubernetes import client, config, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import stream

NAMESPACE = "default"
SELECTOR = "by=python"

config.load_kube_config()
core, apps, version = client.CoreV1Api(), client.AppsV1Api(), client.VersionApi()


def meta(name):
    return client.V1ObjectMeta(name=name, labels={"by": "python"})


def expect(what, got, wanted):
    assert got == wanted, f"{what}: {got!r} instead of {wanted!r}"


expect("version", version.get_code().major, "1")
assert "kube-system" in [n.metadata.name for n in core.list_namespace().items]
node = core.list_node().items[0]
assert any(c.type == "Ready" and c.status == "True" for c in node.status.conditions)

# A watch from the list's revision sees what happens after it, once and in order.
start = core.list_namespaced_config_map(NAMESPACE, label_selector=SELECTOR)
expect("a fresh list", len(start.items), 0)
seen = []


def follow():
    events = watch.Watch().stream(
        core.list_namespaced_config_map,
        NAMESPACE,
        label_selector=SELECTOR,
        resource_version=start.metadata.resource_version,
        timeout_seconds=60,
    )
    for event in events:
        seen.append((event["type"], dict(event["object"].data)))
        if event["type"] == "DELETED":
            return


follower = threading.Thread(target=follow)
follower.start()
made = core.create_namespaced_config_map(NAMESPACE, client.V1ConfigMap(metadata=meta("page"), data={"a": "1"}))
assert made.metadata.uid and made.metadata.creation_timestamp
try:
    core.create_namespaced_config_map(NAMESPACE, client.V1ConfigMap(metadata=meta("page")))
    raise AssertionError("a second one of the name was created")
except ApiException as e:
    expect("the second one", (e.status, "AlreadyExists" in e.body), (409, True))
core.patch_namespaced_config_map("page", NAMESPACE, {"data": {"b": "2"}})
core.patch_namespaced_config_map("page", NAMESPACE, [{"op": "remove", "path": "/data/a"}])
whole = core.read_namespaced_config_map("page", NAMESPACE)
whole.data["c"] = "3"
core.replace_namespaced_config_map("page", NAMESPACE, whole)
try:
    core.replace_namespaced_config_map("page", NAMESPACE, whole)
    raise AssertionError("an old version was put in the place of a newer one")
except ApiException as e:
    expect("the old version", e.status, 409)
core.delete_namespaced_config_map("page", NAMESPACE)
follower.join(60)
expect(
    "what was watched",
    seen,
    [
        ("ADDED", {"a": "1"}),
        ("MODIFIED", {"a": "1", "b": "2"}),
        ("MODIFIED", {"b": "2"}),
        ("MODIFIED", {"b": "2", "c": "3"}),
        ("DELETED", {"b": "2", "c": "3"}),
    ],
)

# A Deployment through the typed models, its Pods, their log, a command in one of them.
container = client.V1Container(
    name="main", image="localhost/skiff-demo:1", command=["sh", "-c", "echo hello; exec sleep 1000"]
)
apps.create_namespaced_deployment(
    NAMESPACE,
    client.V1Deployment(
        metadata=meta("python"),
        spec=client.V1DeploymentSpec(
            replicas=1,
            selector=client.V1LabelSelector(match_labels={"by": "python"}),
            template=client.V1PodTemplateSpec(
                metadata=client.V1ObjectMeta(labels={"by": "python"}),
                spec=client.V1PodSpec(containers=[container], termination_grace_period_seconds=0),
            ),
        ),
    ),
)


def until_ready(count):
    events = watch.Watch().stream(apps.list_namespaced_deployment, NAMESPACE, timeout_seconds=60)
    for event in events:
        status = event["object"].status
        if event["object"].metadata.name == "python" and (status.ready_replicas or 0) == count:
            return
    raise AssertionError(f"there are not {count} ready replicas")


until_ready(1)
apps.patch_namespaced_deployment_scale("python", NAMESPACE, {"spec": {"replicas": 2}})
until_ready(2)
listed = core.list_namespaced_pod(NAMESPACE, label_selector=SELECTOR)
pods = listed.items
expect("Pods", len(pods), 2)
name = pods[0].metadata.name
expect("log", core.read_namespaced_pod_log(name, NAMESPACE), "hello\n")
said = stream(
    core.connect_get_namespaced_pod_exec, name, NAMESPACE, command=["echo", "from inside"], stdout=True, stderr=True
)
expect("exec", said, "from inside\n")
apps.delete_namespaced_deployment("python", NAMESPACE)
left = {pod.metadata.name for pod in pods}
events = watch.Watch().stream(
    core.list_namespaced_pod,
    NAMESPACE,
    label_selector=SELECTOR,
    resource_version=listed.metadata.resource_version,
    timeout_seconds=60,
)
for event in events:
    if event["type"] == "DELETED":
        left.discard(event["object"].metadata.name)
    if not left:
        break
expect("Pods left", left, set())
print("python: fine")
