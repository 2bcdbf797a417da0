//! The head of a file of packed weights: fixed fields, the key, and where each segment lies.
//!
//! ```text
//! 0      magic
//! 8      version                u32, little-endian as all numbers here
//! 12     bytes of the key       u32
//! 16     segments               u32
//! 20     0                      u32
//! 24     bytes of the file      u64
//! 32     sum of the head        u64, without this field and the seal
//! 40     boot in which the file was written, 40 bytes
//! 80     the key, then for each segment: tag, offset, bytes (u64 each); then zeros
//! 65528  seal                   8 bytes, written once the file has reached the disk
//! ```

use std::ops::Range;

/// Bytes of the head.
pub(super) const HEAD: usize = 64 * 1024;
/// Where segments may begin: a multiple of every system's page.
pub(super) const ALIGN: u64 = 64 * 1024;
/// Where the seal lies.
pub(super) const SEAL_AT: usize = HEAD - SEAL.len();
/// Says that the file has reached the disk.
pub(super) const SEAL: &[u8; 8] = b"ON DISK\n";

const MAGIC: &[u8; 8] = b"MGPACKED";
const SUM: Range<usize> = 32..40;
const BOOT: Range<usize> = 40..80;

/// One segment of a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Of what it was packed and how.
    pub(super) tag: u64,
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// What a head says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) key: String,
    pub(super) entries: Vec<Entry>,
    /// Bytes of the whole file.
    pub(super) len: u64,
    pub(super) boot: String,
    pub(super) sealed: bool,
}

impl Head {
    /// The bytes; `None` when there are too many segments or the key is too long.
    pub(super) fn to_bytes(&self, version: u32) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(HEAD);
        out.extend(MAGIC);
        for number in [version, u32::try_from(self.key.len()).ok()?, u32::try_from(self.entries.len()).ok()?, 0] {
            out.extend(number.to_le_bytes());
        }
        out.extend(self.len.to_le_bytes());
        out.extend([0; 8]);
        out.extend(self.boot.bytes().take(BOOT.len()));
        out.resize(BOOT.end, 0);
        out.extend(self.key.bytes());
        for entry in &self.entries {
            [entry.tag, entry.offset, entry.len].iter().for_each(|number| out.extend(number.to_le_bytes()));
        }
        if out.len() > SEAL_AT {
            return None;
        }
        out.resize(HEAD, 0);
        if self.sealed {
            out[SEAL_AT..].copy_from_slice(SEAL);
        }
        let sum = sum(&out);
        out[SUM].copy_from_slice(&sum.to_le_bytes());
        Some(out)
    }

    /// Reads a head of this version; `None` when it isn't one, or isn't as it was written.
    pub(super) fn read(bytes: &[u8], version: u32) -> Option<Self> {
        let bytes: &[u8; HEAD] = bytes.try_into().ok()?;
        let u32_at = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let u64_at = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        if &bytes[..8] != MAGIC || u32_at(8)? != version || u64_at(SUM.start)? != sum(bytes) {
            return None;
        }
        let (key_len, count) = (u32_at(12)? as usize, u32_at(16)? as usize);
        let table = BOOT.end.checked_add(key_len)?;
        let end = table.checked_add(count.checked_mul(24)?)?;
        if end > SEAL_AT {
            return None;
        }
        let len = u64_at(24)?;
        let mut free = HEAD as u64;
        let mut entries = Vec::with_capacity(count);
        for at in (table..end).step_by(24) {
            let entry = Entry { tag: u64_at(at)?, offset: u64_at(at + 8)?, len: u64_at(at + 16)? };
            // In order and apart, so that they were written by nothing but this program.
            if entry.offset < free || !entry.offset.is_multiple_of(ALIGN) {
                return None;
            }
            free = entry.offset.checked_add(entry.len).filter(|end| *end <= len)?;
            entries.push(entry);
        }
        let text = |bytes: &[u8]| Some(std::str::from_utf8(bytes).ok()?.to_owned());
        let key = text(&bytes[BOOT.end..table])?;
        let boot = text(&bytes[BOOT])?.trim_end_matches('\0').to_owned();
        Some(Self { key, entries, len, boot, sealed: &bytes[SEAL_AT..] == SEAL })
    }
}

/// FNV-1a of the head without its sum and its seal.
fn sum(head: &[u8]) -> u64 {
    fnv(head[..SUM.start].iter().chain(&head[SUM.end..SEAL_AT]))
}

/// FNV-1a: the same in every build, unlike the standard library's hashes.
pub(super) fn fnv<'a>(bytes: impl IntoIterator<Item = &'a u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        let entry = |tag, offset, len| Entry { tag, offset, len };
        Head {
            key: "a key".into(),
            entries: vec![entry(7, 65_536, 100), entry(8, 131_072, 0), entry(9, 131_072, 65_537)],
            len: 200_000,
            boot: "0b3c".into(),
            sealed: false,
        }
    }

    #[test]
    fn a_head_is_read_as_it_was_written() {
        for sealed in [false, true] {
            let head = Head { sealed, ..head() };
            assert_eq!(Head::read(&head.to_bytes(3).unwrap(), 3).unwrap(), head);
        }
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let bytes = head().to_bytes(3).unwrap();
        assert_eq!(Head::read(&bytes, 4), None);
        for at in (0..400).chain(SEAL_AT - 3..SEAL_AT) {
            for flip in [1, 0x80, 0xFF] {
                let mut bytes = bytes.clone();
                bytes[at] ^= flip;
                assert_eq!(Head::read(&bytes, 3), None, "byte {at}");
            }
        }
        for len in [0, 8, 79, 80, HEAD - 1] {
            assert_eq!(Head::read(&bytes[..len], 3), None, "{len} bytes");
        }
        // A seal that isn't whole is none.
        let mut torn = bytes;
        torn[SEAL_AT..SEAL_AT + 4].copy_from_slice(&SEAL[..4]);
        assert!(!Head::read(&torn, 3).unwrap().sealed);
    }

    /// With a right sum, too: whoever can compute one must not make the program read past the file.
    #[test]
    fn segments_lie_in_the_file_one_after_another() {
        let entry = |offset, len| Entry { tag: 0, offset, len };
        for entries in [
            vec![entry(0, 10)],
            vec![entry(65_537, 10)],
            vec![entry(65_536, 134_465)],
            vec![entry(65_536, u64::MAX)],
            vec![entry(u64::MAX - 65_535, 65_536)],
            vec![entry(131_072, 10), entry(65_536, 10)],
            vec![entry(65_536, 65_537), entry(131_072, 10)],
        ] {
            let bytes = Head { entries, ..head() }.to_bytes(3).unwrap();
            assert_eq!(Head::read(&bytes, 3), None);
        }
        let mut claims = head().to_bytes(3).unwrap();
        for at in [12, 16] {
            claims[at..at + 4].fill(0xFF);
            let sum = sum(&claims);
            claims[SUM].copy_from_slice(&sum.to_le_bytes());
            assert_eq!(Head::read(&claims, 3), None);
        }
        assert!(Head { key: "k".repeat(HEAD), ..head() }.to_bytes(3).is_none());
    }
}
