//! Certificate authorities and the leaf certificates they sign.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};

use crate::Error;

/// How long an authority lives: longer than any machine it runs on.
const AUTHORITY_LIFE: Duration = Duration::from_secs(100 * 365 * 86_400);
/// How long a leaf lives. Leaves are renewed when a third of this is left.
pub const LEAF_LIFE: Duration = Duration::from_secs(365 * 86_400);
/// Clocks of other machines may be behind ours by this much.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// What a leaf certificate may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    Client,
    Server,
    Both,
}

/// What to put into a leaf certificate.
#[derive(Debug, Clone)]
pub struct LeafRequest {
    /// The user name (client) or host (server).
    pub common_name: String,
    /// The groups of a client.
    pub organizations: Vec<String>,
    pub dns_names: Vec<String>,
    pub ips: Vec<IpAddr>,
    pub usage: Usage,
}

/// A certificate with its private key, both PEM.
#[derive(Clone)]
pub struct Leaf {
    pub cert_pem: String,
    pub key_pem: String,
}

/// A certificate authority: a key and its self-signed certificate.
pub struct Authority {
    pub cert_pem: String,
    key: KeyPair,
}

fn issue_error(subject: &str) -> impl Fn(rcgen::Error) -> Error + '_ {
    move |e| Error::Issue {
        subject: subject.to_owned(),
        cause: e.to_string(),
    }
}

fn window(params: &mut CertificateParams, now: Timestamp, life: Duration) -> Result<(), Error> {
    let at = |seconds: i64| {
        time::OffsetDateTime::from_unix_timestamp(seconds).map_err(|e| Error::Issue {
            subject: "validity".into(),
            cause: e.to_string(),
        })
    };
    params.not_before = at(now.as_second() - CLOCK_SKEW.as_secs() as i64)?;
    params.not_after = at(now.as_second() + life.as_secs() as i64)?;
    Ok(())
}

impl Authority {
    /// Makes a new authority named `name`.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn generate(name: &str, now: Timestamp) -> Result<Self, Error> {
        let key = KeyPair::generate().map_err(issue_error(name))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
        ];
        window(&mut params, now, AUTHORITY_LIFE)?;
        let cert_pem = params.self_signed(&key).map_err(issue_error(name))?.pem();
        Ok(Self { cert_pem, key })
    }

    /// Reads an authority from its PEM files' contents.
    ///
    /// # Errors
    /// When either is not what it should be.
    pub fn from_pem(cert_pem: String, key_pem: &str) -> Result<Self, Error> {
        let key = KeyPair::from_pem(key_pem).map_err(|e| Error::Read {
            what: "the authority's key".into(),
            cause: e.to_string(),
        })?;
        let authority = Self { cert_pem, key };
        authority.issuer().map(|_| ())?;
        Ok(authority)
    }

    /// The private key as PEM, for storing.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    fn issuer(&self) -> Result<Issuer<'static, &KeyPair>, Error> {
        Issuer::from_ca_cert_pem(&self.cert_pem, &self.key).map_err(|e| Error::Read {
            what: "the authority's certificate".into(),
            cause: e.to_string(),
        })
    }

    /// Signs a new leaf with a new key.
    ///
    /// # Errors
    /// When a name cannot stand in a certificate.
    pub fn issue(&self, request: &LeafRequest, now: Timestamp) -> Result<Leaf, Error> {
        let name = request.common_name.as_str();
        let key = KeyPair::generate().map_err(issue_error(name))?;
        let mut params =
            CertificateParams::new(request.dns_names.clone()).map_err(issue_error(name))?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        for organization in &request.organizations {
            params
                .distinguished_name
                .push(DnType::OrganizationName, organization.as_str());
        }
        params
            .subject_alt_names
            .extend(request.ips.iter().map(|ip| SanType::IpAddress(*ip)));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match request.usage {
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Usage::Both => {
                vec![
                    ExtendedKeyUsagePurpose::ServerAuth,
                    ExtendedKeyUsagePurpose::ClientAuth,
                ]
            }
        };
        params.use_authority_key_identifier_extension = true;
        window(&mut params, now, LEAF_LIFE)?;
        let cert = params
            .signed_by(&key, &self.issuer()?)
            .map_err(issue_error(name))?;
        Ok(Leaf {
            cert_pem: cert.pem(),
            key_pem: key.serialize_pem(),
        })
    }
}

/// Who a client certificate says its holder is: user name and groups (upstream's CommonName authenticator).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    pub common_name: String,
    pub organizations: Vec<String>,
}

/// Reads the subject of a DER certificate.
///
/// # Errors
/// When it is not a certificate.
pub fn subject(der: &[u8]) -> Result<Subject, Error> {
    let (_, cert) = x509_parser::parse_x509_certificate(der).map_err(|e| Error::Read {
        what: "the client certificate".into(),
        cause: e.to_string(),
    })?;
    let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        a.as_str().unwrap_or_default().to_owned()
    };
    Ok(Subject {
        common_name: cert
            .subject()
            .iter_common_name()
            .next()
            .map(text)
            .unwrap_or_default(),
        organizations: cert.subject().iter_organization().map(text).collect(),
    })
}

/// What remains of a PEM certificate's life, and the names it serves.
pub(crate) fn needs_renewal(
    cert_pem: &str,
    request: &LeafRequest,
    issuer_pem: &str,
    now: Timestamp,
) -> bool {
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(cert_pem.as_bytes()) else {
        return true;
    };
    let Ok(cert) = pem.parse_x509() else {
        return true;
    };
    let left = cert.validity().not_after.timestamp() - now.as_second();
    if left < LEAF_LIFE.as_secs() as i64 / 3 {
        return true;
    }
    let Ok((_, issuer)) = x509_parser::pem::parse_x509_pem(issuer_pem.as_bytes()) else {
        return true;
    };
    let Ok(issuer) = issuer.parse_x509() else {
        return true;
    };
    // Every authority has the same name, so the key tells them apart.
    if cert.verify_signature(Some(issuer.public_key())).is_err() {
        return true;
    }
    let Ok(subject) = subject(&pem.contents) else {
        return true;
    };
    if subject.common_name != request.common_name || subject.organizations != request.organizations
    {
        return true;
    }
    let names = cert.subject_alternative_name().ok().flatten();
    let has = |wanted: &str| {
        names
            .iter()
            .flat_map(|n| &n.value.general_names)
            .any(|n| match n {
                x509_parser::extensions::GeneralName::DNSName(d) => *d == wanted,
                x509_parser::extensions::GeneralName::IPAddress(b) => match b.len() {
                    4 => {
                        <[u8; 4]>::try_from(*b).is_ok_and(|a| IpAddr::from(a).to_string() == wanted)
                    }
                    16 => <[u8; 16]>::try_from(*b)
                        .is_ok_and(|a| IpAddr::from(a).to_string() == wanted),
                    _ => false,
                },
                _ => false,
            })
    };
    !(request.dns_names.iter().all(|d| has(d)) && request.ips.iter().all(|ip| has(&ip.to_string())))
}
