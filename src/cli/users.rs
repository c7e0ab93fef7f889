//! Names of users, from `/etc/passwd`.

use std::collections::HashMap;
use std::fs;
use std::sync::OnceLock;

fn names() -> &'static HashMap<u32, String> {
    static NAMES: OnceLock<HashMap<u32, String>> = OnceLock::new();
    NAMES.get_or_init(|| {
        let file = fs::read("/etc/passwd").unwrap_or_default();
        let mut names = HashMap::new();
        for line in String::from_utf8_lossy(&file).lines() {
            let mut fields = line.split(':');
            if let (Some(name), Some(uid)) = (fields.next(), fields.nth(1).and_then(|uid| uid.parse().ok())) {
                names.entry(uid).or_insert_with(|| name.to_owned());
            }
        }
        names
    })
}

/// A user for people: the name, else the number.
pub fn name(uid: u32) -> String {
    names().get(&uid).cloned().unwrap_or_else(|| uid.to_string())
}

/// Reads a user as typed: a name or a number.
pub fn parse(typed: &str) -> Option<u32> {
    typed.parse().ok().or_else(|| names().iter().find(|(_, name)| *name == typed).map(|(uid, _)| *uid))
}

#[cfg(test)]
mod tests {
    #[test]
    fn root_is_known_and_numbers_are_always_understood() {
        assert_eq!(super::name(0), "root");
        assert_eq!(super::parse("root"), Some(0));
        assert_eq!(super::parse("4242424"), Some(4_242_424));
        assert_eq!(super::parse("no such user"), None);
    }
}
