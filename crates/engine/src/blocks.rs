//! Blocks of the KV cache: which are free, and which a sequence holds.

use medgemma_kernels::BLOCK;

/// An entry of a table whose block has been given back.
pub(crate) const EVICTED: u32 = u32::MAX;

/// The free blocks of one pool, and how many tables hold each of the others.
#[derive(Debug)]
pub(crate) struct BlockPool {
    free: Vec<u32>,
    holders: Vec<u32>,
}

/// The blocks of one sequence in one pool, by `position / BLOCK`.
#[derive(Debug, Default)]
pub(crate) struct BlockTable {
    blocks: Vec<u32>,
    /// Entries before this one have all been given back, but for those that were kept.
    swept: usize,
}

impl BlockPool {
    pub(crate) fn new(total: usize) -> Self {
        // Low numbers go first and come back first: memory that was written once is used again.
        let free: Vec<u32> = (0..u32::try_from(total).unwrap_or(EVICTED)).rev().collect();
        let holders = vec![0; free.len()];
        Self { free, holders }
    }

    /// Blocks of the pool.
    pub(crate) fn total(&self) -> usize {
        self.holders.len()
    }

    fn take(&mut self) -> Option<u32> {
        let block = self.free.pop()?;
        self.holders[block as usize] = 1;
        Some(block)
    }

    /// Tokens that the whole pool holds.
    pub(crate) fn tokens(&self) -> usize {
        self.total() * BLOCK
    }

    /// Blocks that no sequence holds.
    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }
}

impl BlockTable {
    pub(crate) fn as_slice(&self) -> &[u32] {
        &self.blocks
    }

    /// Makes room for positions below `end`; false when the pool has no block left (what was taken stays).
    pub(crate) fn extend_to(&mut self, end: usize, pool: &mut BlockPool) -> bool {
        while self.blocks.len() * BLOCK < end {
            match pool.take() {
                Some(block) => self.blocks.push(block),
                None => return false,
            }
        }
        true
    }

    /// Gives back blocks all of whose positions are below `position`, but for those that overlap `keep`.
    pub(crate) fn evict_below(&mut self, position: usize, keep: std::ops::Range<usize>, pool: &mut BlockPool) {
        let end = (position / BLOCK).min(self.blocks.len());
        for index in self.swept..end {
            let overlaps = index * BLOCK < keep.end && keep.start < (index + 1) * BLOCK;
            if !overlaps {
                self.give_back(index, pool);
            }
        }
        self.swept = self.swept.max(end);
    }

    /// Gives back every block that lies wholly at or after `end`, for a text that goes on from there in another way:
    /// what was kept until now may be evicted from now on.
    pub(crate) fn truncate(&mut self, end: usize, pool: &mut BlockPool) {
        self.cut(end, pool);
        self.swept = 0;
    }

    /// Gives back every block that lies wholly at or after `end`, where the same text goes on.
    pub(crate) fn cut(&mut self, end: usize, pool: &mut BlockPool) {
        for index in end.div_ceil(BLOCK)..self.blocks.len() {
            self.give_back(index, pool);
        }
        self.blocks.truncate(end.div_ceil(BLOCK));
        self.swept = self.swept.min(self.blocks.len());
    }

    /// Whether every block of the positions is still held.
    pub(crate) fn holds(&self, positions: std::ops::Range<usize>) -> bool {
        let blocks = positions.start / BLOCK..positions.end.div_ceil(BLOCK);
        self.blocks.get(blocks).is_some_and(|b| b.iter().all(|b| *b != EVICTED))
    }

    /// Blocks that the table holds.
    pub(crate) fn held(&self) -> usize {
        self.blocks.iter().filter(|block| **block != EVICTED).count()
    }

    fn give_back(&mut self, index: usize, pool: &mut BlockPool) {
        let block = std::mem::replace(&mut self.blocks[index], EVICTED);
        if block != EVICTED {
            let holders = &mut pool.holders[block as usize];
            *holders -= 1;
            if *holders == 0 {
                pool.free.push(block);
            }
        }
    }

    /// A table of the first `count` blocks, which both then hold. Nobody may write into them any more.
    pub(crate) fn share(&self, count: usize, pool: &mut BlockPool) -> Self {
        let blocks = self.blocks[..count].to_vec();
        blocks.iter().filter(|block| **block != EVICTED).for_each(|block| pool.holders[*block as usize] += 1);
        Self { blocks, swept: 0 }
    }

    /// Whether another table holds the block of a position, too.
    pub(crate) fn is_shared(&self, position: usize, pool: &BlockPool) -> bool {
        let block = self.blocks.get(position / BLOCK);
        block.is_some_and(|block| *block != EVICTED && pool.holders[*block as usize] > 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_comes_back() {
        let mut pool = BlockPool::new(10);
        let mut table = BlockTable::default();
        assert!(table.extend_to(5 * BLOCK + 1, &mut pool));
        assert_eq!((pool.free(), table.as_slice().len()), (4, 6));
        table.evict_below(3 * BLOCK + 5, BLOCK..BLOCK + 1, &mut pool);
        assert_eq!(pool.free(), 6);
        assert!(table.holds(BLOCK..2 * BLOCK) && !table.holds(0..1) && !table.holds(2 * BLOCK..4 * BLOCK));
        assert!(table.holds(3 * BLOCK..6 * BLOCK));
        table.truncate(4 * BLOCK, &mut pool);
        assert_eq!(pool.free(), 8);
        table.truncate(0, &mut pool);
        assert_eq!(pool.free(), 10);
    }

    #[test]
    fn a_shared_block_is_free_when_the_last_table_gives_it_back() {
        let mut pool = BlockPool::new(8);
        let mut table = BlockTable::default();
        assert!(table.extend_to(4 * BLOCK, &mut pool));
        table.evict_below(BLOCK, 0..0, &mut pool);
        let mut other = table.share(3, &mut pool);
        assert!(other.is_shared(BLOCK, &pool) && !other.is_shared(0, &pool) && !table.is_shared(3 * BLOCK, &pool));
        table.truncate(0, &mut pool);
        assert_eq!(pool.free(), 6);
        assert!(other.holds(BLOCK..3 * BLOCK) && !other.is_shared(BLOCK, &pool));
        other.truncate(0, &mut pool);
        assert_eq!(pool.free(), 8);
    }

    #[test]
    fn a_full_pool_says_so_and_loses_nothing() {
        let mut pool = BlockPool::new(2);
        let mut table = BlockTable::default();
        assert!(!table.extend_to(3 * BLOCK, &mut pool));
        table.truncate(0, &mut pool);
        assert_eq!(pool.free(), 2);
    }
}
