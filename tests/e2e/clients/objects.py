"""What the Python client offers above single requests: objects from YAML, the dynamic client, an informer. KUBECONFIG says
where. Ends with 0 if all is as it must be."""

import threading

from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.rest import ApiException

config.load_kube_config()
api = client.ApiClient()
core = client.CoreV1Api()

THINGS = [
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
    },
    {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "localhost/web:1"}]},
            },
        },
    },
]


def expect(what, got, wanted):
    assert got == wanted, f"{what}: {got!r} instead of {wanted!r}"


# Objects from YAML, and the text of a failure, which people compare as it is.
utils.create_from_yaml(api, yaml_objects=THINGS)
try:
    utils.create_from_yaml(api, yaml_objects=THINGS)
    raise AssertionError("they were created twice")
except utils.FailToCreateError as error:
    wanted = "".join(
        f'Error from server (Conflict): {{"kind":"Status","apiVersion":"v1","metadata":{{}},"status":"Failure",'
        f'"message":"{kind} \\"web\\" already exists","reason":"AlreadyExists",'
        f'"details":{{"name":"web",{group}}},"code":409}}\n'
        for kind, group in [
            ("services", '"kind":"services"'),
            ("deployments.apps", '"group":"apps","kind":"deployments"'),
        ]
    )
    expect("the second time", str(error), wanted)
utils.create_from_yaml(api, yaml_objects=THINGS, apply=True)

for event in watch.Watch().stream(client.AppsV1Api().list_namespaced_deployment, "default", timeout_seconds=30):
    if event["object"].status.ready_replicas == 2:
        break
else:
    raise AssertionError("the Deployment did not get ready")

# The dynamic client finds kinds by discovery, and applies.
found = dynamic.DynamicClient(api)
deployments = found.resources.get(api_version="apps/v1", kind="Deployment")
applied = deployments.server_side_apply(
    namespace="default",
    name="web",
    body={"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": {"a": "b"}}},
    field_manager="python",
)
expect("applied", applied.metadata.labels.to_dict(), {"a": "b"})
expect("scale", deployments.scale.get(name="web", namespace="default").spec.replicas, 2)
maps = found.resources.get(api_version="v1", kind="ConfigMap")
maps.create(namespace="default", body={"metadata": {"name": "m"}, "data": {"n": "0"}})
seen = []


def follow():
    for event in maps.watch(namespace="default", field_selector="metadata.name=m", timeout=30):
        seen.append((event["type"], event["object"].data.n))
        if event["type"] == "DELETED":
            return


follower = threading.Thread(target=follow)
follower.start()
while not seen:
    pass
for patch, form in [
    ({"data": {"n": "1"}}, "application/merge-patch+json"),
    ([{"op": "replace", "path": "/data/n", "value": "2"}], "application/json-patch+json"),
    ({"data": {"n": "3"}}, "application/strategic-merge-patch+json"),
]:
    maps.patch(namespace="default", name="m", body=patch, content_type=form)
maps.delete(namespace="default", name="m")
follower.join(60)
expect("watched", seen, [("ADDED", "0"), ("MODIFIED", "1"), ("MODIFIED", "2"), ("MODIFIED", "3"), ("DELETED", "3")])

# Pages, and a page of a list that is gone.
page = core.list_namespaced_config_map("kube-system", limit=1)
names = [item.metadata.name for item in page.items]
while page.metadata._continue:
    page = core.list_namespaced_config_map("kube-system", limit=1, _continue=page.metadata._continue)
    names += [item.metadata.name for item in page.items]
expect("paged", names, [item.metadata.name for item in core.list_namespaced_config_map("kube-system").items])

# Evictions and what may not be done.
pod = core.list_namespaced_pod("default", label_selector="app=web").items[0].metadata.name
core.create_namespaced_pod_eviction(pod, "default", client.V1Eviction(metadata=client.V1ObjectMeta(name=pod)))
try:
    client.CustomObjectsApi().list_cluster_custom_object("metrics.k8s.io", "v1beta1", "nodes")
    raise AssertionError("there are metrics")
except ApiException as error:
    expect("metrics", error.status, 404)
print("python objects: fine")
