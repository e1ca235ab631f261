//! The writes that several controllers make.

use client::{Client, Error, ObjectMeta, PatchKind, Resource};
use serde::Deserialize;
use serde_json::{Value, json};

/// The part of an answer that tells which version was written.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Written {
    pub metadata: ObjectMeta,
}

/// Reads the object, changes it and puts it back (or its `subresource`), if it is still the one with `meta`'s UID.
/// Returns the revision written; 0 when it is another object by now. For roles that may `update` but not `patch`.
pub(crate) async fn put(
    client: &Client,
    resource: &Resource,
    meta: &ObjectMeta,
    subresource: &str,
    change: impl FnOnce(&mut Value),
) -> Result<u64, Error> {
    let mut object: Value = client.get(resource, &meta.namespace, &meta.name).await?;
    if object["metadata"]["uid"] != meta.uid.as_str() {
        return Ok(0);
    }
    let before = object.clone();
    change(&mut object);
    if object == before {
        return Ok(0);
    }
    let written: Written = client
        .update(resource, &meta.namespace, &meta.name, subresource, &object)
        .await?;
    Ok(written.metadata.revision())
}

/// Makes `owner` the controller of a dependent, if that still has its UID.
pub(crate) async fn adopt(
    client: &Client,
    resource: &Resource,
    dependent: &ObjectMeta,
    owner: &Value,
) -> Result<u64, Error> {
    let patch = json!({"metadata": {"ownerReferences": [owner], "uid": dependent.uid}});
    let written: Written = client
        .patch(
            resource,
            &dependent.namespace,
            &dependent.name,
            "",
            PatchKind::Strategic,
            &patch,
        )
        .await?;
    Ok(written.metadata.revision())
}

/// Takes the owner with `uid` off a dependent.
pub(crate) async fn release(
    client: &Client,
    resource: &Resource,
    dependent: &ObjectMeta,
    uid: &str,
) -> Result<u64, Error> {
    let patch = json!({"metadata": {
        "ownerReferences": [{"$patch": "delete", "uid": uid}],
        "uid": dependent.uid,
    }});
    let done: Result<Written, Error> = client
        .patch(
            resource,
            &dependent.namespace,
            &dependent.name,
            "",
            PatchKind::Strategic,
            &patch,
        )
        .await;
    match done {
        Ok(written) => Ok(written.metadata.revision()),
        // Gone, or no longer owned: what was wanted.
        Err(e) if e.is_not_found() || e.code() == 422 => Ok(0),
        Err(e) => Err(e),
    }
}
