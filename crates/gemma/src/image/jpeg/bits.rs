//! Entropy-coded data: bits, and the Huffman codes they spell.

use super::{DAMAGED, SHORT};

/// Bits that a table lookup decodes at once; longer codes take a search.
const LOOKUP: u32 = 9;

/// The bits between two markers.
pub(super) struct Bits<'a> {
    file: &'a [u8],
    /// The next byte to read, never past a marker.
    at: usize,
    /// Bits read ahead, the next one highest.
    buffer: u64,
    /// How many of the buffer's bits are valid; those after are zeros that the file doesn't hold.
    count: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(file: &'a [u8], at: usize) -> Self {
        Self { file, at, buffer: 0, count: 0 }
    }

    /// Fills the buffer as far as the file and whole bytes allow.
    fn fill(&mut self) {
        while self.count <= 56 {
            let byte = match (self.file.get(self.at), self.file.get(self.at + 1)) {
                (Some(0xff), Some(0)) => {
                    self.at += 2;
                    0xff
                }
                // A marker, or the end.
                (Some(0xff), _) | (None, _) => return,
                (Some(&byte), _) => {
                    self.at += 1;
                    byte
                }
            };
            self.buffer |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    /// The next `count` (at most 16) bits without taking them; zeros where there are none.
    fn peek(&mut self, count: u32) -> usize {
        if self.count < 32 {
            self.fill();
        }
        (self.buffer >> 1 >> (63 - count)) as usize
    }

    fn skip(&mut self, count: u32) -> Result<(), String> {
        if count > self.count {
            return Err(SHORT.to_owned());
        }
        self.buffer <<= count;
        self.count -= count;
        Ok(())
    }

    /// Takes `count` (at most 16) bits.
    pub(super) fn take(&mut self, count: u32) -> Result<i32, String> {
        let value = self.peek(count);
        self.skip(count)?;
        Ok(value as i32)
    }

    /// Takes a number of `size` (at most 15) bits; those that begin with 0 are negative.
    pub(super) fn signed(&mut self, size: u32) -> Result<i32, String> {
        let value = self.take(size)?;
        Ok(if size > 0 && value < 1 << (size - 1) { value - (1 << size) + 1 } else { value })
    }

    /// Takes a code.
    pub(super) fn symbol(&mut self, codes: &Codes) -> Result<u8, String> {
        let next = self.peek(16);
        let (length, symbol) = codes.short[next >> (16 - LOOKUP)];
        if length > 0 {
            self.skip(u32::from(length))?;
            return Ok(symbol);
        }
        for length in LOOKUP + 1..=16 {
            let code = next >> (16 - length);
            let Level { first, end, symbols } = codes.levels[length as usize];
            if (first..end).contains(&code) {
                self.skip(length)?;
                return Ok(codes.symbols[symbols + code - first]);
            }
        }
        Err(if self.count < 16 { SHORT } else { DAMAGED }.to_owned())
    }

    /// Takes restart marker `number` (0…7), leaving the bits before it.
    pub(super) fn restart(&mut self, number: usize) -> Result<(), String> {
        self.at = self.end();
        if self.file.get(self.at..self.at + 2) != Some(&[0xff, 0xd0 + (number % 8) as u8]) {
            return Err(if self.at >= self.file.len() { SHORT } else { DAMAGED }.to_owned());
        }
        (self.at, self.buffer, self.count) = (self.at + 2, 0, 0);
        Ok(())
    }

    /// Where the marker after the bits is, or the end of the file. It may have more than one 0xff before its number;
    /// bytes that belong to nothing are passed over.
    pub(super) fn end(&self) -> usize {
        let rest = &self.file[self.at..];
        let marker = rest.windows(2).position(|two| two[0] == 0xff && two[1] != 0 && two[1] != 0xff);
        self.at + marker.unwrap_or(rest.len())
    }
}

/// A Huffman table.
pub(super) struct Codes {
    /// For the next [`LOOKUP`] bits, the length of the code they begin with (0: longer) and its symbol.
    short: Vec<(u8, u8)>,
    /// For each length, its codes.
    levels: [Level; 17],
    symbols: Vec<u8>,
}

/// The codes of one length: consecutive numbers from `first` to before `end`, and where their symbols begin.
#[derive(Clone, Copy, Default)]
struct Level {
    first: usize,
    end: usize,
    symbols: usize,
}

impl Codes {
    /// From the number of codes of each length 1…16 and their symbols in order of the codes.
    pub(super) fn new(counts: &[u8; 16], symbols: &[u8]) -> Result<Self, String> {
        let mut short = vec![(0, 0); 1 << LOOKUP];
        let mut levels = [Level::default(); 17];
        let (mut code, mut taken) = (0_usize, 0_usize);
        for (length, &count) in (1_u32..).zip(counts) {
            let end = code + usize::from(count);
            if end > 1 << length || taken + usize::from(count) > symbols.len() {
                return Err(DAMAGED.to_owned());
            }
            levels[length as usize] = Level { first: code, end, symbols: taken };
            if length <= LOOKUP {
                for (code, &symbol) in (code..end).zip(&symbols[taken..]) {
                    let spread = LOOKUP - length;
                    short[code << spread..(code + 1) << spread].fill((length as u8, symbol));
                }
            }
            taken += usize::from(count);
            code = end << 1;
        }
        Ok(Self { short, levels, symbols: symbols[..taken].to_vec() })
    }
}
