//! The grammar of POINT: how people name a moment (`e123`, `T7^`, `10:40`, `2-hours-ago`, ...).
//!
//! Parsing is pure: it knows neither the database nor the clock. [`super::refs`] turns what was
//! parsed into a view.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{Offset, TimeZone};

use crate::types::{Seq, Timestamp, TxnId};

const SECOND: i64 = 1_000_000_000;

/// A moment as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// `e123`: just after an event.
    Event(Seq),
    /// `T7`: just after a transaction's commit.
    Txn(TxnId),
    /// `T7^`: just before it.
    BeforeTxn(TxnId),
    /// A date and time with an offset.
    Instant(Timestamp),
    /// A date and time of the asker's zone.
    Local(DateTime),
    /// A time of the asker's today.
    TimeOfDay(Time),
    /// So many nanoseconds ago; 0 is `now`.
    Ago(i64),
}

/// Says why a text that has a point's form names none (`2026-13-45`, `e99999999999999999999`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PointError(pub String);

/// Reads a point; `None` where the text has no point's form (and so may be a name).
///
/// # Errors
/// [`PointError`] where it has the form but the numbers in it make no sense.
pub fn parse(text: &[u8]) -> Result<Option<Point>, PointError> {
    let Ok(text) = std::str::from_utf8(text) else { return Ok(None) };
    match text {
        "now" => return Ok(Some(Point::Ago(0))),
        "yesterday" => return Ok(Some(Point::Ago(24 * 3600 * SECOND))),
        _ => {}
    }
    if let Some(digits) = text.strip_prefix('e').filter(|d| is_number(d)) {
        let seq = digits.parse::<u64>().ok().filter(|n| *n < Seq::MAX.0);
        return seq.map(|n| Some(Point::Event(Seq(n)))).ok_or_else(|| PointError("event number too large".into()));
    }
    if let Some(rest) = text.strip_prefix('T') {
        let (digits, before) = rest.strip_suffix('^').map_or((rest, false), |d| (d, true));
        if is_number(digits) {
            let id = digits.parse::<u64>().map_err(|_| PointError("transaction number too large".into()))?;
            return Ok(Some(if before { Point::BeforeTxn(TxnId(id)) } else { Point::Txn(TxnId(id)) }));
        }
    }
    if let Some(found) = relative(text) {
        return found.map(|nanos| Some(Point::Ago(nanos)));
    }
    absolute(text).transpose()
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// `5m`, `-5m`, `5m-ago`, `2-hours-ago`, `5 minutes ago`.
fn relative(text: &str) -> Option<Result<i64, PointError>> {
    let (body, minus) = text.strip_prefix('-').map_or((text, false), |rest| (rest, true));
    let digits = body.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = body.split_at_checked(digits)?;
    if number.is_empty() {
        return None;
    }
    let rest = rest.strip_prefix(['-', ' ']).unwrap_or(rest);
    let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
    let (unit, rest) = rest.split_at_checked(letters)?;
    let seconds = match unit {
        "s" | "sec" | "secs" | "second" | "seconds" => 1,
        "m" | "min" | "mins" | "minute" | "minutes" => 60,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3600,
        "d" | "day" | "days" => 24 * 3600,
        "w" | "week" | "weeks" => 7 * 24 * 3600,
        _ => return None,
    };
    if !(rest.is_empty() || !minus && matches!(rest, "-ago" | " ago")) {
        return None;
    }
    let nanos = number.parse::<i64>().ok().and_then(|n| n.checked_mul(seconds)).and_then(|s| s.checked_mul(SECOND));
    Some(nanos.ok_or_else(|| PointError("further back than time reaches".into())))
}

/// Reads digits off the front of a text.
struct Cursor<'a>(&'a str);

impl<'a> Cursor<'a> {
    fn digits(&mut self, count: usize) -> Option<i32> {
        let (head, tail) = self.0.split_at_checked(count)?;
        if !is_number(head) {
            return None;
        }
        self.0 = tail;
        head.parse().ok()
    }

    fn eat(&mut self, wanted: char) -> Option<()> {
        self.0 = self.0.strip_prefix(wanted)?;
        Some(())
    }

    /// `.5` to `.123456789` as nanoseconds; 0 where there is none.
    fn fraction(&mut self) -> Option<i32> {
        let Some(rest) = self.0.strip_prefix('.') else { return Some(0) };
        let count = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, tail) = rest.split_at_checked(count)?;
        if !(1..=9).contains(&count) {
            return None;
        }
        self.0 = tail;
        let scale = 10_i32.checked_pow(u32::try_from(9 - count).ok()?)?;
        Some(digits.parse::<i32>().ok()? * scale)
    }
}

type Clock = (i32, i32, i32, i32);

/// `10:40`, `10:40:05`, `10:40:05.5`, with the separator given. The flag says whether seconds were there.
fn clock(cursor: &mut Cursor<'_>, separator: char) -> Option<(Clock, bool)> {
    let hour = cursor.digits(2)?;
    cursor.eat(separator)?;
    let minute = cursor.digits(2)?;
    let mut ahead = Cursor(cursor.0);
    let second = ahead.eat(separator).and_then(|()| ahead.digits(2));
    let Some(second) = second else { return Some(((hour, minute, 0, 0), false)) };
    *cursor = ahead;
    let nanos = cursor.fraction()?;
    Some(((hour, minute, second, nanos), true))
}

/// `Z`, `+01:00`, `+0100`, `+01`, as seconds east; the inner `None` where there is none.
fn offset(cursor: &mut Cursor<'_>) -> Option<Option<i32>> {
    if cursor.0.is_empty() {
        return Some(None);
    }
    if cursor.eat('Z').is_some() {
        return Some(Some(0));
    }
    let sign = if cursor.eat('+').is_some() {
        1
    } else {
        cursor.eat('-')?;
        -1
    };
    let hours = cursor.digits(2)?;
    let minutes = if cursor.0.is_empty() {
        0
    } else {
        let _ = cursor.eat(':');
        cursor.digits(2)?
    };
    Some(Some(sign * (hours * 3600 + minutes * 60)))
}

/// The forms with a date or a time of day. `None`: not of the form.
fn absolute(text: &str) -> Option<Result<Point, PointError>> {
    let mut cursor = Cursor(text);
    if text.as_bytes().get(2) == Some(&b':') {
        let (parts, _) = clock(&mut cursor, ':')?;
        return cursor.0.is_empty().then(|| time_of(parts).map(Point::TimeOfDay));
    }
    let year = cursor.digits(4)?;
    cursor.eat('-')?;
    let month = cursor.digits(2)?;
    cursor.eat('-')?;
    let day = cursor.digits(2)?;
    let date = date_of(year, month, day);
    if cursor.0.is_empty() {
        return Some(date.map(|date| Point::Local(date.to_datetime(Time::midnight()))));
    }
    let separator = cursor.0.chars().next().filter(|c| matches!(c, 'T' | ' ' | '_'))?;
    cursor.eat(separator)?;
    let dashed = separator == '_' && cursor.0.as_bytes().get(2) == Some(&b'-');
    let (parts, seconds) = clock(&mut cursor, if dashed { '-' } else { ':' })?;
    let zone = if dashed && !seconds && !cursor.0.is_empty() { None } else { offset(&mut cursor) }?;
    if !cursor.0.is_empty() {
        return None;
    }
    Some(combine(date, parts, zone))
}

fn combine(date: Result<Date, PointError>, parts: Clock, zone: Option<i32>) -> Result<Point, PointError> {
    let local = date?.to_datetime(time_of(parts)?);
    let Some(seconds) = zone else { return Ok(Point::Local(local)) };
    let bad = || PointError("no such offset from UTC".into());
    let offset = Offset::from_seconds(seconds).map_err(|_| bad())?;
    let instant = offset.to_timestamp(local).map_err(|_| bad())?;
    Ok(Point::Instant(from_jiff(instant)?))
}

fn date_of(year: i32, month: i32, day: i32) -> Result<Date, PointError> {
    let number = |n: i32| i8::try_from(n).unwrap_or(-1);
    Date::new(i16::try_from(year).unwrap_or(-1), number(month), number(day))
        .map_err(|_| PointError(format!("there is no day {year:04}-{month:02}-{day:02}")))
}

fn time_of((hour, minute, second, nanos): Clock) -> Result<Time, PointError> {
    let number = |n: i32| i8::try_from(n).unwrap_or(-1);
    Time::new(number(hour), number(minute), number(second), nanos)
        .map_err(|_| PointError(format!("there is no time {hour:02}:{minute:02}:{second:02}")))
}

fn from_jiff(instant: jiff::Timestamp) -> Result<Timestamp, PointError> {
    i64::try_from(instant.as_nanosecond())
        .map(Timestamp)
        .map_err(|_| PointError("outside of the years 1678 to 2261".into()))
}

fn to_jiff(time: Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_nanosecond(i128::from(time.0)).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

/// Fixes an instant of a point that is one in time; `None` for events and transactions.
///
/// Local times that a change of the clocks skipped are moved on by the gap, those that came twice
/// mean the first.
///
/// # Errors
/// [`PointError`] for an instant outside of the range of [`Timestamp`].
pub fn instant(point: Point, zone: &TimeZone, now: Timestamp) -> Result<Option<Timestamp>, PointError> {
    let local = |time: DateTime| {
        let instant = zone.to_timestamp(time).map_err(|_| PointError("outside of the years 1678 to 2261".into()))?;
        from_jiff(instant).map(Some)
    };
    match point {
        Point::Event(_) | Point::Txn(_) | Point::BeforeTxn(_) => Ok(None),
        Point::Instant(time) => Ok(Some(time)),
        Point::Local(time) => local(time),
        Point::TimeOfDay(time) => local(zone.to_datetime(to_jiff(now)).date().to_datetime(time)),
        Point::Ago(nanos) => Ok(Some(Timestamp(now.0.saturating_sub(nanos)))),
    }
}

fn fraction(nanos: i32) -> String {
    if nanos == 0 {
        return String::new();
    }
    let digits = format!("{nanos:09}");
    format!(".{}", digits.trim_end_matches('0'))
}

/// Prints an instant, exactly: `2026-11-22T10:40:00.5+01:00`. Typed back, it names the same state.
pub fn print(time: Timestamp, zone: &TimeZone) -> String {
    let instant = to_jiff(time);
    let mut seconds = zone.to_offset(instant).seconds();
    if seconds % 60 != 0 {
        seconds = 0; // local mean times of old; they have no ISO form
    }
    let offset = Offset::from_seconds(seconds).unwrap_or(Offset::UTC);
    let local = offset.to_datetime(instant);
    let zone = if seconds == 0 {
        "Z".to_owned()
    } else {
        let minutes = seconds.abs() / 60;
        format!("{}{:02}:{:02}", if seconds < 0 { '-' } else { '+' }, minutes / 60, minutes % 60)
    };
    let (date, clock) = (local.date(), local.time());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}{}{zone}",
        date.year(),
        date.month(),
        date.day(),
        clock.hour(),
        clock.minute(),
        clock.second(),
        fraction(clock.subsec_nanosecond())
    )
}

/// Prints an instant for a path of the same zone, without what a shell would have quoted:
/// `2026-11-22_10-40-00.5`; with an offset where the local time alone is ambiguous.
pub fn print_for_path(time: Timestamp, zone: &TimeZone) -> String {
    let instant = to_jiff(time);
    let local = zone.to_datetime(instant);
    let (date, clock) = (local.date(), local.time());
    let text = format!(
        "{:04}-{:02}-{:02}_{:02}-{:02}-{:02}{}",
        date.year(),
        date.month(),
        date.day(),
        clock.hour(),
        clock.minute(),
        clock.second(),
        fraction(clock.subsec_nanosecond())
    );
    if zone.to_timestamp(local).is_ok_and(|back| back == instant) {
        return text;
    }
    let utc = Offset::UTC.to_datetime(instant);
    let (date, clock) = (utc.date(), utc.time());
    format!(
        "{:04}-{:02}-{:02}_{:02}-{:02}-{:02}{}Z",
        date.year(),
        date.month(),
        date.day(),
        clock.hour(),
        clock.minute(),
        clock.second(),
        fraction(clock.subsec_nanosecond())
    )
}

/// Prints an instant in UTC as RFC 3339, for JSON and SQL.
pub fn print_utc(time: Timestamp) -> String {
    print(time, &TimeZone::UTC)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn berlin() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    fn at(text: &str) -> Timestamp {
        let now = Timestamp(1_795_340_400 * SECOND); // 2026-11-22T09:40:00Z
        let point = parse(text.as_bytes()).unwrap().unwrap_or_else(|| panic!("{text} does not parse"));
        instant(point, &berlin(), now).unwrap().unwrap()
    }

    #[test]
    fn events_and_transactions_parse() {
        assert_eq!(parse(b"e123"), Ok(Some(Point::Event(Seq(123)))));
        assert_eq!(parse(b"T7"), Ok(Some(Point::Txn(TxnId(7)))));
        assert_eq!(parse(b"T7^"), Ok(Some(Point::BeforeTxn(TxnId(7)))));
        assert!(parse(b"e99999999999999999999").is_err());
        for name in ["e", "e1x", "E1", "T", "T^", "t7", "T7^^", "e-1", "main", "", "é"] {
            assert_eq!(parse(name.as_bytes()), Ok(None), "{name}");
        }
    }

    #[test]
    fn every_form_of_the_same_instant_agrees() {
        let expected = at("2026-11-22T10:40:00+01:00");
        assert_eq!(expected, Timestamp(1_795_340_400 * SECOND));
        for text in [
            "2026-11-22T09:40Z",
            "2026-11-22T09:40:00Z",
            "2026-11-22T10:40:00.000+0100",
            "2026-11-22T10:40+01",
            "2026-11-22 10:40",
            "2026-11-22 10:40:00",
            "2026-11-22T10:40",
            "2026-11-22_10-40-00",
            "2026-11-22_10-40",
            "2026-11-22_10:40",
            "2026-11-22_09-40-00Z",
            "2026-11-22_05-40-00-0400",
            "10:40",
            "10:40:00",
            "now",
            "0s",
        ] {
            assert_eq!(at(text), expected, "{text}");
        }
        assert_eq!(at("2026-11-22T10:40:00.5+01:00").0 - expected.0, SECOND / 2);
        assert_eq!(at("2026-11-22"), at("2026-11-21T23:00Z"));
    }

    #[test]
    fn relative_forms_count_back_from_now() {
        let now = at("now").0;
        for (text, seconds) in [
            ("5m", 300),
            ("-5m", 300),
            ("5m-ago", 300),
            ("5 minutes ago", 300),
            ("5-minutes-ago", 300),
            ("2h", 7200),
            ("2-hours-ago", 7200),
            ("3d", 3 * 86400),
            ("1w", 7 * 86400),
            ("yesterday", 86400),
            ("1 day ago", 86400),
            ("90s", 90),
        ] {
            assert_eq!(now - at(text).0, seconds * SECOND, "{text}");
        }
        for name in ["5", "5x", "m", "-5m-ago", "5m ago x", "5m--ago", "ago", "five minutes ago", "5mago"] {
            assert_eq!(parse(name.as_bytes()), Ok(None), "{name}");
        }
        assert!(parse(b"999999999999w").is_err());
    }

    #[test]
    fn numbers_that_make_no_sense_are_told_from_names() {
        for text in
            ["2026-13-01", "2026-02-30", "2026-11-22T25:00", "24:00", "2026-11-22T10:40+99:00", "9999-01-01T00:00Z"]
        {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        for text in ["2026-1-1", "2026-11-22x", "2026-11-22T10", "2026-11-22T10:4", "10:4", "10:40x", "v2026-11-22"] {
            assert_eq!(parse(text.as_bytes()), Ok(None), "{text}");
        }
    }

    #[test]
    fn the_hour_that_comes_twice_is_printed_apart() {
        let first = at("2026-10-25T00:30Z");
        let second = at("2026-10-25T01:30Z");
        assert_eq!(at("2026-10-25 02:30"), first);
        for time in [first, second] {
            assert_eq!(at(&print(time, &berlin())), time);
            assert_eq!(at(&print_for_path(time, &berlin())), time);
        }
        assert_eq!(print(second, &berlin()), "2026-10-25T02:30:00+01:00");
        assert_eq!(print_for_path(first, &berlin()), "2026-10-25_02-30-00");
        assert_eq!(print_for_path(second, &berlin()), "2026-10-25_01-30-00Z");
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = parse(&text);
        }

        #[test]
        fn texts_near_the_grammar_never_panic(text in "[-+eTZ0-9: _.^]{0,30}(ago|m|h|Z|é)?") {
            if let Ok(Some(point)) = parse(text.as_bytes()) {
                let _ = instant(point, &berlin(), Timestamp(0));
            }
        }

        #[test]
        fn a_printed_time_names_the_same_instant(nanos in any::<i64>()) {
            let time = Timestamp(nanos);
            let zone = berlin();
            for text in [print(time, &zone), print_for_path(time, &zone), print_utc(time)] {
                let point = parse(text.as_bytes()).unwrap().unwrap();
                prop_assert_eq!(instant(point, &zone, Timestamp(0)).unwrap(), Some(time), "{}", text);
            }
        }
    }
}
