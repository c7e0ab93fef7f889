//! The program itself, in a scratch directory that every user can enter, and processes that use its mounts.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::reachable;

/// A database `db.stone` and mount points; unmounted and removed when dropped.
pub struct World {
    dir: tempfile::TempDir,
}

/// The program, ready for arguments.
fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stone"));
    command.stdin(Stdio::null()).env("LC_ALL", "C");
    command
}

impl World {
    pub fn new() -> World {
        let dir = tempfile::Builder::new().prefix("stone-program-").tempdir_in(reachable()).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        World { dir }
    }

    /// A world whose database is mounted at `m` with options.
    pub fn mounted(options: &str) -> World {
        let world = World::new();
        world.mount("m", options);
        world
    }

    /// Mounts the database (again).
    pub fn mount(&self, name: &str, options: &str) {
        let _ = fs::create_dir(self.path(name));
        self.stone(&["mount", "db.stone", name, "-o", options]);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file of the mount `m`.
    pub fn m(&self, name: &str) -> PathBuf {
        self.path("m").join(name)
    }

    /// Runs the program in a folder of the world, with whatever end.
    pub fn try_stone_in(&self, dir: &str, args: &[&str]) -> Output {
        program().args(args).current_dir(self.path(dir)).output().unwrap()
    }

    /// Runs the program, which must succeed, and returns what it printed.
    #[track_caller]
    pub fn stone_in(&self, dir: &str, args: &[&str]) -> String {
        let output = self.try_stone_in(dir, args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    pub fn stone(&self, args: &[&str]) -> String {
        self.stone_in("", args)
    }

    /// Runs the program in the mount `m`.
    #[track_caller]
    pub fn in_m(&self, args: &[&str]) -> String {
        self.stone_in("m", args)
    }

    /// A copy of the program that every user can run.
    pub fn program_for_all(&self) -> PathBuf {
        let path = self.path("stone");
        let own = Path::new(env!("CARGO_BIN_EXE_stone"));
        if !path.exists() && fs::hard_link(own, &path).is_err() {
            fs::copy(own, &path).unwrap();
        }
        path
    }

    /// Runs a shell command as another user, in the world's folder; `$D` is the folder, `stone` the program.
    pub fn as_user(&self, uid: u32, script: &str) -> Output {
        let path = format!("{}:{}", self.dir.path().display(), std::env::var("PATH").unwrap_or_default());
        self.program_for_all();
        Command::new("sh")
            .args(["-c", script])
            .current_dir(self.dir.path())
            .env("PATH", path)
            .env("D", self.dir.path())
            .env("HOME", "/nonexistent")
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .uid(uid)
            .gid(uid)
            .output()
            .unwrap()
    }

    /// The daemon's process.
    pub fn daemon(&self, mount: &str) -> i32 {
        let status: serde_json::Value =
            serde_json::from_str(&self.stone(&["--mount", mount, "--json", "status"])).unwrap();
        i32::try_from(status["pid"].as_i64().unwrap()).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let ours = self.dir.path().to_string_lossy().into_owned();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for line in mounts.lines().rev() {
            let Some(point) = line.split(' ').nth(4).filter(|point| point.starts_with(&ours)) else { continue };
            let stone = line.contains(" - fuse.stonefs ");
            if !stone || !program().args(["umount", point]).output().is_ok_and(|output| output.status.success()) {
                let _ = Command::new("umount").args(["-l", point]).stderr(Stdio::null()).status();
            }
        }
    }
}

const INTERPRETER: &str = "
import fcntl, mmap, os, sys
g = dict(os=os, mmap=mmap, fcntl=fcntl)
for line in sys.stdin:
    try:
        try:
            code = compile(line.strip(), 'line', 'eval')
        except SyntaxError:
            exec(line, g)
            said = None
        else:
            said = eval(code, g)
    except OSError as e:
        said = os.strerror(e.errno)
    if isinstance(said, bytes):
        said = said.decode()
    print(said, flush=True)
";

/// A process that does as it is told, a line of Python at a time: it holds files and directories open, and maps.
pub struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// A process standing in a directory.
    pub fn in_dir(dir: &Path) -> Process {
        let mut child = Command::new("python3")
            .args(["-c", INTERPRETER])
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut process = Process { child, input, output };
        assert_eq!(process.tell("'ready'"), "ready");
        process
    }

    /// Begins a line; [`Process::answer`] waits for its end.
    pub fn ask(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    /// What the line gave; a failed system call's message; nothing where the process died.
    #[track_caller]
    pub fn answer(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    #[track_caller]
    pub fn tell(&mut self, line: &str) -> String {
        self.ask(line);
        self.answer()
    }

    /// Ends it and says whether it had lived until now.
    pub fn ends_well(mut self) -> bool {
        drop(self.input);
        self.child.wait().unwrap().success()
    }
}

/// Whether a process is there (and no zombie).
pub fn is_alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Waits, at most a minute, until something holds.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "never: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

pub fn signal(pid: i32, name: &str) {
    let sent = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().unwrap();
    assert!(sent.success());
}
