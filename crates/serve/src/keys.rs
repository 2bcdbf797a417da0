//! Who may ask.

use crate::error::Error;
use sha2::{Digest, Sha256};
use std::fmt;
use std::path::Path;
use subtle::ConstantTimeEq;

/// Digests of the keys that are let in. The keys themselves aren't held.
#[derive(Clone)]
pub struct Keys(Vec<[u8; 32]>);

/// Shortest key: fewer characters can be guessed.
const SHORTEST: usize = 16;

impl Keys {
    /// Reads a file of keys: one a line, as `sha256:` and 64 hexadecimal digits, or as it is. Empty lines and those that
    /// begin with `#` say nothing.
    ///
    /// # Errors
    /// When it can't be read, a line is malformed, a key is shorter than 16 characters, or there is none.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let wrong = |problem: String| Error::Keys { path: path.to_owned(), problem };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        Self::parse(&text).map_err(wrong)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut keys = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let (line, number) = (line.trim(), at + 1);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            keys.push(match line.strip_prefix("sha256:") {
                Some(hex) => {
                    digest_of_hex(hex).ok_or(format!("line {number}: 64 hexadecimal digits must follow sha256:"))?
                }
                None if line.len() < SHORTEST => {
                    return Err(format!("line {number}: the key is shorter than {SHORTEST} characters"));
                }
                None => digest(line),
            });
        }
        if keys.is_empty() { Err("there is no key in it".into()) } else { Ok(Self(keys)) }
    }

    /// Whose key it is, as a number that tells owners apart. The time taken doesn't tell how much of a key is right.
    pub(crate) fn owner(&self, key: &str) -> Option<u64> {
        let given = digest(key);
        let mut found = None;
        for known in &self.0 {
            if bool::from(known.ct_eq(&given)) {
                found = Some(u64::from_le_bytes([
                    known[0], known[1], known[2], known[3], known[4], known[5], known[6], known[7],
                ]));
            }
        }
        found
    }
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

fn digest_of_hex(hex: &str) -> Option<[u8; 32]> {
    let hex = hex.split_whitespace().next()?;
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
        assert!(keys.owner(plain).is_some() && keys.owner("another key, hashed").is_some());
        assert_ne!(keys.owner(plain), keys.owner("another key, hashed"));
        assert!(["", "a key of the clini", &hex].iter().all(|key| keys.owner(key).is_none()));
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
