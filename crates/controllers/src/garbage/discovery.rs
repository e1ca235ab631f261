//! Which kinds a server has.

use bytes::Bytes;
use client::request::List;
use client::{Client, Error, ObjectMeta};
use http::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A kind, as discovered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kind {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub kind: String,
    pub namespaced: bool,
    pub verbs: Vec<String>,
}

impl Kind {
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    /// The path of its collection (in a namespace, or in all), or of an object.
    pub fn path(&self, namespace: &str, name: &str) -> String {
        let mut path = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        if self.namespaced && !namespace.is_empty() {
            path = format!("{path}/namespaces/{namespace}");
        }
        path = format!("{path}/{}", self.plural);
        if name.is_empty() {
            path
        } else {
            format!("{path}/{name}")
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Named {
    name: String,
    kind: String,
    namespaced: bool,
    verbs: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Resources {
    resources: Vec<Named>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Groups {
    groups: Vec<Group>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Group {
    name: String,
    versions: Vec<Version>,
    preferred_version: Version,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Version {
    version: String,
}

async fn read<T: DeserializeOwned>(client: &Client, path: &str) -> Result<T, Error> {
    let bytes = client.call(Method::GET, path, None).await?;
    serde_json::from_slice(&bytes).map_err(|e| Error::Decode(path.to_owned(), e.to_string()))
}

/// All kinds, each once, in its group's preferred version where that has it; and what could not be asked.
pub(crate) async fn kinds(client: &Client) -> (Vec<Kind>, Vec<String>) {
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    let mut versions = vec![(String::new(), "v1".to_owned(), "/api/v1".to_owned())];
    match read::<Groups>(client, "/apis").await {
        Ok(groups) => {
            for group in groups.groups {
                let mut names: Vec<String> =
                    group.versions.into_iter().map(|v| v.version).collect();
                names.sort_by_key(|v| *v != group.preferred_version.version);
                for version in names {
                    let path = format!("/apis/{}/{version}", group.name);
                    versions.push((group.name.clone(), version, path));
                }
            }
        }
        Err(error) => errors.push(error.to_string()),
    }
    for (group, version, path) in versions {
        let list = match read::<Resources>(client, &path).await {
            Ok(list) => list,
            Err(error) => {
                errors.push(error.to_string());
                continue;
            }
        };
        for named in list.resources {
            let known = out
                .iter()
                .any(|k: &Kind| k.group == group && k.plural == named.name);
            if named.name.contains('/') || known {
                continue;
            }
            out.push(Kind {
                group: group.clone(),
                version: version.clone(),
                plural: named.name,
                kind: named.kind,
                namespaced: named.namespaced,
                verbs: named.verbs,
            });
        }
    }
    (out, errors)
}

#[derive(Deserialize)]
pub(crate) struct Meta {
    #[serde(default)]
    pub metadata: ObjectMeta,
}

/// The metadata of a collection's objects.
pub(crate) async fn list(client: &Client, path: &str) -> Result<Vec<ObjectMeta>, Error> {
    let bytes: Bytes = client.call(Method::GET, path, None).await?;
    let list: List<Meta> = serde_json::from_slice(&bytes)
        .map_err(|e| Error::Decode(path.to_owned(), e.to_string()))?;
    Ok(list.items.into_iter().map(|m| m.metadata).collect())
}
