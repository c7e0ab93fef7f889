//! `stone verify`: proves that nothing recorded was altered.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::audit;

use super::app::App;
use super::context::Context;
use super::error::{Error, Result};
use super::text::{escape, point};
use super::works::Work;

const EXAMPLES: &str = "\
Examples:
  stone verify                    recomputes the chain of digests and holds every table against it
  stone verify --head             prints the digest to keep elsewhere
  stone verify --head DIGEST      proves that a digest kept elsewhere is in this history
  stone verify work.stone         one that is not mounted
Exit status: 0 when everything fits; else 1, and one line per finding, the first place first.
Somebody who can rewrite everything can recompute a chain: keep the head elsewhere.";

/// Proves that nothing recorded was altered
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct VerifyArgs {
    /// The database, or a directory it is mounted at
    #[arg(value_name = "DB")]
    database: Option<PathBuf>,
    /// Prints the newest digest; with one given, proves that it is in this history
    #[arg(long, value_name = "DIGEST", num_args = 0..=1, require_equals = false, default_missing_value = "")]
    head: Option<String>,
}

/// The work of `stone verify`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Verify {
    /// A digest kept elsewhere, in hexadecimal.
    pub head: Option<String>,
}

/// What was proven.
#[derive(Debug, Serialize, Deserialize)]
pub struct Proven {
    /// Whether everything fits.
    pub sound: bool,
    /// The newest digest, in hexadecimal.
    pub head: Option<String>,
    /// The last event that it covers.
    pub point: String,
    /// The last event that the digest kept elsewhere covers.
    pub found: Option<String>,
    /// Links of the chain.
    pub links: u64,
    /// Events compared.
    pub events: u64,
    /// Rows compared.
    pub rows: u64,
    /// Chunks of content compared.
    pub chunks: u64,
    /// The first point that was not pruned: what came before it is proven by its digests alone.
    pub pruned_before: Option<String>,
    /// What does not fit.
    pub findings: Vec<String>,
}

fn hex(digest: &[u8]) -> String {
    digest.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn parse_digest(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut digest = [0; 32];
    for (index, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(digest)
}

impl Work for Verify {
    const NAME: &'static str = "verify";
    type Output = Proven;

    fn execute(&self, context: &Context<'_>) -> Result<Proven> {
        let wanted = match &self.head {
            Some(text) => {
                let wrong = || Error::usage("is no digest: 64 hexadecimal digits").about(text.as_bytes());
                Some(parse_digest(text).ok_or_else(wrong)?)
            }
            None => None,
        };
        context.settle()?;
        context.report("verifying", 0, 0);
        let reader = context.reader()?;
        let proof = audit::verify(reader.as_ref())?;
        let mut findings = proof.findings;
        let mut found = None;
        if let Some(wanted) = wanted {
            found = audit::find_head(reader.as_ref(), &wanted)?;
            if found.is_none() {
                findings.push(format!("the digest {} is not in this history", hex(&wanted)));
            }
        }
        Ok(Proven {
            sound: findings.is_empty(),
            head: proof.head.map(|head| hex(&head)),
            point: point(proof.upto),
            found: found.map(point),
            links: proof.links,
            events: proof.events,
            rows: proof.rows,
            chunks: proof.chunks,
            pruned_before: proof.pruned_before.map(point),
            findings,
        })
    }
}

impl VerifyArgs {
    pub(super) fn run(self, app: &App) -> Result<u8> {
        let print_head = self.head.is_some();
        let head = self.head.filter(|head| !head.is_empty());
        let asked = head.is_some();
        let proven = app.access_named(self.database.as_deref())?.ask(&Verify { head })?;
        app.show(&proven, false, |screen, proven| {
            for finding in &proven.findings {
                screen.line(escape(finding.as_bytes()))?;
            }
            match (&proven.found, &proven.head) {
                (Some(found), _) if asked && proven.sound => {
                    screen.line(format!("the digest covers everything up to {found}"))
                }
                (_, Some(head)) if print_head && !asked => screen.line(head),
                _ => Ok(()),
            }
        })?;
        if proven.sound && !print_head {
            if let Some(before) = proven.pruned_before.as_ref().filter(|_| !app.globals.quiet && !app.globals.json) {
                app.note(format!("pruned before {before}: of what came earlier, the digests fit"));
            }
            let Proven { events, rows, chunks, links, .. } = &proven;
            if app.globals.verbose > 0 {
                app.note(format!("{links} links, {events} events, {rows} rows and {chunks} chunks fit"));
            }
        }
        Ok(u8::from(!proven.sound))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_read_as_they_are_printed() {
        let digest: [u8; 32] = std::array::from_fn(|i| i as u8 * 7);
        assert_eq!(parse_digest(&hex(&digest)), Some(digest));
        assert_eq!(parse_digest("00"), None);
        assert_eq!(parse_digest(&"z".repeat(64)), None);
    }
}
