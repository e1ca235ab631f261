//! `resource.Quantity`: exact amounts such as `100m`, `1536Mi`, `2e3`.
//!
//! A value is an integer number of 10⁻⁹, which is upstream's finest precision; finer input is rounded away from zero and
//! values beyond ±(2⁶³−1) are capped, both as upstream does.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

const NANO: i128 = 1_000_000_000;
const MAX: i128 = i64::MAX as i128 * NANO;

/// Which family of suffixes a quantity was written with, and is written with again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `m`, `k`, `M`…
    DecimalSi,
    /// `Ki`, `Mi`…
    BinarySi,
    /// `e3`, `e6`…
    DecimalExponent,
}

/// An exact amount. Ordered and compared by value, whatever its format.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

/// Why a text is not a quantity, in upstream's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

enum Scale {
    /// Times 10^n.
    Ten(i32),
    /// Times 2^n.
    Two(u32),
}

fn scale(suffix: &str) -> Option<(Scale, Format)> {
    let known = match suffix {
        "n" => (Scale::Ten(-9), Format::DecimalSi),
        "u" => (Scale::Ten(-6), Format::DecimalSi),
        "m" => (Scale::Ten(-3), Format::DecimalSi),
        "" => (Scale::Ten(0), Format::DecimalSi),
        "k" => (Scale::Ten(3), Format::DecimalSi),
        "M" => (Scale::Ten(6), Format::DecimalSi),
        "G" => (Scale::Ten(9), Format::DecimalSi),
        "T" => (Scale::Ten(12), Format::DecimalSi),
        "P" => (Scale::Ten(15), Format::DecimalSi),
        "E" => (Scale::Ten(18), Format::DecimalSi),
        "Ki" => (Scale::Two(10), Format::BinarySi),
        "Mi" => (Scale::Two(20), Format::BinarySi),
        "Gi" => (Scale::Two(30), Format::BinarySi),
        "Ti" => (Scale::Two(40), Format::BinarySi),
        "Pi" => (Scale::Two(50), Format::BinarySi),
        "Ei" => (Scale::Two(60), Format::BinarySi),
        other => {
            let exponent: i32 = other.strip_prefix(['e', 'E'])?.parse().ok()?;
            (Scale::Ten(exponent), Format::DecimalExponent)
        }
    };
    Some(known)
}

/// `a / b`, away from zero, for `a >= 0`, `b > 0`.
fn div_up(a: i128, b: i128) -> i128 {
    a / b + i128::from(a % b != 0)
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (negative, rest) = match text.as_bytes() {
            [] => return Err(ParseError::Format),
            [b'-', ..] => (true, &text[1..]),
            [b'+', ..] => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') {
            return Err(ParseError::Format);
        }
        let body = suffix.trim_start_matches(|c: char| "eEinumkKMGTP".contains(c));
        let body = body.strip_prefix(['+', '-']).unwrap_or(body);
        if !body.bytes().all(|b| b.is_ascii_digit()) {
            return Err(ParseError::Format);
        }
        if whole.is_empty() && fraction.is_empty() {
            return Err(if number.is_empty() {
                ParseError::Format
            } else {
                ParseError::Numeric
            });
        }
        let (scale, format) = scale(suffix).ok_or(ParseError::Suffix)?;
        let magnitude = match scale {
            Scale::Ten(exponent) => decimal(whole, fraction, exponent),
            Scale::Two(shift) => binary(whole, fraction, shift),
        };
        let nano = magnitude.unwrap_or(MAX).min(MAX);
        Ok(Self {
            nano: if negative { -nano } else { nano },
            format,
        })
    }
}

/// The digits times 10^exponent in nanos; `None` where that is beyond any bound.
fn decimal(whole: &str, fraction: &str, exponent: i32) -> Option<i128> {
    let digits: Vec<u8> = whole
        .bytes()
        .chain(fraction.bytes())
        .map(|b| b - b'0')
        .collect();
    // Where the decimal point of the nano value stands in `digits`.
    let point = i64::try_from(whole.len()).ok()? + i64::from(exponent) + 9;
    let mut value: i128 = 0;
    let mut beyond = false;
    for (i, &digit) in digits.iter().enumerate() {
        if i64::try_from(i).ok()? < point {
            value = value.checked_mul(10)?.checked_add(i128::from(digit))?;
        } else {
            beyond |= digit != 0;
        }
    }
    if value != 0 {
        for _ in i64::try_from(digits.len()).ok()?..point {
            value = value.checked_mul(10)?;
        }
    }
    Some(value + i128::from(beyond))
}

fn binary(whole: &str, fraction: &str, shift: u32) -> Option<i128> {
    let whole: i128 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let value = whole.checked_mul(1 << shift)?.checked_mul(NANO)?;
    // Enough digits to be exact for any fraction that a person writes, few enough not to overflow.
    let keep = if shift <= 30 { 18 } else { 9 };
    let (kept, cut) = fraction.split_at(fraction.len().min(keep));
    let mut part: i128 = kept.parse().unwrap_or(0);
    part += i128::from(cut.bytes().any(|b| b != b'0'));
    let width = u32::try_from(kept.len()).ok()?;
    value.checked_add(div_up(part * (1 << shift) * NANO, 10_i128.pow(width)))
}

impl Quantity {
    /// Zero, written as `0`.
    pub const ZERO: Self = Self {
        nano: 0,
        format: Format::DecimalSi,
    };

    #[must_use]
    pub fn new(value: i64, format: Format) -> Self {
        Self {
            nano: i128::from(value) * NANO,
            format,
        }
    }

    #[must_use]
    pub fn from_milli(milli: i64) -> Self {
        Self {
            nano: i128::from(milli) * 1_000_000,
            format: Format::DecimalSi,
        }
    }

    fn rounded(self, unit: i128) -> i64 {
        let magnitude = div_up(self.nano.abs(), unit).min(i128::from(i64::MAX));
        let magnitude = i64::try_from(magnitude).unwrap_or(i64::MAX);
        if self.nano < 0 { -magnitude } else { magnitude }
    }

    /// In whole units, rounded away from zero.
    #[must_use]
    pub fn value(self) -> i64 {
        self.rounded(NANO)
    }

    /// In thousandths, rounded away from zero.
    #[must_use]
    pub fn milli_value(self) -> i64 {
        self.rounded(1_000_000)
    }

    #[must_use]
    pub fn is_zero(self) -> bool {
        self.nano == 0
    }

    /// -1, 0 or 1.
    #[must_use]
    pub fn sign(self) -> i32 {
        match self.nano.cmp(&0) {
            Ordering::Less => -1,
            Ordering::Equal => 0,
            Ordering::Greater => 1,
        }
    }

    /// Whether it is a whole number.
    #[must_use]
    pub fn is_integer(self) -> bool {
        self.nano % NANO == 0
    }

    #[must_use]
    pub fn format(self) -> Format {
        self.format
    }

    fn combined(self, other: Self, nano: i128) -> Self {
        // As upstream: a zero takes the other's format.
        let format = if self.nano == 0 {
            other.format
        } else {
            self.format
        };
        Self {
            nano: nano.clamp(-MAX, MAX),
            format,
        }
    }
}

impl std::ops::Add for Quantity {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        self.combined(other, self.nano + other.nano)
    }
}

impl std::ops::Sub for Quantity {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self.combined(other, self.nano - other.nano)
    }
}

impl std::ops::AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::ZERO, |a, b| a + b)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

/// The canonical form: no fraction, the largest suffix that loses nothing.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        // Small or fractional amounts are shown as decimals, or precision would be lost.
        let binary = self.format == Format::BinarySi
            && self.nano.abs() >= 1024 * NANO
            && self.nano % NANO == 0;
        if binary {
            let mut value = self.nano / NANO;
            let mut step = 0;
            while step < 6 && value % 1024 == 0 {
                value /= 1024;
                step += 1;
            }
            return write!(
                f,
                "{value}{}",
                ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][step]
            );
        }
        let (mut value, mut exponent) = (self.nano, -9);
        while value % 1000 == 0 && exponent < 18 {
            value /= 1000;
            exponent += 3;
        }
        if self.format == Format::DecimalExponent {
            return if exponent == 0 {
                write!(f, "{value}")
            } else {
                write!(f, "{value}e{exponent}")
            };
        }
        let suffix = match exponent {
            -9 => "n",
            -6 => "u",
            -3 => "m",
            0 => "",
            3 => "k",
            6 => "M",
            9 => "G",
            12 => "T",
            15 => "P",
            _ => "E",
        };
        write!(f, "{value}{suffix}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn canonical(s: &str) -> String {
        s.parse::<Quantity>().unwrap().to_string()
    }

    #[test]
    fn canonical_forms() {
        for (given, want) in [
            ("0", "0"),
            ("0.1", "100m"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("1000", "1k"),
            ("100", "100"),
            ("0.5Mi", "512Ki"),
            ("512Ki", "512Ki"),
            ("1023", "1023"),
            ("1Ki", "1Ki"),
            ("0.5Ki", "512"),
            ("1e3", "1e3"),
            ("1E", "1E"),
            ("12e4", "120e3"),
            ("-1.5", "-1500m"),
            ("+5", "5"),
            (".5", "500m"),
            ("5.", "5"),
            ("1.1n", "2n"),
            ("0.0000000001", "1n"),
            ("99999999999999999999E", "9223372036854775807"),
            ("100000m", "100"),
            ("2000m", "2"),
        ] {
            assert_eq!(canonical(given), want, "{given}");
        }
    }

    #[test]
    fn refusals() {
        for (given, want) in [
            ("", ParseError::Format),
            ("1.2.3", ParseError::Format),
            ("1x", ParseError::Format),
            ("1mi", ParseError::Suffix),
            ("abc", ParseError::Format),
            ("1 Gi", ParseError::Format),
            ("1e", ParseError::Suffix),
        ] {
            assert_eq!(given.parse::<Quantity>().unwrap_err(), want, "{given}");
        }
    }

    #[test]
    fn arithmetic() {
        let q = |s: &str| s.parse::<Quantity>().unwrap();
        assert_eq!((q("1Gi") + q("512Mi")).to_string(), "1536Mi");
        assert_eq!((q("1") - q("100m")).to_string(), "900m");
        assert_eq!(q("1500m").value(), 2);
        assert_eq!(q("0.0001").milli_value(), 1);
        assert!(q("1Ki") > q("1k") && q("1000m") == q("1"));
    }

    proptest! {
        #[test]
        fn never_panics(s in "\\PC{0,24}") { let _ = s.parse::<Quantity>(); }

        #[test]
        fn canonical_is_stable(s in "[+-]?[0-9]{1,30}(\\.[0-9]{0,30})?(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|e-?[0-9]{1,9})?") {
            if let Ok(q) = s.parse::<Quantity>() {
                let again: Quantity = q.to_string().parse().unwrap();
                prop_assert_eq!(q, again);
                prop_assert_eq!(q.to_string(), again.to_string());
            }
        }
    }
}
