//! The cases of git's own tests of merges (t3030, t6402 to t6436), restated for trees that know identities.
//!
//! Each case is three little scripts: what both sides have, what each then does. It is merged both ways, and the
//! outcome is either the tree or the conflicts. `docs/SEMANTICS.md` tells where git's outcome is another one.

use stonefs::types::View;
use stonefs::version::conflict::Side;
use stonefs::version::merge::{self, MergeOptions, MergeOutcome, Resolve};
use stonefs::version::{txn, undo};

use crate::world::{MAIN, World, kinds};

/// Runs a script: commands apart by `;`, words apart by blanks.
fn run(w: &World, view: View, script: &str) {
    for command in script.split(';').map(str::trim).filter(|command| !command.is_empty()) {
        let words: Vec<&str> = command.split(' ').collect();
        let done = match words[..] {
            ["mkdir", path] => w.mkdir(view, path),
            ["write", path, content] => w.write(view, path, content),
            ["save", path, content] => w.save(view, path, content),
            ["mv", old, new] => w.rename(view, old, new),
            ["ln", old, new] => w.link(view, old, new),
            ["symlink", target, path] => w.symlink(view, target, path),
            ["rm", path] => w.rm(view, path),
            ["rmdir", path] => w.rmdir(view, path),
            ["chmod", mode, path] => w.chmod(view, path, u16::from_str_radix(mode, 8).unwrap()),
            _ => panic!("{command} is no command"),
        };
        done.unwrap_or_else(|error| panic!("{command}: {error}"));
    }
}

/// What a merge did: the tree, or its conflicts, the target being as it was.
fn outcome(w: &World, source: View, target: View) -> String {
    let before = w.tree(target);
    let done = merge::merge(&w.engine, source, target.branch, &MergeOptions::default(), &w.caller).unwrap();
    let told = match done {
        MergeOutcome::UpToDate => String::from("up to date"),
        MergeOutcome::Merged { .. } => w.files(target),
        MergeOutcome::Conflicted { conflicts, txn } => {
            assert_eq!(w.tree(target), before, "a merge with conflicts leaves the target as it was");
            txn::rollback(&w.engine, txn, &w.caller).unwrap();
            let told: Vec<String> =
                kinds(&conflicts).iter().map(|(kind, path)| format!("{}: {path}", kind.as_str())).collect();
            told.join(", ")
        }
    };
    w.check();
    told
}

fn sides(base: &str, ours: &str, theirs: &str) -> (World, View) {
    let w = World::new();
    run(&w, MAIN, base);
    let side = w.branch("side", MAIN);
    run(&w, MAIN, ours);
    run(&w, side, theirs);
    (w, side)
}

/// The outcome of a case, which is the same whoever receives.
#[track_caller]
fn both_ways(base: &str, one: &str, other: &str, expected: &str) {
    each_way(base, one, other, [expected, expected]);
}

/// The outcome of a case that names paths as the receiver has them.
#[track_caller]
fn each_way(base: &str, one: &str, other: &str, expected: [&str; 2]) {
    for (ours, theirs, expected) in [(one, other, expected[0]), (other, one, expected[1])] {
        let (w, side) = sides(base, ours, theirs);
        let told = match outcome(&w, side, MAIN).as_str() {
            "up to date" => w.files(MAIN),
            told => told.to_owned(),
        };
        assert_eq!(told, expected, "'{theirs}' merged into '{ours}'");
    }
}

const BASE: &str = "mkdir d; write d/a 1; write d/b 2; write c 3";

#[test]
fn a_rename_and_a_change_of_content_come_together() {
    both_ways(BASE, "mv d/a z", "write d/a 9", "c=3 d/ d/b=2 z=9");
    both_ways(BASE, "mv d/a z; write z 1", "save d/a 9", "c=3 d/ d/b=2 z=9");
    // Git finds no rename where everything was rewritten; identity does.
    both_ways(BASE, "mv d/a z; chmod 755 z", "write d/a completely-different", "c=3 d/ d/b=2 z=completely-different");
}

#[test]
fn the_same_change_on_both_sides_is_one() {
    both_ways(BASE, "write c 9", "write c 9", "c=9 d/ d/a=1 d/b=2");
    both_ways(BASE, "mv d/a z", "mv d/a z", "c=3 d/ d/b=2 z=1");
    both_ways(BASE, "rm c", "rm c", "d/ d/a=1 d/b=2");
    both_ways(BASE, "write n 7", "write n 7", "c=3 d/ d/a=1 d/b=2 n=7");
    both_ways(BASE, "mv d/a z; write z 9", "mv d/a z", "c=3 d/ d/b=2 z=9");
    both_ways(BASE, "symlink t n", "symlink t n", "c=3 d/ d/a=1 d/b=2 n=t");
}

#[test]
fn a_change_that_was_taken_back_is_none() {
    both_ways(BASE, "write c 8; write c 3", "write c 9", "c=9 d/ d/a=1 d/b=2");
    both_ways(BASE, "mv c z; mv z c", "rm c", "d/ d/a=1 d/b=2");
    both_ways(BASE, "chmod 600 c; chmod 644 c", "rm c", "d/ d/a=1 d/b=2");
}

#[test]
fn a_file_that_both_moved_elsewhere_is_a_conflict_at_both_names() {
    each_way(BASE, "mv d/a x", "mv d/a y", ["rename/rename: /x", "rename/rename: /y"]);
    // To one name and as two hard links: each side added a name, neither took the other's away.
    each_way(BASE, "ln d/a x", "ln d/a y", ["c=3 d/ d/a=1 d/b=2 x=1 y=1"; 2]);
}

#[test]
fn two_files_that_were_moved_to_one_name_are_a_conflict() {
    both_ways(BASE, "mv d/a x", "mv d/b x", "rename/rename: /x");
    // Though each side also removed what the other moved.
    each_way(BASE, "rm d/b; mv d/a x", "rm d/a; mv d/b x", ["rename/delete: /x, rename/delete: /x"; 2]);
}

#[test]
fn a_rename_onto_what_the_other_added_is_a_conflict() {
    both_ways(BASE, "mv d/a x", "write x 9", "add/add: /x");
    both_ways(BASE, "mv d/a x", "mkdir x", "directory/file: /x");
    both_ways(BASE, "mv d/a x", "mkdir x; write x/in 1", "directory/file: /x");
}

#[test]
fn a_rename_of_what_the_other_removed_is_a_conflict() {
    both_ways(BASE, "mv d/a x", "rm d/a", "rename/delete: /x");
    // Removed, and another file put where it was moved to.
    each_way(BASE, "mv d/a x", "rm d/a; write x 9", ["rename/delete: /x"; 2]);
}

#[test]
fn chains_and_swaps_of_names_are_exact() {
    // Git cannot follow a name that stands for something else on one side.
    both_ways(BASE, "mv d/a t; mv d/b d/a; mv t d/b", "write d/a 9", "c=3 d/ d/a=2 d/b=9");
    both_ways(BASE, "mv c z; mv d/a c", "write c 9; write d/a 8", "c=8 d/ d/b=2 z=9");
}

#[test]
fn changed_here_and_removed_there_is_a_conflict() {
    both_ways(BASE, "write c 9", "rm c", "modify/delete: /c");
    both_ways(BASE, "chmod 600 c", "rm c", "modify/delete: /c");
    // Where the directory still stands it is asked about too: it cannot go while the file may stay.
    each_way(
        BASE,
        "write d/a 9",
        "rm d/a; rm d/b; rmdir d",
        ["modify/delete: /d/a, modify/delete: /d", "modify/delete: /d/a"],
    );
    both_ways(BASE, "write d/new 9", "rm d/a; rm d/b; rmdir d", "modify/delete: /d");
}

#[test]
fn modes_merge_apart_from_contents() {
    let (w, side) = sides(BASE, "chmod 755 c", "write c 9");
    assert_eq!(outcome(&w, side, MAIN), "c=9 d/ d/a=1 d/b=2");
    assert_eq!(w.tree(MAIN)["c"], "file 755 1 9");
    let (w, side) = sides(BASE, "write c 9", "chmod 755 c");
    assert_eq!(outcome(&w, side, MAIN), "c=9 d/ d/a=1 d/b=2");
    assert_eq!(w.tree(MAIN)["c"], "file 755 1 9");
    let (w, side) = sides(BASE, "chmod 755 c", "chmod 755 c; mv c z");
    assert_eq!(outcome(&w, side, MAIN), "d/ d/a=1 d/b=2 z=3");
    assert_eq!(w.tree(MAIN)["z"], "file 755 1 3");
    both_ways(BASE, "chmod 755 c", "chmod 700 c", "attributes: /c");
    both_ways(BASE, "write n 1; chmod 755 n", "write n 1", "attributes: /n");
    both_ways(BASE, "chmod 700 d", "write d/new 1", "c=3 d/ d/a=1 d/b=2 d/new=1");
}

#[test]
fn a_file_against_a_directory_of_its_name() {
    both_ways(BASE, "write n 1", "mkdir n; write n/in 1", "directory/file: /n");
    // Only one side did anything about the name: its tree it is.
    both_ways(BASE, "rm c; mkdir c; write c/in 1", "write d/a 9", "c/ c/in=1 d/ d/a=9 d/b=2");
    both_ways(BASE, "rm d/a; rm d/b; rmdir d; write d 7", "write c 9", "c=9 d=7");
    // The other changed what was replaced.
    both_ways(BASE, "rm c; mkdir c; write c/in 1", "write c 9", "type: /c");
    both_ways(BASE, "mv d e; write d 7", "write d/new 9", "c=3 d=7 e/ e/a=1 e/b=2 e/new=9");
}

#[test]
fn links_and_files_of_one_name_are_of_different_types() {
    both_ways(BASE, "write n 1", "symlink t n", "add/add: /n");
    both_ways(BASE, "symlink one n", "symlink two n", "add/add: /n");
    both_ways(BASE, "rm c; symlink t c", "write c 9", "type: /c");
    both_ways(BASE, "rm c; symlink t c", "rm c; symlink t c", "c=t d/ d/a=1 d/b=2");
    both_ways(BASE, "rm c; symlink t c", "chmod 600 d", "c=t d/ d/a=1 d/b=2");
}

#[test]
fn directories_are_moved_whole_with_what_the_other_side_put_in() {
    both_ways(BASE, "mv d e", "write d/new 9", "c=3 e/ e/a=1 e/b=2 e/new=9");
    both_ways(BASE, "mv d e", "write d/a 9; rm d/b", "c=3 e/ e/a=9");
    both_ways(BASE, "mv d e", "mv c d/c", "e/ e/a=1 e/b=2 e/c=3");
    both_ways(BASE, "mv d e", "mv d/a a", "a=1 c=3 e/ e/b=2");
    // Moved twice over: the directory here, the directory that it went into there.
    both_ways(
        "mkdir x; mkdir x/d; write x/d/a 1; mkdir z",
        "mv z y",
        "mv x/d z/d; write z/d/new 2",
        "x/ y/ y/d/ y/d/a=1 y/d/new=2",
    );
    each_way(BASE, "mv d e", "mv d f", ["rename/rename: /e", "rename/rename: /f"]);
    both_ways(BASE, "mv d e", "rm d/a; rm d/b; rmdir d", "rename/delete: /e");
    // Files that were moved one by one are not a moved directory, as git guesses: what is new stays where it was put.
    both_ways(BASE, "mkdir e; mv d/a e/a; mv d/b e/b", "write d/new 9", "c=3 d/ d/new=9 e/ e/a=1 e/b=2");
}

#[test]
fn empty_directories_are_things_too() {
    both_ways("mkdir d", "rmdir d", "rmdir d; write n 1", "n=1");
    both_ways("mkdir d", "mkdir d/e", "write n 1", "d/ d/e/ n=1");
    both_ways("mkdir d", "rmdir d", "chmod 700 d", "modify/delete: /d");
    both_ways("mkdir d", "mkdir n", "mkdir n; mkdir n/e", "d/ n/ n/e/");
}

#[test]
fn hard_links_stay_one_file() {
    let base = "write a 1; ln a b";
    both_ways(base, "write a 9", "ln a c", "a=9 b=9 c=9");
    both_ways(base, "rm a", "write b 9", "b=9");
    both_ways(base, "rm a", "rm b; ln a c", "c=1");
    both_ways(base, "mv a x", "mv b y", "x=1 y=1");
}

#[test]
fn a_merge_that_was_undone_does_not_come_back_by_merging_again() {
    let (w, side) = sides(BASE, "", "write c 9; write n 1");
    assert_eq!(outcome(&w, side, MAIN), "c=9 d/ d/a=1 d/b=2 n=1");
    undo::undo(&w.engine, MAIN.branch, undo::UndoTarget::Newest, false, "", &w.caller).unwrap();
    assert_eq!(w.files(MAIN), "c=3 d/ d/a=1 d/b=2");
    assert_eq!(outcome(&w, side, MAIN), "up to date");
    run(&w, side, "write later 1");
    assert_eq!(outcome(&w, side, MAIN), "c=3 d/ d/a=1 d/b=2 later=1");
    // Whoever takes the undo over loses it too, as with git's revert.
    assert_eq!(outcome(&w, MAIN, side), "c=3 d/ d/a=1 d/b=2 later=1");
}

/// Merges each branch, as it was, into the other.
fn cross(w: &World, side: View, strategy: Option<Side>) {
    let (main_then, side_then) = (w.now(), w.at("side@now"));
    for (source, target) in [(side_then, MAIN), (main_then, side)] {
        let options = MergeOptions { strategy, ..MergeOptions::default() };
        let done = merge::merge(&w.engine, source, target.branch, &options, &w.caller).unwrap();
        assert!(matches!(done, MergeOutcome::Merged { .. }), "{done:?}");
    }
}

#[test]
fn criss_cross_merges_go_on_from_what_both_had() {
    let (w, side) = sides(BASE, "write d/a 8; mv c z", "write d/b 9; mkdir n; write n/in 1");
    cross(&w, side, None);
    let merged = "d/ d/a=8 d/b=9 n/ n/in=1 z=3";
    assert_eq!([w.files(MAIN), w.files(side)], [merged, merged]);
    run(&w, MAIN, "write d/a 7; mv n m");
    run(&w, side, "rm z; write n/more 2");
    assert_eq!(outcome(&w, side, MAIN), "d/ d/a=7 d/b=9 m/ m/in=1 m/more=2");
    assert_eq!(outcome(&w, MAIN, side), "d/ d/a=7 d/b=9 m/ m/in=1 m/more=2");
    assert_eq!(outcome(&w, side, MAIN), "up to date");
}

#[test]
fn criss_cross_merges_that_were_resolved_differently_conflict_again() {
    for (one, other, again) in [
        ("write c 8", "write c 9", "content: /c"),
        ("mv c x", "mv c y", "rename/rename: /x"),
        ("write c 8", "rm c", "modify/delete: /c"),
        ("write n 8", "write n 9", "add/add: /n"),
    ] {
        let (w, side) = sides(BASE, one, other);
        let (mine, others) = (w.files(MAIN), w.files(side));
        cross(&w, side, Some(Side::Ours));
        assert_eq!([w.files(MAIN), w.files(side)], [mine, others], "each kept its own");
        assert_eq!(outcome(&w, side, MAIN), again);
    }
}

#[test]
fn criss_cross_merges_that_were_resolved_alike_do_not_conflict() {
    for (one, other, result) in [
        ("write c 8", "write c 9", "write c 7"),
        ("write c 8", "rm c", "save c 7"),
        ("write n 8", "write n 9", "write n 7"),
    ] {
        let (w, side) = sides(BASE, one, other);
        cross(&w, side, Some(Side::Ours));
        for view in [MAIN, side] {
            run(&w, view, result);
        }
        let before = w.files(MAIN);
        let told = outcome(&w, side, MAIN);
        assert!(told == before || told == "up to date", "{told}");
    }
}

#[test]
fn a_resolved_conflict_is_not_asked_about_again() {
    let (w, side) = sides(BASE, "write c 8; mv d/a x", "write c 9; mv d/a y");
    let done = merge::merge(&w.engine, side, MAIN.branch, &MergeOptions::default(), &w.caller).unwrap();
    let MergeOutcome::Conflicted { txn: id, .. } = done else { panic!("{done:?}") };
    merge::resolve(&w.engine, id, b"/c", &Resolve::File(b"89".to_vec()), &w.caller).unwrap();
    merge::resolve(&w.engine, id, b"/y", &Resolve::Theirs, &w.caller).unwrap();
    let row = txn::find(&w.engine, id).unwrap();
    w.commits(&row);
    assert_eq!(w.files(MAIN), "c=89 d/ d/b=2 y=1");
    run(&w, side, "write d/b 7");
    assert_eq!(outcome(&w, side, MAIN), "c=89 d/ d/b=7 y=1");
    assert_eq!(outcome(&w, MAIN, side), "c=89 d/ d/b=7 y=1");
    w.check();
}
