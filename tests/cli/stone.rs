//! Runs the program and looks after its mounts.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// A folder with a database and mount points in it; unmounts what is left when it is dropped.
pub struct World {
    pub dir: TempDir,
}

/// What a run of the program gave.
#[derive(Debug)]
pub struct Ran {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// The output, after a success.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.status, 0, "{self:?}");
        assert!(self.err.is_empty(), "{self:?}");
        self.out
    }

    /// The output as JSON, after a success.
    #[track_caller]
    pub fn json(self) -> Value {
        serde_json::from_str(&self.ok()).unwrap()
    }

    /// The complaint, after a failure with a status: one line, and no backtrace.
    #[track_caller]
    pub fn fails(self, status: i32) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert!(self.err.starts_with("stone: "), "{self:?}");
        assert_eq!(self.err.lines().count(), 1, "{self:?}");
        self.err
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        Ran {
            status: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The program, ready for arguments.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stone"));
    command.stdin(Stdio::null()).env("TZ", "Europe/Berlin");
    command
}

impl World {
    pub fn new() -> World {
        World { dir: tempfile::Builder::new().prefix("stone-cli-").tempdir().unwrap() }
    }

    /// A world whose database is mounted at `m`.
    #[track_caller]
    pub fn mounted() -> World {
        let world = World::new();
        fs::create_dir(world.path("m")).unwrap();
        world.stone(["mount", "db.stone", "m"]).ok();
        world
    }

    /// A world with a database that is not mounted.
    #[track_caller]
    pub fn unmounted() -> World {
        let world = World::new();
        world.stone(["init", "db.stone"]).ok();
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs the program in the world's folder.
    pub fn stone<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, args: I) -> Ran {
        self.stone_in("", args)
    }

    /// Runs the program in a folder below.
    pub fn stone_in<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, dir: &str, args: I) -> Ran {
        program().args(args).current_dir(self.path(dir)).output().unwrap().into()
    }

    /// The daemon's process.
    pub fn daemon(&self) -> i32 {
        let status = self.stone_in("m", ["status", "--json"]).json();
        i32::try_from(status["pid"].as_i64().unwrap()).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let ours = self.dir.path().to_string_lossy().into_owned();
        for line in mounts.lines().rev() {
            let Some(point) = line.split(' ').nth(4).filter(|point| point.starts_with(&ours)) else { continue };
            let done = program().args(["umount", point]).output().is_ok_and(|output| output.status.success());
            if !done {
                let _ = Command::new("umount").args(["-l", point]).stderr(Stdio::null()).status();
            }
        }
    }
}

/// Whether a process is there (and no zombie).
pub fn is_alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

pub fn is_mounted(dir: &Path) -> bool {
    let dir = dir.to_string_lossy();
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().any(|line| line.split(' ').nth(4) == Some(&dir))
}

/// Waits, at most ten seconds, until something holds.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "never: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

pub fn signal(pid: i32, name: &str) {
    let sent = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().unwrap();
    assert!(sent.success());
}
