//! The scans of a frame: Huffman-coded coefficients, in one go (sequential) or by and by (progressive).

use super::bits::{Bits, Codes};
use super::idct::{self, ZIGZAG};
use super::{Component, DAMAGED, Frame};
use std::rc::Rc;

/// What a scan's header says.
pub(super) struct Scan {
    /// For each component of the scan, which of the frame's it is and its tables.
    pub(super) parts: Vec<Part>,
    /// First and last coefficient, in the file's order.
    pub(super) band: (usize, usize),
    /// Bit that earlier scans ended at (0: this is the first), and the one this ends at.
    pub(super) bits: (u32, u32),
    /// MCUs between restart markers; 0: none.
    pub(super) restart_interval: usize,
}

/// A component of a scan.
pub(super) struct Part {
    pub(super) component: usize,
    pub(super) dc: Option<Rc<Codes>>,
    pub(super) ac: Option<Rc<Codes>>,
    /// The last DC value: the next is coded as the difference.
    pub(super) prediction: i32,
}

/// Decodes the scan whose bits begin at `at`; gives where they end.
pub(super) fn decode(frame: &mut Frame, mut scan: Scan, file: &[u8], at: usize) -> Result<usize, String> {
    let mut bits = Bits::new(file, at);
    // Blocks of bands that are known to be zero from here on (progressive).
    let mut end_run = 0;
    // A scan of one component has MCUs of one block, and only as many as the picture needs.
    let single = scan.parts.len() == 1;
    let (columns, rows) = match &scan.parts[..] {
        [part] => frame.components[part.component].needed_blocks(),
        _ => frame.mcus,
    };
    for mcu in 0..columns * rows {
        if scan.restart_interval > 0 && mcu > 0 && mcu % scan.restart_interval == 0 {
            bits.restart(mcu / scan.restart_interval - 1)?;
            scan.parts.iter_mut().for_each(|part| part.prediction = 0);
            end_run = 0;
        }
        let (mcu_column, mcu_row) = (mcu % columns, mcu / columns);
        for part in &mut scan.parts {
            let component = &mut frame.components[part.component];
            let (across, down) = if single { (1, 1) } else { (component.across, component.down) };
            for y in 0..down {
                for x in 0..across {
                    let block = (mcu_column * across + x, mcu_row * down + y);
                    if frame.progressive {
                        let coefficients = component.coefficients(block);
                        progressive(&mut bits, part, scan.band, scan.bits, &mut end_run, coefficients)?;
                    } else {
                        sequential(&mut bits, part, component, block)?;
                    }
                }
            }
        }
    }
    Ok(bits.end())
}

fn table(codes: &Option<Rc<Codes>>) -> Result<&Codes, String> {
    codes.as_deref().ok_or_else(|| DAMAGED.to_owned())
}

fn dc_difference(bits: &mut Bits, part: &Part) -> Result<i32, String> {
    match bits.symbol(table(&part.dc)?)? {
        size @ 0..=15 => bits.signed(u32::from(size)),
        _ => Err(DAMAGED.to_owned()),
    }
}

/// Decodes all coefficients of a block, and its samples.
fn sequential(
    bits: &mut Bits,
    part: &mut Part,
    component: &mut Component,
    block: (usize, usize),
) -> Result<(), String> {
    let mut coefficients = [0_i16; 64];
    part.prediction = part.prediction.wrapping_add(dc_difference(bits, part)?);
    coefficients[0] = part.prediction as i16;
    let codes = table(&part.ac)?;
    let mut k = 1;
    while k < 64 {
        let symbol = bits.symbol(codes)?;
        let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        match (run, size) {
            (15, 0) => k += 16,
            (_, 0) => break,
            _ => {
                k += run;
                let at = *ZIGZAG.get(k).ok_or(DAMAGED)?;
                coefficients[usize::from(at)] = bits.signed(size)? as i16;
                k += 1;
            }
        }
    }
    let quantization = component.quantization.as_deref().ok_or(DAMAGED)?;
    let stride = component.stride;
    idct::block(&coefficients, quantization, &mut component.samples[block.1 * 8 * stride + block.0 * 8..], stride);
    Ok(())
}

/// Adds a scan's bits to a block of coefficients.
fn progressive(
    bits: &mut Bits,
    part: &mut Part,
    band: (usize, usize),
    (high, low): (u32, u32),
    end_run: &mut u32,
    block: &mut [i16; 64],
) -> Result<(), String> {
    match (band.0, high) {
        (0, 0) => {
            part.prediction = part.prediction.wrapping_add(dc_difference(bits, part)?);
            block[0] = part.prediction.wrapping_shl(low) as i16;
            Ok(())
        }
        (0, _) => {
            block[0] |= (bits.take(1)? << low) as i16;
            Ok(())
        }
        (_, 0) => first_bits(bits, table(&part.ac)?, band, low, end_run, block),
        _ => next_bit(bits, table(&part.ac)?, band, low, end_run, block),
    }
}

/// The length of a run of empty bands: 2^size and `size` bits more.
fn run_length(bits: &mut Bits, size: u32) -> Result<u32, String> {
    Ok((1 << size) + bits.take(size)? as u32)
}

/// The first scan of a band.
fn first_bits(
    bits: &mut Bits,
    codes: &Codes,
    (start, end): (usize, usize),
    low: u32,
    end_run: &mut u32,
    block: &mut [i16; 64],
) -> Result<(), String> {
    if *end_run > 0 {
        *end_run -= 1;
        return Ok(());
    }
    let mut k = start;
    while k <= end {
        let symbol = bits.symbol(codes)?;
        let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        match (run, size) {
            (15, 0) => k += 16,
            (_, 0) => {
                *end_run = run_length(bits, run as u32)? - 1;
                break;
            }
            _ => {
                k += run;
                let at = *ZIGZAG.get(k).ok_or(DAMAGED)?;
                block[usize::from(at)] = (bits.signed(size)? << low) as i16;
                k += 1;
            }
        }
    }
    Ok(())
}

/// A later scan of a band: one bit more of each value that isn't zero, and the values that are new at this bit.
fn next_bit(
    bits: &mut Bits,
    codes: &Codes,
    (start, end): (usize, usize),
    low: u32,
    end_run: &mut u32,
    block: &mut [i16; 64],
) -> Result<(), String> {
    let unit = 1_i16 << low;
    let mut k = start;
    if *end_run == 0 {
        while k <= end {
            let symbol = bits.symbol(codes)?;
            let (run, size) = (u32::from(symbol >> 4), symbol & 15);
            let new = match (run, size) {
                (15, 0) => 0,
                (_, 0) => {
                    *end_run = run_length(bits, run)?;
                    break;
                }
                (_, 1) => [-unit, unit][bits.take(1)? as usize],
                _ => return Err(DAMAGED.to_owned()),
            };
            k = refine(bits, (k, end), Some(run), unit, block)?;
            if new != 0 {
                let at = *ZIGZAG.get(k).filter(|_| k <= end).ok_or(DAMAGED)?;
                block[usize::from(at)] = new;
            }
            k += 1;
        }
    }
    if *end_run > 0 {
        refine(bits, (k, end), None, unit, block)?;
        *end_run -= 1;
    }
    Ok(())
}

/// Gives every value that isn't zero its bit, up to the zero after `run` zeros; gives where that is.
fn refine(
    bits: &mut Bits,
    (start, end): (usize, usize),
    mut run: Option<u32>,
    unit: i16,
    block: &mut [i16; 64],
) -> Result<usize, String> {
    for k in start..=end {
        let value = &mut block[usize::from(ZIGZAG[k])];
        if *value != 0 {
            if bits.take(1)? == 1 && *value & unit == 0 {
                *value = value.wrapping_add(if *value > 0 { unit } else { -unit });
            }
        } else if let Some(run) = &mut run {
            if *run == 0 {
                return Ok(k);
            }
            *run -= 1;
        }
    }
    Ok(end + 1)
}
