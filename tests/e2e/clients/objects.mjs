// What the JavaScript client offers above single requests: objects of any kind, a cache that an informer fills, metrics,
// server-side apply. KUBECONFIG says where. Ends with 0 if all is as it must be.

import assert from 'node:assert/strict';
import * as k8s from '@kubernetes/client-node';

const config = new k8s.KubeConfig();
config.loadFromDefault();
const core = config.makeApiClient(k8s.CoreV1Api);
const objects = k8s.KubernetesObjectApi.makeApiClient(config);
const namespace = 'default';

async function until(what, test) {
  for (let i = 0; i < 300; i += 1) {
    if (await test()) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.fail(`never: ${what}`);
}

// Objects of any kind: created, read, patched, replaced, deleted.
const specs = k8s.loadAllYaml(`
apiVersion: v1
kind: ConfigMap
metadata: {name: js, namespace: default}
data: {a: '1'}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: js, namespace: default}
spec: {podSelector: {}}
`);
for (const spec of specs) {
  const made = await objects.create(spec);
  assert.ok(made.metadata.uid);
  await assert.rejects(objects.create(spec), (e) => e.code === 409);
  const read = await objects.read(spec);
  read.metadata.labels = { x: 'y' };
  await objects.replace(read);
  await assert.rejects(objects.replace(read), (e) => e.code === 409);
  const patched = await objects.patch(
    { ...spec, metadata: { ...spec.metadata, annotations: { k: 'v' } } },
    undefined,
    undefined,
    'javascript',
    true,
    k8s.PatchStrategy.ServerSideApply,
  );
  assert.deepEqual([patched.metadata.labels, patched.metadata.annotations.k], [{ x: 'y' }, 'v']);
  const listed = await objects.list(spec.apiVersion, spec.kind, namespace);
  assert.ok(listed.items.some((i) => i.metadata.name === 'js'));
  await objects.delete(spec);
  await assert.rejects(objects.read(spec), (e) => e.code === 404);
}

// A cache follows the collection.
const informer = k8s.makeInformer(config, `/api/v1/namespaces/${namespace}/configmaps`, () =>
  core.listNamespacedConfigMap({ namespace }),
);
const seen = [];
for (const verb of ['add', 'update', 'delete']) {
  informer.on(verb, (o) => o.metadata.name === 'cached' && seen.push([verb, o.data.n]));
}
await informer.start();
await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'cached' }, data: { n: '0' } } });
for (const n of ['1', '2']) {
  await core.replaceNamespacedConfigMap({ namespace, name: 'cached', body: { metadata: { name: 'cached' }, data: { n } } });
}
await until('the cache is current', () => informer.get('cached', namespace)?.data.n === '2');
await core.deleteNamespacedConfigMap({ namespace, name: 'cached' });
await until('the cache is empty again', () => !informer.get('cached', namespace));
assert.deepEqual(seen, [
  ['add', '0'],
  ['update', '1'],
  ['update', '2'],
  ['delete', '2'],
]);
await informer.stop();

await assert.rejects(new k8s.Metrics(config).getNodeMetrics(), (e) => e.code === 404);
const { major, minor } = await config.makeApiClient(k8s.VersionApi).getCode();
assert.deepEqual([major, minor], ['1', '36']);
console.log('javascript objects: fine');
process.exit(0);
