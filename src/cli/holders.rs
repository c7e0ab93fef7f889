//! Which processes keep a mount from being unmounted.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::text::escape;

/// A process that uses a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its pid.
    pub pid: u32,
    /// Its name.
    pub comm: Vec<u8>,
    /// How it uses it: working directory, root directory, open file, mapped file.
    pub how: &'static str,
}

impl Holder {
    /// For people: `bash[123] (working directory)`.
    pub fn shown(&self) -> String {
        format!("{}[{}] ({})", escape(&self.comm), self.pid, self.how)
    }
}

/// Lists the processes that use the file system with a device number, as far as this user may see
/// them; by pid.
pub fn of_device(dev: u64) -> Vec<Holder> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if let Some(how) = use_of(&entry.path(), dev) {
            let mut comm = fs::read(entry.path().join("comm")).unwrap_or_default();
            comm.truncate(comm.trim_ascii_end().len());
            found.push(Holder { pid, comm, how });
        }
    }
    found.sort_by_key(|holder| holder.pid);
    found
}

fn use_of(process: &Path, dev: u64) -> Option<&'static str> {
    let on_it = |path: &Path| fs::metadata(path).is_ok_and(|meta| meta.dev() == dev);
    if on_it(&process.join("cwd")) {
        return Some("working directory");
    }
    if on_it(&process.join("root")) {
        return Some("root directory");
    }
    let mut files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    if files.any(|file| on_it(&file.path())) {
        return Some("open file");
    }
    let maps = fs::read_to_string(process.join("maps")).unwrap_or_default();
    maps.lines().any(|line| mapped_dev(line) == Some(dev)).then_some("mapped file")
}

/// The device number in a line of `/proc/PID/maps`; hexadecimal there.
fn mapped_dev(line: &str) -> Option<u64> {
    let (major, minor) = line.split_whitespace().nth(3)?.split_once(':')?;
    let (major, minor) = (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
    Some(libc::makedev(major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_holds_its_working_directory() {
        let dev = fs::metadata(".").unwrap().dev();
        let own = of_device(dev).into_iter().find(|holder| holder.pid == std::process::id()).unwrap();
        assert_eq!(own.how, "working directory");
        assert!(own.shown().contains("(working directory)"));
    }

    #[test]
    fn maps_name_devices_in_hexadecimal() {
        let line = "7f0-7f1 r--p 00000000 fe:1a 131  /usr/lib/x";
        assert_eq!(mapped_dev(line), Some(libc::makedev(0xfe, 0x1a)));
        assert_eq!(mapped_dev(""), None);
    }
}
