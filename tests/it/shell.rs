//! `stone shell` on a database that nothing has mounted, run as users run it.

use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

struct Database {
    dir: tempfile::TempDir,
}

impl Database {
    fn new() -> Database {
        let database = Database { dir: tempfile::tempdir().unwrap() };
        assert!(database.stone().arg("init").arg(database.file()).status().unwrap().success());
        database
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("t.stone")
    }

    fn stone(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stone"));
        command.env("XDG_STATE_HOME", self.dir.path()).env("TZ", "UTC");
        command
    }

    fn run(&self, commands: &str) -> Output {
        self.stone().arg("shell").arg(self.file()).arg("-c").arg(commands).output().unwrap()
    }

    /// What commands print; they must succeed.
    fn print(&self, commands: &str) -> String {
        let output = self.run(commands);
        assert!(output.status.success(), "{commands}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The status and the error of commands that fail.
    fn fail(&self, commands: &str) -> (i32, String) {
        let output = self.run(commands);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{commands} succeeds");
        (output.status.code().unwrap(), error)
    }
}

#[test]
fn the_session_of_the_introduction_works_word_for_word() {
    let database = Database::new();
    let mut command = database.stone();
    command.arg("shell").arg(database.file());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let session = "touch newfile.txt\necho \"Hello\" > newfile.txt\nls\nbegin\nrm newfile.txt\ncommit\n\
                   history newfile.txt\nbranch experimental\nswitch experimental\n";
    child.stdin.take().unwrap().write_all(session.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..3], ["newfile.txt", "Transaction T1 started", "Transaction T1 committed: 1 removed"]);
    assert!(lines[3].contains("removed") && lines.iter().any(|line| line.contains("6 B")), "{text}");
    assert!(database.print("branch").contains("* experimental"));
}

#[test]
fn words_quotes_patterns_and_redirections_are_a_shells() {
    let database = Database::new();
    database
        .print("mkdir -p 'a b/c'; echo one > \"a b/c/x y\"; echo two >> 'a b'/c/x\\ y; touch p.rs q.rs .r.rs 'star*'");
    assert_eq!(database.print("cat 'a b'/c/*"), "one\ntwo\n");
    assert_eq!(database.print("ls *.rs"), "p.rs\nq.rs\n");
    assert_eq!(database.print("ls 'star*' nothing* || echo none"), "star*\nnone\n");
    assert_eq!(database.print("echo a  'b  c' \"d\\\"e\" f\\ g # h"), "a b  c d\"e f g\n");
    assert_eq!(database.print("cat 'a b/c/x y' | tr a-z A-Z | wc -l > count; cat count").trim(), "2");
    assert_eq!(database.print("cat 'a b/c/x y' | grep tw"), "two\n");
    assert_eq!(database.print("cd 'a b'; pwd; cd c; ls; cd -; pwd; cd ../..; pwd"), "/a b\nx y\n/a b\n/\n");
    assert_eq!(database.print("!sort -r < 'a b/c/x y'"), "two\none\n");
}

#[test]
fn the_usual_commands_do_the_usual() {
    let database = Database::new();
    database.print("mkdir -p d/e; echo x > d/e/f; ln -s e/f d/link; ln d/e/f hard; cp -r d copy; chmod 600 hard; chmod u+x,g=r hard");
    assert_eq!(database.print("find . -type f"), "./copy/e/f\n./d/e/f\n./hard\n");
    assert_eq!(database.print("find d -name 'l*'"), "d/link\n");
    assert_eq!(database.print("cat d/link copy/link"), "x\nx\n");
    assert!(database.print("ls -l hard").starts_with("-rwxr----- 2 "));
    assert_eq!(database.print("grep -rn x d copy"), "d/e/f:1:x\ncopy/e/f:1:x\n");
    assert_eq!(database.print("grep -c x hard; mv hard d; ls d; rm -r copy; ls"), "1\ne\nhard\nlink\nd\n");
    assert!(database.print("tree").contains("└── d\n    ├── e\n    │   └── f\n"));
    assert!(database.print("stat d/hard").contains("links: 2"));
    assert!(database.print("help").contains("history"));
    assert_eq!(database.print("sql --format csv \"SELECT count(*) AS n FROM files WHERE type = 'file'\""), "n\n2\n");
}

#[test]
fn a_script_stops_at_its_first_error_with_its_status() {
    let database = Database::new();
    let (status, error) = database.fail("touch a; cat missing; touch b");
    assert_eq!((status, error.as_str()), (1, "stone: /missing: No such file or directory\n"));
    assert_eq!(database.print("ls"), "a\n");
    assert_eq!(database.print("cat missing || touch b; false && touch c; ls"), "a\nb\n");
    assert_eq!(database.fail("nonsense").0, 2);
    assert_eq!(database.fail("ls -q").0, 2);
    assert_eq!(database.fail("echo 'open").0, 2);
    assert_eq!(database.fail("exit 7").0, 7);
    assert_eq!(database.fail("rmdir a").0, 1);
    assert_eq!(database.fail("!no-such-program-here").0, 1);
    assert_eq!(database.fail("run true").0, 1);
    assert_eq!(database.fail("init x").0, 2);
}

#[test]
fn what_changes_several_things_happens_in_one_step_or_not_at_all() {
    let database = Database::new();
    database.print("mkdir -p d/e; touch d/a d/e/b keep");
    let (_, error) = database.fail("rm -r d missing");
    assert!(error.contains("missing"), "{error}");
    assert_eq!(database.print("ls; ls d"), "d\nkeep\na\ne\n");
    database.print("rm -r d");
    let log = database.print("log --json -n 1");
    assert!(log.contains("\"commit\""), "{log}");
    assert_eq!(database.print("undo > /dev-null; ls; ls d"), "d\ndev-null\nkeep\na\ne\n");
    let verified = database.stone().arg("verify").arg(database.file()).output().unwrap();
    assert_eq!((verified.status.code(), verified.stdout), (Some(0), Vec::new()));
}

#[test]
fn past_states_and_other_branches_are_directories() {
    let database = Database::new();
    database.print("echo one > f; tag v1; echo two > f; branch side");
    assert_eq!(database.print("cat f /.history/v1/f"), "two\none\n");
    database.print("echo side > /.branches/side/g");
    assert_eq!(database.print("ls; switch side; ls; cat g"), "f\nf\ng\nside\n");
    assert!(database.fail("echo x > /.history/v1/f").1.contains("Read-only"), "history is read-only");
}

// ---- on a terminal -------------------------------------------------------------------------------

struct Terminal {
    master: std::fs::File,
    child: Child,
    seen: String,
}

impl Terminal {
    fn start(database: &Database) -> Terminal {
        let (mut master, mut slave) = (0, 0);
        let null = std::ptr::null_mut();
        // openpty(3) fills in two new descriptors, owned from here on.
        #[allow(unsafe_code)]
        let (master, slave) = unsafe {
            assert_eq!(libc::openpty(&mut master, &mut slave, null, null.cast(), null.cast()), 0);
            (std::fs::File::from_raw_fd(master), OwnedFd::from_raw_fd(slave))
        };
        let side = || Stdio::from(slave.try_clone().unwrap());
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(env!("CARGO_BIN_EXE_stone")).arg("shell").arg(database.file());
        command.env("XDG_STATE_HOME", database.dir.path()).env("TERM", "xterm").env("PAGER", "cat").env("TZ", "UTC");
        let child = command.stdin(side()).stdout(side()).stderr(side()).spawn().unwrap();
        Terminal { master, child, seen: String::new() }
    }

    fn send(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until something appears after what was seen so far.
    fn expect(&mut self, text: &str) {
        let end = Instant::now() + Duration::from_secs(20);
        while !self.seen.contains(text) {
            assert!(Instant::now() < end, "{text:?} never came; seen: {:?}", self.seen);
            let mut poll = [rustix::event::PollFd::new(&self.master, rustix::event::PollFlags::IN)];
            let wait = rustix::event::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            if rustix::event::poll(&mut poll, Some(&wait)).unwrap() == 0 {
                continue;
            }
            let mut buffer = [0; 4096];
            match self.master.read(&mut buffer) {
                Ok(0) | Err(_) => std::thread::sleep(Duration::from_millis(20)),
                Ok(length) => self.seen.push_str(&String::from_utf8_lossy(&buffer[..length])),
            }
        }
        let at = self.seen.find(text).unwrap() + text.len();
        self.seen.drain(..at);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_terminal_has_prompt_completion_history_and_signals() {
    let database = Database::new();
    let mut terminal = Terminal::start(&database);
    terminal.expect("stone:main /> ");
    terminal.send("mkdir directory\r");
    terminal.expect("stone:main /> ");
    terminal.send("cd dir\t\r"); // completes to `directory/`
    terminal.expect("stone:main /directory> ");
    terminal.send("begin\r");
    terminal.expect("Transaction T");
    terminal.expect(") /directory> ");
    terminal.send("rollback\r");
    terminal.expect("rolled back");
    terminal.expect("stone:main /directory> ");
    terminal.send("echo remembered\r");
    terminal.expect("\nremembered");
    terminal.expect("/directory> ");
    terminal.send("\x1b[A\r"); // the line before, again
    terminal.expect("\nremembered");
    terminal.expect("/directory> ");
    terminal.send("never run\x03"); // Ctrl-C drops the line
    terminal.expect("/directory> ");
    terminal.send("echo 'two\r");
    terminal.expect("> ");
    terminal.send("lines'\r");
    terminal.expect("\nlines");
    terminal.expect("/directory> ");
    terminal.send("\x04"); // Ctrl-D leaves
    let end = Instant::now() + Duration::from_secs(20);
    while terminal.child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < end, "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    let history = std::fs::read_to_string(database.dir.path().join("stonefs/shell_history")).unwrap();
    assert!(history.contains("echo remembered") && !history.contains("never run"), "{history}");
}
