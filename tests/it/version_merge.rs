//! Merges: three-way, by identity.

use stonefs::store::TxnState;
use stonefs::types::{BranchId, View};
use stonefs::version::conflict::{ConflictKind as Kind, Side};
use stonefs::version::merge::{self, MergeOptions, MergeOutcome, Resolve};
use stonefs::version::txn::{self, CommitOutcome};
use stonefs::version::{ErrorKind, branch, restore};

use crate::world::{MAIN, World, kinds};

fn merge_with(w: &World, source: View, target: View, options: &MergeOptions) -> MergeOutcome {
    merge::merge(&w.engine, source, target.branch, options, &w.caller).unwrap()
}

fn merge(w: &World, source: View, target: View) -> MergeOutcome {
    merge_with(w, source, target, &MergeOptions::default())
}

fn clean(w: &World, source: View, target: View) -> String {
    match merge(w, source, target) {
        MergeOutcome::Merged { summary, .. } => summary.to_string(),
        other @ (MergeOutcome::UpToDate | MergeOutcome::Conflicted { .. }) => panic!("{other:?}"),
    }
}

fn conflicts(w: &World, source: View, target: View) -> Vec<(Kind, String)> {
    let before = w.tree(target);
    match merge(w, source, target) {
        MergeOutcome::Conflicted { conflicts, txn } => {
            assert_eq!(w.tree(target), before, "the target is as it was");
            txn::rollback(&w.engine, txn, &w.caller).unwrap();
            kinds(&conflicts)
        }
        other @ (MergeOutcome::UpToDate | MergeOutcome::Merged { .. }) => panic!("{other:?}"),
    }
}

/// A world with `d/a`, `d/b` and `c`, and a branch of it.
fn forked() -> (World, View) {
    let w = World::new();
    w.mkdir(MAIN, "d").unwrap();
    w.write(MAIN, "d/a", "a").unwrap();
    w.write(MAIN, "d/b", "b").unwrap();
    w.write(MAIN, "c", "1\n2\n3\n4\n5\n").unwrap();
    let side = w.branch("side", MAIN);
    (w, side)
}

fn one(kind: Kind, path: &str) -> Vec<(Kind, String)> {
    vec![(kind, path.to_owned())]
}

#[test]
fn changes_of_both_sides_come_together() {
    let (w, side) = forked();
    w.write(side, "d/a", "A").unwrap();
    w.write(side, "new", "n").unwrap();
    w.rm(side, "d/b").unwrap();
    w.chmod(MAIN, "d/a", 0o600).unwrap();
    w.rename(MAIN, "d", "e").unwrap();
    w.write(MAIN, "other", "o").unwrap();
    clean(&w, side, MAIN);
    assert_eq!(w.files(MAIN), "c=1\n2\n3\n4\n5\n e/ e/a=A new=n other=o");
    assert_eq!(w.tree(MAIN)["e/a"], "file 600 1 A");
    assert_eq!(merge(&w, side, MAIN), MergeOutcome::UpToDate);
    w.check();
}

#[test]
fn a_merge_goes_on_from_the_last_one() {
    let (w, side) = forked();
    w.write(side, "d/a", "2").unwrap();
    clean(&w, side, MAIN);
    w.write(MAIN, "d/a", "3").unwrap();
    w.write(side, "new", "n").unwrap();
    clean(&w, side, MAIN);
    assert_eq!(w.read(MAIN, "d/a").unwrap(), "3");
    clean(&w, MAIN, side);
    assert_eq!(w.tree(side), w.tree(MAIN));
    w.write(side, "d/a", "4").unwrap();
    clean(&w, side, MAIN);
    assert_eq!(w.read(MAIN, "d/a").unwrap(), "4");
    w.check();
}

#[test]
fn a_file_saved_by_renaming_over_it_is_its_successor() {
    let (w, side) = forked();
    w.save(side, "d/a", "A").unwrap();
    w.save(side, "d/a", "AA").unwrap();
    w.rename(MAIN, "d/a", "moved").unwrap();
    w.chmod(MAIN, "moved", 0o600).unwrap();
    clean(&w, side, MAIN);
    assert_eq!(w.tree(MAIN)["moved"], "file 600 1 AA");
    assert!(w.ino(MAIN, "d/a").is_err());
    // And again, though the two now have different inodes.
    w.save(side, "d/a", "AAA").unwrap();
    clean(&w, side, MAIN);
    assert_eq!(w.read(MAIN, "moved").unwrap(), "AAA");
    w.save(side, "d/a", "side").unwrap();
    w.save(MAIN, "moved", "main").unwrap();
    assert_eq!(conflicts(&w, side, MAIN), one(Kind::Content, "/moved"));
    w.check();
}

#[test]
fn new_directories_of_one_name_merge_and_stay_merged() {
    let (w, side) = forked();
    for (view, name) in [(MAIN, "m"), (side, "s")] {
        w.mkdir(view, "n").unwrap();
        w.mkdir(view, "n/sub").unwrap();
        w.write(view, &format!("n/sub/{name}"), name).unwrap();
        w.write(view, "n/same", "same").unwrap();
    }
    clean(&w, side, MAIN);
    assert_eq!(w.files(MAIN), "c=1\n2\n3\n4\n5\n d/ d/a=a d/b=b n/ n/same=same n/sub/ n/sub/m=m n/sub/s=s");
    assert_eq!(w.tree(MAIN)["n"], "dir 755 3 ");
    w.write(side, "n/sub/later", "l").unwrap();
    w.write(side, "n/same", "changed").unwrap();
    w.rm(side, "n/sub/s").unwrap();
    clean(&w, side, MAIN);
    assert_eq!(w.files(MAIN), "c=1\n2\n3\n4\n5\n d/ d/a=a d/b=b n/ n/same=changed n/sub/ n/sub/later=l n/sub/m=m");
    w.check();
}

#[test]
fn every_kind_of_conflict_is_told() {
    let (w, side) = forked();
    w.write(side, "d/a", "s").unwrap();
    w.write(MAIN, "d/a", "m").unwrap();
    assert_eq!(conflicts(&w, side, MAIN), one(Kind::Content, "/d/a"));

    let (w, side) = forked();
    w.write(side, "x", "s").unwrap();
    w.write(MAIN, "x", "m").unwrap();
    assert_eq!(conflicts(&w, side, MAIN), one(Kind::AddAdd, "/x"));

    let (w, side) = forked();
    w.write(side, "d/a", "s").unwrap();
    w.rm(MAIN, "d/a").unwrap();
    assert_eq!(conflicts(&w, side, MAIN), one(Kind::ModifyDelete, "/d/a"));
    assert_eq!(conflicts(&w, MAIN, side), one(Kind::ModifyDelete, "/d/a"));

    let (w, side) = forked();
    w.rename(side, "d/a", "z").unwrap();
    w.rm(MAIN, "d/a").unwrap();
    assert_eq!(conflicts(&w, side, MAIN), one(Kind::RenameDelete, "/z"));
    assert_eq!(conflicts(&w, MAIN, side), one(Kind::RenameDelete, "/z"));

    let (w, side) = forked();
    w.rename(side, "d/a", "s").unwrap();
    w.rename(MAIN, "d/a", "m").unwrap();
    assert_eq!(conflicts(&w, side, MAIN), one(Kind::RenameRename, "/m"));

    let (w, side) = forked();
    w.rename(side, "d/a", "x").unwrap();
    w.rename(MAIN, "d/b", "x").unwrap();
    assert_eq!(conflicts(&w, side, MAIN), one(Kind::RenameRename, "/x"));

    let (w, side) = forked();
    w.write(side, "x", "s").unwrap();
    w.mkdir(MAIN, "x").unwrap();
    assert_eq!(conflicts(&w, side, MAIN), one(Kind::DirectoryFile, "/x"));
    assert_eq!(conflicts(&w, MAIN, side), one(Kind::DirectoryFile, "/x"));

    let (w, side) = forked();
    w.rm(side, "d/a").unwrap();
    w.symlink(side, "b", "d/a").unwrap();
    w.write(MAIN, "d/a", "m").unwrap();
    assert_eq!(conflicts(&w, side, MAIN), one(Kind::Type, "/d/a"));
    assert_eq!(conflicts(&w, MAIN, side), one(Kind::Type, "/d/a"));

    let (w, side) = forked();
    w.chmod(side, "d/a", 0o600).unwrap();
    w.chmod(MAIN, "d/a", 0o640).unwrap();
    assert_eq!(conflicts(&w, side, MAIN), one(Kind::Attributes, "/d/a"));

    let (w, side) = forked();
    w.mkdir(MAIN, "e").unwrap();
    let side2 = w.branch("side2", MAIN);
    w.rename(side2, "d", "e/d").unwrap();
    w.rename(MAIN, "e", "d/e").unwrap();
    assert_eq!(conflicts(&w, side2, MAIN), one(Kind::DirectoryCycle, "/d"));

    w.rm(side, "d/a").unwrap();
    w.rm(side, "d/b").unwrap();
    w.rmdir(side, "d").unwrap();
    assert_eq!(conflicts(&w, side, MAIN), one(Kind::ModifyDelete, "/d"), "d has e in it now");
    w.check();
}

#[test]
fn a_removed_directory_with_something_new_in_it_is_a_conflict_on_both_sides() {
    let (w, side) = forked();
    for name in ["d/a", "d/b"] {
        w.rm(side, name).unwrap();
    }
    w.rmdir(side, "d").unwrap();
    w.write(MAIN, "d/new", "n").unwrap();
    assert_eq!(conflicts(&w, side, MAIN), one(Kind::ModifyDelete, "/d"));
    assert_eq!(conflicts(&w, MAIN, side), one(Kind::ModifyDelete, "/d"));
    for (take, files) in [(Side::Ours, "c=1\n2\n3\n4\n5\n"), (Side::Theirs, "c=1\n2\n3\n4\n5\n d/ d/new=n")] {
        let copy = w.branch(if take == Side::Ours { "o" } else { "t" }, side);
        let options = MergeOptions { strategy: Some(take), ..MergeOptions::default() };
        let outcome = merge_with(&w, MAIN, copy, &options);
        assert!(matches!(outcome, MergeOutcome::Merged { .. }), "{outcome:?}");
        assert_eq!(w.files(copy), files);
    }
    w.check();
}

#[test]
fn conflicts_wait_in_a_transaction_until_they_are_resolved() {
    let (w, side) = forked();
    for (view, text) in [(side, "s"), (MAIN, "m")] {
        w.write(view, "d/a", text).unwrap();
        w.write(view, "x", text).unwrap();
        w.chmod(view, "d/b", if text == "s" { 0o600 } else { 0o640 }).unwrap();
    }
    w.write(side, "fine", "f").unwrap();
    w.rm(MAIN, "c").unwrap();
    w.write(side, "c", "changed").unwrap();
    let MergeOutcome::Conflicted { txn: id, conflicts } = merge(&w, side, MAIN) else { panic!() };
    assert_eq!(conflicts.len(), 4, "{conflicts:?}");
    let row = txn::find(&w.engine, id).unwrap();
    assert_eq!(row.state, TxnState::Conflicted);
    let tx = txn::view(&row);
    assert_eq!(w.read(tx, "fine").unwrap(), "f");
    assert!(matches!(w.commit(&row), CommitOutcome::Conflicted { conflicts, .. } if conflicts.len() == 4));
    let resolve = |path: &str, how: Resolve| merge::resolve(&w.engine, id, path.as_bytes(), &how, &w.caller);
    assert_eq!(resolve("/nowhere", Resolve::Ours).unwrap_err().kind, ErrorKind::NotFound);
    resolve("/d/a", Resolve::Theirs).unwrap();
    resolve("/d/b", Resolve::Ours).unwrap();
    resolve("/x", Resolve::File(b"both".to_vec())).unwrap();
    let left = resolve("/c", Resolve::Theirs).unwrap();
    assert!(left.iter().all(|conflict| conflict.resolved.is_some()), "{left:?}");
    let [base, ours, theirs] = merge::conflict_views(&w.engine, id).unwrap();
    let text = |view: View| w.read(view, "d/a").unwrap();
    assert_eq!([text(base), text(ours), text(theirs)], ["a", "m", "s"]);
    assert!(matches!(w.commit(&row), CommitOutcome::Committed { .. }));
    assert_eq!(w.files(MAIN), "c=changed d/ d/a=s d/b=b fine=f x=both");
    assert_eq!(w.tree(MAIN)["d/b"], "file 640 1 b");
    assert_eq!(merge(&w, side, MAIN), MergeOutcome::UpToDate, "the merge is recorded");
    w.check();
}

#[test]
fn a_resolution_is_one_step_and_the_same_again_writes_nothing() {
    let (w, side) = forked();
    w.write(side, "c", "s").unwrap();
    w.rm(MAIN, "c").unwrap();
    let MergeOutcome::Conflicted { txn: id, .. } = merge(&w, side, MAIN) else { panic!() };
    let tx = txn::view(&txn::find(&w.engine, id).unwrap());
    let resolve = || merge::resolve(&w.engine, id, b"/c", &Resolve::Theirs, &w.caller).unwrap();
    let before = w.engine.point().0;
    resolve();
    assert_eq!(w.engine.point().0, before.next(), "a crash leaves all of it or nothing");
    // Somebody who goes on from here is not disturbed by the same decision once more.
    let inner = w.begin_on(tx.branch);
    w.rm(txn::view(&inner), "c").unwrap();
    resolve();
    w.commits(&inner);
    assert!(w.ino(tx, "c").is_err());
    w.check();
}

#[test]
fn a_strategy_decides_everything() {
    for take in [Side::Ours, Side::Theirs] {
        let (w, side) = forked();
        w.write(side, "d/a", "s").unwrap();
        w.write(MAIN, "d/a", "m").unwrap();
        w.mkdir(side, "x").unwrap();
        w.write(side, "x/in", "s").unwrap();
        w.write(MAIN, "x", "m").unwrap();
        w.rename(side, "d/b", "s").unwrap();
        w.rename(MAIN, "d/b", "m").unwrap();
        let options = MergeOptions { strategy: Some(take), ..MergeOptions::default() };
        let outcome = merge_with(&w, side, MAIN, &options);
        let MergeOutcome::Merged { decided, .. } = outcome else { panic!("{outcome:?}") };
        assert_eq!(decided.len(), 3, "{decided:?}");
        let c = "c=1\n2\n3\n4\n5\n d/";
        let wanted = match take {
            Side::Ours => format!("{c} d/a=m m=b x=m"),
            Side::Theirs => format!("{c} d/a=s s=b x/ x/in=s"),
        };
        assert_eq!(w.files(MAIN), wanted);
        w.check();
    }
}

#[test]
fn lines_merge_where_that_was_asked_for() {
    let (w, side) = forked();
    w.write(side, "c", "1\n2\n3\n4\nfive\n").unwrap();
    w.write(MAIN, "c", "one\n2\n3\n4\n5\n").unwrap();
    assert_eq!(conflicts(&w, side, MAIN), one(Kind::Content, "/c"));
    let outcome = merge_with(&w, side, MAIN, &MergeOptions { text: true, ..MergeOptions::default() });
    assert!(matches!(outcome, MergeOutcome::Merged { .. }), "{outcome:?}");
    assert_eq!(w.read(MAIN, "c").unwrap(), "one\n2\n3\n4\nfive\n");
    w.check();
}

#[test]
fn criss_cross_merges_find_a_virtual_base() {
    let (w, side) = forked();
    w.write(MAIN, "m", "1").unwrap();
    w.write(side, "s", "1").unwrap();
    let (main_then, side_then) = (w.now(), w.at("side@now"));
    merge::merge(&w.engine, side_then, MAIN.branch, &MergeOptions::default(), &w.caller).unwrap();
    merge::merge(&w.engine, main_then, side.branch, &MergeOptions::default(), &w.caller).unwrap();
    assert_eq!(w.tree(MAIN), w.tree(side));
    w.write(MAIN, "m", "2").unwrap();
    w.write(side, "s", "2").unwrap();
    w.rm(side, "d/a").unwrap();
    clean(&w, side, MAIN);
    assert_eq!(w.files(MAIN), "c=1\n2\n3\n4\n5\n d/ d/b=b m=2 s=2");
    w.check();
}

#[test]
fn branches_are_guarded_names() {
    let (w, side) = forked();
    let create = |name: &str| branch::create(&w.engine, name.as_bytes(), MAIN, &w.caller).map_err(|e| e.kind);
    assert_eq!(create("side").unwrap_err(), ErrorKind::Exists);
    assert_eq!(create("e12").unwrap_err(), ErrorKind::BadName);
    let drop = |name: &str, force| {
        branch::drop(&w.engine, name.as_bytes(), force, &[BranchId::MAIN], &w.caller).map_err(|e| e.kind)
    };
    assert_eq!(drop("main", true).unwrap_err(), ErrorKind::InUse);
    assert_eq!(drop("nobody", true).unwrap_err(), ErrorKind::NotFound);
    w.write(side, "x", "1").unwrap();
    assert_eq!(drop("side", false).unwrap_err(), ErrorKind::Unmerged);
    clean(&w, side, MAIN);
    w.branch("child", side);
    assert_eq!(drop("side", false).unwrap_err(), ErrorKind::InUse);
    drop("child", false).unwrap();
    branch::rename(&w.engine, b"side", b"other", &w.caller).unwrap();
    drop("other", false).unwrap();
    let names: Vec<String> = branch::list(&w.engine).iter().map(|info| info.name.to_string()).collect();
    assert_eq!(names, ["main"]);
    create("side").unwrap();
    branch::tag(&w.engine, b"v1", MAIN, "first", w.engine.point().1, &w.caller).unwrap();
    assert_eq!(create("v1").unwrap_err(), ErrorKind::Exists);
    assert_eq!(branch::tags(&w.engine).len(), 1);
    branch::remove_tag(&w.engine, b"v1", &w.caller).unwrap();
    assert_eq!(branch::remove_tag(&w.engine, b"v1", &w.caller).unwrap_err().kind, ErrorKind::NotFound);
}

#[test]
fn a_branch_that_a_transaction_merged_twice_is_merged_once_up_to_the_last_point() {
    let w = World::new();
    w.write(MAIN, "f", "1").unwrap();
    let side = w.branch("side", MAIN);
    let (row, tx) = w.begin();
    for text in ["2", "3"] {
        w.write(side, "g", text).unwrap();
        merge_with(&w, side, tx, &MergeOptions::default());
    }
    w.commits(&row);
    assert_eq!(w.read(MAIN, "g").unwrap(), "3");
    w.write(side, "g", "4").unwrap();
    merge_with(&w, side, MAIN, &MergeOptions::default());
    assert_eq!(w.read(MAIN, "g").unwrap(), "4");
    w.engine.sync().unwrap();
    let proof = stonefs::audit::verify(w.engine.store().read().unwrap().as_ref()).unwrap();
    assert!(proof.findings.is_empty(), "{:#?}", proof.findings);
}

fn strategy(w: &World, source: View, target: View, take: Side) -> String {
    let options = MergeOptions { strategy: Some(take), ..MergeOptions::default() };
    let outcome = merge_with(w, source, target, &options);
    assert!(matches!(outcome, MergeOutcome::Merged { .. }), "{outcome:?}");
    w.check();
    w.files(target)
}

fn bring(w: &World, target: View, path: &str, from: View) {
    restore::restore(&w.engine, target.branch, path.as_bytes(), from, "", &w.caller).unwrap();
}

#[test]
fn a_file_that_is_brought_back_beside_its_successor_is_another_file_again() {
    let w = World::new();
    w.write(MAIN, "f", "old").unwrap();
    let (side, other, then) = (w.branch("side", MAIN), w.branch("other", MAIN), w.now());
    w.save(side, "f", "new").unwrap();
    clean(&w, side, other);
    w.rename(side, "f", "moved").unwrap();
    bring(&w, side, "f", then);
    assert_eq!(w.files(side), "f=old moved=new");
    clean(&w, side, MAIN);
    assert_eq!(w.files(MAIN), "f=old moved=new", "though a merge has seen that one replaced the other");
    w.check();
}

#[test]
fn a_file_that_both_have_from_elsewhere_is_no_successor_on_one_side_only() {
    let w = World::new();
    w.write(MAIN, "f", "old").unwrap();
    let (side, third) = (w.branch("side", MAIN), w.branch("third", MAIN));
    w.write(third, "new", "n").unwrap();
    bring(&w, side, "new", third);
    bring(&w, MAIN, "new", third);
    w.rename(side, "new", "f").unwrap();
    w.write(side, "f", "changed").unwrap();
    // Ours has both files, so the one that replaced the other is a change of itself, in conflict with nothing else.
    assert_eq!(conflicts(&w, side, MAIN), one(Kind::AddAdd, "/new"));
    assert_eq!(strategy(&w, side, MAIN, Side::Theirs), "f=changed new=changed");
}

#[test]
fn names_of_a_file_that_both_added_merge_whoever_wins_its_content() {
    for (take, files) in [(Side::Ours, "x=9 y=9"), (Side::Theirs, "x=1 y=1")] {
        let w = World::new();
        let side = w.branch("side", MAIN);
        w.write(MAIN, "x", "1").unwrap();
        bring(&w, side, "x", w.now());
        w.rename(side, "x", "y").unwrap();
        w.write(MAIN, "x", "9").unwrap();
        assert_eq!(strategy(&w, side, MAIN, take), files);
        assert_eq!(w.ino(MAIN, "x").unwrap(), w.ino(MAIN, "y").unwrap());
    }
}

#[test]
fn a_file_that_was_moved_onto_an_added_one_is_there_where_its_side_wins() {
    for (take, files) in [(Side::Ours, "a=1 b=2"), (Side::Theirs, "b=1")] {
        let w = World::new();
        w.write(MAIN, "a", "1").unwrap();
        let side = w.branch("side", MAIN);
        w.write(MAIN, "b", "2").unwrap();
        w.rename(side, "a", "b").unwrap();
        assert_eq!(strategy(&w, side, MAIN, take), files);
    }
}

#[test]
fn what_was_added_where_a_changed_file_was_moved_is_not_lost() {
    for (take, files) in [(Side::Ours, "g=2"), (Side::Theirs, "f=3 g=new")] {
        let w = World::new();
        w.write(MAIN, "f", "1").unwrap();
        let side = w.branch("side", MAIN);
        w.rename(MAIN, "f", "g").unwrap();
        w.write(MAIN, "g", "2").unwrap();
        w.write(side, "f", "3").unwrap();
        w.write(side, "g", "new").unwrap();
        assert_eq!(conflicts(&w, side, MAIN), [(Kind::Content, "/g".to_owned()), (Kind::AddAdd, "/g".to_owned())]);
        assert_eq!(strategy(&w, side, MAIN, take), files);
    }
}

#[test]
fn a_name_that_only_what_is_removed_stood_at_costs_no_other_name() {
    let w = World::new();
    w.write(MAIN, "gone", "g").unwrap();
    let side = w.branch("side", MAIN);
    w.write(MAIN, "a", "1").unwrap();
    bring(&w, side, "a", w.now());
    w.rename(side, "a", "d").unwrap();
    w.rm(side, "gone").unwrap();
    w.rename(MAIN, "gone", "d").unwrap();
    assert_eq!(conflicts(&w, side, MAIN), one(Kind::RenameDelete, "/d"));
    assert_eq!(strategy(&w, side, MAIN, Side::Theirs), "a=1 d=1", "one file, with the names of both sides");
}

#[test]
fn what_is_resolved_as_ours_is_ours_though_it_was_changed_by_hand() {
    let (w, side) = forked();
    w.write(side, "d/a", "s").unwrap();
    w.write(MAIN, "d/a", "m").unwrap();
    let MergeOutcome::Conflicted { txn: id, .. } = merge(&w, side, MAIN) else { panic!() };
    let row = txn::find(&w.engine, id).unwrap();
    w.write(txn::view(&row), "d/a", "by hand").unwrap();
    merge::resolve(&w.engine, id, b"/d/a", &Resolve::Ours, &w.caller).unwrap();
    assert_eq!(w.read(txn::view(&row), "d/a").unwrap(), "m");
    w.check();
}

#[test]
fn a_copy_that_a_restore_makes_is_no_successor() {
    let w = World::new();
    w.write(MAIN, "f", "old").unwrap();
    let side = w.branch("side", MAIN);
    w.save(side, "f", "new").unwrap();
    w.link(side, "f", "twin").unwrap();
    let then = w.at("side@now");
    w.rm(side, "twin").unwrap();
    w.rename(side, "f", "moved").unwrap();
    bring(&w, side, "twin", then);
    let copied = w.ino(side, "twin").unwrap();
    assert_ne!(copied, w.ino(side, "moved").unwrap(), "the file has its name elsewhere");
    let read = w.engine.store().read().unwrap();
    assert_eq!(read.inode(&w.engine.lineage(side).unwrap(), copied).unwrap().unwrap().predecessor, None);
}
