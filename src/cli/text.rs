//! The values that commands exchange: bytes that were typed or stored, paths, times and points.
//!
//! On the wire each is tagged (`{"$path": ...}`), so that no byte is lost. [`to_json`] turns the
//! tags into what `--json` promises: escaped strings with the bytes in base64 beside them, and times
//! in RFC 3339.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::builder::{OsStringValueParser, TypedValueParser, ValueParser, ValueParserFactory};
use jiff::tz::{AmbiguousOffset, TimeZone};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::types::{Seq, Timestamp, TxnId};

/// Bytes that are nearly always text: names, arguments, messages.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(pub Vec<u8>);

/// A path in the tree, beginning with `/`; as typed until it was localised.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreePath(pub Vec<u8>);

/// An instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct When(pub Timestamp);

macro_rules! tagged_bytes {
    ($name:ident, $tag:literal) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                #[derive(Serialize)]
                struct Tagged {
                    #[serde(rename = $tag)]
                    bytes: String,
                }
                Tagged { bytes: STANDARD.encode(&self.0) }.serialize(to)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<$name, D::Error> {
                #[derive(Deserialize)]
                struct Tagged {
                    #[serde(rename = $tag)]
                    bytes: String,
                }
                let tagged = Tagged::deserialize(from)?;
                STANDARD.decode(tagged.bytes).map($name).map_err(serde::de::Error::custom)
            }
        }

        impl $name {
            /// The bytes.
            pub fn as_bytes(&self) -> &[u8] {
                &self.0
            }
        }

        impl From<OsString> for $name {
            fn from(typed: OsString) -> $name {
                $name(typed.into_vec())
            }
        }

        impl From<&[u8]> for $name {
            fn from(bytes: &[u8]) -> $name {
                $name(bytes.to_vec())
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> $name {
                $name(text.as_bytes().to_vec())
            }
        }

        impl ValueParserFactory for $name {
            type Parser = ValueParser;

            fn value_parser() -> ValueParser {
                ValueParser::new(OsStringValueParser::new().map($name::from))
            }
        }
    };
}

tagged_bytes!(Text, "$text");
tagged_bytes!(TreePath, "$path");

impl Text {
    /// For people: printable, whatever the bytes are.
    pub fn shown(&self) -> String {
        escape(&self.0)
    }
}

impl TreePath {
    /// As the system's string type.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }

    /// For people: relative to the root of the tree, printable.
    pub fn shown(&self) -> String {
        shown_path(&self.0)
    }
}

/// A path for people: relative to the root of the tree (`.` is the root itself), printable.
pub fn shown_path(path: &[u8]) -> String {
    match path.strip_prefix(b"/").unwrap_or(path) {
        b"" => ".".to_owned(),
        relative => escape(relative),
    }
}

impl Serialize for When {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Tagged {
            #[serde(rename = "$time")]
            nanos: i64,
        }
        Tagged { nanos: self.0.0 }.serialize(to)
    }
}

impl<'de> Deserialize<'de> for When {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<When, D::Error> {
        #[derive(Deserialize)]
        struct Tagged {
            #[serde(rename = "$time")]
            nanos: i64,
        }
        Ok(When(Timestamp(Tagged::deserialize(from)?.nanos)))
    }
}

impl When {
    /// RFC 3339 in UTC, with as many decimals as it needs.
    pub fn rfc3339(self) -> String {
        match jiff::Timestamp::from_nanosecond(i128::from(self.0.0)) {
            Ok(instant) => instant.to_string(),
            Err(_) => self.0.0.to_string(),
        }
    }

    /// For people: local time, to the nanosecond, because typed back it names the same state; with
    /// its offset in the hour that the clock shows twice.
    pub fn shown(self, zone: &TimeZone) -> String {
        let Ok(instant) = jiff::Timestamp::from_nanosecond(i128::from(self.0.0)) else {
            return self.0.0.to_string();
        };
        let local = zone.to_datetime(instant);
        match zone.to_ambiguous_timestamp(local).offset() {
            AmbiguousOffset::Unambiguous { .. } => format!("{local}"),
            AmbiguousOffset::Gap { .. } | AmbiguousOffset::Fold { .. } => {
                format!("{}", instant.display_with_offset(zone.to_offset(instant)))
            }
        }
    }
}

/// A point for people and in JSON: `e12`.
pub fn point(seq: Seq) -> String {
    format!("e{seq}")
}

/// A transaction for people and in JSON: `T7`.
pub fn transaction(id: TxnId) -> String {
    format!("T{id}")
}

/// Reads `T7` or `7`.
pub fn parse_transaction(text: &[u8]) -> Option<TxnId> {
    let text = std::str::from_utf8(text).ok()?;
    let digits = text.strip_prefix('T').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().map(TxnId)
}

/// Makes bytes printable: what is not UTF-8 as `\xff`, and every control or direction-changing
/// character escaped, so that a terminal never receives one.
pub fn escape(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => shown.push_str("\\n"),
                '\t' => shown.push_str("\\t"),
                '\r' => shown.push_str("\\r"),
                c if c.is_ascii_control() => shown.push_str(&format!("\\x{:02x}", u32::from(c))),
                c if is_hidden(c) => shown.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
                c => shown.push(c),
            }
        }
        for byte in chunk.invalid() {
            shown.push_str(&format!("\\x{byte:02x}"));
        }
    }
    shown
}

/// Characters that a terminal acts on or that make text look like other text.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Turns text of many lines into something that a terminal may receive: all but newline and tab escaped.
pub fn escape_lines(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for part in bytes.split_inclusive(|&b| matches!(b, b'\n' | b'\t')) {
        match part.split_last() {
            Some((&last @ (b'\n' | b'\t'), rest)) => {
                shown.push_str(&escape(rest));
                shown.push(char::from(last));
            }
            _ => shown.push_str(&escape(part)),
        }
    }
    shown
}

/// Turns a result on the wire into the document of `--json`.
pub fn to_json(wire: Value) -> Value {
    match wire {
        Value::Array(items) => Value::Array(items.into_iter().map(to_json).collect()),
        Value::Object(fields) => {
            if let Some(plain) = untag(&fields) {
                return plain.0;
            }
            let mut plain = Map::new();
            for (key, value) in fields {
                if let Value::Object(inner) = &value
                    && let Some((shown, bytes)) = untag(inner)
                {
                    if let Some(bytes) = bytes {
                        plain.insert(format!("{key}_bytes"), bytes);
                    }
                    plain.insert(key, shown);
                } else {
                    plain.insert(key, to_json(value));
                }
            }
            Value::Object(plain)
        }
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => other,
    }
}

/// The plain form of a tagged value, and its bytes where they belong beside it.
fn untag(fields: &Map<String, Value>) -> Option<(Value, Option<Value>)> {
    if fields.len() != 1 {
        return None;
    }
    let (tag, value) = fields.iter().next()?;
    match (tag.as_str(), value) {
        ("$path", Value::String(bytes)) => {
            let decoded = STANDARD.decode(bytes).ok()?;
            Some((Value::String(lossless(&decoded)), Some(value.clone())))
        }
        ("$text", Value::String(bytes)) => {
            let decoded = STANDARD.decode(bytes).ok()?;
            let beside = std::str::from_utf8(&decoded).is_err().then(|| value.clone());
            Some((Value::String(lossless(&decoded)), beside))
        }
        ("$time", Value::Number(nanos)) => Some((Value::String(When(Timestamp(nanos.as_i64()?)).rfc3339()), None)),
        _ => None,
    }
}

/// For JSON, which escapes control characters itself: only what is not UTF-8 is escaped.
fn lossless(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        shown.push_str(chunk.valid());
        for byte in chunk.invalid() {
            shown.push_str(&format!("\\x{byte:02x}"));
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_never_receives_a_raw_control_character() {
        let nasty = b"a\x1b[31m\n\x07\xffb\xc2\x9bc\xe2\x80\xaed\x7f";
        let shown = escape(nasty);
        assert_eq!(shown, "a\\x1b[31m\\n\\x07\\xffb\\u{9b}c\\u{202e}d\\x7f");
        assert!(!shown.chars().any(char::is_control));
        assert_eq!(escape("grün ✓".as_bytes()), "grün ✓");
        assert_eq!(escape_lines(b"a\n\x1bb\tc"), "a\n\\x1bb\tc");
    }

    #[test]
    fn json_has_escaped_paths_with_their_bytes_beside_them() {
        #[derive(Serialize)]
        struct Row {
            path: TreePath,
            name: Text,
            time: When,
            size: u64,
        }
        let row = Row { path: "/a".into(), name: Text(vec![0xff]), time: When(Timestamp(1_500_000_000)), size: 3 };
        let json = to_json(serde_json::to_value([row]).unwrap());
        assert_eq!(
            json,
            serde_json::json!([{
                "path": "/a", "path_bytes": "L2E=", "name": "\\xff", "name_bytes": "/w==",
                "time": "1970-01-01T00:00:01.5Z", "size": 3,
            }])
        );
    }

    #[test]
    fn the_wire_keeps_every_byte() {
        let all: Vec<u8> = (0..=255).collect();
        let wire = serde_json::to_vec(&TreePath(all.clone())).unwrap();
        assert_eq!(serde_json::from_slice::<TreePath>(&wire).unwrap().0, all);
    }

    #[test]
    fn times_for_people_are_local_and_exact() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let time = When(Timestamp(1_795_340_400_123_456_789));
        assert_eq!(time.shown(&zone), "2026-11-22T10:40:00.123456789");
        assert_eq!(time.rfc3339(), "2026-11-22T09:40:00.123456789Z");
        // 2026-10-25 02:30 comes twice
        assert_eq!(When(Timestamp(1_792_888_200_000_000_000)).shown(&zone), "2026-10-25T02:30:00+02:00");
    }

    #[test]
    fn transactions_are_read_with_and_without_their_letter() {
        assert_eq!(parse_transaction(b"T7"), Some(TxnId(7)));
        assert_eq!(parse_transaction(b"7"), Some(TxnId(7)));
        assert_eq!(parse_transaction(b"T"), None);
        assert_eq!(parse_transaction(b"T+7"), None);
    }

    #[test]
    fn paths_for_people_are_relative_to_the_root() {
        assert_eq!(shown_path(b"/a/b"), "a/b");
        assert_eq!(shown_path(b"/"), ".");
    }
}
