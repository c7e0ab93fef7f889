//! The program on a terminal of its own: the shell and SQL on a mounted database.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::stone::World;

struct Terminal {
    master: fs::File,
    child: Child,
    seen: String,
}

impl Terminal {
    fn start(world: &World, dir: &str, arguments: &[&str]) -> Terminal {
        let (mut master, mut slave) = (0, 0);
        let null = std::ptr::null_mut();
        let size = libc::winsize { ws_row: 40, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
        // openpty(3) fills in two new descriptors, owned from here on.
        #[allow(unsafe_code)]
        let (master, slave) = unsafe {
            assert_eq!(libc::openpty(&mut master, &mut slave, null, null.cast(), &raw const size), 0);
            (fs::File::from_raw_fd(master), OwnedFd::from_raw_fd(slave))
        };
        let side = || Stdio::from(slave.try_clone().unwrap());
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(env!("CARGO_BIN_EXE_stone")).args(arguments).current_dir(world.path(dir));
        command.env("XDG_STATE_HOME", world.dir.path()).env("TERM", "xterm").env("PAGER", "cat").env("TZ", "UTC");
        command.env_remove("NO_COLOR");
        let child = command.stdin(side()).stdout(side()).stderr(side()).spawn().unwrap();
        Terminal { master, child, seen: String::new() }
    }

    fn send(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until something appears after what was seen so far; returns what came before it.
    #[track_caller]
    fn expect(&mut self, text: &str) -> String {
        let end = Instant::now() + Duration::from_secs(60);
        while !self.seen.contains(text) {
            assert!(Instant::now() < end, "{text:?} never came; seen: {:?}", self.seen);
            self.read(100);
        }
        let at = self.seen.find(text).unwrap() + text.len();
        self.seen.drain(..at).collect()
    }

    /// Waits for the end, reading what is written meanwhile; returns the status.
    #[track_caller]
    fn ends(&mut self) -> i32 {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let status = self.child.try_wait().unwrap();
            self.read(0);
            if let Some(status) = status {
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < end, "it does not end: {}; seen: {:?}", waits_for(self.child.id()), self.seen);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Takes what has been written, waiting at most so many milliseconds for it.
    fn read(&mut self, wait: i64) {
        let mut wait = rustix::event::Timespec { tv_sec: 0, tv_nsec: wait * 1_000_000 };
        let mut buffer = [0; 4096];
        loop {
            let mut poll = [rustix::event::PollFd::new(&self.master, rustix::event::PollFlags::IN)];
            if rustix::event::poll(&mut poll, Some(&wait)).unwrap() == 0 {
                return;
            }
            match self.master.read(&mut buffer) {
                Ok(0) | Err(_) => return std::thread::sleep(Duration::from_millis(20)),
                Ok(length) => self.seen.push_str(&String::from_utf8_lossy(&buffer[..length])),
            }
            wait.tv_nsec = 0;
        }
    }
}

/// What a process, its threads and its children are waiting for, for the message of a test that waits in vain.
fn waits_for(pid: u32) -> String {
    let mut told = String::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        for of in ["comm", "wchan", "syscall", "children"] {
            told.push_str(&format!("{of} {} ", fs::read_to_string(task.path().join(of)).unwrap_or_default().trim()));
        }
    }
    told
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_session_of_the_introduction_works_on_a_mount() {
    let world = World::mounted();
    let mut terminal = Terminal::start(&world, "", &["shell", "m"]);
    terminal.expect("stone:main /> ");
    terminal.send("touch newfile.txt\r");
    terminal.expect("stone:main /> ");
    terminal.send("echo \"Hello\" > newfile.txt\r");
    terminal.expect("stone:main /> ");
    terminal.send("ls\r");
    terminal.expect("\nnewfile.txt");
    terminal.expect("stone:main /> ");
    assert_eq!(fs::read(world.path("m/newfile.txt")).unwrap(), b"Hello\n");
    terminal.send("begin\r");
    terminal.expect("\nTransaction T");
    terminal.expect("started");
    terminal.expect(") /> ");
    terminal.send("rm newfile.txt\r");
    terminal.expect(") /> ");
    terminal.send("commit\r");
    terminal.expect("committed: 1 removed");
    terminal.expect("stone:main /> ");
    assert!(!world.path("m/newfile.txt").exists());
    terminal.send("history newfile.txt\r");
    terminal.expect("removed");
    terminal.expect("6 B");
    terminal.expect("stone:main /> ");
    terminal.send("branch experimental\r");
    terminal.expect("stone:main /> ");
    terminal.send("switch experimental\r");
    terminal.expect("stone:experimental /> ");
    terminal.send("mkdir folder\r");
    terminal.expect("stone:experimental /> ");
    terminal.send("cd fol\t\r");
    terminal.expect("stone:experimental /folder> ");
    terminal.send("exit 3\r");
    assert_eq!(terminal.ends(), 3);
    assert!(world.path("m/folder").is_dir());
}

#[test]
fn a_shell_survives_ctrl_c_and_a_resize() {
    let world = World::mounted();
    let mut terminal = Terminal::start(&world, "", &["shell", "m"]);
    terminal.expect("stone:main /> ");
    terminal.send("!sleep 60\r");
    std::thread::sleep(Duration::from_millis(500));
    terminal.send("\x03");
    terminal.expect("stone:main /> ");
    let size = libc::winsize { ws_row: 20, ws_col: 60, ws_xpixel: 0, ws_ypixel: 0 };
    // The ioctl reads the structure, on a descriptor that is ours.
    #[allow(unsafe_code)]
    let done =
        unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&terminal.master), libc::TIOCSWINSZ, &raw const size) };
    assert_eq!(done, 0);
    terminal.send("echo still\" here\"\r");
    terminal.expect("\nstill here");
    terminal.expect("stone:main /> ");
    terminal.send("\x04");
    assert_eq!(terminal.ends(), 0);
}

#[test]
fn sql_asks_line_by_line_with_completion_and_history() {
    let world = World::mounted();
    fs::write(world.path("m/a"), "12345").unwrap();
    let mut terminal = Terminal::start(&world, "m", &["sql"]);
    terminal.expect("sql> ");
    terminal.send("SELECT path, siz\t FROM fil\t\r"); // a query goes on until its semicolon
    terminal.expect("...> ");
    terminal.send("WHERE type = 'file';\r");
    terminal.expect("\n/a       5");
    terminal.expect("sql> ");
    terminal.send("SELECT nonsense;\r");
    terminal.expect("no such column: nonsense");
    terminal.expect("sql> ");
    terminal.send("\x1b[A\x1b[A\r"); // the query before the last one
    terminal.expect("\n/a       5");
    terminal.expect("sql> ");
    terminal.send(".tables\r");
    terminal.expect("processes(id, pid");
    terminal.expect("sql> ");
    terminal.send("\x04");
    assert_eq!(terminal.ends(), 0);
}

#[test]
fn ctrl_c_ends_a_query_and_neither_the_client_nor_the_daemon() {
    let world = World::mounted();
    world.stone(["init", "other.stone"]).ok();
    for (dir, arguments) in [("m", &["sql"][..]), ("", &["--db", "other.stone", "sql"])] {
        let mut terminal = Terminal::start(&world, dir, arguments);
        terminal.expect("sql> ");
        // Whether the query runs already cannot be seen: a key that comes before that only clears the line.
        let end = Instant::now() + Duration::from_secs(60);
        while !terminal.seen.contains("stone: interrupted") {
            assert!(Instant::now() < end, "never interrupted; seen: {:?}", terminal.seen);
            terminal.send("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n;\r");
            std::thread::sleep(Duration::from_millis(500));
            terminal.send("\x03");
            std::thread::sleep(Duration::from_millis(500));
            terminal.read(0);
        }
        terminal.expect("stone: interrupted");
        // A query that was sent once too often is what a late Ctrl-C ends.
        while !terminal.seen.contains("42\r\n") {
            assert!(Instant::now() < end, "no answer; seen: {:?}", terminal.seen);
            terminal.send("\x03");
            std::thread::sleep(Duration::from_millis(300));
            terminal.send("SELECT 6 * 7 AS answer;\r");
            std::thread::sleep(Duration::from_millis(300));
            terminal.read(0);
        }
        terminal.expect("42\r\n");
        terminal.expect("sql> ");
        terminal.send("\x04");
        assert_eq!(terminal.ends(), 0);
    }
}

#[test]
fn a_terminal_gets_colours_and_never_a_raw_control_character_of_a_name() {
    let world = World::mounted();
    fs::write(world.path("m/bad\x1b[2J\u{9b}name"), "x\x1b]0;title\x07\n").unwrap();
    let query = "SELECT path, content(path) FROM files WHERE type = 'file'";
    for arguments in [
        &["log"][..],
        &["log", "--json"],
        &["diff"],
        &["history", "bad\x1b[2J\u{9b}name"],
        &["blame", "bad\x1b[2J\u{9b}name"],
        &["why", "bad\x1b[2J\u{9b}name"],
        &["ps"],
        &["audit"],
        &["sql", query],
        &["sql", "--format", "csv", query],
        &["sql", "--format", "tsv", query],
        &["sql", "--json", query],
        &["shell", ".", "-c", "ls; find; tree; ls -l; stat bad*; log"],
        &["show", "e2"],
    ] {
        let mut terminal = Terminal::start(&world, "m", arguments);
        let status = terminal.ends();
        let text = &terminal.seen;
        assert_eq!(status, 0, "{arguments:?}: {text:?}");
        for raw in ["\x1b[2J", "\u{9b}", "\x1b]0", "\x07"] {
            assert!(!text.contains(raw), "{arguments:?}: {text:?}");
        }
        if arguments == ["log"] {
            assert!(text.contains("\x1b[33me"), "{text:?}");
        }
    }
}
