//! Lines: unified diff, three-way merge, and who introduced which line. Pure.

use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use similar::{Algorithm, DiffOp, DiffTag};

use super::bytes::PathBytes;

/// How long a comparison of two files may take before it becomes coarse.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where a line of a hunk is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LineTag {
    /// On both sides.
    Context,
    /// Only in the new text.
    Added,
    /// Only in the old text.
    Removed,
}

/// A line of a hunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffLine {
    /// Where it is from.
    pub tag: LineTag,
    /// Its bytes, with the newline where it has one.
    pub text: PathBytes,
}

/// A stretch of changes with the lines around them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hunk {
    /// First line in the old text, from 1 (0 where it has no line there).
    pub old_start: usize,
    /// Number of old lines.
    pub old_lines: usize,
    /// First line in the new text, from 1 (0 where it has no line there).
    pub new_start: usize,
    /// Number of new lines.
    pub new_lines: usize,
    /// The lines.
    pub lines: Vec<DiffLine>,
}

/// The difference of two contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextDiff {
    /// One of them is no text (or too large to compare); there are no hunks then.
    pub binary: bool,
    /// What differs.
    pub hunks: Vec<Hunk>,
}

impl TextDiff {
    /// Prints a unified diff without its file header.
    pub fn render(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for hunk in &self.hunks {
            let range = |start: usize, lines: usize| {
                if lines == 1 { start.to_string() } else { format!("{start},{lines}") }
            };
            let old = range(hunk.old_start, hunk.old_lines);
            let new = range(hunk.new_start, hunk.new_lines);
            out.extend_from_slice(format!("@@ -{old} +{new} @@\n").as_bytes());
            for line in &hunk.lines {
                out.push(match line.tag {
                    LineTag::Context => b' ',
                    LineTag::Added => b'+',
                    LineTag::Removed => b'-',
                });
                out.extend_from_slice(line.text.as_bytes());
                if !line.text.as_bytes().ends_with(b"\n") {
                    out.extend_from_slice(b"\n\\ No newline at end of file\n");
                }
            }
        }
        out
    }
}

/// Whether bytes are no text: a NUL near the beginning, as git has it.
pub fn is_binary(bytes: &[u8]) -> bool {
    bytes.iter().take(8000).any(|b| *b == 0)
}

/// Splits into lines that keep their newlines.
pub fn lines(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.split_inclusive(|b| *b == b'\n').collect()
}

#[allow(clippy::disallowed_methods)] // a limit of effort, not a time of the record
fn compare(old: &[&[u8]], new: &[&[u8]]) -> Vec<DiffOp> {
    let deadline = std::time::Instant::now().checked_add(PATIENCE);
    similar::capture_diff_slices_deadline(Algorithm::Myers, old, new, deadline)
}

/// Compares two texts, with `context` lines around each change.
pub fn unified(old: &[u8], new: &[u8], context: usize) -> TextDiff {
    if is_binary(old) || is_binary(new) {
        return TextDiff { binary: old != new, hunks: Vec::new() };
    }
    let (old, new) = (lines(old), lines(new));
    let groups = similar::group_diff_ops(compare(&old, &new), context);
    let hunks = groups.iter().filter_map(|ops| hunk(ops, &old, &new)).collect();
    TextDiff { binary: false, hunks }
}

fn hunk(ops: &[DiffOp], old: &[&[u8]], new: &[&[u8]]) -> Option<Hunk> {
    let (first, last) = (ops.first()?, ops.last()?);
    if ops.iter().all(|op| op.tag() == DiffTag::Equal) {
        return None;
    }
    let (old_range, new_range) =
        (first.old_range().start..last.old_range().end, first.new_range().start..last.new_range().end);
    let mut lines = Vec::new();
    let mut take = |tag, side: &[&[u8]], range: Range<usize>| {
        for text in side.get(range).unwrap_or_default() {
            lines.push(DiffLine { tag, text: PathBytes::from(*text) });
        }
    };
    for op in ops {
        match op.tag() {
            DiffTag::Equal => take(LineTag::Context, old, op.old_range()),
            DiffTag::Delete | DiffTag::Insert | DiffTag::Replace => {
                take(LineTag::Removed, old, op.old_range());
                take(LineTag::Added, new, op.new_range());
            }
        }
    }
    let start = |range: &Range<usize>| if range.is_empty() { range.start } else { range.start + 1 };
    Some(Hunk {
        old_start: start(&old_range),
        old_lines: old_range.len(),
        new_start: start(&new_range),
        new_lines: new_range.len(),
        lines,
    })
}

/// Merges the line changes of two texts that have a common base; `None` where they overlap or
/// touch, or where one is no text.
pub fn merge(base: &[u8], ours: &[u8], theirs: &[u8]) -> Option<Vec<u8>> {
    if [base, ours, theirs].into_iter().any(is_binary) {
        return None;
    }
    let (base, ours, theirs) = (lines(base), lines(ours), lines(theirs));
    let edits = |side: &[&[u8]]| -> Vec<(Range<usize>, Range<usize>)> {
        let ops = compare(&base, side);
        ops.iter().filter(|op| op.tag() != DiffTag::Equal).map(|op| (op.old_range(), op.new_range())).collect()
    };
    let (left, right) = (edits(&ours), edits(&theirs));
    let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
    let mut merged: Vec<u8> = Vec::new();
    let mut at = 0;
    let mut copy = |lines: &[&[u8]], range: Range<usize>| {
        merged.extend(lines.get(range).unwrap_or_default().iter().flat_map(|line| line.iter().copied()));
    };
    loop {
        let (side, edit) = match (left.peek(), right.peek()) {
            (None, None) => break,
            (Some(_), None) => (&ours, left.next()?),
            (None, Some(_)) => (&theirs, right.next()?),
            (Some(a), Some(b)) => {
                if a.0 == b.0 && ours.get(a.1.clone()) == theirs.get(b.1.clone()) {
                    right.next(); // both made the same change
                    (&ours, left.next()?)
                } else if a.0.end < b.0.start {
                    (&ours, left.next()?)
                } else if b.0.end < a.0.start {
                    (&theirs, right.next()?)
                } else {
                    return None;
                }
            }
        };
        copy(&base, at..edit.0.start);
        copy(side, edit.1.clone());
        at = edit.0.end;
    }
    copy(&base, at..base.len());
    Some(merged)
}

/// Carries the origin of each line over to the next version: lines that stay keep theirs, new ones get `origin`.
pub fn annotate<T: Clone>(old: &[&[u8]], origins: &[T], new: &[&[u8]], origin: &T) -> Vec<T> {
    let mut result = vec![origin.clone(); new.len()];
    for op in compare(old, new).iter().filter(|op| op.tag() == DiffTag::Equal) {
        for (from, to) in op.old_range().zip(op.new_range()) {
            if let (Some(kept), Some(slot)) = (origins.get(from), result.get_mut(to)) {
                *slot = kept.clone();
            }
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_diff_is_printed_as_diff_u_prints_it() {
        let diff = unified(b"a\nb\nc\nd\ne\nf\ng\nh\n", b"a\nb\nc\nd\nE\nf\ng\nh\ni", 3);
        let expected = "@@ -2,7 +2,8 @@\n b\n c\n d\n-e\n+E\n f\n g\n h\n+i\n\\ No newline at end of file\n";
        assert_eq!(String::from_utf8(diff.render()).unwrap(), expected);
        assert_eq!(unified(b"", b"x\n", 3).render(), b"@@ -0,0 +1 @@\n+x\n");
        assert_eq!(unified(b"x\n", b"", 3).render(), b"@@ -1 +0,0 @@\n-x\n");
        assert!(unified(b"a\n", b"a\n", 3).hunks.is_empty());
        assert!(unified(b"a\0", b"b", 3).binary);
    }

    #[test]
    fn changes_of_different_lines_merge() {
        let base = b"1\n2\n3\n4\n5\n";
        assert_eq!(merge(base, b"1\nA\n3\n4\n5\n", b"1\n2\n3\n4\nB\n").unwrap(), b"1\nA\n3\n4\nB\n");
        assert_eq!(merge(base, b"0\n1\n2\n3\n4\n5\n", b"1\n2\n3\n4\n5\n6\n").unwrap(), b"0\n1\n2\n3\n4\n5\n6\n");
        assert_eq!(merge(base, b"1\nA\n3\n4\n5\n", b"1\nA\n3\n4\n5\n").unwrap(), b"1\nA\n3\n4\n5\n");
        assert_eq!(merge(base, base, b"x\n").unwrap(), b"x\n");
    }

    #[test]
    fn changes_that_overlap_or_touch_do_not_merge() {
        let base = b"1\n2\n3\n";
        assert_eq!(merge(base, b"1\nA\n3\n", b"1\nB\n3\n"), None);
        assert_eq!(merge(base, b"1\nA\n3\n", b"1\n2\nB\n"), None);
        assert_eq!(merge(b"", b"a\n", b"b\n"), None);
    }

    #[test]
    fn lines_that_stay_keep_their_origin() {
        let (old, new) = (lines(b"a\nb\nc\n"), lines(b"a\nX\nc\nd\n"));
        assert_eq!(annotate(&old, &[1, 1, 2], &new, &9), [1, 9, 2, 9]);
    }

    proptest! {
        #[test]
        fn a_merge_with_an_unchanged_side_is_the_other_side(base in "[ab\n]{0,20}", side in "[ab\n]{0,20}") {
            let (base, side) = (base.as_bytes(), side.as_bytes());
            prop_assert_eq!(merge(base, side, base).unwrap(), side);
            prop_assert_eq!(merge(base, base, side).unwrap(), side);
            prop_assert_eq!(merge(base, side, side).unwrap(), side);
        }
    }
}
