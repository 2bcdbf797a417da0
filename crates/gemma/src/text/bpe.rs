//! Byte-pair merging in O(n log n), in the order Hugging Face's tokenizers merges.

use hashbrown::HashMap;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The merges of a vocabulary: which pair of tokens becomes which token, and how early.
#[derive(Debug, Default)]
pub(super) struct Merges {
    table: HashMap<u64, Merge>,
}

#[derive(Clone, Copy, Debug)]
struct Merge {
    /// Place in the file's list: lower ranks merge first.
    rank: u32,
    /// The token the pair becomes.
    id: u32,
}

/// Memory reused from one word to the next.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<Candidate>>,
}

/// A token of the word, in a doubly linked list over the word's first split.
#[derive(Clone, Copy, Debug)]
struct Symbol {
    /// The token, or [`GONE`] once it was merged into the one before it.
    id: u32,
    prev: usize,
    next: usize,
}

const GONE: u32 = u32::MAX;
const NONE: usize = usize::MAX;

/// A merge that was possible when it was queued: by rank, then from left to right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    at: usize,
    id: u32,
}

impl Merges {
    /// Says that `left` and `right` become `id`. A pair listed twice keeps its later rank, as in the reference.
    pub(super) fn insert(&mut self, left: u32, right: u32, rank: u32, id: u32) {
        self.table.insert(key(left, right), Merge { rank, id });
    }

    /// Makes room for this many more.
    pub(super) fn reserve(&mut self, merges: usize) {
        self.table.reserve(merges);
    }

    /// All merges in the order of their ranks: left, right, and what they become.
    pub(super) fn ordered(&self) -> Vec<(u32, u32, u32)> {
        let mut merges: Vec<(&u64, &Merge)> = self.table.iter().collect();
        merges.sort_unstable_by_key(|(_, merge)| merge.rank);
        merges.into_iter().map(|(key, merge)| ((key >> 32) as u32, *key as u32, merge.id)).collect()
    }

    fn get(&self, left: u32, right: u32) -> Option<Merge> {
        self.table.get(&key(left, right)).copied()
    }

    /// Merges the word that `scratch` holds as far as it goes and appends its tokens to `out`.
    pub(super) fn apply(&self, scratch: &mut Scratch, out: &mut Vec<u32>) {
        let Scratch { symbols, queue } = scratch;
        queue.clear();
        for at in 1..symbols.len() {
            self.offer(symbols, queue, at - 1, at);
        }
        while let Some(Reverse(top)) = queue.pop() {
            let Symbol { id: left, prev, next } = symbols[top.at];
            if left == GONE || next == NONE {
                continue;
            }
            let right = symbols[next];
            // An entry is stale when its pair no longer becomes the same token. (The reference compares the token, not
            // the rank, so we do.)
            if self.get(left, right.id).is_none_or(|merge| merge.id != top.id) {
                continue;
            }
            symbols[top.at].id = top.id;
            symbols[top.at].next = right.next;
            symbols[next].id = GONE;
            if right.next != NONE {
                symbols[right.next].prev = top.at;
                self.offer(symbols, queue, top.at, right.next);
            }
            if prev != NONE {
                self.offer(symbols, queue, prev, top.at);
            }
        }
        out.extend(symbols.iter().map(|symbol| symbol.id).filter(|&id| id != GONE));
        symbols.clear();
    }

    fn offer(&self, symbols: &[Symbol], queue: &mut BinaryHeap<Reverse<Candidate>>, left: usize, right: usize) {
        if let Some(Merge { rank, id }) = self.get(symbols[left].id, symbols[right].id) {
            queue.push(Reverse(Candidate { rank, at: left, id }));
        }
    }
}

impl Scratch {
    /// Appends a token to the word.
    pub(super) fn push(&mut self, id: u32) {
        let at = self.symbols.len();
        if let Some(last) = self.symbols.last_mut() {
            last.next = at;
        }
        self.symbols.push(Symbol { id, prev: at.checked_sub(1).unwrap_or(NONE), next: NONE });
    }
}

fn key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merge(merges: &Merges, word: &[u32]) -> Vec<u32> {
        let mut scratch = Scratch::default();
        word.iter().for_each(|&id| scratch.push(id));
        let mut out = Vec::new();
        merges.apply(&mut scratch, &mut out);
        out
    }

    /// Merges by looking for the best pair again and again.
    fn slowly(merges: &Merges, word: &[u32]) -> Vec<u32> {
        let mut word = word.to_vec();
        loop {
            let best =
                (1..word.len()).filter_map(|at| merges.get(word[at - 1], word[at]).map(|m| (m.rank, at, m.id))).min();
            let Some((_, at, id)) = best else { return word };
            word[at - 1] = id;
            word.remove(at);
        }
    }

    #[test]
    fn lower_ranks_merge_first_and_ties_from_the_left() {
        let mut merges = Merges::default();
        merges.insert(1, 1, 1, 2);
        merges.insert(2, 1, 0, 3);
        assert_eq!(merge(&merges, &[1, 1, 1, 1]), [3, 1]);
        assert_eq!(merge(&merges, &[1, 1]), [2]);
        assert_eq!(merge(&merges, &[1]), [1]);
        assert_eq!(merge(&merges, &[]), [0; 0]);
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_merging_one_pair_at_a_time(
            pairs in proptest::collection::vec((0u32..12, 0u32..12), 0..40),
            word in proptest::collection::vec(0u32..4, 0..60),
        ) {
            let mut merges = Merges::default();
            // Each pair becomes a token of its own, as texts without two readings do.
            for (rank, &(left, right)) in pairs.iter().enumerate() {
                if merges.get(left, right).is_none() {
                    merges.insert(left, right, rank as u32, 4 + rank as u32);
                }
            }
            proptest::prop_assert_eq!(merge(&merges, &word), slowly(&merges, &word));
        }
    }
}
