//! From logits to a token.
//!
//! The order is the reference's: temperature, top-k, top-p, min-p, then a draw. Ties are broken towards the smaller
//! id, so that greedy decoding doesn't depend on how the logits were computed.

mod penalties;

pub use penalties::{Penalizer, Penalties};
use std::ops::RangeInclusive;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 is greedy.
    pub temperature: f32,
    /// Keeps the k most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the smallest set of most likely tokens whose probabilities reach p; 1 keeps all.
    pub top_p: f32,
    /// Drops tokens less likely than this share of the most likely one; 0 drops none.
    pub min_p: f32,
    /// Seed of the draws.
    pub seed: u64,
}

impl Sampling {
    /// The most likely token, always.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 };
    /// The checkpoints' published default.
    pub const PUBLISHED: Self = Self { temperature: 1.0, top_k: 64, top_p: 0.95, min_p: 0.0, seed: 0 };

    /// What `temperature` may be.
    pub const TEMPERATURE: RangeInclusive<f32> = 0.0..=100.0;
    /// What `top_p`, but for 0, and `min_p` may be.
    pub const SHARE: RangeInclusive<f32> = 0.0..=1.0;

    /// Whether the most likely token is always taken.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0 || self.top_k == 1
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// A sentence that names the parameter and its range.
    pub fn check(&self) -> Result<(), String> {
        if !Self::TEMPERATURE.contains(&self.temperature) {
            return Err(format!("temperature {} is out of range (0 to 100)", self.temperature));
        }
        if self.top_p == 0.0 || !Self::SHARE.contains(&self.top_p) {
            return Err(format!("top_p {} is out of range (above 0, at most 1)", self.top_p));
        }
        if !Self::SHARE.contains(&self.min_p) {
            return Err(format!("min_p {} is out of range (0 to 1)", self.min_p));
        }
        Ok(())
    }
}

/// A token and the logarithm of its probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLogprob {
    /// Token id.
    pub id: u32,
    /// Natural logarithm of the probability, before temperature and filters.
    pub logprob: f32,
}

/// Draws tokens for one sequence. Buffers are kept, so that a draw allocates nothing after the first.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    state: u64,
    /// Ids by falling logit: those that can still be drawn.
    candidates: Vec<(u32, f32)>,
}

impl Sampler {
    /// A sampler at the beginning of its seed's sequence.
    pub fn new(sampling: Sampling) -> Self {
        Self { sampling, state: sampling.seed, candidates: Vec::new() }
    }

    /// Chooses a token. NaN and −∞ are never chosen; if nothing else is there, the answer is token 0.
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        let s = self.sampling;
        if s.is_greedy() {
            return argmax(logits);
        }
        self.keep_top_k(logits);
        let top = self.candidates.first().map_or(0.0, |c| c.1);
        let mut total = 0.0;
        for c in &mut self.candidates {
            c.1 = ((c.1 - top) / s.temperature).exp();
            total += c.1;
        }
        self.keep_top_p(total);
        self.candidates.retain(|c| c.1 >= s.min_p);
        let total: f32 = self.candidates.iter().map(|c| c.1).sum();
        let mut left = self.uniform() * total;
        for &(id, weight) in &self.candidates {
            left -= weight;
            if left < 0.0 {
                return id;
            }
        }
        self.candidates.last().map_or(0, |c| c.0)
    }

    /// Fills `candidates` with the `top_k` most likely, most likely first.
    fn keep_top_k(&mut self, logits: &[f32]) {
        self.candidates.clear();
        let k = match self.sampling.top_k {
            0 => logits.len(),
            k => k.min(logits.len()),
        };
        if k == 0 {
            return;
        }
        let room = k.saturating_add(k.max(256));
        // The logit of the last of the k best so far: what is below it is passed over, which is nearly all of a vocabulary.
        let mut least = f32::NEG_INFINITY;
        for (at, part) in logits.chunks(LOOKED_AT).enumerate() {
            if !part.iter().fold(false, |any, logit| any | (*logit >= least)) {
                continue;
            }
            for (within, &logit) in part.iter().enumerate() {
                // NaN isn't greater, either.
                if logit >= least && logit > f32::NEG_INFINITY {
                    self.candidates.push(((at * LOOKED_AT + within) as u32, logit));
                }
            }
            if self.candidates.len() >= room {
                self.keep_best(k);
                least = self.candidates[k - 1].1;
            }
        }
        self.keep_best(k);
        self.candidates.sort_unstable_by(falling);
    }

    /// Drops all candidates but the best `k`; the last of these stands last.
    fn keep_best(&mut self, k: usize) {
        if k < self.candidates.len() {
            self.candidates.select_nth_unstable_by(k - 1, falling);
            self.candidates.truncate(k);
        }
    }

    /// Cuts the tail once the weights before it reach `top_p` of `total`; the first always stays.
    fn keep_top_p(&mut self, total: f32) {
        let wanted = self.sampling.top_p * total;
        if self.sampling.top_p >= 1.0 {
            return;
        }
        let mut sum = 0.0;
        let kept = self.candidates.iter().position(|c| {
            sum += c.1;
            sum >= wanted
        });
        if let Some(last) = kept {
            self.candidates.truncate(last + 1);
        }
    }

    /// Uniform in [0, 1), from Steele, Lea and Flood's SplitMix64: the same seed gives the same text in any version.
    fn uniform(&mut self) -> f32 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32
    }
}

/// Logits that are compared at once with what a candidate must reach.
const LOOKED_AT: usize = 64;

/// By falling logit, the smaller id first on ties.
fn falling(a: &(u32, f32), b: &(u32, f32)) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// The id of the largest logit, the smaller id on ties.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, &logit) in logits.iter().enumerate() {
        if logit > best.1 {
            best = (id, logit);
        }
    }
    best.0 as u32
}

/// log Σ exp of the logits, summed in f64.
pub fn log_sum_exp(logits: &[f32]) -> f32 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if !top.is_finite() {
        return top;
    }
    // f32 exponentials are plenty for 1e-3; the sum of a quarter of a million of them isn't.
    let sum: f64 = logits.iter().map(|l| f64::from((l - top).exp())).sum();
    top + sum.ln() as f32
}

/// Log-probability of `id`, and the `count` most likely tokens, most likely first.
pub fn logprobs(logits: &[f32], id: u32, count: usize) -> (f32, Vec<TokenLogprob>) {
    let normalizer = log_sum_exp(logits);
    let chosen = logits.get(id as usize).map_or(f32::NEG_INFINITY, |l| l - normalizer);
    let count = count.min(logits.len());
    let mut top: Vec<TokenLogprob> = Vec::with_capacity(count + 1);
    for (id, &logit) in logits.iter().enumerate() {
        let logprob = logit - normalizer;
        if count == 0 || (top.len() == count && top[count - 1].logprob >= logprob) {
            continue;
        }
        let at = top.partition_point(|t| t.logprob >= logprob);
        top.insert(at, TokenLogprob { id: id as u32, logprob });
        top.truncate(count);
    }
    (chosen, top)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(sampling: Sampling, logits: &[f32], n: usize) -> Vec<usize> {
        let mut sampler = Sampler::new(sampling);
        let mut counts = vec![0; logits.len()];
        for _ in 0..n {
            counts[sampler.sample(logits) as usize] += 1;
        }
        counts
    }

    const ALL: Sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 7 };

    #[test]
    fn greedy_takes_the_first_of_equals() {
        assert_eq!(Sampler::new(Sampling::GREEDY).sample(&[0.0, 3.0, 3.0, f32::NAN]), 1);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let logits = [0.5f32.ln(), 0.3f32.ln(), 0.2f32.ln()];
        let counts = draws(ALL, &logits, 20_000);
        for (count, p) in counts.iter().zip([0.5, 0.3, 0.2]) {
            assert!((*count as f32 / 20_000.0 - p).abs() < 0.015, "{counts:?}");
        }
    }

    #[test]
    fn filters_drop_what_they_say() {
        let logits = [0.5f32.ln(), 0.3f32.ln(), 0.15f32.ln(), 0.05f32.ln()];
        let dropped = |s: Sampling| draws(s, &logits, 2000).iter().map(|c| *c == 0).collect::<Vec<_>>();
        assert_eq!(dropped(Sampling { top_k: 2, ..ALL }), [false, false, true, true]);
        assert_eq!(dropped(Sampling { top_p: 0.81, ..ALL }), [false, false, false, true]);
        assert_eq!(dropped(Sampling { min_p: 0.31, ..ALL }), [false, false, true, true]);
        assert_eq!(dropped(Sampling { temperature: 0.01, ..ALL }), [false, true, true, true]);
    }

    #[test]
    fn the_most_likely_are_those_of_a_sorted_vocabulary() {
        let mut random = Sampler::new(ALL);
        for (count, top_k) in
            [(1, 1), (70, 64), (5000, 1), (5000, 64), (5000, 600), (20_000, 4999), (900, 900), (300, 0)]
        {
            for levels in [3.0, 50.0, 1e9] {
                // Few levels make ties; some can't be chosen.
                let mut draw = || match random.uniform() {
                    u if u < 0.01 => f32::NEG_INFINITY,
                    u if u < 0.02 => f32::NAN,
                    _ => ((random.uniform() - 0.5) * levels).round() * 0.1,
                };
                let logits: Vec<f32> = (0..count).map(|_| draw()).collect();
                let mut sorted: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
                sorted.retain(|c| c.1 > f32::NEG_INFINITY);
                sorted.sort_by(falling);
                sorted.truncate(if top_k == 0 { count } else { top_k });
                let mut sampler = Sampler::new(Sampling { top_k, ..ALL });
                sampler.keep_top_k(&logits);
                assert_eq!(sampler.candidates, sorted, "{top_k} of {count}");
            }
        }
    }

    #[test]
    fn the_smallest_numbers_choose_the_most_likely() {
        for least in [f32::MIN_POSITIVE, f32::from_bits(1), 1e-30] {
            for sampling in [Sampling { temperature: least, ..ALL }, Sampling { top_p: least, ..ALL }] {
                assert!(sampling.check().is_ok());
                assert_eq!(draws(sampling, &[-3e4, 2.5, 3e4, 2.0], 100), [0, 0, 100, 0], "{sampling:?}");
            }
            let all = draws(Sampling { min_p: least, ..ALL }, &[0.0, 0.0], 100);
            assert!(all.iter().all(|count| *count > 0), "{all:?}");
        }
    }

    #[test]
    fn the_seed_decides() {
        let logits: Vec<f32> = (0..50).map(|i| (i % 7) as f32).collect();
        let run = |seed| {
            let mut s = Sampler::new(Sampling { seed, ..ALL });
            (0..20).map(|_| s.sample(&logits)).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn logprobs_sum_to_one_and_are_sorted() {
        let logits = [1.0, -2.0, 0.5, 3.0];
        let (chosen, top) = logprobs(&logits, 2, 4);
        let sum: f32 = top.iter().map(|t| t.logprob.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6);
        assert_eq!(top.iter().map(|t| t.id).collect::<Vec<_>>(), [3, 0, 2, 1]);
        assert_eq!(chosen, top[2].logprob);
    }

    #[test]
    fn ranges_are_checked() {
        assert!(Sampling { top_p: 0.0, ..ALL }.check().is_err());
        assert!(Sampling { temperature: f32::NAN, ..ALL }.check().is_err());
        assert!(Sampling::PUBLISHED.check().is_ok());
    }
}
