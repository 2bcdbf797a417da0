//! Notices a model that repeats itself without end.
//!
//! Small and quantized models fall into loops, which a budget of thousands of tokens turns into minutes of noise. A
//! loop is called when the last tokens are the same passage over and over: at least [`REPEATS`] times and at least
//! [`LEAST`] tokens in all, which no table, list or rule of dashes in a report comes near.

/// Longest passage that is noticed, in tokens.
const LONGEST: usize = 256;
/// Times a passage must repeat.
const REPEATS: usize = 4;
/// Tokens that must repeat in all.
const LEAST: usize = 200;

/// Counts, for every period, how many tokens in a row have equalled the one a period before.
#[derive(Clone, Debug)]
pub struct LoopDetector {
    /// The last [`LONGEST`] tokens, as a ring.
    recent: Vec<u32>,
    seen: usize,
    runs: Vec<u32>,
}

impl Default for LoopDetector {
    fn default() -> Self {
        Self { recent: vec![0; LONGEST], seen: 0, runs: vec![0; LONGEST] }
    }
}

impl LoopDetector {
    /// Takes the next token; true when the text has become a loop.
    pub fn push(&mut self, token: u32) -> bool {
        let mut looping = false;
        for period in 1..=LONGEST.min(self.seen) {
            let before = self.recent[(self.seen - period) % LONGEST];
            let run = &mut self.runs[period - 1];
            *run = if before == token { *run + 1 } else { 0 };
            looping |= *run as usize >= LEAST.max((REPEATS - 1) * period);
        }
        self.recent[self.seen % LONGEST] = token;
        self.seen += 1;
        looping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_loop(tokens: impl IntoIterator<Item = u32>) -> Option<usize> {
        let mut detector = LoopDetector::default();
        tokens.into_iter().position(|t| detector.push(t))
    }

    #[test]
    fn a_repeated_token_or_passage_is_a_loop() {
        assert_eq!(first_loop(std::iter::repeat_n(5, 1000)), Some(LEAST));
        assert_eq!(first_loop((0..2000).map(|i| i % 100)), Some(99 + 300));
    }

    #[test]
    fn ordinary_text_is_not() {
        assert_eq!(first_loop((0..5000u32).map(|i| i.wrapping_mul(2_654_435_761) % 997)), None);
        assert_eq!(first_loop((0..LEAST as u32).map(|_| 1)), None);
        // Rows of a table that differ in one cell.
        assert_eq!(first_loop((0..3000u32).map(|i| if i % 10 == 3 { i } else { i % 10 })), None);
    }
}
