//! Who may ask.

use crate::error::Error;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// Digests of the keys that are let in, and their names. The keys themselves aren't held.
#[derive(Clone)]
pub struct Keys(Vec<Known>);

#[derive(Clone)]
struct Known {
    digest: [u8; 32],
    name: Option<Arc<str>>,
    line: usize,
}

/// Whose a key is.
#[derive(Clone, Debug)]
pub(crate) struct Holder {
    /// Tells owners apart.
    pub(crate) id: u64,
    /// What the file calls the key.
    pub(crate) name: Option<Arc<str>>,
}

/// Shortest key: fewer characters can be guessed.
const SHORTEST: usize = 16;
/// The part of what there is that is left to other holders.
const OTHERS: usize = 8;
/// Longest name, in bytes.
const LONGEST_NAME: usize = 100;

impl Keys {
    /// Reads a file of keys: one a line, as `sha256:` and 64 hexadecimal digits, behind which its name may stand, or as
    /// it is, without a name. Empty lines and those that begin with `#` say nothing.
    ///
    /// # Errors
    /// When it can't be read, a line is malformed, a key is shorter than 16 characters, or there is none.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let wrong = |problem: String| Error::Keys { path: path.to_owned(), problem };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        Self::parse(&text).map_err(wrong)
    }

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut keys = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let (line, number) = (line.trim(), at + 1);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (digest, name) = match line.strip_prefix("sha256:") {
                Some(rest) => {
                    let (hex, name) = rest.trim_start().split_once(char::is_whitespace).unwrap_or((rest.trim(), ""));
                    let digest = digest_of_hex(hex)
                        .ok_or(format!("line {number}: 64 hexadecimal digits must follow sha256:"))?;
                    (digest, name_of(name))
                }
                None if line.len() < SHORTEST => {
                    return Err(format!("line {number}: the key is shorter than {SHORTEST} characters"));
                }
                None => (digest(line), None),
            };
            keys.push(Known { digest, name, line: number });
        }
        if keys.is_empty() { Err("there is no key in it".into()) } else { Ok(Self(keys)) }
    }

    /// The holders' ids.
    pub(crate) fn ids(&self) -> HashSet<u64> {
        self.0.iter().map(|known| id(&known.digest)).collect()
    }

    /// The most that one holder may have of so many places, where there are several: an eighth is left to others.
    pub fn share(&self, of: usize) -> usize {
        match self.ids().len() {
            0 | 1 => of,
            _ => of.saturating_sub((of / OTHERS).max(1)).max(1),
        }
    }

    /// The line of a key that has no name.
    pub(crate) fn nameless(&self) -> Option<usize> {
        self.0.iter().find(|known| known.name.is_none()).map(|known| known.line)
    }

    /// Whose key it is. The time taken doesn't tell how much of a key is right.
    pub(crate) fn holder(&self, key: &str) -> Option<Holder> {
        let given = digest(key);
        let mut found = None;
        for known in &self.0 {
            if bool::from(known.digest.ct_eq(&given)) {
                found = Some(known);
            }
        }
        found.map(|Known { digest, name, .. }| Holder { id: id(digest), name: name.clone() })
    }
}

/// A key's name, if what stands behind its digest can be one. A `#` before it is what comments begin with.
fn name_of(text: &str) -> Option<Arc<str>> {
    let name = text.trim().trim_start_matches('#').trim();
    let fits = !name.is_empty() && name.len() <= LONGEST_NAME && !name.chars().any(char::is_control);
    fits.then(|| name.into())
}

fn id(digest: &[u8; 32]) -> u64 {
    u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|at| digest[at]))
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

fn digest_of_hex(hex: &str) -> Option<[u8; 32]> {
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, at) in digest.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&hex[at..at + 2], 16).ok()?;
    }
    Some(digest)
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_known_by_their_digest() {
        let plain = "a key of the clinic";
        let hex: String = digest("another key, hashed").iter().map(|byte| format!("{byte:02x}")).collect();
        let keys = Keys::parse(&format!("# keys\n\n{plain}\nsha256:{hex} the archive\n")).unwrap();
        let [one, other] = [plain, "another key, hashed"].map(|key| keys.holder(key).unwrap());
        assert_ne!(one.id, other.id);
        assert_eq!((one.name, other.name.as_deref(), keys.nameless()), (None, Some("the archive"), Some(3)));
        assert!(["", "a key of the clini", &hex].iter().all(|key| keys.holder(key).is_none()));
        let named = Keys::parse(&format!("sha256:{hex}\t# ward 3\n")).unwrap();
        assert_eq!((named.0[0].name.as_deref(), named.nameless()), (Some("ward 3"), None));
        let long = Keys::parse(&format!("sha256:{hex} {}", "x".repeat(101))).unwrap();
        assert_eq!(long.nameless(), Some(1));
    }

    #[test]
    fn a_file_that_lets_nobody_or_anybody_in_is_refused() {
        for text in [
            "",
            "# none",
            "short",
            "sha256:12",
            "sha256:zz34567890123456789012345678901234567890123456789012345678901234",
        ] {
            let error = Keys::parse(text).unwrap_err();
            assert!(!error.contains("zz34"), "{error}");
        }
    }
}
