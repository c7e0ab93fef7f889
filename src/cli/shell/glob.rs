//! Patterns in words: `*`, `?` and `[...]`, by components, as shells expand them.

use super::parse::Word;

/// One component of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Unit {
    /// This byte.
    Byte(u8),
    /// Any one byte.
    One,
    /// Any number of bytes.
    Many,
    /// One of these ranges, or none of them.
    Class(Vec<(u8, u8)>, bool),
}

/// A pattern for one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    units: Vec<Unit>,
}

impl Pattern {
    /// Reads a pattern from bytes, each with whether it was quoted.
    fn new(bytes: &[(u8, bool)]) -> Pattern {
        let mut units = Vec::new();
        let mut rest = bytes;
        while let Some((&(byte, quoted), after)) = rest.split_first() {
            rest = after;
            let unit = match byte {
                b'*' if !quoted => Unit::Many,
                b'?' if !quoted => Unit::One,
                b'[' if !quoted => match class(after) {
                    Some((unit, after)) => {
                        rest = after;
                        unit
                    }
                    None => Unit::Byte(byte),
                },
                _ => Unit::Byte(byte),
            };
            units.push(unit);
        }
        Pattern { units }
    }

    /// Reads a pattern that was not quoted.
    pub fn bare(text: &[u8]) -> Pattern {
        Pattern::new(&text.iter().map(|byte| (*byte, false)).collect::<Vec<_>>())
    }

    /// The name, where only one matches.
    pub fn literal(&self) -> Option<Vec<u8>> {
        self.units
            .iter()
            .map(|unit| match unit {
                Unit::Byte(byte) => Some(*byte),
                Unit::One | Unit::Many | Unit::Class(..) => None,
            })
            .collect()
    }

    /// Tells whether a name matches. A leading dot is matched by a dot only where `dots` is not set.
    pub fn matches(&self, name: &[u8], dots: bool) -> bool {
        if !dots && name.first() == Some(&b'.') && self.units.first() != Some(&Unit::Byte(b'.')) {
            return false;
        }
        // The place to go back to: the last `*`, and how much of the name it has taken.
        let mut back: Option<(usize, usize)> = None;
        let (mut unit, mut at) = (0, 0);
        loop {
            let step = match (self.units.get(unit), name.get(at)) {
                (None, None) => return true,
                (Some(Unit::Many), _) => {
                    back = Some((unit, at));
                    unit += 1;
                    continue;
                }
                (Some(Unit::Byte(wanted)), Some(byte)) => wanted == byte,
                (Some(Unit::One), Some(_)) => true,
                (Some(Unit::Class(ranges, negated)), Some(byte)) => {
                    ranges.iter().any(|(low, high)| (low..=high).contains(&byte)) != *negated
                }
                (None, Some(_)) | (Some(_), None) => false,
            };
            if step {
                unit += 1;
                at += 1;
                continue;
            }
            match back {
                Some((star, taken)) if taken < name.len() => {
                    back = Some((star, taken + 1));
                    unit = star + 1;
                    at = taken + 1;
                }
                Some(_) | None => return false,
            }
        }
    }
}

type Marked<'b> = &'b [(u8, bool)];

/// Reads what is between `[` and `]`; a `]` that comes first is one of the bytes.
fn class(bytes: Marked<'_>) -> Option<(Unit, Marked<'_>)> {
    let negated = matches!(bytes.first(), Some((b'!' | b'^', false)));
    let mut rest = bytes.get(usize::from(negated)..)?;
    let mut ranges = Vec::new();
    loop {
        let (&(byte, quoted), after) = rest.split_first()?;
        if byte == b']' && !quoted && !ranges.is_empty() {
            return Some((Unit::Class(ranges, negated), after));
        }
        rest = after;
        match after {
            [(b'-', false), (high, _), after @ ..] if *high != b']' => {
                ranges.push((byte, *high));
                rest = after;
            }
            _ => ranges.push((byte, byte)),
        }
    }
}

/// A word's components as patterns; an empty one stands for a slash at the begin or end.
pub fn components(word: &Word) -> Vec<Pattern> {
    let marked: Vec<(u8, bool)> =
        word.0.iter().flat_map(|piece| piece.bytes.iter().map(|byte| (*byte, piece.quoted))).collect();
    marked.split(|(byte, _)| *byte == b'/').map(Pattern::new).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern::bare(pattern.as_bytes()).matches(name.as_bytes(), false)
    }

    #[test]
    fn patterns_are_a_shells() {
        for (pattern, name) in [
            ("*", "a"),
            ("*.rs", "x.rs"),
            ("a*b*c", "aXbYc"),
            ("[a-c]?", "b1"),
            ("[!x]", "y"),
            ("[]]", "]"),
            ("[", "["),
            (".*", ".git"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("*", ".git"), ("*.rs", "rs"), ("a*b", "abc"), ("[!x]", "x"), ("?", "")] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    proptest! {
        #[test]
        fn a_name_matches_itself_and_a_star(name in "[a-z]{1,20}", at in 0usize..20) {
            let at = at.min(name.len());
            let starred = format!("{}*{}", &name[..at], &name[at..]);
            prop_assert!(matches(&name, &name));
            prop_assert!(matches(&starred, &name));
        }
    }
}
