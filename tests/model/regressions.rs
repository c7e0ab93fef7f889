//! Shrunk failures, each under the name of what was wrong.

use crate::harness::{Memory, run};
use crate::operation::Operation::{self, *};
use crate::operation::{Place, Target};

/// Runs under both bounds of memory.
fn check(operations: &[Operation]) {
    for memory in [Memory::Ample, Memory::Little] {
        if let Err(error) = run(memory, operations) {
            panic!("with {memory:?} memory: {error}");
        }
    }
}

const fn at(dir: u8, name: u8) -> Place {
    Place { branch: 0, dir, name }
}

const fn on(node: u8) -> Target {
    Target { branch: 0, node }
}

const fn create(dir: u8, name: u8) -> Operation {
    Create { at: at(dir, name), mode: 0o644, umask: 0o022, flags: 0, who: 0 }
}

const fn write(handle: u8, offset: u8, length: u8, seed: u8) -> Operation {
    Write { handle, offset, length, seed, kill_suid: false, who: 0 }
}

#[test]
fn regression_only_devices_have_a_device_number() {
    check(&[Mknod { at: at(0, 0), kind: 0, mode: 0o644, umask: 0, rdev: 1, who: 0 }]);
}

#[test]
fn regression_truncation_by_path_is_no_part_of_an_openers_writes() {
    check(&[
        create(0, 0),
        Fallocate { handle: 0, offset: 0, length: 1, mode: 2, who: 2 },
        Truncate { on: on(0), size: 0, who: 2 },
    ]);
}

#[test]
fn regression_a_handle_that_appends_ignores_the_offset() {
    check(&[
        Create { at: at(0, 0), mode: 0o644, umask: 0o022, flags: 4, who: 0 },
        write(0, 0, 3, 7),
        write(0, 0, 3, 9),
        Check,
    ]);
}

#[test]
fn regression_what_fallocate_changes_is_sealed_at_the_last_close() {
    check(&[
        create(0, 0),
        write(0, 0, 7, 1),
        Fsync { handle: 0 },
        Fallocate { handle: 0, offset: 1, length: 2, mode: 2, who: 0 },
        Release { handle: 0 },
        Mkdir { at: at(0, 1), mode: 0o755, umask: 0, who: 0 },
        ReadPast { branch: 0, back: 0 },
        ReadPast { branch: 0, back: 2 },
    ]);
}

#[test]
fn regression_copies_and_changes_of_owner_take_capabilities_away() {
    check(&[
        create(0, 0),
        Setxattr { on: on(1), name: 2, value: 2, mode: 0 },
        write(0, 0, 3, 7),
        Check,
        Setxattr { on: on(1), name: 2, value: 2, mode: 0 },
        Chown { on: on(1), uid: Some(1), gid: None, who: 0 },
        Check,
    ]);
}

#[test]
fn regression_copies_stay_within_one_view() {
    check(&[
        create(0, 0),
        write(0, 0, 3, 7),
        Fork { branch: 0, back: None, name: 1 },
        Open { on: Target { branch: 1, node: 0 }, flags: 0, who: 0 },
        Copy { from: 0, from_offset: 0, to: 1, to_offset: 0, length: 2, who: 0 },
        Check,
    ]);
}

#[test]
fn regression_what_a_rollback_brings_back_outlives_those_who_have_it_open() {
    check(&[
        create(0, 0),
        Save { at: at(4, 160), length: 7, seed: 52 },
        RollbackTo { branch: 0, from: Some(3), back: 1 },
        Release { handle: 3 },
        Reopen,
    ]);
}

#[test]
fn regression_an_attribute_set_right_after_a_creation_is_a_change_of_its_own() {
    check(&[
        create(0, 1),
        SetAcl { on: on(1), default: false, perms: 0, named: Some(0), broken: false },
        Undo { branch: 0, what: 0, back: 1, force: false },
        Check,
    ]);
}

#[test]
fn regression_a_strategy_decides_what_deciding_brings_about() {
    let branched = |branch, dir, name| Place { branch, dir, name };
    check(&[
        Fork { branch: 2, back: None, name: 4 },
        Mkdir { at: branched(1, 2, 129), mode: 420, umask: 18, who: 2 },
        Create { at: branched(0, 5, 4), mode: 416, umask: 0, flags: 1, who: 0 },
        Merge { from: 1, back: None, into: 2, strategy: 4, keep: true },
        Save { at: branched(1, 1, 4), length: 2, seed: 30 },
        Merge { from: 0, back: Some(3), into: 1, strategy: 5, keep: false },
        Check,
    ]);
}

#[test]
fn regression_an_undo_leaves_what_was_restored_meanwhile_as_it_is() {
    check(&[
        Mknod { at: at(0, 3), kind: 3, mode: 420, umask: 23, rdev: 657, who: 1 },
        Setxattr { on: on(1), name: 0, value: 5, mode: 0 },
        Restore { on: on(0), from: None, back: 3 },
        Restore { on: on(1), from: None, back: 2 },
        Undo { branch: 0, what: 2, back: 1, force: false },
        Check,
    ]);
}

#[test]
fn regression_half_a_merge_does_not_outlive_a_crash() {
    let other = |branch| Target { branch, node: 0 };
    check(&[
        create(0, 0),
        Fork { branch: 0, back: None, name: 1 },
        Chmod { on: other(0), mode: 0o711, who: 0 },
        Chmod { on: other(1), mode: 0o700, who: 0 },
        Sync,
        Merge { from: 1, back: None, into: 0, strategy: 0, keep: true },
        Crash,
        Check,
    ]);
}

#[test]
fn regression_two_files_that_a_merge_took_for_one_are_two_where_both_are() {
    check(&[
        Mkdir { at: Place { branch: 0, dir: 0, name: 139 }, mode: 416, umask: 0, who: 1 },
        Create { at: Place { branch: 1, dir: 5, name: 1 }, mode: 420, umask: 0, flags: 6, who: 0 },
        Fork { branch: 3, back: None, name: 4 },
        Mkdir { at: Place { branch: 0, dir: 2, name: 138 }, mode: 416, umask: 18, who: 1 },
        Mkdir { at: Place { branch: 3, dir: 4, name: 2 }, mode: 420, umask: 23, who: 2 },
        Create { at: Place { branch: 0, dir: 0, name: 2 }, mode: 1592, umask: 18, flags: 5, who: 1 },
        Create { at: Place { branch: 0, dir: 3, name: 156 }, mode: 416, umask: 23, flags: 7, who: 2 },
        Begin { branch: 0, run: false, serializable: true },
        Rename { from: Place { branch: 0, dir: 1, name: 166 }, to: Place { branch: 0, dir: 5, name: 162 }, mode: 0 },
        Fork { branch: 0, back: Some(85), name: 2 },
        Merge { from: 1, back: None, into: 0, strategy: 5, keep: false },
        Merge { from: 3, back: None, into: 2, strategy: 0, keep: false },
    ]);
}

#[test]
fn regression_a_file_that_both_have_succeeds_none_that_one_has_moved() {
    check(&[
        Create { at: Place { branch: 0, dir: 4, name: 155 }, mode: 493, umask: 0, flags: 1, who: 0 },
        Create { at: Place { branch: 0, dir: 2, name: 1 }, mode: 511, umask: 18, flags: 2, who: 0 },
        Create { at: Place { branch: 0, dir: 3, name: 144 }, mode: 1432, umask: 0, flags: 1, who: 1 },
        Unlink { at: Place { branch: 0, dir: 3, name: 160 } },
        Write { handle: 5, offset: 0, length: 3, seed: 162, kill_suid: false, who: 1 },
        Link { from: Target { branch: 0, node: 1 }, at: Place { branch: 0, dir: 1, name: 2 } },
        ReadPast { branch: 3, back: 68 },
        Begin { branch: 0, run: false, serializable: false },
        Restore { on: Target { branch: 1, node: 15 }, from: Some(2), back: 7 },
        Begin { branch: 1, run: false, serializable: false },
        Rename { from: Place { branch: 0, dir: 1, name: 167 }, to: Place { branch: 0, dir: 4, name: 4 }, mode: 1 },
        Mknod { at: Place { branch: 0, dir: 0, name: 146 }, kind: 0, mode: 420, umask: 18, rdev: 570, who: 1 },
        Rename { from: Place { branch: 0, dir: 0, name: 134 }, to: Place { branch: 1, dir: 2, name: 137 }, mode: 4 },
        Merge { from: 3, back: None, into: 4, strategy: 3, keep: true },
        Symlink { at: Place { branch: 0, dir: 4, name: 153 }, length: 15, who: 1 },
        Rename { from: Place { branch: 0, dir: 3, name: 153 }, to: Place { branch: 0, dir: 2, name: 131 }, mode: 1 },
        Merge { from: 4, back: None, into: 3, strategy: 3, keep: true },
    ]);
}

#[test]
fn regression_what_was_removed_by_hand_has_nothing_to_be_resolved() {
    check(&[
        Fork { branch: 0, back: Some(90), name: 2 },
        Create { at: Place { branch: 3, dir: 4, name: 145 }, mode: 3161, umask: 23, flags: 5, who: 0 },
        Unlink { at: Place { branch: 0, dir: 5, name: 138 } },
        Create { at: Place { branch: 2, dir: 1, name: 0 }, mode: 511, umask: 0, flags: 3, who: 1 },
        Merge { from: 1, back: None, into: 1, strategy: 1, keep: true },
        Seal { branch: None },
        Rename { from: Place { branch: 0, dir: 4, name: 157 }, to: Place { branch: 0, dir: 5, name: 145 }, mode: 0 },
        Merge { from: 2, back: None, into: 3, strategy: 4, keep: false },
        Setxattr { on: Target { branch: 1, node: 4 }, name: 4, value: 4, mode: 2 },
        Merge { from: 1, back: Some(9), into: 2, strategy: 1, keep: true },
        Unlink { at: Place { branch: 0, dir: 2, name: 129 } },
        Merge { from: 0, back: Some(0), into: 2, strategy: 0, keep: true },
        Resolve { txn: 0, conflict: 69, all: false, how: 2 },
    ]);
}

#[test]
fn regression_a_commit_brings_nothing_back_that_was_merged_and_has_been_undone_since() {
    check(&[
        Begin { branch: 0, run: false, serializable: true },
        create(0, 3),
        Merge { from: 0, back: None, into: 1, strategy: 0, keep: false },
        Undo { branch: 0, what: 0, back: 0, force: false },
        Commit { txn: 0 },
        Check,
    ]);
}

#[test]
fn regression_each_resolution_is_a_step_of_its_own() {
    let other = |node| Target { branch: 1, node };
    check(&[
        create(0, 0),
        create(0, 1),
        Fork { branch: 0, back: None, name: 1 },
        Chmod { on: on(1), mode: 0o711, who: 0 },
        Chmod { on: on(2), mode: 0o711, who: 0 },
        Chmod { on: other(1), mode: 0o700, who: 0 },
        Chmod { on: other(2), mode: 0o700, who: 0 },
        Merge { from: 1, back: None, into: 0, strategy: 0, keep: true },
        Resolve { txn: 0, conflict: 0, all: true, how: 3 },
        Crash,
        Check,
    ]);
}

#[test]
fn regression_a_rollback_brings_times_back_that_were_set_to_the_present() {
    check(&[
        create(0, 4),
        Sync,
        Tick { nanos: 1 },
        Utimens { on: on(1), atime: None, mtime: Some(-1) },
        RollbackTo { branch: 0, from: None, back: 2 },
        Check,
        Tick { nanos: 1 },
        Utimens { on: on(1), atime: Some(-1), mtime: Some(-1) },
        Restore { on: on(1), from: None, back: 2 },
        Check,
    ]);
}

#[test]
fn regression_a_restored_file_keeps_its_hard_links_though_it_has_one_elsewhere() {
    check(&[
        Mkdir { at: at(0, 0), mode: 0o755, umask: 0, who: 0 },
        create(1, 2),
        Link { from: on(2), at: at(1, 0) },
        Sync,
        Unlink { at: at(1, 0) },
        Link { from: on(2), at: at(0, 1) },
        Restore { on: on(1), from: None, back: 3 },
        Check,
    ]);
}

#[test]
fn regression_what_was_only_open_is_in_no_past_state_and_in_no_fork() {
    check(&[
        create(0, 0),
        Unlink { at: at(0, 0) },
        Fork { branch: 0, back: None, name: 1 },
        RollbackTo { branch: 0, from: None, back: 3 },
        RollbackTo { branch: 1, from: Some(0), back: 0 },
        OpenPast { on: on(1), back: 4 },
        OpenPast { on: Target { branch: 1, node: 0 }, back: 2 },
        OpenPast { on: Target { branch: 1, node: 0 }, back: 3 },
        Check,
    ]);
}

#[test]
fn regression_a_directory_that_comes_back_has_no_content_that_was_written() {
    check(&[
        Mkdir { at: at(0, 0), mode: 0o755, umask: 0, who: 0 },
        Begin { branch: 0, run: false, serializable: false },
        Undo { branch: 1, what: 3, back: 3, force: false },
        Rmdir { at: at(0, 0) },
        Redo { branch: 1, force: false },
        Commit { txn: 0 },
        Check,
    ]);
    check(&[
        Mkdir { at: at(0, 0), mode: 0o755, umask: 0, who: 0 },
        Begin { branch: 0, run: false, serializable: false },
        Undo { branch: 0, what: 0, back: 0, force: false },
        Rmdir { at: Place { branch: 1, dir: 0, name: 0 } },
        Redo { branch: 0, force: false },
        Commit { txn: 0 },
        Check,
    ]);
}

#[test]
fn regression_attributes_of_what_a_commit_leaves_without_a_name_go_with_it() {
    let inner = |node| Target { branch: 1, node };
    check(&[
        create(0, 0),
        Link { from: on(1), at: at(0, 1) },
        Begin { branch: 0, run: false, serializable: false },
        Chmod { on: inner(1), mode: 0o600, who: 0 },
        Unlink { at: at(0, 0) },
        Unlink { at: Place { branch: 1, dir: 0, name: 1 } },
        Commit { txn: 0 },
        Check,
    ]);
}

#[test]
fn regression_each_part_of_a_copy_takes_capabilities_away() {
    check(&[
        create(0, 1),
        Setxattr { on: on(1), name: 2, value: 1, mode: 0 },
        Save { at: at(0, 2), length: 2, seed: 116 },
        Open { on: on(2), flags: 3, who: 1 },
        write(1, 4, 9, 33),
        Copy { from: 1, from_offset: 12, to: 0, to_offset: 17, length: 9, who: 1 },
        Crash,
        Check,
    ]);
}

#[test]
fn regression_a_file_that_was_saved_on_the_branch_and_merged_is_no_change_of_a_transaction() {
    check(&[
        create(0, 1),
        Begin { branch: 0, run: false, serializable: false },
        Save { at: at(0, 1), length: 6, seed: 163 },
        Merge { from: 0, back: None, into: 1, strategy: 0, keep: false },
        Save { at: at(0, 1), length: 5, seed: 7 },
        Commit { txn: 0 },
        Check,
    ]);
}

#[test]
fn regression_a_transaction_brings_back_a_file_that_is_open_without_a_name() {
    check(&[
        create(0, 0),
        Unlink { at: at(0, 0) },
        Begin { branch: 0, run: false, serializable: false },
        Restore { on: on(1), from: None, back: 0 },
        RollbackTo { branch: 1, from: Some(0), back: 3 },
        Commit { txn: 0 },
        Check,
    ]);
}

#[test]
fn regression_a_resolution_can_be_taken_back() {
    let other = |node| Target { branch: 1, node };
    check(&[
        create(0, 0),
        Fork { branch: 0, back: None, name: 1 },
        Chmod { on: on(1), mode: 0o711, who: 0 },
        Chmod { on: other(1), mode: 0o700, who: 0 },
        Merge { from: 1, back: None, into: 0, strategy: 0, keep: true },
        Resolve { txn: 0, conflict: 0, all: true, how: 3 },
        Undo { branch: 2, what: 3, back: 1, force: false },
        Undo { branch: 2, what: 3, back: 3, force: false },
        Check,
    ]);
}

#[test]
fn regression_what_is_brought_back_is_written_though_it_is_open() {
    check(&[
        create(0, 0),
        Fork { branch: 0, back: None, name: 1 },
        Begin { branch: 0, run: false, serializable: false },
        Unlink { at: at(0, 0) },
        RollbackTo { branch: 0, from: Some(1), back: 0 },
        Unlink { at: Place { branch: 2, dir: 0, name: 0 } },
        Commit { txn: 0 },
        Check,
    ]);
}
