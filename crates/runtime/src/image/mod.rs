//! Images: content-addressed blobs, unpacked layers, and the names of both.
//!
//! ```text
//! <root>/images.json          what is present, by id (the digest of the config)
//! <root>/blobs/sha256/<hex>   configs
//! <root>/layers/<hex>         unpacked layers as overlayfs wants them, by diff id (its first 32 digits)
//! <root>/tmp/                 unfinished work; emptied at start
//! ```
//! Formats: <https://github.com/moby/moby/blob/master/image/spec/spec.md> (`docker save`) and
//! <https://github.com/opencontainers/image-spec> (OCI layout).

pub mod reference;
mod unpack;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Attempt, Error, Result};
use crate::types::Image;

/// What an image's config says about the processes made of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct ProcessDefaults {
    pub user: String,
    pub env: Vec<String>,
    pub entrypoint: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    pub working_dir: String,
    pub stop_signal: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Config {
    #[serde(default)]
    config: Option<ProcessDefaults>,
    rootfs: RootFs,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

/// A present image.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub image: Image,
    pub defaults: ProcessDefaults,
    /// Names below `layers/`, the lowest first.
    pub layers: Vec<String>,
}

/// The images of a node.
pub(crate) struct Images {
    root: PathBuf,
    entries: Mutex<BTreeMap<String, Entry>>,
    /// Held while layers come and go.
    changing: Mutex<u64>,
}

/// overlayfs takes at most this many with names as long as ours.
const MAX_LAYERS: usize = 110;
/// Of manifests and configs.
const MAX_JSON: u64 = 8 << 20;

fn bad(why: impl Into<String>) -> Error {
    Error::BadImage(why.into())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl Images {
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let tmp = root.join("tmp");
        match fs::remove_dir_all(&tmp) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(e).attempt(|| format!("emptying {}", tmp.display()));
            }
            _ => {}
        }
        for dir in ["blobs/sha256", "layers", "tmp"] {
            fs::create_dir_all(root.join(dir))
                .attempt(|| format!("making {}", root.join(dir).display()))?;
        }
        let index = root.join("images.json");
        let entries = match fs::read(&index) {
            Ok(text) => serde_json::from_slice(&text).map_err(|e| {
                bad(format!(
                    "{} is damaged ({e}); move it away and import the images again",
                    index.display()
                ))
            })?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(e) => return Err(e).attempt(|| format!("reading {}", index.display())),
        };
        Ok(Self {
            root: root.to_owned(),
            entries: Mutex::new(entries),
            changing: Mutex::new(0),
        })
    }

    pub(crate) fn layers_dir(&self) -> PathBuf {
        self.root.join("layers")
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn list(&self) -> Vec<Image> {
        self.entries().values().map(|e| e.image.clone()).collect()
    }

    /// By id (with or without `sha256:`), tag or digest reference.
    pub(crate) fn find(&self, reference: &str) -> Option<Entry> {
        let entries = self.entries();
        let id = reference.strip_prefix("sha256:").unwrap_or(reference);
        if id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return entries.get(&format!("sha256:{id}")).cloned();
        }
        let name = reference::normalize(reference).ok()?;
        entries
            .values()
            .find(|e| e.image.repo_tags.contains(&name) || e.image.repo_digests.contains(&name))
            .cloned()
    }

    fn save(&self, entries: &BTreeMap<String, Entry>) -> Result<()> {
        let text = serde_json::to_vec(entries).map_err(|e| bad(e.to_string()))?;
        crate::sys::write_atomically(&self.root.join("images.json"), &text, true)
            .attempt(|| "writing images.json".into())
    }

    /// Forgets an image, and removes the layers no other one has.
    pub(crate) fn remove(&self, id: &str) -> Result<()> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut entries = self.entries();
        let mut rest = entries.clone();
        let Some(gone) = rest.remove(id) else {
            return Ok(());
        };
        self.save(&rest)?;
        *entries = rest;
        let kept: BTreeSet<_> = entries
            .values()
            .flat_map(|e| e.layers.iter().cloned())
            .collect();
        drop(entries);
        for layer in gone.layers.iter().filter(|l| !kept.contains(*l)) {
            let dir = self.layers_dir().join(layer);
            match fs::remove_dir_all(&dir) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(e).attempt(|| format!("removing {}", dir.display()));
                }
                _ => {}
            }
        }
        let _ = fs::remove_file(self.blob(id)?);
        Ok(())
    }

    fn blob(&self, digest: &str) -> Result<PathBuf> {
        let hex = digest
            .strip_prefix("sha256:")
            .ok_or_else(|| bad(format!("digest {digest:?} is not sha256")))?;
        if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad(format!("malformed digest {digest:?}")));
        }
        Ok(self.root.join("blobs/sha256").join(hex))
    }

    /// Adds the images of an archive.
    pub(crate) fn import(&self, tar: Box<dyn Read + Send>) -> Result<Vec<Image>> {
        let mut changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        *changing += 1;
        let work = self.root.join("tmp").join(format!("import-{changing}"));
        fs::create_dir_all(&work).attempt(|| format!("making {}", work.display()))?;
        let result = spool(tar, &work).and_then(|()| self.import_spooled(&work));
        let removed = fs::remove_dir_all(&work).attempt(|| format!("removing {}", work.display()));
        let images = result?;
        removed?;
        Ok(images)
    }

    fn import_spooled(&self, work: &Path) -> Result<Vec<Image>> {
        let mut found: Vec<Found> = Vec::new();
        if work.join("index.json").exists() && !work.join("manifest.json").exists() {
            oci_index(work, &read_json(&work.join("index.json"))?, 0, &mut found)?;
        } else if work.join("manifest.json").exists() {
            #[derive(Deserialize)]
            #[serde(rename_all = "PascalCase")]
            struct Saved {
                config: String,
                #[serde(default)]
                repo_tags: Option<Vec<String>>,
                layers: Vec<String>,
            }
            for saved in read_json::<Vec<Saved>>(&work.join("manifest.json"))? {
                let layers = saved
                    .layers
                    .iter()
                    .map(|l| inside(work, l))
                    .collect::<Result<_>>()?;
                let tags = saved.repo_tags.unwrap_or_default();
                let tags = tags
                    .iter()
                    .map(|t| reference::normalize(t))
                    .collect::<Result<_>>()?;
                found.push((inside(work, &saved.config)?, layers, tags, vec![]));
            }
        } else {
            return Err(bad(
                "the archive holds neither manifest.json nor index.json",
            ));
        }
        if found.is_empty() {
            return Err(bad("the archive holds no image for this platform"));
        }
        let mut images = Vec::new();
        for (config, layers, tags, digests) in found {
            images.push(self.add(work, &config, &layers, tags, digests)?);
        }
        Ok(images)
    }

    fn add(
        &self,
        work: &Path,
        config: &Path,
        layers: &[PathBuf],
        tags: Vec<String>,
        digests: Vec<String>,
    ) -> Result<Image> {
        let text = read_limited(config)?;
        let id = format!("sha256:{}", hex(&Sha256::digest(&text)));
        let parsed: Config =
            serde_json::from_slice(&text).map_err(|e| bad(format!("config of {tags:?}: {e}")))?;
        if parsed.rootfs.diff_ids.len() != layers.len() {
            let (have, want) = (layers.len(), parsed.rootfs.diff_ids.len());
            return Err(bad(format!(
                "{tags:?} has {have} layers but its config names {want}"
            )));
        }
        if layers.is_empty() || layers.len() > MAX_LAYERS {
            return Err(bad(format!(
                "{tags:?} has {} layers; 1 to {MAX_LAYERS} are supported",
                layers.len()
            )));
        }
        let mut names = Vec::new();
        let mut size = 0;
        let mut staged: BTreeMap<String, u64> = BTreeMap::new();
        for (path, diff_id) in layers.iter().zip(&parsed.rootfs.diff_ids) {
            let digits = layer_digits(diff_id)?;
            let name = digits[..32].to_owned();
            size += match (staged.get(&name).copied(), self.layer_size(&name)) {
                (Some(bytes), _) | (None, Some(bytes)) => bytes,
                (None, None) => {
                    let bytes = self.stage_layer(work, path, digits)?;
                    staged.insert(name.clone(), bytes);
                    bytes
                }
            };
            names.push(name);
        }
        fs::write(self.blob(&id)?, &text).attempt(|| format!("writing config {id}"))?;
        // A layer under its own name is taken to be whole, and an image in the index to be there, also after the power failed.
        crate::sys::sync_file_system(&self.root)
            .attempt(|| format!("writing {} out", self.root.display()))?;
        for name in staged.keys() {
            self.place_layer(work, name)?;
        }
        let defaults = parsed.config.unwrap_or_default();
        let mut entries = self.entries();
        let mut next = entries.clone();
        for other in next.values_mut() {
            // A tag names one image: the one that came last.
            other.image.repo_tags.retain(|t| !tags.contains(t));
        }
        let entry = next.entry(id.clone()).or_default();
        entry.layers = names;
        entry.image.id = id;
        entry.image.size = size;
        entry.image.user.clone_from(&defaults.user);
        entry.defaults = defaults;
        for (to, from) in [
            (&mut entry.image.repo_tags, tags),
            (&mut entry.image.repo_digests, digests),
        ] {
            for name in from {
                if !to.contains(&name) {
                    to.push(name);
                }
            }
        }
        let image = entry.image.clone();
        self.save(&next)?;
        *entries = next;
        Ok(image)
    }

    /// The bytes of a layer that is there.
    fn layer_size(&self, name: &str) -> Option<u64> {
        let text = fs::read_to_string(self.layers_dir().join(name).join("size")).ok()?;
        text.trim().parse().ok()
    }

    /// Unpacks a layer below `work`; checks that its digest is `digits`. The number of its bytes.
    fn stage_layer(&self, work: &Path, path: &Path, digits: &str) -> Result<u64> {
        let staged = work.join(format!("layer-{}", &digits[..32]));
        fs::create_dir_all(staged.join("fs")).attempt(|| format!("making {}", staged.display()))?;
        let file = File::open(path).attempt(|| format!("opening layer {}", path.display()))?;
        let mut hashing = Hashing {
            inner: decompressed(Box::new(BufReader::new(file)))?,
            hash: Sha256::new(),
        };
        let bytes = unpack::layer(&mut hashing, &staged.join("fs"))?;
        // A tar's padding counts for its digest.
        io::copy(&mut hashing, &mut io::sink())
            .attempt(|| format!("reading layer {}", path.display()))?;
        let actual = hex(&hashing.hash.finalize());
        if actual != digits {
            return Err(bad(format!(
                "layer {} has digest sha256:{actual}, not sha256:{digits}",
                path.display()
            )));
        }
        fs::write(staged.join("size"), bytes.to_string())
            .attempt(|| "writing a layer's size".into())?;
        Ok(bytes)
    }

    /// Gives a staged layer its own name.
    fn place_layer(&self, work: &Path, name: &str) -> Result<()> {
        let staged = work.join(format!("layer-{name}"));
        let target = self.layers_dir().join(name);
        match fs::remove_dir_all(&target) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(e).attempt(|| "replacing a layer".into());
            }
            _ => {}
        }
        fs::rename(&staged, &target).attempt(|| format!("placing layer {name}"))
    }
}

fn layer_digits(diff_id: &str) -> Result<&str> {
    diff_id
        .strip_prefix("sha256:")
        .filter(|d| d.len() == 64 && d.bytes().all(|b| b.is_ascii_hexdigit()))
        .ok_or_else(|| bad(format!("malformed diff id {diff_id:?}")))
}

struct Hashing {
    inner: Box<dyn Read + Send>,
    hash: Sha256,
}

impl Read for Hashing {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hash.update(&buf[..n]);
        Ok(n)
    }
}

/// Undoes gzip or zstd, told by the first bytes.
fn decompressed(mut reader: Box<dyn Read + Send>) -> Result<Box<dyn Read + Send>> {
    let mut magic = [0; 4];
    let mut n = 0;
    while n < 4 {
        match reader
            .read(&mut magic[n..])
            .attempt(|| "reading the archive".into())?
        {
            0 => break,
            more => n += more,
        }
    }
    let whole: Box<dyn Read + Send> = Box::new(io::Cursor::new(magic[..n].to_vec()).chain(reader));
    Ok(match magic {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd] => {
            Box::new(zstd::Decoder::new(whole).attempt(|| "opening a zstd stream".into())?)
        }
        _ => whole,
    })
}

/// A path of the archive, below `work`.
fn inside(work: &Path, name: &str) -> Result<PathBuf> {
    let name = Path::new(name);
    if name
        .components()
        .all(|c| matches!(c, Component::Normal(_) | Component::CurDir))
    {
        Ok(work.join(name))
    } else {
        Err(bad(format!(
            "path {} leads out of the archive",
            name.display()
        )))
    }
}

/// Writes an archive's files below `work`; links between them become copies of the link's target name.
fn spool(tar: Box<dyn Read + Send>, work: &Path) -> Result<()> {
    let mut archive = tar::Archive::new(decompressed(tar)?);
    let reading = |e: io::Error| bad(format!("reading the archive: {e}"));
    for entry in archive.entries().map_err(reading)? {
        let mut entry = entry.map_err(reading)?;
        let name = entry.path().map_err(reading)?.into_owned();
        let path = inside(work, &name.to_string_lossy())?;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).attempt(|| format!("making {}", parent.display()))?;
        }
        match entry.header().entry_type() {
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                let mut file =
                    File::create(&path).attempt(|| format!("writing {}", path.display()))?;
                io::copy(&mut entry, &mut file)
                    .attempt(|| format!("unpacking {}", name.display()))?;
            }
            // Older `docker save` links equal layers: a/layer.tar -> ../b/layer.tar.
            tar::EntryType::Symlink | tar::EntryType::Link => {
                let to = entry
                    .link_name()
                    .map_err(reading)?
                    .unwrap_or_default()
                    .into_owned();
                let base = if entry.header().entry_type() == tar::EntryType::Link {
                    Path::new("")
                } else {
                    name.parent().unwrap_or(Path::new(""))
                };
                let mut parts: Vec<_> = base.components().collect();
                for c in to.components() {
                    match c {
                        Component::ParentDir if parts.pop().is_none() => {
                            return Err(bad(format!(
                                "link {} leads out of the archive",
                                name.display()
                            )));
                        }
                        Component::ParentDir | Component::CurDir => {}
                        c => parts.push(c),
                    }
                }
                let target = parts.iter().collect::<PathBuf>();
                let target = inside(work, &target.to_string_lossy())?;
                fs::hard_link(&target, &path).attempt(|| format!("linking {}", name.display()))?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn read_limited(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(|e| bad(format!("{}: {e}", path.display())))?;
    let mut text = Vec::new();
    file.take(MAX_JSON + 1)
        .read_to_end(&mut text)
        .attempt(|| format!("reading {}", path.display()))?;
    if text.len() as u64 > MAX_JSON {
        Err(bad(format!("{} is too large", path.display())))
    } else {
        Ok(text)
    }
}

fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T> {
    serde_json::from_slice(&read_limited(path)?)
        .map_err(|e| bad(format!("{}: {e}", path.display())))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OciIndex {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Deserialize, Clone)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    digest: String,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize, Clone)]
struct Platform {
    architecture: String,
    os: String,
}

type Found = (PathBuf, Vec<PathBuf>, Vec<String>, Vec<String>);

/// Follows an OCI index down to the manifests for this machine.
fn oci_index(work: &Path, index: &OciIndex, depth: u32, found: &mut Vec<Found>) -> Result<()> {
    let architecture = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    if depth > 3 {
        return Err(bad("image indexes are nested too deeply"));
    }
    for d in &index.manifests {
        if d.platform
            .as_ref()
            .is_some_and(|p| p.os != "linux" || p.architecture != architecture)
        {
            continue;
        }
        let blob = |digest: &str| -> Result<PathBuf> {
            let hex = digest
                .strip_prefix("sha256:")
                .ok_or_else(|| bad(format!("digest {digest:?} is not sha256")))?;
            inside(work, &format!("blobs/sha256/{hex}"))
        };
        let path = blob(&d.digest)?;
        let text = read_limited(&path)?;
        if format!("sha256:{}", hex(&Sha256::digest(&text))) != d.digest {
            return Err(bad(format!(
                "manifest {} doesn't have that digest",
                d.digest
            )));
        }
        let manifest: OciIndex =
            serde_json::from_slice(&text).map_err(|e| bad(format!("{}: {e}", d.digest)))?;
        let name = [
            "io.containerd.image.name",
            "org.opencontainers.image.ref.name",
        ]
        .iter()
        .find_map(|k| d.annotations.get(*k))
        .and_then(|n| reference::normalize(n).ok());
        let Some(config) = &manifest.config else {
            let before = found.len();
            oci_index(work, &manifest, depth + 1, found)?;
            for f in &mut found[before..] {
                f.2.extend(name.clone());
            }
            continue;
        };
        let config_path = blob(&config.digest)?;
        if format!(
            "sha256:{}",
            hex(&Sha256::digest(read_limited(&config_path)?))
        ) != config.digest
        {
            return Err(bad(format!(
                "config {} doesn't have that digest",
                config.digest
            )));
        }
        let layers = manifest
            .layers
            .iter()
            .map(|l| blob(&l.digest))
            .collect::<Result<_>>()?;
        let digests = name
            .iter()
            .filter_map(|n| Some(format!("{}@{}", n.rsplit_once(':')?.0, d.digest)))
            .collect();
        found.push((config_path, layers, name.into_iter().collect(), digests));
    }
    Ok(())
}
