//! Times as the API writes them: RFC 3339 in UTC, to the second (`Time`) or the microsecond (`MicroTime`), and ages as
//! `kubectl` shows them.

use jiff::Timestamp;

/// `2026-01-02T03:04:05Z`; fractions of a second are cut off.
#[must_use]
pub fn seconds(t: Timestamp) -> String {
    t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `2026-01-02T03:04:05.000006Z`.
#[must_use]
pub fn micros(t: Timestamp) -> String {
    t.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Reads either form, with any offset. `None` if it is not a time.
#[must_use]
pub fn parse(text: &str) -> Option<Timestamp> {
    // jiff also reads looser forms than RFC 3339; those must be refused, as Go refuses them.
    let b = text.as_bytes();
    let strict = b.len() >= 20
        && b[4] == b'-'
        && b[7] == b'-'
        && b[10] == b'T'
        && b[13] == b':'
        && b[16] == b':';
    if !strict || b.contains(&b'[') {
        return None;
    }
    text.parse().ok()
}

/// An age as upstream's `duration.HumanDuration` shortens it: `45s`, `3m10s`, `5h`, `2d3h`, `400d`.
#[must_use]
pub fn human_duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let two = |a: i64, ua: &str, b: i64, ub: &str| {
        if b == 0 {
            format!("{a}{ua}")
        } else {
            format!("{a}{ua}{b}{ub}")
        }
    };
    match seconds {
        s if s < -1 => "<invalid>".into(),
        s if s < 0 => "0s".into(),
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => two(s / MINUTE, "m", s % MINUTE, "s"),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => two(s / HOUR, "h", s % HOUR / MINUTE, "m"),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => two(s / DAY, "d", s % DAY / HOUR, "h"),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => two(s / YEAR, "y", s % YEAR / DAY, "d"),
        s => format!("{}y", s / YEAR),
    }
}

/// The age of a time field as a table cell: `<unknown>` where it is not set.
#[must_use]
pub fn age(since: Option<&str>, now: Timestamp) -> String {
    match since.and_then(parse) {
        Some(t) => human_duration(now.as_second() - t.as_second()),
        None => "<unknown>".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let t = parse("2026-01-02T05:04:05.000006+02:00").unwrap();
        assert_eq!(seconds(t), "2026-01-02T03:04:05Z");
        assert_eq!(micros(t), "2026-01-02T03:04:05.000006Z");
        assert!(parse("2026-01-02 03:04:05Z").is_none() && parse("now").is_none());
    }

    #[test]
    fn ages() {
        for (s, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (605, "10m"),
            (190, "3m10s"),
            (10801, "3h"),
            (90000, "25h"),
            (187_200, "2d4h"),
            (864_000, "10d"),
        ] {
            assert_eq!(human_duration(s), text);
        }
    }
}
