//! How the rows of a product are cut into tiles.

use std::ops::Range;

/// Rows that are multiplied in one go; more are taken in turns. A multiple of every tile, and more than a chunk of 256
/// tokens.
pub(crate) const MAX_ROWS: usize = 288;

/// Rows of a tile of AMX, and its outputs.
pub(crate) const SQUARE: usize = 16;

/// Rows of each turn, whole tiles, when there are `rows`, one at least: as few turns as can be, and equally long, because
/// each one reads all weights.
pub(crate) fn turn(rows: usize, tile: usize) -> usize {
    let turns = rows.div_ceil(MAX_ROWS);
    rows.div_ceil(turns).next_multiple_of(tile)
}

/// Rows in tiles of one size, the last filled up with zeros to the next size that a kernel exists for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tiling {
    rows: usize,
    tile: usize,
    last: usize,
}

/// One tile of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tile {
    /// First row.
    pub(crate) first: usize,
    /// Rows that count.
    pub(crate) rows: usize,
    /// Rows the kernel computes.
    pub(crate) padded: usize,
}

impl Tiling {
    /// Cuts `rows` rows into tiles of the last of `sizes`, which are ascending.
    pub(crate) fn new(rows: usize, sizes: &[usize]) -> Self {
        let tile = sizes[sizes.len() - 1];
        let rest = rows % tile;
        let last = if rest == 0 { 0 } else { sizes.iter().copied().find(|&s| s >= rest).unwrap_or(tile) };
        Self { rows, tile, last }
    }

    /// Whether tiles are those of AMX.
    pub(crate) fn is_square(&self) -> bool {
        self.tile == SQUARE
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.rows.div_ceil(self.tile)
    }

    /// Rows of all tiles, zeros included.
    pub(crate) fn padded(&self) -> usize {
        self.rows / self.tile * self.tile + self.last
    }

    #[inline(always)]
    pub(crate) fn get(&self, i: usize) -> Tile {
        let first = i * self.tile;
        let rows = self.tile.min(self.rows - first);
        Tile { first, rows, padded: if rows == self.tile { rows } else { self.last } }
    }

    /// Runs of tiles of one size, with the rows that kernels compute of each.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (Range<usize>, usize)> {
        let whole = self.rows / self.tile;
        [(0..whole, self.tile), (whole..self.len(), self.last)].into_iter().filter(|(tiles, _)| !tiles.is_empty())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Tile> + '_ {
        (0..self.len()).map(|i| self.get(i))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_equal() {
        assert_eq!(turn(1, 12), 12);
        assert_eq!(turn(256, 12), 264);
        assert_eq!(turn(512, 12), 264);
        assert_eq!(turn(512, 16), 256);
        assert_eq!(turn(600, 12), 204);
        for rows in 1..3000 {
            for tile in [12, 16] {
                let turn = turn(rows, tile);
                assert!(turn <= MAX_ROWS && rows.div_ceil(turn) == rows.div_ceil(MAX_ROWS));
            }
        }
    }

    #[test]
    fn tiles_cover_rows_once() {
        for sizes in [&[1, 2, 4, 8, 12][..], &[1, 2, 4, 6], &[1, 2, 4], &[SQUARE]] {
            for rows in 1..=MAX_ROWS {
                let tiling = Tiling::new(rows, sizes);
                let (mut next, mut padded) = (0, 0);
                for tile in tiling.iter() {
                    assert_eq!(tile.first, next);
                    assert!(sizes.contains(&tile.padded) && tile.rows <= tile.padded && tile.rows > 0);
                    assert!(tile.first == padded, "only the last tile is filled up");
                    next += tile.rows;
                    padded += tile.padded;
                }
                assert_eq!((next, padded), (rows, tiling.padded()));
                assert!(padded <= MAX_ROWS);
            }
        }
    }
}
