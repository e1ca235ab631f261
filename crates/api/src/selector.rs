//! Label and field selectors, in their text form (`app in (a,b),!old`) and as `LabelSelector` objects, with upstream's
//! grammar and error texts (`apimachinery/pkg/labels`, `pkg/fields`).

use serde_json::Value;

use crate::field::quote;
use crate::names;

/// How a requirement compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    Equals,
    NotEquals,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    pub values: Vec<String>,
}

impl Requirement {
    /// # Errors
    /// Upstream's text: a bad key, a bad value, or too few or many values for the operator.
    pub fn new(key: &str, operator: Operator, mut values: Vec<String>) -> Result<Self, String> {
        use Operator::{DoesNotExist, Equals, Exists, GreaterThan, In, LessThan, NotEquals, NotIn};
        let wrong = names::qualified_name(key);
        if !wrong.is_empty() {
            return Err(format!(
                "key: Invalid value: {}: {}",
                quote(key),
                wrong.join("; ")
            ));
        }
        let mut errors = Vec::new();
        let shown = || serde_json::to_string(&values).unwrap_or_default();
        match operator {
            In | NotIn if values.is_empty() => {
                errors.push("values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty".to_owned());
            }
            Equals | NotEquals if values.len() != 1 => {
                let detail = "exact-match compatibility requires one single value";
                errors.push(format!("values: Invalid value: {}: {detail}", shown()));
            }
            Exists | DoesNotExist if !values.is_empty() => {
                let detail = "values set must be empty for exists and does not exist";
                errors.push(format!("values: Invalid value: {}: {detail}", shown()));
            }
            GreaterThan | LessThan if values.len() != 1 => {
                let detail = "for 'Gt', 'Lt' operators, exactly one value is required";
                errors.push(format!("values: Invalid value: {}: {detail}", shown()));
            }
            GreaterThan | LessThan if values[0].parse::<i64>().is_err() => {
                let detail = "for 'Gt', 'Lt' operators, the value must be an integer";
                errors.push(format!(
                    "values[0]: Invalid value: {}: {detail}",
                    quote(&values[0])
                ));
            }
            _ => {}
        }
        for (i, value) in values.iter().enumerate() {
            let wrong = names::label_value(value);
            if !wrong.is_empty() {
                errors.push(format!(
                    "values[{i}][{key}]: Invalid value: {}: {}",
                    quote(value),
                    wrong.join("; ")
                ));
            }
        }
        match errors.len() {
            0 => {
                values.sort_unstable();
                values.dedup();
                Ok(Self {
                    key: key.into(),
                    operator,
                    values,
                })
            }
            1 => Err(errors.remove(0)),
            _ => Err(format!("[{}]", errors.join(", "))),
        }
    }

    #[must_use]
    pub fn matches(&self, value: Option<&str>) -> bool {
        let has = |v: &str| self.values.iter().any(|x| x == v);
        let number = |s: &str| s.parse::<i64>().ok();
        match self.operator {
            Operator::In | Operator::Equals => value.is_some_and(has),
            Operator::NotIn | Operator::NotEquals => !value.is_some_and(has),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let bound = self.values.first().and_then(|v| number(v));
                let (Some(have), Some(bound)) = (value.and_then(number), bound) else {
                    return false;
                };
                if self.operator == Operator::GreaterThan {
                    have > bound
                } else {
                    have < bound
                }
            }
        }
    }
}

/// A conjunction of requirements; without any it matches everything, unless it is `nothing`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl Selector {
    #[must_use]
    pub fn everything() -> Self {
        Self::default()
    }

    /// What an absent `LabelSelector` selects.
    #[must_use]
    pub fn nothing() -> Self {
        Self {
            nothing: true,
            ..Self::default()
        }
    }

    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    #[must_use]
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// `label` answers with the value of a label, if it is set.
    pub fn matches<'a>(&self, label: &dyn Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(label(&r.key)))
    }

    /// Against an object's labels, as the JSON of `metadata.labels` (null if there are none).
    #[must_use]
    pub fn matches_labels(&self, labels: &Value) -> bool {
        self.matches(&|key| labels.get(key).and_then(Value::as_str))
    }
}

impl std::fmt::Display for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            let key = &r.key;
            let first = r.values.first().map_or("", String::as_str);
            match r.operator {
                Operator::In => write!(f, "{key} in ({})", r.values.join(","))?,
                Operator::NotIn => write!(f, "{key} notin ({})", r.values.join(","))?,
                Operator::Equals => write!(f, "{key}={first}")?,
                Operator::NotEquals => write!(f, "{key}!={first}")?,
                Operator::Exists => write!(f, "{key}")?,
                Operator::DoesNotExist => write!(f, "!{key}")?,
                Operator::GreaterThan => write!(f, "{key}>{first}")?,
                Operator::LessThan => write!(f, "{key}<{first}")?,
            }
        }
        Ok(())
    }
}

/// Readers of label selectors.
pub struct LabelSelector;

impl LabelSelector {
    /// The text form, as in `?labelSelector=`.
    ///
    /// # Errors
    /// Upstream's text.
    pub fn parse(text: &str) -> Result<Selector, String> {
        Parser {
            tokens: lex(text),
            at: 0,
        }
        .selector()
    }

    /// A `metav1.LabelSelector`. Null selects nothing, the empty object everything.
    ///
    /// # Errors
    /// Upstream's text.
    pub fn from_json(value: &Value) -> Result<Selector, String> {
        let Some(object) = value.as_object() else {
            return Ok(Selector::nothing());
        };
        let mut requirements = Vec::new();
        for (key, value) in object
            .get("matchLabels")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(Requirement::new(key, Operator::Equals, vec![value])?);
        }
        for expression in object
            .get("matchExpressions")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let operator = expression["operator"].as_str().unwrap_or_default();
            let operator = match operator {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(format!(
                        "{} is not a valid label selector operator",
                        quote(other)
                    ));
                }
            };
            let values = expression["values"]
                .as_array()
                .map(Vec::as_slice)
                .unwrap_or_default();
            let values = values
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
            requirements.push(Requirement::new(
                expression["key"].as_str().unwrap_or_default(),
                operator,
                values,
            )?);
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Selector {
            requirements,
            nothing: false,
        })
    }

    /// A plain map of labels that must all be equal (`spec.selector` of a Service or ReplicationController). A map that
    /// is absent or empty selects everything; the caller decides whether that is meant.
    ///
    /// # Errors
    /// Upstream's text.
    pub fn from_map(value: &Value) -> Result<Selector, String> {
        let mut requirements = Vec::new();
        for (key, value) in value.as_object().into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(Requirement::new(key, Operator::Equals, vec![value])?);
        }
        Ok(Selector {
            requirements,
            nothing: false,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Identifier,
    In,
    NotIn,
    Open,
    Close,
    Comma,
    Not,
    Equals,
    DoubleEquals,
    NotEquals,
    Greater,
    Less,
    End,
}

fn lex(text: &str) -> Vec<(Token, &str)> {
    let special = |c: char| matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<');
    let mut out = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let Some(first) = rest.chars().next() else {
            break;
        };
        let take = if special(first) {
            // The longest run that is still one symbol.
            match rest.as_bytes() {
                [b'=' | b'!', b'=', ..] => 2,
                _ => 1,
            }
        } else {
            rest.find(|c: char| special(c) || matches!(c, ' ' | '\t' | '\r' | '\n'))
                .unwrap_or(rest.len())
        };
        let (word, after) = rest.split_at(take);
        let token = match word {
            "(" => Token::Open,
            ")" => Token::Close,
            "," => Token::Comma,
            "!" => Token::Not,
            "=" => Token::Equals,
            "==" => Token::DoubleEquals,
            "!=" => Token::NotEquals,
            ">" => Token::Greater,
            "<" => Token::Less,
            "in" => Token::In,
            "notin" => Token::NotIn,
            _ => Token::Identifier,
        };
        out.push((token, word));
        rest = after;
    }
    out.push((Token::End, ""));
    out
}

struct Parser<'a> {
    tokens: Vec<(Token, &'a str)>,
    at: usize,
}

impl<'a> Parser<'a> {
    /// The next token; where a value may stand, `in` and `notin` are ordinary words.
    fn peek(&self, values: bool) -> (Token, &'a str) {
        let (token, word) = self
            .tokens
            .get(self.at)
            .copied()
            .unwrap_or((Token::End, ""));
        if values && matches!(token, Token::In | Token::NotIn) {
            (Token::Identifier, word)
        } else {
            (token, word)
        }
    }

    fn next(&mut self, values: bool) -> (Token, &'a str) {
        let found = self.peek(values);
        self.at += 1;
        found
    }

    fn selector(mut self) -> Result<Selector, String> {
        let mut requirements = Vec::new();
        loop {
            match self.peek(true) {
                (Token::Identifier | Token::Not, _) => {
                    let one = self
                        .requirement()
                        .map_err(|e| format!("unable to parse requirement: {e}"))?;
                    requirements.push(one);
                    match self.next(true) {
                        (Token::End, _) => break,
                        (Token::Comma, _) => {
                            let (token, word) = self.peek(true);
                            if !matches!(token, Token::Identifier | Token::Not) {
                                return Err(format!(
                                    "found '{word}', expected: identifier after ','"
                                ));
                            }
                        }
                        (_, word) => {
                            return Err(format!(
                                "found '{word}', expected: ',' or 'end of string'"
                            ));
                        }
                    }
                }
                (Token::End, _) => break,
                (_, word) => {
                    return Err(format!(
                        "found '{word}', expected: !, identifier, or 'end of string'"
                    ));
                }
            }
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Selector {
            requirements,
            nothing: false,
        })
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let (mut token, mut key) = self.next(true);
        let absent = token == Token::Not;
        if absent {
            (token, key) = self.next(true);
        }
        if token != Token::Identifier {
            return Err(format!("found '{key}', expected: identifier"));
        }
        if absent {
            return Requirement::new(key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek(true).0, Token::End | Token::Comma) {
            return Requirement::new(key, Operator::Exists, Vec::new());
        }
        let wrong = names::qualified_name(key);
        if !wrong.is_empty() {
            return Err(format!(
                "key: Invalid value: {}: {}",
                quote(key),
                wrong.join("; ")
            ));
        }
        let (token, word) = self.next(false);
        let operator = match token {
            Token::In => Operator::In,
            Token::NotIn => Operator::NotIn,
            Token::Equals | Token::DoubleEquals => Operator::Equals,
            Token::NotEquals => Operator::NotEquals,
            Token::Greater => Operator::GreaterThan,
            Token::Less => Operator::LessThan,
            _ => {
                return Err(format!(
                    "found '{word}', expected: in, notin, =, ==, !=, gt, lt"
                ));
            }
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact_value()?],
        };
        Requirement::new(key, operator, values)
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        let (token, word) = self.next(true);
        if token != Token::Open {
            return Err(format!("found '{word}' expected: '('"));
        }
        let mut values = Vec::new();
        match self.peek(true) {
            (Token::Identifier | Token::Comma, _) => {}
            (Token::Close, _) => {
                self.at += 1;
                return Ok(vec![String::new()]);
            }
            (_, word) => return Err(format!("found '{word}', expected: ',', ')' or identifier")),
        }
        loop {
            match self.next(true) {
                (Token::Identifier, word) => {
                    values.push(word.to_owned());
                    match self.next(true) {
                        (Token::Comma, _) => {
                            // A trailing comma means one more, empty value.
                            if self.peek(true).0 == Token::Close {
                                values.push(String::new());
                            }
                        }
                        (Token::Close, _) => return Ok(values),
                        (_, word) => return Err(format!("found '{word}', expected: ',' or ')'")),
                    }
                }
                (Token::Comma, _) => {
                    values.push(String::new());
                    if self.peek(true).0 == Token::Close {
                        values.push(String::new());
                    }
                }
                (Token::Close, _) => return Ok(values),
                (_, word) => return Err(format!("found '{word}', expected: ',', or identifier")),
            }
        }
    }

    fn exact_value(&mut self) -> Result<String, String> {
        match self.peek(true) {
            (Token::End | Token::Comma, _) => Ok(String::new()),
            (Token::Identifier, word) => {
                self.at += 1;
                Ok(word.to_owned())
            }
            (_, word) => Err(format!("found '{word}', expected: identifier")),
        }
    }
}

/// One condition of a field selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldTerm {
    /// The field's path: `spec.nodeName`.
    pub field: String,
    pub value: String,
    /// Whether the field must equal the value, or must not.
    pub equals: bool,
}

/// A conjunction of field conditions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    pub terms: Vec<FieldTerm>,
}

impl FieldSelector {
    /// The text form: `a=b`, `a==b`, `a!=b`, comma-separated, `\` escaping `,`, `=` and itself.
    ///
    /// # Errors
    /// Upstream's text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut terms = Vec::new();
        for part in split_unescaped(text) {
            if part.is_empty() {
                continue;
            }
            let wrong = || format!("invalid selector: '{text}'; can't understand '{part}'");
            let (at, operator) = find_operator(part).ok_or_else(wrong)?;
            let value = unescape(&part[at + operator.len()..])
                .map_err(|c| format!("invalid field selector: invalid escape sequence: {c}"))?;
            terms.push(FieldTerm {
                field: part[..at].to_owned(),
                value,
                equals: operator != "!=",
            });
        }
        Ok(Self { terms })
    }

    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// `field` answers with the value of a field; an unset one is empty.
    pub fn matches<'a>(&self, field: &dyn Fn(&str) -> Option<&'a str>) -> bool {
        self.terms
            .iter()
            .all(|t| (field(&t.field).unwrap_or("") == t.value) == t.equals)
    }

    /// The value that `field` must have, if the selector demands a single one.
    #[must_use]
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms
            .iter()
            .find(|t| t.equals && t.field == field)
            .map(|t| t.value.as_str())
    }
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let (mut out, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, b) in text.bytes().enumerate() {
        match b {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                out.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    out.push(&text[start..]);
    out
}

fn find_operator(part: &str) -> Option<(usize, &'static str)> {
    (0..part.len())
        .filter(|&i| part.is_char_boundary(i))
        .find_map(|i| {
            ["!=", "==", "="]
                .into_iter()
                .find(|op| part[i..].starts_with(op))
                .map(|op| (i, op))
        })
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(e @ ('\\' | ',' | '=')) => out.push(e),
                Some(other) => return Err(format!("\\{other}")),
                None => return Err("\\".into()),
            },
            '=' | ',' => return Err(c.to_string()),
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn texts_parse_and_print() {
        for (text, printed) in [
            ("", ""),
            ("a=b", "a=b"),
            ("a==b,c!=d", "a=b,c!=d"),
            ("x in (b,a)", "x in (a,b)"),
            ("x notin (a,)", "x notin (,a)"),
            ("!a, b", "!a,b"),
            ("a>1,b<2", "a>1,b<2"),
            ("in in (in)", "in in (in)"),
            ("a=", "a="),
            ("x in ()", "x in ()"),
        ] {
            assert_eq!(
                LabelSelector::parse(text).unwrap().to_string(),
                printed,
                "{text}"
            );
        }
    }

    #[test]
    fn refusals_are_upstreams() {
        for (text, error) in [
            ("a,", "found '', expected: identifier after ','"),
            (
                "a b",
                "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
            ),
            (
                "x in (a",
                "unable to parse requirement: found '', expected: ',' or ')'",
            ),
            (
                ",a",
                "found ',', expected: !, identifier, or 'end of string'",
            ),
            (
                "a>x",
                "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
        ] {
            assert_eq!(LabelSelector::parse(text).unwrap_err(), error, "{text}");
        }
        assert_eq!(
            FieldSelector::parse("a").unwrap_err(),
            "invalid selector: 'a'; can't understand 'a'"
        );
    }

    #[test]
    fn matching() {
        let labels = json!({"app": "web", "n": "5"});
        for (text, want) in [
            ("app=web", true),
            ("app!=web", false),
            ("zone!=a", true),
            ("zone notin (a)", true),
            ("n>4", true),
            ("!app", false),
            ("app in (x,web)", true),
            ("zone=", false),
        ] {
            assert_eq!(
                LabelSelector::parse(text).unwrap().matches_labels(&labels),
                want,
                "{text}"
            );
        }
        let object = json!({"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]});
        assert!(
            LabelSelector::from_json(&object)
                .unwrap()
                .matches_labels(&labels)
        );
        assert!(
            !LabelSelector::from_json(&Value::Null)
                .unwrap()
                .matches_labels(&labels)
        );
        let fields = FieldSelector::parse("spec.nodeName=n1,status.phase!=Failed").unwrap();
        assert!(fields.matches(&|f| (f == "spec.nodeName").then_some("n1")));
        assert_eq!(fields.exact("spec.nodeName"), Some("n1"));
    }

    proptest! {
        #[test]
        fn never_panics(s in "\\PC{0,40}") {
            let _ = LabelSelector::parse(&s);
            let _ = FieldSelector::parse(&s);
        }

        #[test]
        fn grammar_shaped_input_never_panics(s in "[a-c!=<>(), \\\\]{0,20}(in|notin)?[a-c(), =]{0,10}") {
            let _ = FieldSelector::parse(&s);
            if let Ok(selector) = LabelSelector::parse(&s) {
                prop_assert_eq!(LabelSelector::parse(&selector.to_string()).map(|s| s.to_string()), Ok(selector.to_string()));
            }
        }
    }
}
