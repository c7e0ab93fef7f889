//! The transcript of `docs/DAY.md`, run as it is written.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::stone::World;

const INSTALLER: &str = "#!/bin/sh\n\
    printf 'port = 80 # plugin\\nworkers = 4\\nlog = warn\\n' > etc/app.conf\n\
    printf 'on=1\\n' > etc/plugin.conf\n\
    rm www/style.css\n\
    echo plugin installed\n";

/// A command of the transcript, what it prints, and its status where that is not 0.
struct Step {
    command: String,
    wanted: Vec<String>,
    status: i32,
}

fn steps() -> Vec<Step> {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/DAY.md")).unwrap();
    let mut steps: Vec<Step> = Vec::new();
    for block in page.split("```console\n").skip(1) {
        for line in block.split("```").next().unwrap().lines() {
            if let Some(command) = line.strip_prefix("$ ") {
                steps.push(Step { command: command.to_owned(), wanted: Vec::new(), status: 0 });
            } else if let Some(status) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                steps.last_mut().unwrap().status = status.parse().unwrap();
            } else {
                steps.last_mut().unwrap().wanted.push(line.to_owned());
            }
        }
    }
    steps
}

/// Whether a line is as written; `...` stands for anything.
fn fits(wanted: &str, line: &str) -> bool {
    let mut pieces = wanted.split("...").map(str::trim);
    let first = pieces.next().unwrap();
    let Some(mut rest) = line.trim().strip_prefix(first) else { return false };
    let mut last = None;
    for piece in pieces {
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
        last = Some(piece);
    }
    match last {
        None => rest.is_empty(),
        Some(last) => last.is_empty() || line.trim_end().ends_with(last),
    }
}

/// Whether all lines are as written, in order; a line of `...` alone stands for any number of lines.
fn all_fit(wanted: &[String], lines: &[&str]) -> bool {
    match wanted.split_first() {
        None => lines.is_empty(),
        Some((any, rest)) if any == "..." => (0..=lines.len()).any(|skip| all_fit(rest, &lines[skip..])),
        Some((first, rest)) => {
            lines.split_first().is_some_and(|(line, after)| fits(first, line) && all_fit(rest, after))
        }
    }
}

/// Puts what a shell truncates on disk before it is written, as a group of operations that ends there does.
fn interrupted(script: &str) -> String {
    let line = |line: &str| match line.trim_start().strip_prefix("printf ").and_then(|rest| rest.rsplit_once(" > ")) {
        Some((text, path)) => format!("exec 3> {path}; stone sync > /dev/null; printf {text} >&3; exec 3>&-"),
        None => line.to_owned(),
    };
    script.lines().map(line).collect::<Vec<_>>().join("\n") + "\n"
}

#[test]
fn the_day_in_the_life_goes_as_written() {
    goes(&str::to_owned);
}

#[test]
fn the_day_in_the_life_goes_as_written_when_groups_end_between_truncation_and_write() {
    goes(&interrupted);
}

fn goes(change: &dyn Fn(&str) -> String) {
    let world = World::new();
    fs::create_dir(world.path("site")).unwrap();
    fs::write(world.path("install-plugin"), change(INSTALLER)).unwrap();
    fs::set_permissions(world.path("install-plugin"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(world.path("path")).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_stone"), world.path("path/stone")).unwrap();
    let path = format!("{}:{}", world.path("path").display(), std::env::var("PATH").unwrap());
    let mut dir = world.path("");
    for Step { command, wanted, status } in steps() {
        if let Some(to) = command.strip_prefix("cd ") {
            dir = if to == ".." { world.path("") } else { dir.join(to) };
            continue;
        }
        let mut shell = Command::new("sh");
        // One stream, as on a terminal.
        shell
            .args(["-c", &format!("exec 2>&1\n{}", change(&command))])
            .current_dir(&dir)
            .env("PATH", &path)
            .env("TZ", "UTC");
        let output = shell.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(status), "{command}\n{text}");
        let lines: Vec<&str> = text.lines().collect();
        assert!(all_fit(&wanted, &lines), "{command}\nprinted:\n{text}\nwanted:\n{}", wanted.join("\n"));
    }
}
