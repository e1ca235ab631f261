//! Percent-encoding of query strings and path segments (RFC 3986).

use std::fmt::Write as _;

/// Writes `text` so that it can stand in a query: all but the unreserved characters are escaped.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

/// Undoes escaping; in a query `+` is a space. What is no escape stays as it is.
#[must_use]
pub fn unescape(text: &str, plus_is_space: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            b'%' if bytes.len() >= i + 3 => {
                let digit = |at: usize| char::from(bytes[at]).to_digit(16);
                if let (Some(high), Some(low)) = (digit(i + 1), digit(i + 2)) {
                    #[allow(clippy::cast_possible_truncation, reason = "two digits are a byte")]
                    out.push((high << 4 | low) as u8);
                    i += 3;
                    continue;
                }
                out.push(b'%');
            }
            b'+' if plus_is_space => out.push(b' '),
            other => out.push(other),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_escaped_is_read_again() {
        let text = "a=b,c in (d/e) ~ 100% + é";
        assert!(!escape(text).contains([' ', '+', '/', ',']));
        assert_eq!(unescape(&escape(text), true), text);
        assert_eq!(unescape(&escape(text), false), text);
        assert_eq!(unescape("%+5%-1%4g%", false), "%+5%-1%4g%");
    }
}
