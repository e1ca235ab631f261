//! Links of proxied pages, led through the proxy: `/a` becomes `PREFIX/a`.
//!
//! A page is rewritten as it streams by, tag by tag, and otherwise left as it is.

use bytes::{Bytes, BytesMut};
use futures::stream;
use html5gum::emitters::default::DefaultEmitter;
use html5gum::{StartTag, Token, Tokenizer};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use skiff_http::Body;

/// As much is held back to see the end of a tag.
const LONGEST_TAG: usize = 64 << 10;

/// Where links lead now and where they shall.
pub struct Links {
    /// The path of the proxy, without a slash at its end.
    pub prefix: String,
    /// The host that the client asked.
    pub host: String,
}

impl Links {
    /// The new form of `link`; `None` if it stays: what is relative, leads elsewhere, or through the proxy already.
    pub fn rewritten(&self, link: &str) -> Option<String> {
        let path = match link.split_once("//") {
            Some(("" | "http:" | "https:", rest)) => {
                let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                let (host, path) = rest.split_at(end);
                (host == self.host).then_some(path)?
            }
            _ => link,
        };
        let inside = path.strip_prefix(&self.prefix);
        if inside.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#'])) {
            return (path.len() != link.len()).then(|| path.to_owned());
        }
        path.starts_with('/')
            .then(|| format!("{}{path}", self.prefix))
    }
}

/// Whether an answer is a page whose links can be read.
pub fn is_page(headers: &HeaderMap) -> bool {
    let of = |name| headers.get(name).and_then(|v| v.to_str().ok());
    let html = |kind: &str| {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case("text/html")
    };
    of(CONTENT_TYPE).is_some_and(html) && of(CONTENT_ENCODING).is_none_or(|e| e == "identity")
}

/// The page with its links rewritten.
pub fn page(from: Body, links: Links) -> Body {
    let page = Page {
        links,
        kept: BytesMut::new(),
        raw: None,
    };
    let pieces = stream::unfold(Some((from, page)), |state| async move {
        let (mut from, mut page) = state?;
        loop {
            match from.frame().await {
                None => return Some((Ok(Frame::data(page.rest())), None)),
                Some(Err(error)) => return Some((Err(error), None)),
                Some(Ok(frame)) => {
                    let out = match frame.into_data() {
                        Ok(data) => Frame::data(page.push(&data)),
                        Err(frame) => frame,
                    };
                    if out.data_ref().is_none_or(|d| !d.is_empty()) {
                        return Some((Ok(out), Some((from, page))));
                    }
                }
            }
        }
    });
    StreamBody::new(pieces).boxed_unsync()
}

struct Page {
    links: Links,
    /// What may be the beginning of a tag.
    kept: BytesMut,
    /// The element whose text is not markup that we are in.
    raw: Option<String>,
}

impl Page {
    /// Takes the page's next piece; gives what is finished.
    fn push(&mut self, data: &[u8]) -> Bytes {
        self.kept.extend_from_slice(data);
        let mut out = Vec::with_capacity(self.kept.len());
        loop {
            if !self.leave_raw(&mut out) {
                break;
            }
            // Up to the end of a tag, and no further than where text begins that only looks like tags.
            let Some(last) = self.kept.iter().rposition(|b| *b == b'>') else {
                break;
            };
            let piece = self.kept.split_to(last + 1);
            let (done, raw) = self.links.of_tags(&piece, &mut out);
            if done < piece.len() {
                let mut rest = BytesMut::from(&piece[done..]);
                rest.unsplit(std::mem::take(&mut self.kept));
                self.kept = rest;
            }
            self.raw = raw;
            if self.raw.is_none() {
                break;
            }
        }
        if !self.kept.contains(&b'<') || self.kept.len() > LONGEST_TAG {
            out.extend_from_slice(&std::mem::take(&mut self.kept));
        }
        out.into()
    }

    /// Passes on the text of an element that has no markup inside. Returns whether its end was seen.
    fn leave_raw(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(element) = &self.raw else {
            return true;
        };
        let end = format!("</{element}").into_bytes();
        let at = self
            .kept
            .windows(end.len())
            .position(|w| w.eq_ignore_ascii_case(&end));
        // The end may have arrived in part.
        let safe = at.unwrap_or_else(|| (self.kept.len() + 1).saturating_sub(end.len()));
        out.extend_from_slice(&self.kept.split_to(safe));
        if at.is_some() {
            self.raw = None;
        }
        at.is_some()
    }

    fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.kept).freeze()
    }
}

impl Links {
    /// Writes `html`, which ends with a tag, to `out`, up to the first element whose text is not markup. Returns how much of
    /// it that was, and the element.
    fn of_tags(&self, html: &[u8], out: &mut Vec<u8>) -> (usize, Option<String>) {
        let mut copied = 0;
        let tokens = Tokenizer::new_with_emitter(html, DefaultEmitter::<usize>::new_with_span());
        for Ok(token) in tokens {
            let Token::StartTag(tag) = token else {
                continue;
            };
            for (from, to, link) in self.of_tag(&tag, html) {
                if from < copied {
                    continue;
                }
                out.extend_from_slice(&html[copied..from]);
                out.extend_from_slice(link.as_bytes());
                copied = to;
            }
            if matches!(
                tag.name.as_slice(),
                b"script" | b"style" | b"textarea" | b"title"
            ) {
                let end = tag.span.end.max(copied);
                out.extend_from_slice(&html[copied..end]);
                let name = String::from_utf8_lossy(&tag.name).into_owned();
                return (end, Some(name));
            }
        }
        out.extend_from_slice(&html[copied..]);
        (html.len(), None)
    }

    /// The links of a tag that change: from where to where in `html`, and what stands there instead.
    fn of_tag(&self, tag: &StartTag<usize>, html: &[u8]) -> Vec<(usize, usize, String)> {
        let mut changes: Vec<_> = tag
            .attributes
            .iter()
            .filter(|(name, _)| is_link(&tag.name, name))
            .filter_map(|(name, value)| {
                let source = html.get(value.span.start..)?;
                let given = source.get(..name.len())?;
                let rest = source.get(name.len()..)?;
                if !given.eq_ignore_ascii_case(name) {
                    return None;
                }
                let equals = rest
                    .trim_ascii_start()
                    .strip_prefix(b"=")?
                    .trim_ascii_start();
                let quoted = equals.strip_prefix(b"\"").or(equals.strip_prefix(b"'"));
                let text = quoted.unwrap_or(equals);
                let end = match equals.first() {
                    Some(quote @ (b'"' | b'\'')) => text.iter().position(|b| b == quote)?,
                    _ => text
                        .iter()
                        .position(|b| b.is_ascii_whitespace() || *b == b'>')?,
                };
                let link = std::str::from_utf8(&text[..end]).ok()?;
                let from = html.len() - text.len();
                Some((from, from + end, self.rewritten(link)?))
            })
            .collect();
        changes.sort_unstable();
        changes
    }
}

/// The attributes that hold a URL, per element (HTML 4 and 5).
fn is_link(element: &[u8], attribute: &[u8]) -> bool {
    let attributes: &[&[u8]] = match element {
        b"a" | b"area" | b"base" | b"link" => &[b"href"],
        b"applet" => &[b"codebase"],
        b"audio" | b"embed" | b"script" | b"source" => &[b"src"],
        b"blockquote" | b"del" | b"ins" | b"q" => &[b"cite"],
        b"body" => &[b"background"],
        b"button" => &[b"formaction"],
        b"command" => &[b"icon"],
        b"form" => &[b"action"],
        b"frame" | b"iframe" => &[b"longdesc", b"src"],
        b"head" => &[b"profile"],
        b"html" => &[b"manifest"],
        b"img" => &[b"longdesc", b"src", b"usemap"],
        b"input" => &[b"formaction", b"src", b"usemap"],
        b"object" => &[b"classid", b"codebase", b"data", b"usemap"],
        b"video" => &[b"poster", b"src"],
        _ => &[],
    };
    attributes.contains(&attribute)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> Links {
        Links {
            prefix: "/p/proxy".into(),
            host: "api:6443".into(),
        }
    }

    fn rewritten(page: &str, piece: usize) -> String {
        let mut state = Page {
            links: links(),
            kept: BytesMut::new(),
            raw: None,
        };
        let mut out = Vec::new();
        for data in page.as_bytes().chunks(piece) {
            out.extend_from_slice(&state.push(data));
        }
        out.extend_from_slice(&state.rest());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn only_links_to_the_same_host_change() {
        let cases = [
            ("/a?b#c", Some("/p/proxy/a?b#c")),
            ("/", Some("/p/proxy/")),
            ("a/b", None),
            ("../a", None),
            ("?x=//y", None),
            ("#x", None),
            ("mailto:a@b", None),
            ("http://other/a", None),
            ("//other/a", None),
            ("https://api:6443/a", Some("/p/proxy/a")),
            ("//api:6443/a", Some("/p/proxy/a")),
            ("/p/proxy/a", None),
            ("https://api:6443/p/proxy/a", Some("/p/proxy/a")),
            ("/p/proxyx", Some("/p/proxy/p/proxyx")),
        ];
        for (link, want) in cases {
            assert_eq!(links().rewritten(link).as_deref(), want, "{link}");
        }
    }

    #[test]
    fn a_page_keeps_all_but_its_links() {
        let cases = [
            (
                r#"<a href="/rewriteme">test</a>"#,
                r#"<a href="/p/proxy/rewriteme">test</a>"#,
            ),
            (
                "<A  HREF = '/x' class=y>",
                "<A  HREF = '/p/proxy/x' class=y>",
            ),
            (
                "<img src=/i.png alt=\"/no\"><p id=/x>",
                "<img src=/p/proxy/i.png alt=\"/no\"><p id=/x>",
            ),
            (
                "a\r\n<b>\r\n<a href=\"/x\">\r\n",
                "a\r\n<b>\r\n<a href=\"/p/proxy/x\">\r\n",
            ),
            (
                "<script src=\"/s.js\">x = '<a href=\"/no\">' < 3;</script><a href=\"/y\">",
                "<script src=\"/p/proxy/s.js\">x = '<a href=\"/no\">' < 3;</script><a href=\"/p/proxy/y\">",
            ),
            (
                "<!-- <a href=\"/no\"> --><é a=ü>1 < 2 & <",
                "<!-- <a href=\"/no\"> --><é a=ü>1 < 2 & <",
            ),
            (
                "<form action=\"/a?x=1&amp;y=2\" method=post>",
                "<form action=\"/p/proxy/a?x=1&amp;y=2\" method=post>",
            ),
        ];
        for (page, want) in cases {
            assert_eq!(rewritten(page, page.len()), want);
        }
        for (page, want) in cases.iter().filter(|(page, _)| !page.contains("<!--")) {
            for piece in 1..page.len() {
                assert_eq!(rewritten(page, piece), *want, "in pieces of {piece}");
            }
        }
    }

    #[test]
    fn a_tag_without_end_is_not_held_for_ever() {
        let endless = format!("<a href=\"/{}", "x".repeat(2 * LONGEST_TAG));
        assert_eq!(rewritten(&endless, 1000), endless);
    }
}
