// The JavaScript client lists, creates, watches, patches and deletes; KUBECONFIG says where. Ends with 0 if all is as it
// must be.

import assert from 'node:assert/strict';
import { PassThrough } from 'node:stream';
import * as k8s from '@kubernetes/client-node';

const namespace = 'default';
const labels = { by: 'javascript' };
const labelSelector = 'by=javascript';

const config = new k8s.KubeConfig();
config.loadFromDefault();
const core = config.makeApiClient(k8s.CoreV1Api);
const apps = config.makeApiClient(k8s.AppsV1Api);
const as = (strategy) => k8s.setHeaderOptions('Content-Type', strategy);

/** Follows a collection; `next(test)` waits until an event passes the test. */
async function follow(path, parameters) {
  const events = [];
  let wake = () => {};
  let ended;
  const controller = await new k8s.Watch(config).watch(
    path,
    parameters,
    (type, object) => {
      events.push([type, object]);
      wake();
    },
    (error) => {
      ended = error ?? 'ended';
      wake();
    },
  );
  return {
    events,
    async until(test) {
      const deadline = Date.now() + 60_000;
      while (!events.some(test)) {
        assert.ok(!ended, `the watch ended: ${ended}`);
        assert.ok(Date.now() < deadline, `waited in vain on ${path}: ${JSON.stringify(events).slice(0, 500)}`);
        await new Promise((resolve) => {
          const timer = setTimeout(resolve, 1000);
          wake = () => {
            clearTimeout(timer);
            resolve();
          };
        });
      }
    },
    stop: () => controller.abort(),
  };
}

const namespaces = await core.listNamespace();
assert.ok(namespaces.items.some((n) => n.metadata.name === 'kube-system'));
const nodes = await core.listNode();
assert.ok(nodes.items[0].status.conditions.some((c) => c.type === 'Ready' && c.status === 'True'));

// A watch from the list's revision sees what happens after it, once and in order.
const before = await core.listNamespacedConfigMap({ namespace, labelSelector });
assert.equal(before.items.length, 0);
const maps = await follow(`/api/v1/namespaces/${namespace}/configmaps`, {
  labelSelector,
  resourceVersion: before.metadata.resourceVersion,
});
const body = { metadata: { name: 'page', labels }, data: { a: '1' } };
const made = await core.createNamespacedConfigMap({ namespace, body });
assert.ok(made.metadata.uid && made.metadata.creationTimestamp instanceof Date);
await assert.rejects(core.createNamespacedConfigMap({ namespace, body }), (e) => e.code === 409);
const name = 'page';
await core.patchNamespacedConfigMap(
  { namespace, name, body: { data: { b: '2' } } },
  as(k8s.PatchStrategy.MergePatch),
);
await core.patchNamespacedConfigMap(
  { namespace, name, body: [{ op: 'remove', path: '/data/a' }] },
  as(k8s.PatchStrategy.JsonPatch),
);
await core.patchNamespacedConfigMap(
  { namespace, name, body: { data: { c: '3' } } },
  as(k8s.PatchStrategy.StrategicMergePatch),
);
await core.deleteNamespacedConfigMap({ namespace, name });
await maps.until(([type]) => type === 'DELETED');
maps.stop();
assert.deepEqual(
  maps.events.map(([type, object]) => [type, object.data]),
  [
    ['ADDED', { a: '1' }],
    ['MODIFIED', { a: '1', b: '2' }],
    ['MODIFIED', { b: '2' }],
    ['MODIFIED', { b: '2', c: '3' }],
    ['DELETED', { b: '2', c: '3' }],
  ],
);

// A Deployment, its Pods by an informer, their log, a command in one of them.
const informer = k8s.makeInformer(
  config,
  `/api/v1/namespaces/${namespace}/pods`,
  () => core.listNamespacedPod({ namespace, labelSelector }),
  labelSelector,
);
const ready = new Set();
informer.on('update', (pod) => {
  if (pod.status.conditions?.some((c) => c.type === 'Ready' && c.status === 'True')) ready.add(pod.metadata.name);
});
await informer.start();
const deployments = await follow(`/apis/apps/v1/namespaces/${namespace}/deployments`, { labelSelector });
await apps.createNamespacedDeployment({
  namespace,
  body: {
    metadata: { name: 'javascript', labels },
    spec: {
      replicas: 1,
      selector: { matchLabels: labels },
      template: {
        metadata: { labels },
        spec: {
          terminationGracePeriodSeconds: 0,
          containers: [
            { name: 'main', image: 'localhost/skiff-demo:1', command: ['sh', '-c', 'echo hello; exec sleep 1000'] },
          ],
        },
      },
    },
  },
});
await deployments.until(([, d]) => d.status.readyReplicas === 1);
await apps.patchNamespacedDeploymentScale(
  { namespace, name: 'javascript', body: { spec: { replicas: 2 } } },
  as(k8s.PatchStrategy.MergePatch),
);
await deployments.until(([, d]) => d.status.readyReplicas === 2);
deployments.stop();
const pods = await core.listNamespacedPod({ namespace, labelSelector });
assert.equal(pods.items.length, 2);
const pod = pods.items[0].metadata.name;
assert.equal(await core.readNamespacedPodLog({ namespace, name: pod }), 'hello\n');
const out = new PassThrough();
let said = '';
out.on('data', (piece) => (said += piece));
const status = await new Promise((resolve, reject) => {
  new k8s.Exec(config)
    .exec(namespace, pod, 'main', ['echo', 'from inside'], out, null, null, false, resolve)
    .catch(reject);
});
assert.equal(status.status, 'Success');
assert.equal(said, 'from inside\n');
assert.ok(ready.has(pod), `the informer saw ${[...ready]}`);
await informer.stop();

const ending = await follow(`/api/v1/namespaces/${namespace}/pods`, {
  labelSelector,
  resourceVersion: pods.metadata.resourceVersion,
});
await apps.deleteNamespacedDeployment({ namespace, name: 'javascript' });
for (const { metadata } of pods.items) {
  await ending.until(([type, object]) => type === 'DELETED' && object.metadata.name === metadata.name);
}
ending.stop();
console.log('javascript: fine');
process.exit(0);
