//! A step on a card: one array, copied at once.

use super::driver::{Buffer, Device, Param};
use super::matrix::unique;
use super::pinned::Pinned;
use super::product::FEW;
use crate::Error;
use crate::backend::{BLOCK, Step};
use std::sync::Arc;

/// Numbers before the rows': rows, sequences, entries of each block table, the longest context.
const HEADER: usize = 16;
/// Bytes that there is room for at first.
const FIRST: usize = 64 << 10;
/// Rows of the tiles that attention of many rows works in: for every card, and for Hopper.
pub(super) const TILES: [usize; 2] = [64, 128];

/// A step on a card, read by kernels: the header; for each row its token, its position, its end, its
/// sequence; the sequences' block tables, equally long; where there are many rows, tiles of them: the first and how many.
#[derive(Debug)]
pub struct CudaStaged {
    buffer: Buffer,
    /// What is on its way to it.
    outbox: Pinned,
    host: Vec<u32>,
    rows: usize,
    longest: usize,
    /// Whether each row is the last of a sequence of its own.
    alone: bool,
    /// How far rows see behind their own position: images do.
    ahead: usize,
    /// Entries of each table, and how many tables there are.
    stride: usize,
    sequences: usize,
    /// Where the tiles of each size begin, and how many there are.
    tiles: [(usize, usize); 2],
    /// Tells arrays apart in recordings: a larger one is at another address.
    id: u64,
    device: Arc<Device>,
}

/// A step, as kernels take it (`Step` in plain.cu).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    ids: u64,
    positions: u64,
    ends: u64,
    sequences: u64,
    tables: u64,
    stride: i32,
}
// SAFETY: as `Step` in plain.cu.
unsafe impl Param for View {}

impl CudaStaged {
    pub(super) fn new(device: &Arc<Device>) -> Result<Self, Error> {
        let (buffer, outbox) = (Buffer::zeroed(device, FIRST)?, Pinned::new(device, FIRST)?);
        let device = Arc::clone(device);
        Ok(Self {
            buffer,
            outbox,
            host: Vec::new(),
            rows: 0,
            longest: 0,
            alone: false,
            ahead: 0,
            stride: 0,
            sequences: 0,
            tiles: [(0, 0); 2],
            id: unique(),
            device,
        })
    }

    pub(super) fn fill(&mut self, ids: &[u32], step: &Step) -> Result<(), Error> {
        let rows = step.positions.len();
        assert!(ids.len() == rows || ids.is_empty(), "stage: {} tokens in {rows} rows", ids.len());
        assert_eq!(step.ends.len(), rows, "stage: ends");
        // A power of two, so that it changes rarely: recordings have it in them.
        let stride = step.sequences.iter().map(|s| s.table.len()).max().unwrap_or(0).next_power_of_two();
        self.stride = stride;
        self.sequences = step.sequences.len();
        let ahead = |(end, position): (&u32, &u32)| end.saturating_sub(position + 1) as usize;
        self.ahead = step.ends.iter().zip(&step.positions).map(ahead).max().unwrap_or(0);
        self.alone = self.ahead == 0 && step.sequences.iter().all(|sequence| sequence.rows.len() == 1);
        self.rows = rows;
        self.longest = step.ends.iter().copied().max().unwrap_or(0) as usize;
        let numbers = [rows, step.sequences.len(), stride, self.longest].map(|n| n as u32);
        self.host.clear();
        self.host.extend(numbers);
        self.host.resize(HEADER, 0);
        self.host.extend(ids);
        self.host.resize(HEADER + rows, 0);
        self.host.extend(&step.positions);
        self.host.extend(&step.ends);
        for (index, sequence) in step.sequences.iter().enumerate() {
            self.host.extend(sequence.rows.clone().map(|_| index as u32));
        }
        assert_eq!(self.host.len(), HEADER + 4 * rows, "stage: rows of sequences");
        for sequence in &step.sequences {
            let last = step.ends[sequence.rows.clone()].iter().max().map_or(0, |end| (*end as usize).div_ceil(BLOCK));
            assert!(last <= sequence.table.len(), "stage: a table that ends before what its rows see");
            let end = self.host.len() + stride;
            self.host.extend(&sequence.table);
            self.host.resize(end, u32::MAX);
        }
        for (size, tiles) in TILES.into_iter().zip(&mut self.tiles) {
            let begin = self.host.len();
            for rows in step.sequences.iter().map(|s| &s.rows).filter(|_| rows > FEW) {
                for first in rows.clone().step_by(size) {
                    self.host.extend([first as u32, size.min(rows.end - first) as u32]);
                }
            }
            *tiles = (begin, (self.host.len() - begin) / 2);
        }
        let bytes = self.host.len() * 4;
        if bytes > self.buffer.bytes() {
            self.buffer = Buffer::zeroed(&self.device, bytes.next_power_of_two())?;
            self.outbox = Pinned::new(&self.device, bytes.next_power_of_two())?;
            self.id = unique();
        }
        let outbox = self.outbox.bytes_mut()?;
        for (to, number) in outbox.as_chunks_mut::<4>().0.iter_mut().zip(&self.host) {
            *to = number.to_le_bytes();
        }
        self.outbox.send(bytes, &self.buffer)
    }

    pub(super) fn at(&self) -> u64 {
        self.buffer.at()
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// As the plain kernels take it.
    pub(super) fn view(&self) -> View {
        let [positions, ends, sequences, tables] = self.parts();
        let ids = self.at() + 4 * HEADER as u64;
        View { ids, positions, ends, sequences, tables, stride: self.stride as i32 }
    }

    /// Positions, ends, sequences and tables, as the fast kernels take them.
    pub(super) fn parts(&self) -> [u64; 4] {
        [1, 2, 3, 4].map(|part| self.at() + (4 * (HEADER + part * self.rows)) as u64)
    }

    /// Entries of each table.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// Block tables.
    pub(super) fn sequences(&self) -> usize {
        self.sequences
    }

    /// Whether each row is the last of a sequence of its own.
    pub(super) fn alone(&self) -> bool {
        self.alone
    }

    /// How far rows see behind their own position.
    pub(super) fn ahead(&self) -> usize {
        self.ahead
    }

    /// Where the tiles of size [`TILES`]`[index]` lie, and how many there are.
    pub(super) fn tiles(&self, index: usize) -> (u64, usize) {
        let (begin, count) = self.tiles[index];
        (self.at() + 4 * begin as u64, count)
    }

    /// The longest context of a row, in keys.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }
}
