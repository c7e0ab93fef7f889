//! Times in tables: UTC, RFC 3339, always with nine digits, so that text sorts as time does.

use crate::types::Timestamp;
use crate::version::point;

/// Prints an instant: `2026-11-22T09:40:00.500000000Z`.
pub fn print(time: Timestamp) -> String {
    let text = point::print_utc(time);
    let body = text.strip_suffix('Z').unwrap_or(&text);
    let (seconds, fraction) = body.split_once('.').unwrap_or((body, ""));
    format!("{seconds}.{fraction:0<9}Z")
}

/// The earliest instant whose print is not before a text, as far as the text is one of a time.
///
/// Comparisons in SQL are of texts; this turns a bound on them into a bound on instants that leaves
/// out nothing. `None` where the text does not look like a time.
pub fn floor(text: &str) -> Option<Timestamp> {
    // A whole second with its zone sorts after every fraction of that second.
    if let Some(second) = text.strip_suffix('Z').filter(|second| second.len() == 19) {
        return floor(second).map(|time| Timestamp(time.0.saturating_add(1_000_000_000)));
    }
    // Any prefix of a printed time: fill it up with the smallest values.
    const SMALLEST: &str = "0000-01-01T00:00:00.000000000Z";
    let rest = SMALLEST.get(text.len()..)?;
    if text.as_bytes().get(10).is_some_and(|byte| *byte != b'T') {
        return None;
    }
    let filled = format!("{text}{rest}");
    match point::parse(filled.as_bytes()) {
        Ok(Some(point::Point::Instant(time))) => Some(time),
        Ok(Some(_) | None) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_sort_as_times_do() {
        let times = [-1_500_000_000, 0, 1, 500_000_000, 1_000_000_000, 1_795_340_400_000_000_000];
        let texts: Vec<String> = times.iter().map(|time| print(Timestamp(*time))).collect();
        assert!(texts.is_sorted(), "{texts:?}");
        assert_eq!(texts[3], "1970-01-01T00:00:00.500000000Z");
    }

    #[test]
    fn a_prefix_of_a_time_is_its_earliest_instant() {
        assert_eq!(floor("1970-01-01T00:00:01"), Some(Timestamp(1_000_000_000)));
        assert_eq!(floor("1970-01-02"), Some(Timestamp(86_400_000_000_000)));
        assert_eq!(floor("1970-01-01T00:00:00.500000000Z"), Some(Timestamp(500_000_000)));
        assert_eq!(floor("1970-01-01T00:00:01Z"), Some(Timestamp(2_000_000_000)));
        assert_eq!(floor("yesterday"), None);
        assert_eq!(floor("1970-01-01 00:00"), None);
    }
}
