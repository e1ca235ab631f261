//! Small texts: selectors, quantities, times, request lines.

use api::{FieldSelector, LabelSelector, Quantity};
use apiserver::request;

fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

/// A label selector that is printed is read the same, and selects the same.
pub fn label_selector(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let Ok(selector) = LabelSelector::parse(text) else {
        return;
    };
    let printed = selector.to_string();
    let again = match LabelSelector::parse(&printed) {
        Ok(again) => again,
        Err(why) => panic!("{printed:?} cannot be read: {why}"),
    };
    assert_eq!(again, selector, "{printed:?}");
    assert_eq!(again.to_string(), printed);
    for labels in [
        serde_json::json!(null),
        serde_json::json!({"a": "b"}),
        serde_json::json!({"a": "", "b": "7", "x/y": "c"}),
    ] {
        assert_eq!(
            again.matches_labels(&labels),
            selector.matches_labels(&labels)
        );
    }
}

/// A field selector whose terms are printed is read the same.
pub fn field_selector(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let Ok(selector) = FieldSelector::parse(text) else {
        return;
    };
    let escaped = |value: &str| {
        let value = value.replace('\\', "\\\\").replace(',', "\\,");
        value.replace('=', "\\=")
    };
    let print = |term: &api::selector::FieldTerm| {
        let operator = if term.equals { "==" } else { "!=" };
        format!("{}{operator}{}", term.field, escaped(&term.value))
    };
    let printed: Vec<String> = selector.terms.iter().map(print).collect();
    let printed = printed.join(",");
    assert_eq!(
        FieldSelector::parse(&printed).as_ref(),
        Ok(&selector),
        "{printed:?}"
    );
    assert_eq!(selector.is_everything(), selector.terms.is_empty());
    for term in &selector.terms {
        let alone = FieldSelector {
            terms: vec![term.clone()],
        };
        assert_eq!(
            alone.matches(&|f| (f == term.field).then_some(&*term.value)),
            term.equals
        );
    }
}

/// A quantity has one form, which is the same amount.
pub fn quantity(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let (a, b) = text.split_once(' ').unwrap_or((text, "1"));
    let (Ok(a), Ok(b)) = (a.parse::<Quantity>(), b.parse::<Quantity>()) else {
        return;
    };
    let printed = a.to_string();
    let again = match printed.parse::<Quantity>() {
        Ok(again) => again,
        Err(why) => panic!("{printed:?} cannot be read: {why}"),
    };
    assert_eq!(again, a, "{printed:?} is another amount");
    assert_eq!(again.to_string(), printed, "a quantity has two forms");
    assert_eq!(again.milli_value(), a.milli_value());
    assert_eq!(a + b, b + a);
    if a.is_integer() && a.sign() >= 0 {
        assert!(a.value() >= 0);
    }
    assert_eq!(a.is_zero(), a.sign() == 0);
}

/// What is wrong with a CronJob of this schedule.
fn wrong_schedule(schedule: &str) -> Vec<String> {
    let Some(kind) = api::facts::kind("batch", "v1", "cronjobs") else {
        return Vec::new();
    };
    let mut object = serde_json::json!({
        "metadata": {"name": "a", "namespace": "n"}, "spec": {"schedule": schedule},
    });
    strategy::default(kind, &mut object);
    let errors = strategy::validate_create(kind, &object);
    let of_schedule = errors.iter().filter(|e| e.field == "spec.schedule");
    of_schedule.map(ToString::to_string).collect()
}

/// A schedule is its five fields, each for itself and between any white space; two lists are one.
pub fn cron_schedule(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let wrong = wrong_schedule(text);
    assert!(wrong.iter().all(|why| !why.is_empty()));
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != 5 || text.contains(['@', '=']) {
        return;
    }
    let spaced = format!("  {} \t", fields.join("  "));
    assert_eq!(
        wrong_schedule(&spaced).is_empty(),
        wrong.is_empty(),
        "{spaced:?}"
    );
    let alone = |at: usize, field: &str| {
        let mut all = ["*"; 5];
        all[at] = field;
        wrong_schedule(&all.join(" ")).is_empty()
    };
    let each = (0..5).all(|at| alone(at, fields[at]));
    assert_eq!(
        each,
        wrong.is_empty(),
        "{text:?} is not what its fields are"
    );
    for (at, field) in fields.iter().enumerate() {
        if let Some((a, b)) = field.split_once(',') {
            let parts = (a.is_empty() || alone(at, a)) && (b.is_empty() || alone(at, b));
            assert_eq!(
                parts,
                alone(at, field),
                "{field:?} is not what its parts are"
            );
        }
    }
}

/// A time has one form.
pub fn time(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let Some(time) = api::time::parse(text) else {
        return;
    };
    let (seconds, micros) = (api::time::seconds(time), api::time::micros(time));
    let read = |text: &str| match api::time::parse(text) {
        Some(time) => time,
        None => panic!("our own time {text:?} cannot be read"),
    };
    assert_eq!(api::time::seconds(read(&seconds)), seconds);
    assert_eq!(api::time::micros(read(&micros)), micros);
    let _ = api::time::age(Some(text), jiff::Timestamp::UNIX_EPOCH);
    let _ = api::time::human_duration(time.as_second());
}

/// `METHOD path?query`: what a path means does not depend on how it is escaped, and a read changes nothing.
pub fn request_line(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let (method, target) = text.split_once(' ').unwrap_or(("GET", text));
    let Ok(method) = method.parse::<http::Method>() else {
        return;
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let info = request::resolve(&method, path, query);
    // Streams begin by POST, too.
    if info.is_resource() && info.is_read_only() && !info.is_stream() {
        assert!(
            matches!(method, http::Method::GET | http::Method::HEAD),
            "{info:?}"
        );
    }
    assert!(info.is_resource() || info.name.is_empty() && info.subresource.is_empty());
    let escape =
        |part: &str| skiff_http::percent::escape(&skiff_http::percent::unescape(part, false));
    let path: Vec<String> = path.split('/').map(escape).collect();
    let path = path.join("/");
    let again = request::resolve(&method, &path, query);
    let parts = |i: &request::RequestInfo| {
        let texts = [
            &i.group,
            &i.version,
            &i.namespace,
            &i.resource,
            &i.name,
            &i.subresource,
        ];
        (i.verb, texts.map(Clone::clone))
    };
    assert_eq!(parts(&again), parts(&info), "{path}");
}
