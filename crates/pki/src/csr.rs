//! Requests for certificates, as others send them: PKCS#10 in PEM.
//!
//! Texts of errors are those of upstream and of Go's `crypto/x509` where a client can meet them.

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub common_name: String,
    /// The groups of a client.
    pub organizations: Vec<String>,
}

/// One block of PEM.
struct Block {
    label: String,
    has_headers: bool,
    der: Vec<u8>,
}

/// The first whole block in `text` and what follows it; `None` if there is none (any more). As Go's reader, passes over what
/// only begins like one: lines that begin and end a block hold nothing else, and name the same thing.
fn block(mut text: &[u8]) -> Option<(Block, &[u8])> {
    const BEGIN: &[u8] = b"-----BEGIN ";
    let find = |text: &[u8], from: usize| {
        let mut found = text.windows(BEGIN.len()).enumerate().skip(from);
        let at_line = |at: usize| at == 0 || text[at - 1] == b'\n';
        found.find_map(|(at, w)| (w == BEGIN && at_line(at)).then_some(at))
    };
    loop {
        text = &text[find(text, 0)?..];
        // No block holds the beginning of another, so that each byte is looked at once.
        let next = find(text, BEGIN.len()).unwrap_or(text.len());
        let (this, rest) = text.split_at(next);
        let mut cursor = std::io::Cursor::new(this);
        if let Ok((pem, read)) = x509_parser::pem::Pem::read(&mut cursor) {
            let this = this[..read.min(this.len())].trim_ascii_end();
            let end = format!("\n-----END {}-----", pem.label);
            let body = this.strip_suffix(end.as_bytes());
            // The library also takes several texts of base64 one after the other.
            let ends_once = |body: &[u8]| {
                let padding = body.iter().skip_while(|b| **b != b'=');
                padding
                    .copied()
                    .all(|b| b == b'=' || b.is_ascii_whitespace())
            };
            if body.is_some_and(ends_once) {
                let block = Block {
                    label: pem.label,
                    has_headers: this.contains(&b':'),
                    der: pem.contents,
                };
                return Some((block, rest));
            }
        }
        text = rest;
    }
}

/// Reads a request and checks that who made it holds its key.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parse(pem: &[u8]) -> Result<Request, String> {
    let request = block(pem).map(|(block, _)| block);
    let Some(request) = request.filter(|b| b.label == "CERTIFICATE REQUEST") else {
        return Err("PEM block type must be CERTIFICATE REQUEST".to_owned());
    };
    let (rest, request) = X509CertificationRequest::from_der(&request.der)
        .map_err(|e| format!("x509: malformed certificate request: {e}"))?;
    if !rest.is_empty() {
        return Err("asn1: syntax error: trailing data".to_owned());
    }
    request
        .verify_signature()
        .map_err(|_| refusal(&request).to_owned())?;
    let subject = &request.certification_request_info.subject;
    let texts =
        |attributes: &mut dyn Iterator<Item = &x509_parser::x509::AttributeTypeAndValue<'_>>| {
            attributes
                .filter_map(|a| a.as_str().ok().map(ToOwned::to_owned))
                .collect::<Vec<_>>()
        };
    // Go takes the last common name.
    let common_name = texts(&mut subject.iter_common_name()).pop();
    Ok(Request {
        common_name: common_name.unwrap_or_default(),
        organizations: texts(&mut subject.iter_organization()),
    })
}

/// What Go says about a wrong signature, by its algorithm.
fn refusal(request: &X509CertificationRequest<'_>) -> &'static str {
    let algorithm = request.signature_algorithm.algorithm.to_id_string();
    match algorithm.as_str() {
        a if a.starts_with("1.2.840.113549.1.1.") => "crypto/rsa: verification error",
        a if a.starts_with("1.2.840.10045.4.") => "x509: ECDSA verification failure",
        "1.3.101.112" => "x509: Ed25519 verification failure",
        _ => "x509: cannot verify signature: algorithm unimplemented",
    }
}

/// Checks that `pem` is one or more certificates and nothing else; nothing at all is fine too.
///
/// # Errors
/// What is wrong with it, in words.
pub fn check_certificates(pem: &[u8]) -> Result<(), String> {
    let mut rest = pem;
    let mut found = pem.is_empty();
    while let Some((block, after)) = block(rest) {
        if block.label != "CERTIFICATE" {
            let label = block.label;
            return Err(format!(
                "only CERTIFICATE PEM blocks are allowed, found \"{label}\""
            ));
        }
        if block.has_headers {
            return Err("no PEM block headers are permitted".to_owned());
        }
        if block.der.is_empty() {
            return Err("found CERTIFICATE PEM block containing 0 certificates".to_owned());
        }
        let mut der = block.der.as_slice();
        while !der.is_empty() {
            (der, _) = x509_parser::parse_x509_certificate(der)
                .map_err(|_| "x509: malformed certificate".to_owned())?;
        }
        found = true;
        rest = after;
    }
    if found {
        Ok(())
    } else {
        Err("must contain at least one CERTIFICATE PEM block".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    fn request() -> String {
        let mut params = CertificateParams::new([]).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, "system:node:a");
        params
            .distinguished_name
            .push(DnType::OrganizationName, "system:nodes");
        let key = KeyPair::generate().unwrap();
        params.serialize_request(&key).unwrap().pem().unwrap()
    }

    #[test]
    fn a_request_says_who_it_is_for() {
        let wanted = Request {
            common_name: "system:node:a".into(),
            organizations: vec!["system:nodes".into()],
        };
        assert_eq!(parse(request().as_bytes()), Ok(wanted));
    }

    #[test]
    fn a_request_that_was_changed_is_refused() {
        use base64::Engine as _;
        let (block, _) = block(request().as_bytes()).map(|(b, _)| (b, ())).unwrap();
        let mut der = block.der;
        let at = der.windows(4).position(|w| w == b"node").unwrap();
        der[at] = b'm';
        let body = base64::engine::general_purpose::STANDARD.encode(der);
        let label = "CERTIFICATE REQUEST";
        let pem = format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
        let wanted = Err("x509: ECDSA verification failure".to_owned());
        assert_eq!(parse(pem.as_bytes()), wanted);
        let wanted = Err("PEM block type must be CERTIFICATE REQUEST".to_owned());
        assert_eq!(parse(b"nothing"), wanted);
    }

    #[test]
    fn only_certificates_are_certificates() {
        assert_eq!(check_certificates(b""), Ok(()));
        let wanted = Err("must contain at least one CERTIFICATE PEM block".to_owned());
        assert_eq!(check_certificates(b"nothing"), wanted);
        let wanted = "only CERTIFICATE PEM blocks are allowed, found \"CERTIFICATE REQUEST\"";
        assert_eq!(
            check_certificates(request().as_bytes()),
            Err(wanted.to_owned())
        );
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new([]).unwrap().self_signed(&key);
        let cert = cert.unwrap().pem();
        assert_eq!(
            check_certificates(format!("{cert}{cert}").as_bytes()),
            Ok(())
        );
        // A block is whole lines, of which the last names what the first does.
        for broken in [
            format!("x{cert}"),
            cert.replace("-----END CERTIFICATE-----", "-----END CERTIFICATE-----x"),
            cert.replace("-----END CERTIFICATE-----", "-----END KEY-----"),
            cert.replace(
                "-----END CERTIFICATE-----",
                "YQ==\nYQ==\n-----END CERTIFICATE-----",
            ),
        ] {
            assert_eq!(
                check_certificates(broken.as_bytes()),
                Err("must contain at least one CERTIFICATE PEM block".to_owned())
            );
        }
        // What is broken is passed over, but not what follows it.
        let broken = "-----BEGIN CERTIFICATE-----\n%%%\n";
        let text = format!("{cert}{broken}");
        assert_eq!(check_certificates(text.as_bytes()), Ok(()));
        let text = format!("{cert}{broken}{}", request());
        assert_eq!(
            check_certificates(text.as_bytes()),
            Err(wanted.to_owned()),
            "{text}"
        );
    }
}
