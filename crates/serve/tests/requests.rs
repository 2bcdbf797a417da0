//! Requests that are somewhat wrong, thousands of them, through every route.

use medgemma_serve::fuzzing::Routes;
use std::path::Path;

/// Numbers that look random, the same ones each time (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end.max(1) as u64) as usize
    }

    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length);
        start..(start + 1 + self.below(24)).min(length)
    }
}

/// What stands in requests, and what parsers stumble over.
const WORDS: [&[u8]; 16] = [
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b"\"\"",
    b"{}",
    b"[]",
    b"[[[[[[[[",
    b"\\ud800",
    b"\xff",
    b"\0",
    b"\"type\":\"image_url\",",
    b"data:image/png;base64,",
    b"<start_of_image>",
    b"\"$ref\":\"#\",",
];

/// A request somewhat different from a seed.
fn changed(seeds: &[Vec<u8>], numbers: &mut Numbers) -> Vec<u8> {
    let mut data = seeds[numbers.below(seeds.len())].clone();
    for _ in 0..=numbers.below(4) {
        let at = numbers.range(data.len());
        match numbers.below(6) {
            0 => data.splice(at, std::iter::empty()).for_each(drop),
            1 => data[at].iter_mut().for_each(|byte| *byte ^= 1 << (*byte % 7)),
            2 => {
                let copy = data[at.clone()].to_vec();
                data.splice(at.start..at.start, copy).for_each(drop);
            }
            3 => {
                let other = &seeds[numbers.below(seeds.len())];
                let from = numbers.range(other.len());
                data.splice(at, other[from].to_vec()).for_each(drop);
            }
            _ => {
                let word = WORDS[numbers.below(WORDS.len())].to_vec();
                data.splice(at, word).for_each(drop);
            }
        }
    }
    data
}

/// What the fuzz target does for longer, and with an eye on which branches were taken.
#[test]
fn requests_that_are_somewhat_wrong_are_refused_properly() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/request");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let seeds: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    let routes = Routes::new().unwrap();
    seeds.iter().for_each(|seed| routes.check(seed));
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for _ in 0..3000 {
        routes.check(&changed(&seeds, &mut numbers));
    }
}
