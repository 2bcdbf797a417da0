//! Writing rows into a panel, and reading one back.

use super::blocks::Record;
use super::layout::{Bits, F8_SCALES, GROUP, Ints, Layout, NF4_BLOCK, NF4_BYTES, RECORD, Scales};
use crate::cpu::simd::LANES;
use half::{bf16, f16};
use medgemma_formats::{DType, f8_to_f32};

/// One row of weights as it goes into a panel.
pub(crate) enum Row<'a> {
    /// Values, exact in F32 panels and rounded in BF16 ones.
    F32(&'a [f32]),
    /// f16 or bf16 in little-endian order, as the panel has them.
    Bits(&'a [u8]),
    /// 8-bit floats and their scale.
    F8(&'a [u8], f32),
    /// Nibbles, high ones first, and a scale for each 64.
    Nf4(&'a [u8], &'a [f32]),
    /// Blocks of integers.
    Blocks(DType, &'a [u8]),
}

/// What loading 8-bit floats divides them by.
const F8_UNIT: f32 = 256.0;

/// k whose floats are written for all rows before the next ones, so that they stay in the first cache.
const CHUNK: usize = 128;

/// Packs up to [`LANES`] rows of `k` elements into a zeroed panel.
pub(crate) fn write(layout: &Layout, k: usize, rows: &[Row<'_>], panel: &mut [u8]) {
    match layout {
        Layout::Int(ints) => write_ints(ints, k, rows, panel),
        Layout::Nf4(_) => write_nf4(rows, panel),
        Layout::F8 => write_f8(rows, panel),
        Layout::F32 => write_floats::<4>(k, rows, panel, |value| value.to_ne_bytes()),
        Layout::F16 => write_floats::<2>(k, rows, panel, |value| f16::from_f32(value).to_ne_bytes()),
        Layout::BF16 => write_floats::<2>(k, rows, panel, |value| bf16::from_f32(value).to_ne_bytes()),
        Layout::Pairs => write_pairs(k, rows, panel),
    }
}

fn write_pairs(k: usize, rows: &[Row<'_>], panel: &mut [u8]) {
    for (i, panel) in panel.chunks_mut(CHUNK * 2 * LANES).enumerate() {
        let range = i * CHUNK..k.min((i + 1) * CHUNK);
        for (lane, row) in rows.iter().enumerate() {
            let pairs = panel.as_chunks_mut::<4>().0.iter_mut().skip(lane).step_by(LANES);
            match row {
                Row::F32(values) => {
                    for ([a, b], to) in values[range.clone()].as_chunks::<2>().0.iter().zip(pairs) {
                        let ([a0, a1], [b0, b1]) = (bf16::from_f32(*a).to_ne_bytes(), bf16::from_f32(*b).to_ne_bytes());
                        *to = [a0, a1, b0, b1];
                    }
                }
                Row::Bits(bytes) => {
                    for (pair, to) in bytes[2 * range.start..2 * range.end].as_chunks::<4>().0.iter().zip(pairs) {
                        // Each of the two in the machine's order, the first of them first.
                        let [a0, a1] = u16::from_le_bytes([pair[0], pair[1]]).to_ne_bytes();
                        let [b0, b1] = u16::from_le_bytes([pair[2], pair[3]]).to_ne_bytes();
                        *to = [a0, a1, b0, b1];
                    }
                }
                Row::F8(..) | Row::Nf4(..) | Row::Blocks(..) => unreachable!("floats go into float layouts"),
            }
        }
    }
}

/// Floats of N bytes.
fn write_floats<const N: usize>(k: usize, rows: &[Row<'_>], panel: &mut [u8], round: impl Fn(f32) -> [u8; N]) {
    for (i, panel) in panel.chunks_mut(CHUNK * N * LANES).enumerate() {
        let range = i * CHUNK..k.min((i + 1) * CHUNK);
        for (lane, row) in rows.iter().enumerate() {
            let columns = panel.as_chunks_mut::<N>().0.iter_mut().skip(lane).step_by(LANES);
            match row {
                Row::F32(values) => values[range.clone()].iter().zip(columns).for_each(|(&v, to)| *to = round(v)),
                Row::Bits(bytes) => {
                    let bits = &bytes.as_chunks::<2>().0[range.clone()];
                    for (bits, to) in bits.iter().zip(columns) {
                        to.copy_from_slice(&u16::from_le_bytes(*bits).to_ne_bytes());
                    }
                }
                Row::F8(..) | Row::Nf4(..) | Row::Blocks(..) => unreachable!("floats go into float layouts"),
            }
        }
    }
}

fn write_f8(rows: &[Row<'_>], panel: &mut [u8]) {
    let (scales, columns) = panel.split_at_mut(F8_SCALES);
    for (lane, row) in rows.iter().enumerate() {
        let Row::F8(bytes, scale) = row else { unreachable!("8-bit floats go into their own layout") };
        scales[4 * lane..][..4].copy_from_slice(&(scale * F8_UNIT).to_ne_bytes());
        for (column, byte) in columns.as_chunks_mut::<LANES>().0.iter_mut().zip(*bytes) {
            column[lane] = *byte;
        }
    }
}

fn write_nf4(rows: &[Row<'_>], panel: &mut [u8]) {
    for (i, block) in panel.as_chunks_mut::<NF4_BYTES>().0.iter_mut().enumerate() {
        let (scales, pairs) = block.split_at_mut(LANES * 4);
        for (lane, row) in rows.iter().enumerate() {
            let Row::Nf4(nibbles, absmax) = row else { unreachable!("NF4 goes into its own layout") };
            scales[4 * lane..][..4].copy_from_slice(&absmax[i].to_ne_bytes());
            let bytes = &nibbles[i * (NF4_BLOCK / 2)..][..NF4_BLOCK / 2];
            for (byte, pair) in bytes.iter().zip(pairs.as_chunks_mut::<LANES>().0) {
                // The first element is a file's high nibble, and the panel's low one.
                pair[lane] = byte.rotate_left(4);
            }
        }
    }
}

fn write_ints(ints: &Ints, k: usize, rows: &[Row<'_>], panel: &mut [u8]) {
    let mut records = [const { Record::new() }; LANES];
    let mut at = 0;
    for start in (0..k).step_by(RECORD) {
        let len = RECORD.min(k - start);
        for (row, record) in rows.iter().zip(&mut records) {
            let Row::Blocks(dtype, bytes) = row else { unreachable!("integer layouts hold blocks") };
            let (unit, size) = (dtype.block_len(), dtype.block_bytes());
            record.decode(*dtype, &bytes[start / unit * size..(start + len) / unit * size]);
        }
        let (scales, weights) = panel[at..at + ints.record_bytes(len)].split_at_mut(ints.scale_bytes(len));
        write_scales(ints, len, &records, scales);
        for (i, to) in weights.as_chunks_mut::<{ 4 * LANES }>().0.iter_mut().enumerate() {
            for (record, to) in records.iter().zip(to.as_chunks_mut::<4>().0) {
                *to = vector(ints.bits, record, i).to_ne_bytes();
            }
        }
        at += ints.record_bytes(len);
    }
}

/// What a row adds to vector `i` of a record's weights: 4 bytes.
fn vector(bits: Bits, record: &Record, i: usize) -> u32 {
    let nibbles = |quad: usize| record.quad(quad) & 0x0F0F_0F0F | (record.quad(quad + 1) & 0x0F0F_0F0F) << 4;
    match (bits, i % 3) {
        (Bits::Four, _) => nibbles(2 * i),
        (Bits::Eight, _) => record.quad(i),
        (Bits::Six, part @ 0..2) => nibbles(i / 3 * 4 + 2 * part),
        (Bits::Six, _) => {
            let high = |j: usize| (record.quad(i / 3 * 4 + j) >> 4 & 0x0303_0303) << (2 * j);
            high(0) | high(1) | high(2) | high(3)
        }
    }
}

fn write_scales(ints: &Ints, len: usize, records: &[Record; LANES], to: &mut [u8]) {
    let groups = len / ints.group;
    let halves = if ints.scales == Scales::Half { groups } else { 1 };
    for (lane, record) in records.iter().enumerate() {
        for i in 0..halves {
            let mut put = |at: usize, half: u16| to[2 * at..][..2].copy_from_slice(&half.to_ne_bytes());
            put(i * LANES + lane, record.scales[i]);
            if ints.mins {
                put((halves + i) * LANES + lane, record.mins[i]);
            }
        }
        if ints.scales == Scales::Super {
            let factors = 2 * LANES * if ints.mins { 2 } else { 1 };
            for g in 0..groups {
                to[factors + g * LANES + lane] = record.scale_factors[g] as u8;
                if ints.mins {
                    to[factors + min(groups, g, lane)] = record.min_factors[g] as u8;
                }
            }
        }
    }
}

/// Where the byte of group `g`'s minimum is behind the f16 factors of a record.
fn min(groups: usize, g: usize, lane: usize) -> usize {
    groups * LANES + (g / 2 * LANES + lane) * 2 + g % 2
}

/// Decodes the row in `lane` of a panel, times `by`.
pub(crate) fn read(layout: &Layout, panel: &[u8], lane: usize, by: f32, out: &mut [f32]) {
    let bits = |at: &[u8]| u16::from_ne_bytes([at[0], at[1]]);
    match layout {
        Layout::F32 => {
            for (out, from) in out.iter_mut().zip(panel.as_chunks::<{ 4 * LANES }>().0) {
                *out = float(&from[4 * lane..]) * by;
            }
        }
        Layout::F16 => {
            for (out, from) in out.iter_mut().zip(panel.as_chunks::<{ 2 * LANES }>().0) {
                *out = f16::from_bits(bits(&from[2 * lane..])).to_f32() * by;
            }
        }
        Layout::BF16 => {
            for (out, from) in out.iter_mut().zip(panel.as_chunks::<{ 2 * LANES }>().0) {
                *out = bf16::from_bits(bits(&from[2 * lane..])).to_f32() * by;
            }
        }
        Layout::Pairs => {
            for (out, from) in out.as_chunks_mut::<2>().0.iter_mut().zip(panel.as_chunks::<{ 4 * LANES }>().0) {
                let value = |i: usize| bf16::from_bits(bits(&from[4 * lane + 2 * i..])).to_f32() * by;
                *out = [value(0), value(1)];
            }
        }
        Layout::F8 => {
            let scale = float(&panel[4 * lane..]) / F8_UNIT * by;
            for (out, from) in out.iter_mut().zip(panel[F8_SCALES..].as_chunks::<LANES>().0) {
                *out = f8_to_f32(from[lane]) * scale;
            }
        }
        Layout::Nf4(values) => {
            for (out, from) in out.as_chunks_mut::<NF4_BLOCK>().0.iter_mut().zip(panel.as_chunks::<NF4_BYTES>().0) {
                let scale = float(&from[4 * lane..]);
                let pairs = from[4 * LANES..].as_chunks::<LANES>().0;
                for (out, pair) in out.as_chunks_mut::<2>().0.iter_mut().zip(pairs) {
                    let pair = usize::from(pair[lane]);
                    *out = [values[pair & 15] * scale * by, values[pair >> 4] * scale * by];
                }
            }
        }
        Layout::Int(ints) => read_ints(ints, panel, lane, by, out),
    }
}

fn float(at: &[u8]) -> f32 {
    f32::from_ne_bytes([at[0], at[1], at[2], at[3]])
}

fn read_ints(ints: &Ints, panel: &[u8], lane: usize, by: f32, out: &mut [f32]) {
    let mut at = 0;
    for out in out.chunks_mut(RECORD) {
        let len = out.len();
        let (scales, weights) = panel[at..at + ints.record_bytes(len)].split_at(ints.scale_bytes(len));
        at += ints.record_bytes(len);
        for (g, out) in out.chunks_mut(ints.group).enumerate() {
            let (scale, min) = scale(ints, len, scales, g, lane);
            for (i, out) in out.iter_mut().enumerate() {
                let i = g * ints.group + i;
                // Byte of vector v that holds this row's part of a quad.
                let byte = |v: usize| weights[v * 4 * LANES + lane * 4 + i % 4];
                let q = match ints.bits {
                    Bits::Eight => byte(i / 4) as i8,
                    Bits::Four => (byte(i / 8) >> (i / 4 % 2 * 4) & 15) as i8 - if ints.mins { 0 } else { 8 },
                    Bits::Six => {
                        let low = byte(i / 16 * 3 + i / 8 % 2) >> (i / 4 % 2 * 4) & 15;
                        let high = byte(i / 16 * 3 + 2) >> (i / 4 % 4 * 2) & 3;
                        (low | high << 4) as i8 - if ints.mins { 0 } else { 32 }
                    }
                };
                *out = (scale * f32::from(q) + min) * by;
            }
        }
    }
}

/// Scale and minimum of group `g` of a record of `len` k.
fn scale(ints: &Ints, len: usize, scales: &[u8], g: usize, lane: usize) -> (f32, f32) {
    let groups = len / ints.group;
    let half = |i: usize| f16::from_ne_bytes([scales[2 * i], scales[2 * i + 1]]).to_f32();
    match ints.scales {
        Scales::Half => {
            let min = if ints.mins { half((groups + g) * LANES + lane) } else { 0.0 };
            (half(g * LANES + lane), min)
        }
        Scales::Super => {
            let first = 2 * LANES * if ints.mins { 2 } else { 1 };
            let factor = |i: usize| f32::from(scales[first + i] as i8);
            let scale = half(lane) * factor(g * LANES + lane);
            (scale, if ints.mins { half(LANES + lane) * factor(min(groups, g, lane)) } else { 0.0 })
        }
    }
}

const _: () = assert!(RECORD.is_multiple_of(GROUP) && RECORD.is_multiple_of(NF4_BLOCK));
