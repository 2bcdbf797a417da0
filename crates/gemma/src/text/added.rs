//! Added tokens: whole strings that are found in a text before it is split into subwords.

use std::collections::HashMap;

/// Most nodes of a trie, fifty times what Gemma needs: each takes about forty bytes for one of the file.
const MAX_NODES: usize = 1 << 20;

/// A set of strings, searched for leftmost first and longest at each place, as a byte trie.
#[derive(Debug, Default)]
pub(super) struct Trie {
    /// Child of a node by byte; the root is node 0.
    children: HashMap<(u32, u8), u32, hashbrown::DefaultHashBuilder>,
    /// Value of the string that ends at each node.
    values: Vec<Option<u32>>,
}

/// A string found in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Match {
    /// Where it begins.
    pub(super) start: usize,
    /// One past its end.
    pub(super) end: usize,
    /// The value it was inserted with.
    pub(super) value: u32,
}

impl Trie {
    /// Adds a string that isn't empty. A string added twice keeps its later value.
    pub(super) fn insert(&mut self, text: &str, value: u32) -> Result<(), String> {
        if self.values.len() + text.len() > MAX_NODES {
            return Err(format!("there are more added tokens than {MAX_NODES} bytes of different texts"));
        }
        if self.values.is_empty() {
            self.values.push(None);
        }
        let mut node = 0;
        for byte in text.bytes() {
            let new = self.values.len() as u32;
            node = *self.children.entry((node, byte)).or_insert(new);
            if node == new {
                self.values.push(None);
            }
        }
        self.values[node as usize] = Some(value);
        Ok(())
    }

    /// Whether there is no string.
    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The longest string at the beginning of `text` whose value `accept` takes: its length and value.
    pub(super) fn longest(&self, text: &[u8], accept: impl Fn(u32) -> bool) -> Option<(usize, u32)> {
        let mut node = 0;
        let mut best = None;
        for (at, &byte) in text.iter().enumerate() {
            let Some(&child) = self.children.get(&(node, byte)) else { break };
            node = child;
            if let Some(value) = self.values[node as usize].filter(|&value| accept(value)) {
                best = Some((at + 1, value));
            }
        }
        best
    }

    /// Whether a string stands at the beginning of `text`, or `text` at the beginning of a string.
    pub(super) fn begins(&self, text: &str) -> bool {
        let mut node = 0;
        for byte in text.bytes() {
            match self.children.get(&(node, byte)) {
                Some(&child) if self.values[child as usize].is_some() => return true,
                Some(&child) => node = child,
                None => return false,
            }
        }
        node != 0
    }

    /// The first match at or after `from`.
    pub(super) fn find(&self, text: &str, from: usize, accept: impl Fn(u32) -> bool + Copy) -> Option<Match> {
        if self.is_empty() {
            return None;
        }
        // Strings begin with a character's first byte, so a match lies on character boundaries.
        (from..text.len()).find_map(|start| {
            let (len, value) = self.longest(&text.as_bytes()[start..], accept)?;
            Some(Match { start, end: start + len, value })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(trie: &Trie, text: &str, accept: fn(u32) -> bool) -> Vec<(usize, usize, u32)> {
        let mut found = Vec::new();
        let mut from = 0;
        while let Some(m) = trie.find(text, from, accept) {
            found.push((m.start, m.end, m.value));
            from = m.end;
        }
        found
    }

    #[test]
    fn takes_the_leftmost_and_longest() {
        let mut trie = Trie::default();
        assert_eq!(trie.find("abc", 0, |_| true), None);
        for (value, text) in ["\n", "\n\n", "\n\n\n", "<b>", "<bos>", "é"].iter().enumerate() {
            trie.insert(text, value as u32).unwrap();
        }
        let begins = ["<", "<bo", "<bos>", "<b>x", "é", "", "<x", "b>"].map(|text| trie.begins(text));
        assert_eq!(begins, [true, true, true, true, true, false, false, false]);
        assert_eq!(all(&trie, "a\n\n\n\nb", |_| true), [(1, 4, 2), (4, 5, 0)]);
        assert_eq!(all(&trie, "<b<bos>é<b>", |_| true), [(2, 7, 4), (7, 9, 5), (9, 12, 3)]);
        assert_eq!(all(&trie, "<bos><b>", |v| v != 4), [(5, 8, 3)]);
        assert_eq!(all(&trie, "\n\n\n", |v| v != 2), [(0, 2, 1), (2, 3, 0)]);
    }
}
