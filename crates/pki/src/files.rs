//! The directory `pki/` of a server: what is made at first start and renewed later.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::authority::needs_renewal;
use crate::{Authority, Error, Leaf, LeafRequest, TokenKey, Usage};

/// The keys and certificates of one server, on disk below one directory.
pub struct Pki {
    dir: PathBuf,
    /// Signs every leaf: clients, API servers, kubelets.
    pub ca: Authority,
    /// Signs ServiceAccount tokens.
    pub service_accounts: TokenKey,
    /// Encrypts Secrets at rest: 32 bytes.
    pub encryption_key: [u8; 32],
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(Error::File {
            path: path.display().to_string(),
            cause,
        }),
    }
}

/// Writes `text` so that a crash leaves the old file or the new one, readable by root only.
///
/// # Errors
/// The file system's, with the path.
pub fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    let fail = |cause| Error::File {
        path: path.display().to_string(),
        cause,
    };
    let new = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&new)
        .map_err(fail)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(fail)?;
    fs::rename(&new, path).map_err(fail)?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::File::open(dir).and_then(|d| d.sync_all()).map_err(fail)
}

impl Pki {
    /// Opens `dir`, making whatever is missing.
    ///
    /// # Errors
    /// When a file cannot be read or written, or holds something else.
    pub fn open(dir: &Path, now: Timestamp) -> Result<Self, Error> {
        fs::create_dir_all(dir).map_err(|cause| Error::File {
            path: dir.display().to_string(),
            cause,
        })?;
        let (cert, key) = (dir.join("ca.crt"), dir.join("ca.key"));
        let ca = match (read(&cert)?, read(&key)?) {
            (Some(c), Some(k)) => Authority::from_pem(c, &k)?,
            (None, None) => {
                let ca = Authority::generate("skiff-ca", now)?;
                write_private(&key, &ca.key_pem())?;
                write_private(&cert, &ca.cert_pem)?;
                ca
            }
            // A key without its certificate is a first start that was cut short: nothing was signed yet.
            (None, Some(_)) => {
                fs::remove_file(&key).map_err(|cause| Error::File {
                    path: key.display().to_string(),
                    cause,
                })?;
                return Self::open(dir, now);
            }
            (Some(_), None) => {
                return Err(Error::Read {
                    what: cert.display().to_string(),
                    cause: "its key ca.key is missing; restore it from a backup".into(),
                });
            }
        };
        let sa = dir.join("service-account.key");
        let service_accounts = match read(&sa)? {
            Some(pem) => TokenKey::from_pem(&pem)?,
            None => {
                let (key, pem) = TokenKey::generate()?;
                write_private(&sa, &pem)?;
                key
            }
        };
        Ok(Self {
            dir: dir.to_owned(),
            ca,
            service_accounts,
            encryption_key: encryption_key(dir)?,
        })
    }

    /// The leaf stored as `name`.crt and `name`.key, issued anew when it is missing, near its end, signed by another
    /// authority or lacks a name.
    ///
    /// # Errors
    /// When it cannot be issued or written.
    pub fn leaf(&self, name: &str, request: &LeafRequest, now: Timestamp) -> Result<Leaf, Error> {
        let (cert, key) = (
            self.dir.join(format!("{name}.crt")),
            self.dir.join(format!("{name}.key")),
        );
        if let (Some(cert_pem), Some(key_pem)) = (read(&cert)?, read(&key)?)
            && !needs_renewal(&cert_pem, request, &self.ca.cert_pem, now)
        {
            return Ok(Leaf { cert_pem, key_pem });
        }
        let leaf = self.ca.issue(request, now)?;
        write_private(&key, &leaf.key_pem)?;
        write_private(&cert, &leaf.cert_pem)?;
        Ok(leaf)
    }

    /// A client's leaf: a user in groups.
    ///
    /// # Errors
    /// As [`Self::leaf`].
    pub fn client(
        &self,
        file: &str,
        user: &str,
        groups: &[&str],
        now: Timestamp,
    ) -> Result<Leaf, Error> {
        let request = LeafRequest {
            common_name: user.to_owned(),
            organizations: groups.iter().map(|g| (*g).to_owned()).collect(),
            dns_names: Vec::new(),
            ips: Vec::new(),
            usage: Usage::Client,
        };
        self.leaf(file, &request, now)
    }

    /// A server's leaf for these names and addresses.
    ///
    /// # Errors
    /// As [`Self::leaf`].
    pub fn server(
        &self,
        file: &str,
        name: &str,
        groups: &[&str],
        dns_names: Vec<String>,
        ips: Vec<IpAddr>,
        now: Timestamp,
    ) -> Result<Leaf, Error> {
        let request = LeafRequest {
            common_name: name.to_owned(),
            organizations: groups.iter().map(|g| (*g).to_owned()).collect(),
            dns_names,
            ips,
            usage: Usage::Both,
        };
        self.leaf(file, &request, now)
    }
}

/// A server's leaf for a machine without the cluster's authority, kept as `name`.crt and `name`.key in `dir`: signed by a
/// throw-away authority, whose certificate follows the leaf's, as upstream's kubelet does it. Made anew when it is near
/// its end or lacks a name.
///
/// # Errors
/// When it cannot be issued or written.
pub fn self_signed(
    dir: &Path,
    name: &str,
    request: &LeafRequest,
    now: Timestamp,
) -> Result<Leaf, Error> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    fs::create_dir_all(dir).map_err(|cause| Error::File {
        path: dir.display().to_string(),
        cause,
    })?;
    let (cert, key) = (
        dir.join(format!("{name}.crt")),
        dir.join(format!("{name}.key")),
    );
    if let (Some(cert_pem), Some(key_pem)) = (read(&cert)?, read(&key)?)
        && let Some(second) = cert_pem.rfind(BEGIN).filter(|at| *at > 0)
        && !needs_renewal(&cert_pem, request, &cert_pem[second..], now)
    {
        return Ok(Leaf { cert_pem, key_pem });
    }
    let authority = Authority::generate(&format!("{}-ca", request.common_name), now)?;
    let leaf = authority.issue(request, now)?;
    let leaf = Leaf {
        cert_pem: format!("{}{}", leaf.cert_pem, authority.cert_pem),
        ..leaf
    };
    write_private(&key, &leaf.key_pem)?;
    write_private(&cert, &leaf.cert_pem)?;
    Ok(leaf)
}

fn encryption_key(dir: &Path) -> Result<[u8; 32], Error> {
    let path = dir.join("encryption.key");
    let hex = match read(&path)? {
        Some(hex) => hex.trim().to_owned(),
        None => {
            let hex = crate::random_hex(32)?;
            write_private(&path, &hex)?;
            hex
        }
    };
    let bad = || Error::Read {
        what: path.display().to_string(),
        cause: "it must hold 64 hexadecimal digits; restore it from a backup".into(),
    };
    let mut key = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return Err(bad());
    }
    for (i, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).map_err(|_| bad())?;
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn keys_are_made_once_and_leaves_renewed_before_their_end() {
        let dir = std::env::temp_dir().join(format!("skiff-pki-{}", std::process::id()));
        let start = 1_767_225_600;
        let pki = Pki::open(&dir, at(start)).unwrap();
        let names = || vec!["kubernetes".to_owned()];
        let first = pki
            .server(
                "apiserver",
                "kube-apiserver",
                &[],
                names(),
                vec![],
                at(start),
            )
            .unwrap();
        let again = Pki::open(&dir, at(start)).unwrap();
        assert_eq!(pki.ca.cert_pem, again.ca.cert_pem);
        assert_eq!(pki.encryption_key, again.encryption_key);
        let same = again
            .server(
                "apiserver",
                "kube-apiserver",
                &[],
                names(),
                vec![],
                at(start),
            )
            .unwrap();
        assert_eq!(first.cert_pem, same.cert_pem, "a fresh leaf is kept");
        let more = vec!["kubernetes".to_owned(), "other".to_owned()];
        let renamed = again
            .server("apiserver", "kube-apiserver", &[], more, vec![], at(start))
            .unwrap();
        assert_ne!(
            first.cert_pem, renamed.cert_pem,
            "a leaf that lacks a name is renewed"
        );
        let late = at(start + 300 * 86_400);
        let renewed = again
            .server("apiserver", "kube-apiserver", &[], names(), vec![], late)
            .unwrap();
        assert_ne!(
            renamed.cert_pem, renewed.cert_pem,
            "a leaf near its end is renewed"
        );
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_self_signed_leaf_is_kept_until_it_does_not_fit() {
        let dir = std::env::temp_dir().join(format!("skiff-self-signed-{}", std::process::id()));
        let request = |name: &str| LeafRequest {
            common_name: name.to_owned(),
            organizations: Vec::new(),
            dns_names: vec![name.to_owned()],
            ips: vec![IpAddr::from([192, 0, 2, 7])],
            usage: Usage::Server,
        };
        let now = at(1_767_225_600);
        let make = |name| {
            let leaf = self_signed(&dir, "kubelet", &request(name), now).unwrap();
            assert_eq!(leaf.cert_pem.matches("BEGIN").count(), 2);
            leaf.cert_pem
        };
        let first = make("a");
        assert_eq!(first, make("a"));
        assert_ne!(first, make("b"));
        fs::remove_dir_all(dir).unwrap();
    }
}
