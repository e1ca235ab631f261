//! Certificates and requests for them, as others send them.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

/// What one reader takes for certificates the other does too, and what is refused is told.
pub fn certificates(data: &[u8]) {
    match pki_request(data) {
        Ok(request) => assert!(request.common_name.len() <= data.len()),
        Err(why) => assert!(!why.is_empty()),
    }
    let checked = pki::csr::check_certificates(data);
    if let Err(why) = &checked {
        assert!(!why.is_empty());
    }
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let read = skiff_http::tls::certificates(text);
    if let Ok(read) = &read {
        for certificate in read {
            let _ = pki::authority::subject(certificate);
        }
        let _ = skiff_http::tls::client_config(text, None, true);
    }
    // Of blocks that do not end, ours makes what Go does, and the TLS library something else.
    let count = |what: &str| text.matches(what).count();
    let whole = count("-----BEGIN ") == count("-----BEGIN CERTIFICATE-----\n")
        && count("-----END ") == count("\n-----END CERTIFICATE-----")
        && count("-----BEGIN ") == count("-----END ");
    if checked.is_ok() && !data.is_empty() && whole {
        let found = CertificateDer::pem_slice_iter(data);
        assert!(
            found.flatten().next().is_some(),
            "the TLS library finds no certificate"
        );
    }
    let _ = pki::TokenKey::from_pem(text);
}

fn pki_request(data: &[u8]) -> Result<pki::csr::Request, String> {
    pki::csr::parse(data)
}
