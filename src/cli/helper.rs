//! mount(8)'s helper: `mount -t fuse.stonefs DB DIR`, and a line of fstab(5) like
//! `/data/work.stone /mnt fuse.stonefs defaults 0 0`, call the program as `/sbin/mount.fuse.stonefs`.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// The words of `stone mount` that stand for those of a helper (`mount.fuse.stonefs DB DIR [-sfnvrw] [-N NAMESPACE]
/// [-o OPTIONS] [-t TYPE]`, mount(8)); other words as they are. `None` where the helper is to do nothing (`-f`).
pub(super) fn words(words: Vec<OsString>) -> Option<Vec<OsString>> {
    let name = words.first().and_then(|word| Path::new(word).file_name());
    if !name.is_some_and(|name| name.as_encoded_bytes().starts_with(b"mount.")) {
        return Some(words);
    }
    let mut stone: Vec<OsString> = ["stone", "mount"].map(OsString::from).to_vec();
    let mut rest = words.into_iter().skip(1);
    while let Some(word) = rest.next() {
        match word.as_encoded_bytes() {
            b"-t" | b"-N" => drop(rest.next()),
            b"-o" => {
                stone.push(word);
                stone.extend(rest.next());
            }
            [b'-', letters @ ..] if !letters.is_empty() && letters.iter().all(|letter| b"sfnvrw".contains(letter)) => {
                if letters.contains(&b'f') {
                    return None;
                }
                if letters.contains(&b'r') {
                    stone.extend(["-o", "ro"].map(OsStr::new).map(OsStr::to_owned));
                }
            }
            _ => stone.push(word),
        }
    }
    Some(stone)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(line: &str) -> Option<String> {
        let words = words(line.split(' ').map(OsString::from).collect())?;
        Some(words.join(OsStr::new(" ")).into_string().unwrap())
    }

    #[test]
    fn a_helpers_words_become_those_of_mount() {
        let line = "/sbin/mount.fuse.stonefs /data/a.stone /mnt -sn -r -N 7 -o rw,noauto -t fuse.stonefs";
        assert_eq!(told(line).unwrap(), "stone mount /data/a.stone /mnt -o ro -o rw,noauto");
        assert_eq!(told("mount.stone a b -f"), None);
        assert_eq!(told("/usr/bin/stone mount -f a b").unwrap(), "/usr/bin/stone mount -f a b");
    }
}
