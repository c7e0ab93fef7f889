//! The reference file system, and random operations over it and the engine side by side.
//!
//! `STONE_MODEL_CASES` and `STONE_MODEL_OPS` set the number of runs and the length of each, for long
//! runs; a failure prints a short form, which belongs into `regressions.rs` under a name. With
//! `STONE_MODEL_CHECK` everything is compared after every operation.

mod acl;
mod choose;
mod content;
mod harness;
mod invert;
mod merge;
mod merging;
mod native;
mod observe;
mod operation;
mod oracle;
mod phrase;
mod regressions;
mod shapes;
mod tally;
mod transacting;
mod tree;
mod txn;
mod undoing;

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};
use stonefs::store::sqlite::SqliteStore;
use stonefs::store::{InitOptions, Store};

use crate::harness::Memory;
use crate::operation::{Operation, Taste};

/// Opens the database of a run, or makes it.
fn open_store(path: &Path, create: Option<&InitOptions>) -> Result<Arc<dyn Store>, String> {
    let store = match create {
        Some(init) => SqliteStore::create(path, init),
        None => SqliteStore::open(path),
    };
    Ok(Arc::new(store.map_err(|error| error.to_string())?))
}

fn from_environment(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// The stack of a run: the choice among the many kinds of operations is deep where nothing is optimised.
const STACK: usize = 256 << 20;

/// Runs random operations; half of the runs are longer than the given length, half are shorter.
fn explore(share: usize, taste: Taste, run: fn(&[Operation]) -> Result<(), String>) {
    explore_phrases(share, move || operation::operation(taste).prop_map(|operation| vec![operation]), run);
}

/// The same with several operations at a time.
fn explore_phrases<S: Strategy<Value = Vec<Operation>>>(
    share: usize,
    phrase: impl FnOnce() -> S + Send + 'static,
    run: fn(&[Operation]) -> Result<(), String>,
) {
    let here = move || explore_here(share, phrase(), run);
    let thread = std::thread::Builder::new().stack_size(STACK).spawn(here);
    if let Err(panic) = thread.expect("a thread").join() {
        std::panic::resume_unwind(panic);
    }
}

fn explore_here(
    share: usize,
    phrase: impl Strategy<Value = Vec<Operation>>,
    run: fn(&[Operation]) -> Result<(), String>,
) {
    let cases = from_environment("STONE_MODEL_CASES", 256) * share / 100;
    let length = from_environment("STONE_MODEL_OPS", 100);
    let config = Config {
        cases: cases.max(1) as u32,
        max_shrink_iters: 0,
        failure_persistence: None,
        verbose: 0,
        ..Config::default()
    };
    let operations = prop::collection::vec(phrase, 1..2 * length).prop_map(|phrases| phrases.concat());
    let result = TestRunner::new(config).run(&operations, |operations| run(&operations).map_err(TestCaseError::fail));
    match result {
        Ok(()) => {}
        Err(TestError::Fail(reason, operations)) => {
            let (operations, reason) = shrink(operations, reason.to_string(), run);
            let lines: Vec<String> = operations.iter().map(|operation| format!("        {operation:?},\n")).collect();
            panic!("{reason}\n{}", lines.concat());
        }
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
}

/// Leaves operations out, many at once first, for as long as what is left fails.
fn shrink(
    mut operations: Vec<Operation>,
    mut reason: String,
    run: fn(&[Operation]) -> Result<(), String>,
) -> (Vec<Operation>, String) {
    let mut runs = from_environment("STONE_MODEL_SHRINK", 1000);
    let mut chunk = operations.len() / 2;
    while chunk > 0 && runs > 0 {
        let mut end = operations.len();
        let before = end;
        while end > 0 && runs > 0 {
            let start = end.saturating_sub(chunk);
            let mut fewer = operations.clone();
            fewer.drain(start..end);
            runs -= 1;
            let failed =
                std::panic::catch_unwind(|| run(&fewer)).unwrap_or_else(|_| Err(String::from("a panic, see above")));
            if let Err(error) = failed {
                (operations, reason) = (fewer, error);
            }
            end = start;
        }
        if chunk > 1 || operations.len() == before {
            chunk /= 2;
        }
    }
    (operations, reason)
}

fn with_ample_memory(operations: &[Operation]) -> Result<(), String> {
    harness::run(Memory::Ample, operations)
}

fn with_little_memory(operations: &[Operation]) -> Result<(), String> {
    harness::run(Memory::Little, operations)
}

const EVERYTHING: Taste =
    Taste { names: 30, attributes: 15, contents: 30, history: 10, transactions: 4, merges: 4, ends: 3 };

#[test]
fn random_operations_of_every_kind_agree_with_the_reference() {
    explore(50, EVERYTHING, with_ample_memory);
}

#[test]
fn random_operations_with_little_memory_agree_with_the_reference() {
    explore(50, EVERYTHING, with_little_memory);
}

#[test]
fn random_changes_of_names_agree_with_the_reference() {
    explore(
        25,
        Taste { names: 70, attributes: 8, contents: 6, history: 8, transactions: 3, merges: 0, ends: 2 },
        with_ample_memory,
    );
}

#[test]
fn random_changes_of_contents_agree_with_the_reference() {
    explore(
        25,
        Taste { names: 10, attributes: 8, contents: 70, history: 6, transactions: 3, merges: 0, ends: 3 },
        with_little_memory,
    );
}

#[test]
fn random_walks_through_history_agree_with_the_reference() {
    explore(
        25,
        Taste { names: 25, attributes: 10, contents: 20, history: 40, transactions: 4, merges: 0, ends: 4 },
        with_ample_memory,
    );
}

#[test]
fn random_transactions_agree_with_the_reference() {
    let taste = Taste { names: 50, attributes: 15, contents: 20, history: 5, transactions: 20, merges: 0, ends: 2 };
    explore(25, taste, with_ample_memory);
}

/// With little memory, each commit is written ahead of its event.
#[test]
fn random_transactions_that_are_written_ahead_agree_with_the_reference() {
    let taste = Taste { names: 40, attributes: 15, contents: 25, history: 5, transactions: 20, merges: 8, ends: 8 };
    explore(25, taste, with_little_memory);
}

#[test]
fn random_merges_agree_with_the_reference() {
    let taste = Taste { names: 40, attributes: 8, contents: 20, history: 8, transactions: 4, merges: 30, ends: 2 };
    explore(25, taste, with_ample_memory);
    eprintln!("{:?}", tally::counted());
}

/// What seldom comes about by chance comes about here, all of it.
#[test]
fn random_merges_of_rare_shapes_agree_with_the_reference() {
    let taste = Taste { names: 40, attributes: 8, contents: 20, history: 8, transactions: 4, merges: 20, ends: 2 };
    explore_phrases(10, move || phrase::phrase(taste), with_ample_memory);
    let never: Vec<_> = tally::counted().into_iter().filter(|(_, count)| *count == 0).collect();
    assert!(never.is_empty(), "never came about: {never:?} of {:?}", tally::counted());
}

/// Needs root, as the reference's caller is: others may not make devices or change owners.
#[test]
fn the_reference_agrees_with_a_real_directory() {
    explore(
        50,
        Taste { names: 40, attributes: 20, contents: 40, history: 0, transactions: 0, merges: 0, ends: 0 },
        native::run,
    );
}
