//! Naming a state: `REF := [BRANCH@]POINT | BRANCH | TAG`, and which names branches and tags can have.

use jiff::tz::TimeZone;

use super::error::{ErrorKind, Result, VersionError, show};
use super::point::{self, Point};
use crate::engine::Engine;
use crate::store::{BranchRow, TagRow, TxnState};
use crate::types::{BranchId, Seq, Timestamp, TxnId, View};

/// The setting that holds the first event that has not been pruned, in decimal.
pub const PRUNED_SETTING: &str = "pruned_before";

/// Who asks, and when: what a reference means depends on it.
#[derive(Clone, Debug)]
pub struct RefContext {
    /// The branch that points are on where the reference names none.
    pub branch: BranchId,
    /// The zone of times without an offset.
    pub zone: TimeZone,
    /// The wall time, from the [`crate::types::Clock`].
    pub now: Timestamp,
}

/// A reference taken apart at its `@`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefParts<'a> {
    /// The branch before the `@`.
    pub branch: Option<&'a [u8]>,
    /// What comes after it, or everything.
    pub rest: &'a [u8],
}

/// Splits a reference at its first `@`; names have none.
pub fn split(text: &[u8]) -> RefParts<'_> {
    match text.iter().position(|b| *b == b'@') {
        Some(at) => RefParts { branch: text.get(..at), rest: text.get(at + 1..).unwrap_or_default() },
        None => RefParts { branch: None, rest: text },
    }
}

/// Checks a name for a new branch or tag by its form alone.
///
/// # Errors
/// [`ErrorKind::BadName`] with the rule that it breaks.
pub fn check_name(name: &[u8]) -> Result<()> {
    let bad = |why: &str| Err(VersionError::new(ErrorKind::BadName, format!("{:?} is no name: {why}", show(name))));
    if name.is_empty() {
        return bad("it is empty");
    }
    if name.len() > 255 {
        return bad("it is longer than 255 bytes");
    }
    if name.iter().any(|b| matches!(b, b'/' | b'@') || b.is_ascii_control()) {
        return bad("it has a '/', an '@' or a control character in it");
    }
    if std::str::from_utf8(name).is_ok_and(|text| text.chars().any(char::is_control)) {
        return bad("it has a control character in it");
    }
    if matches!(name.first(), Some(b'.' | b'-')) {
        return bad("it begins with '.' or '-'");
    }
    match point::parse(name) {
        Ok(None) => Ok(()),
        Ok(Some(_)) | Err(_) => bad("it reads as a point in time"),
    }
}

/// Finds an undropped branch by its name.
///
/// # Errors
/// [`ErrorKind::NotFound`].
pub fn branch(engine: &Engine, name: &[u8]) -> Result<BranchRow> {
    engine.branch_named(name).filter(|row| row.dropped.is_none()).ok_or_else(|| {
        VersionError::new(ErrorKind::NotFound, format!("no branch {:?}", show(name)))
            .hint("'stone branch' lists the branches")
    })
}

/// Finds a tag by its name.
pub fn tag(engine: &Engine, name: &[u8]) -> Option<TagRow> {
    engine.tags().into_iter().find(|tag| tag.name == name)
}

/// Resolves a reference to a view. A branch's name gives its live view, everything else a fixed point.
///
/// Everything up to the point is in the store when this returns, and files that were being written
/// on the branch have a version as of now.
///
/// # Errors
/// Unparsable, in the future, before the first event, pruned, no such branch, event or transaction.
pub fn resolve(engine: &Engine, text: &[u8], context: &RefContext) -> Result<View> {
    let parts = split(text);
    let on = match parts.branch {
        Some(name) => branch(engine, name)?.id,
        None => context.branch,
    };
    let parsed = point::parse(parts.rest);
    if !matches!(parsed, Ok(Some(_))) {
        if let Some(tag) = tag(engine, parts.rest) {
            engine.flush(tag.seq)?;
            return Ok(View::as_of(if parts.branch.is_some() { on } else { tag.branch }, tag.seq));
        }
        if parts.branch.is_none()
            && let Some(row) = engine.branch_named(parts.rest).filter(|row| row.dropped.is_none())
        {
            return Ok(View::live(row.id));
        }
    }
    let point = match parsed {
        Ok(Some(point)) => point,
        Err(error) => {
            return Err(VersionError::new(ErrorKind::Unparsable, format!("{:?}: {}", show(text), error.0)));
        }
        Ok(None) => {
            let what = if parts.branch.is_some() { "point in time or tag" } else { "point in time, branch or tag" };
            return Err(VersionError::new(ErrorKind::Unparsable, format!("{:?} is no {what}", show(parts.rest)))
                .hint("points look like e123, T7, 2026-11-22T10:40, 10:40, 5m-ago, yesterday"));
        }
    };
    let seq = at_point(engine, text, point, on, context)?;
    Ok(View::as_of(on, seq))
}

/// Resolves a point to the event that it is just after.
fn at_point(engine: &Engine, text: &[u8], point: Point, on: BranchId, context: &RefContext) -> Result<Seq> {
    let fail = |kind, why: String| Err(VersionError::new(kind, format!("{:?} {why}", show(text))));
    engine.seal(Some(on))?;
    let (last, last_time) = engine.point();
    // The event clock runs ahead of a wall clock that was set back; the present is the later of both.
    let now = context.now.max(last_time);
    let seq = match point {
        Point::Event(seq) => seq,
        Point::Txn(id) => committed(engine, id)?,
        Point::BeforeTxn(id) => Seq(committed(engine, id)?.0.saturating_sub(1)),
        Point::Instant(_) | Point::Local(_) | Point::TimeOfDay(_) | Point::Ago(_) => {
            let time = match point::instant(point, &context.zone, now) {
                Ok(time) => time.unwrap_or(now),
                Err(error) => return fail(ErrorKind::Unparsable, format!("is no point: {}", error.0)),
            };
            if time > now {
                return fail(ErrorKind::Future, format!("is in the future ({})", point::print(time, &context.zone)));
            }
            if time >= last_time {
                last
            } else {
                engine.flush(last)?;
                match engine.store().read()?.seq_at(time)? {
                    Some((seq, _)) => seq,
                    None => return fail(ErrorKind::BeforeFirst, "is before the first event".into()),
                }
            }
        }
    };
    if seq > last {
        return fail(ErrorKind::Future, format!("is in the future: the last event is e{last}"));
    }
    if seq == Seq::ZERO {
        return fail(ErrorKind::BeforeFirst, "is before the first event".into());
    }
    engine.flush(seq)?;
    if let Some(first) = pruned_before(engine)?.filter(|first| seq < *first) {
        return fail(ErrorKind::Pruned, format!("was pruned: history begins at e{first}"));
    }
    Ok(seq)
}

/// Returns the first event whose state is kept, where history was pruned.
fn pruned_before(engine: &Engine) -> Result<Option<Seq>> {
    let value = engine.store().read()?.setting(PRUNED_SETTING)?;
    Ok(value.and_then(|v| String::from_utf8(v).ok()).and_then(|v| v.trim().parse().ok()).map(Seq))
}

/// Returns the event at which a transaction became visible.
fn committed(engine: &Engine, id: TxnId) -> Result<Seq> {
    let Some(row) = engine.transactions().into_iter().find(|row| row.id == id) else {
        return Err(VersionError::new(ErrorKind::NotFound, format!("no transaction T{id}")));
    };
    let why = match (row.state, row.ended) {
        (TxnState::Committed, Some(seq)) => return Ok(seq),
        (TxnState::Committed, None) => "has no commit event",
        (TxnState::RolledBack, _) => "was rolled back",
        (TxnState::Open | TxnState::Interrupted | TxnState::Conflicted, _) => "is not committed yet",
    };
    Err(VersionError::new(ErrorKind::NotCommitted, format!("transaction T{id} {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_read_as_points_are_refused() {
        for good in ["main", "v1.0", "2h-fix", "e1x", "feature_x", "naïve", "a b", "T", "10", "2026"] {
            assert!(check_name(good.as_bytes()).is_ok(), "{good}");
        }
        assert!(check_name(b"\xff\xfe").is_ok());
        for bad in ["", ".x", "-d", "a/b", "a@b", "a\nb", "a\0", "now", "e1", "T7", "T7^", "5m", "10:40", "2026-11-22"]
        {
            assert!(check_name(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(check_name("a\u{85}b".as_bytes()).is_err());
        assert!(check_name(&[b'a'; 255]).is_ok());
        assert!(check_name(&[b'a'; 256]).is_err());
    }

    #[test]
    fn a_reference_splits_at_its_first_at_sign() {
        assert_eq!(split(b"main@e5"), RefParts { branch: Some(b"main"), rest: b"e5" });
        assert_eq!(split(b"main"), RefParts { branch: None, rest: b"main" });
        assert_eq!(split(b"@e5"), RefParts { branch: Some(b""), rest: b"e5" });
    }
}
