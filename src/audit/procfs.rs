//! What `/proc` tells of a process, split by whether a request may wait for it.
//!
//! `stat`, `status` and `comm` take no lock of the process's memory; `cmdline` does, and a process
//! whose memory waits for this file system would wait for ever if a request waited for that lock.

use std::fs::{File, read_link};
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;

/// The longest argument list in bytes that is kept; what is longer is cut.
const ARGV_MAX: u64 = 32 * 1024;

/// A handle on one task that cannot be mistaken for a later one of the same number.
///
/// An open `/proc/PID/comm` belongs to the task, not to its number: once the task has been reaped,
/// reading fails with `ESRCH`, whoever has the number then. One `pread` so tells whether the task is
/// still there and whether it runs the same program.
#[derive(Debug)]
pub(super) struct Guard(File);

impl Guard {
    /// Takes hold of the task that has this number now.
    pub(super) fn open(pid: u32) -> Option<Guard> {
        File::open(format!("/proc/{pid}/comm")).ok().map(Guard)
    }

    /// Reads the task's name (at most 15 bytes); `None` once it is gone.
    pub(super) fn comm(&self) -> Option<Comm> {
        let mut buffer = [0; 64];
        let length = self.0.read_at(&mut buffer, 0).ok()?;
        let text = buffer.get(..length)?;
        Some(Comm::new(text.strip_suffix(b"\n").unwrap_or(text)))
    }
}

/// A task's name, compared on every request and therefore without allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Comm {
    bytes: [u8; 63],
    length: u8,
}

impl Comm {
    fn new(text: &[u8]) -> Comm {
        let mut bytes = [0; 63];
        let length = text.len().min(bytes.len());
        for (to, from) in bytes.iter_mut().zip(text) {
            *to = *from;
        }
        Comm { bytes, length: length as u8 }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }
}

/// The fields of `/proc/PID/stat` that the record keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub ppid: u32,
    pub session: u32,
    pub tty: u32,
    pub start_ticks: u64,
}

impl Stat {
    pub(super) fn read(pid: u32) -> Option<Stat> {
        Stat::parse(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name in parentheses may hold anything, parentheses too: fields are counted from the last one.
    fn parse(text: &[u8]) -> Option<Stat> {
        let end = text.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(text.get(end + 1..)?).ok()?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // The first of them is field 3 of proc_pid_stat(5).
        let field = |number: usize| fields.get(number - 3).copied();
        Some(Stat {
            ppid: field(4)?.parse().ok()?,
            session: field(6)?.parse::<i64>().ok().and_then(|id| u32::try_from(id).ok()).unwrap_or(0),
            tty: field(7)?.parse::<i32>().ok()? as u32,
            start_ticks: field(22)?.parse().ok()?,
        })
    }
}

/// The core that a task runs on, or ran on when it fell asleep.
pub fn core_of(task: u32) -> Option<usize> {
    let text = std::fs::read(format!("/proc/{task}/task/{task}/stat")).ok()?;
    let end = text.iter().rposition(|byte| *byte == b')')?;
    // Field 39 of proc_pid_stat(5); the first one behind the name is field 3.
    std::str::from_utf8(text.get(end + 1..)?).ok()?.split_ascii_whitespace().nth(39 - 3)?.parse().ok()
}

/// The fields of `/proc/PID/status` that the record keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status {
    /// The process that the task is a thread of.
    pub tgid: u32,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
}

impl Status {
    pub(super) fn read(pid: u32) -> Option<Status> {
        Status::parse(&std::fs::read(format!("/proc/{pid}/status")).ok()?)
    }

    fn parse(text: &[u8]) -> Option<Status> {
        let field = |key: &[u8], index: usize| {
            let line = text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(key))?;
            std::str::from_utf8(line).ok()?.split_ascii_whitespace().nth(index)?.parse::<u32>().ok()
        };
        Some(Status { tgid: field(b"Tgid:", 0)?, uid: field(b"Uid:", 1)?, gid: field(b"Gid:", 1)? })
    }
}

/// What only a thread that no request waits for may read.
#[derive(Debug, Default)]
pub(super) struct Details {
    pub exe: Option<Vec<u8>>,
    pub argv: Option<Vec<u8>>,
    pub cwd: Option<Vec<u8>>,
    pub cgroup: Option<Vec<u8>>,
}

impl Details {
    pub(super) fn read(pid: u32) -> Details {
        let link = |name: &str| Some(read_link(format!("/proc/{pid}/{name}")).ok()?.into_os_string().into_vec());
        let mut argv = Vec::new();
        let argv = File::open(format!("/proc/{pid}/cmdline"))
            .and_then(|file| file.take(ARGV_MAX).read_to_end(&mut argv))
            .is_ok()
            .then_some(argv)
            .filter(|argv| !argv.is_empty());
        // The unified hierarchy is the line that begins with `0::`.
        let cgroup = std::fs::read(format!("/proc/{pid}/cgroup")).ok().and_then(|text| {
            let lines = || text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            let unified = lines().find_map(|line| line.strip_prefix(b"0::"));
            Some(unified.or_else(|| lines().next())?.to_vec())
        });
        Details { exe: link("exe"), argv, cwd: link("cwd"), cgroup }
    }

    pub(super) fn complete(&self) -> bool {
        self.exe.is_some() && self.argv.is_some() && self.cwd.is_some() && self.cgroup.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let text = b"42 (a) b (c)) S 7 42 41 34816 42 0 0 0 0 0 0 0 0 0 20 0 1 0 987654 0 0\n";
        let stat = Stat::parse(text).unwrap();
        assert_eq!(stat, Stat { ppid: 7, session: 41, tty: 34816, start_ticks: 987_654 });
    }

    #[test]
    fn a_task_is_found_on_one_of_the_cores_there_are() {
        let task = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        let allowed = rustix::thread::sched_getaffinity(None).unwrap();
        assert!(allowed.is_set(core_of(task).unwrap()));
        assert_eq!(core_of(0), None);
    }

    #[test]
    fn a_hostile_name_cannot_forge_status_lines() {
        // The kernel escapes newlines in `Name:`, so that the first line of a key is the real one.
        let text = b"Name:\tx\\nTgid:\\t1\nTgid:\t9\nPid:\t9\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n";
        assert_eq!(Status::parse(text), Some(Status { tgid: 9, uid: 2, gid: 6 }));
    }

    #[test]
    fn damaged_text_is_no_panic() {
        assert_eq!(Stat::parse(b""), None);
        assert_eq!(Stat::parse(b"1 (x) S"), None);
        assert_eq!(Status::parse(b"Tgid:\nUid:\t1\n"), None);
    }

    #[test]
    fn a_guard_tells_when_its_task_is_gone() {
        let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        let guard = Guard::open(child.id()).unwrap();
        assert!(guard.comm().is_some());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(guard.comm().is_none());
    }
}
