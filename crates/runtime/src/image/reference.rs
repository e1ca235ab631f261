//! Image references in their short and long forms.
//!
//! Follows <https://github.com/distribution/reference>: `nginx` is `docker.io/library/nginx:latest`.

use crate::{Error, Result};

/// The long form of a reference: registry, repository, and a tag or digest.
///
/// # Errors
/// [`Error::InvalidArgument`] for what is no reference, e.g. with upper-case letters in the repository.
pub fn normalize(reference: &str) -> Result<String> {
    let bad = |why: &str| {
        Error::InvalidArgument(format!("couldn't parse image name {reference:?}: {why}"))
    };
    let (rest, digest) = match reference.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (reference, None),
    };
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    let (domain, path) = match name.split_once('/') {
        Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => {
            (first, path.to_owned())
        }
        Some(_) => ("docker.io", name.to_owned()),
        None => ("docker.io", format!("library/{name}")),
    };
    let domain = if domain == "index.docker.io" {
        "docker.io"
    } else {
        domain
    };
    let path = if domain == "docker.io" && !path.contains('/') {
        format!("library/{path}")
    } else {
        path
    };
    if !domain
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'[')
        || !domain
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b))
    {
        return Err(bad("invalid registry"));
    }
    let component = |c: &str| {
        let alnum = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        alnum(c.bytes().next())
            && alnum(c.bytes().last())
            && c.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
    };
    if path
        .split('/')
        .any(|c| c.bytes().any(|b| b.is_ascii_uppercase()))
    {
        return Err(bad("repository name must be lowercase"));
    }
    if path.len() > 255 || !path.split('/').all(component) {
        return Err(bad("invalid reference format"));
    }
    if let Some(tag) = tag {
        let first = tag
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !first
            || tag.len() > 128
            || !tag
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        {
            return Err(bad("invalid tag"));
        }
    }
    if let Some(digest) = digest {
        let hex = digest
            .strip_prefix("sha256:")
            .ok_or_else(|| bad("unsupported digest algorithm"))?;
        if hex.len() != 64
            || !hex
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        {
            return Err(bad("invalid digest"));
        }
        return Ok(format!("{domain}/{path}@{digest}"));
    }
    Ok(format!("{domain}/{path}:{}", tag.unwrap_or("latest")))
}

#[cfg(test)]
mod tests {
    use super::normalize;

    #[test]
    fn short_names_get_their_long_form() {
        for (short, long) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("docker.io/nginx:1", "docker.io/library/nginx:1"),
            ("a/b", "docker.io/a/b:latest"),
            ("localhost/x", "localhost/x:latest"),
            ("localhost:5000/x/y:z", "localhost:5000/x/y:z"),
            ("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9"),
        ] {
            assert_eq!(normalize(short).unwrap(), long);
        }
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(
            normalize(&format!("x:1@{digest}")).unwrap(),
            format!("docker.io/library/x@{digest}")
        );
        for bad in [
            "",
            "X",
            "a//b",
            "x:",
            "x:-",
            "x@sha256:1",
            "../x",
            "a b",
            "x/../y",
        ] {
            assert!(normalize(bad).is_err(), "{bad}");
        }
    }
}
