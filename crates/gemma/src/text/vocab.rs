//! Token texts and their ids.

use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;

/// One past the highest token id accepted: four times Gemma's vocabulary, so that an id which a file merely claims
/// can't make the table by id huge.
const MAX_IDS: usize = 1 << 20;

/// The character that stands for a space inside a token (U+2581).
pub(super) const SPACE: char = '▁';

/// Longest text of one token, in bytes; Gemma's longest has 93. Finding added tokens and deriving merges look at most
/// this far at each place.
const MAX_TEXT: usize = 1 << 10;

/// Token texts in one arena, found by id or by text.
///
/// Texts are as tokenizer.json spells them: [`SPACE`] for a space, `<0x0A>` for a byte.
#[derive(Debug, Default)]
pub(super) struct Vocab {
    arena: String,
    /// Start and length of each id's text in the arena; ids that no token has are [`HOLE`].
    spans: Vec<(u32, u32)>,
    /// Ids by the hash of their texts.
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

/// The span of an id without a token.
const HOLE: (u32, u32) = (0, u32::MAX);

impl Vocab {
    /// Adds a token; the error says what is wrong with it.
    pub(super) fn insert(&mut self, text: &str, id: u32) -> Result<(), String> {
        let at = id as usize;
        if at >= MAX_IDS {
            return Err(format!("token id {id} is past the limit of {MAX_IDS}"));
        }
        if text.is_empty() || text.len() > MAX_TEXT {
            return Err(format!("token {id} has a text of {} bytes, not of 1 to {MAX_TEXT}", text.len()));
        }
        if let Some(other) = self.text(id) {
            return Err(format!("token id {id} is given to both {other:?} and {text:?}"));
        }
        let start = u32::try_from(self.arena.len())
            .ok()
            .filter(|start| start.checked_add(text.len() as u32).is_some())
            .ok_or("the token texts are longer than 4 GiB together")?;
        let hash = self.hasher.hash_one(text);
        let Self { arena, spans, index, hasher } = self;
        let same = |&id: &u32| slice(arena, spans[id as usize]) == text;
        if let Some(&other) = index.find(hash, same) {
            return Err(format!("token {text:?} has two ids, {other} and {id}"));
        }
        if at >= spans.len() {
            spans.resize(at + 1, HOLE);
        }
        arena.push_str(text);
        spans[at] = (start, text.len() as u32);
        index.insert_unique(hash, id, |&id| hasher.hash_one(slice(arena, spans[id as usize])));
        Ok(())
    }

    /// The id of a token's text.
    pub(super) fn id(&self, text: &str) -> Option<u32> {
        let hash = self.hasher.hash_one(text);
        self.index.find(hash, |&id| slice(&self.arena, self.spans[id as usize]) == text).copied()
    }

    /// The text of an id, or `None` when no token has it.
    pub(super) fn text(&self, id: u32) -> Option<&str> {
        let span = *self.spans.get(id as usize)?;
        (span != HOLE).then(|| slice(&self.arena, span))
    }

    /// One past the highest id.
    pub(super) fn len(&self) -> usize {
        self.spans.len()
    }

    /// All tokens in the order of their ids.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &str)> {
        (0..self.spans.len() as u32).filter_map(|id| Some((id, self.text(id)?)))
    }
}

fn slice(arena: &str, (start, len): (u32, u32)) -> &str {
    &arena[start as usize..start as usize + len as usize]
}

/// The byte a byte-fallback token such as `<0x0A>` stands for.
pub(super) fn byte_of(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() != 2 || !hex.bytes().all(|c| c.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(hex, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_tokens_both_ways_and_refuses_contradictions() {
        let mut vocab = Vocab::default();
        vocab.insert("a", 5).unwrap();
        vocab.insert("▁a", 0).unwrap();
        assert_eq!((vocab.id("a"), vocab.id("▁a"), vocab.id("b")), (Some(5), Some(0), None));
        assert_eq!((vocab.text(5), vocab.text(3), vocab.text(99)), (Some("a"), None, None));
        assert_eq!(vocab.len(), 6);
        assert_eq!(vocab.iter().collect::<Vec<_>>(), [(0, "▁a"), (5, "a")]);
        assert!(vocab.insert("b", 5).unwrap_err().contains("both"));
        assert!(vocab.insert("a", 6).unwrap_err().contains("two ids"));
        assert!(vocab.insert("", 6).is_err());
        assert!(vocab.insert("c", u32::MAX).unwrap_err().contains("limit"));
    }

    #[test]
    fn reads_byte_tokens() {
        assert_eq!(byte_of("<0x0A>"), Some(10));
        assert_eq!(byte_of("<0xff>"), Some(255));
        for other in ["<0x0>", "<0x+1>", "<0x0G>", "0x0A", "<0x00A>", "<0xé>"] {
            assert_eq!(byte_of(other), None, "{other}");
        }
    }
}
