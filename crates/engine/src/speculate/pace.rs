//! How many tokens to guess: by how often guesses were right of late, and what steps of several rows take.

/// A step over r rows takes about 1 + (r - 1) · this of one over a row, until it is measured.
const ROW: f64 = 0.2;
/// How much a guess must promise over going on without one, so that noise in the times doesn't decide.
const MARGIN: f64 = 1.05;
/// The part of what was learned that the next outcome leaves.
const MEMORY: f64 = 0.9;
/// The part that is left where nothing could be learned.
const FADING: f64 = 0.97;
/// What is believed of guesses before any was compared, and how many guesses that counts for.
const BELIEF: (f64, f64) = (0.6, 2.0);

/// How often a source's guesses were right, of late.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Acceptance {
    right: f64,
    tried: f64,
}

impl Acceptance {
    /// Of `tried` guesses in a row the first `right` were.
    pub(super) fn learn(&mut self, right: usize, tried: usize) {
        self.right = self.right * MEMORY + right as f64;
        self.tried = self.tried * MEMORY + tried as f64;
    }

    /// Nothing was learned: what is known ages.
    pub(super) fn forget(&mut self) {
        self.right *= FADING;
        self.tried *= FADING;
    }

    /// The share of guesses that are expected to be right when those before them were.
    pub(super) fn rate(&self) -> f64 {
        let (rate, weight) = BELIEF;
        (self.right + rate * weight) / (self.tried + weight)
    }
}

/// What steps over so many rows take.
#[derive(Clone, Debug, Default)]
pub(super) struct StepTimes {
    /// Seconds by rows - 1; 0 where it isn't known.
    seconds: Vec<f64>,
}

impl StepTimes {
    /// A step over `rows` (1 at least) took so long.
    pub(super) fn learn(&mut self, rows: usize, seconds: f64) {
        if self.seconds.len() < rows {
            self.seconds.resize(rows, 0.0);
        }
        let known = &mut self.seconds[rows - 1];
        // A step that something else held up counts little.
        *known = if *known == 0.0 { seconds } else { 0.8 * *known + 0.2 * seconds.min(2.0 * *known) };
    }

    /// What a step over `rows` takes, from the nearest number of rows that was measured; without any, relative to one.
    fn estimate(&self, rows: usize) -> f64 {
        let usual = |rows: usize| 1.0 + ROW * (rows - 1) as f64;
        let known = self.seconds.iter().enumerate().filter(|(_, seconds)| **seconds > 0.0);
        let nearest = known.map(|(at, seconds)| (at + 1, *seconds)).min_by_key(|(at, _)| at.abs_diff(rows));
        nearest.map_or(usual(rows), |(at, seconds)| seconds * usual(rows) / usual(at))
    }

    /// How many of at most `most` guesses give the most tokens a second, when each is right with probability `rate` and
    /// takes `cost` seconds to make; 0 when none pays.
    pub(super) fn best(&self, rate: f64, most: usize, cost: f64) -> usize {
        let mut best = (0, MARGIN / self.estimate(1));
        let (mut tokens, mut all_right) = (1.0, 1.0);
        for count in 1..=most {
            all_right *= rate;
            tokens += all_right;
            let speed = tokens / (self.estimate(count + 1) + cost * count as f64);
            if speed > best.1 {
                best = (count, speed);
            }
        }
        best.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_often_right_is_guessed_further() {
        let times = StepTimes::default();
        let counts = [0.05, 0.5, 0.8, 0.95].map(|rate| times.best(rate, 15, 0.0));
        assert_eq!(counts[0], 0);
        assert!(counts.is_sorted() && counts[3] >= 8, "{counts:?}");
        assert!(times.best(1.0, 3, 0.0) <= 3);
    }

    #[test]
    fn where_rows_cost_as_much_as_steps_nothing_is_guessed() {
        let mut times = StepTimes::default();
        for rows in 1..=16 {
            times.learn(rows, 0.01 * rows as f64);
        }
        assert_eq!(times.best(0.95, 15, 0.0), 0);
        // And where a guess costs as much as a step.
        let mut free = StepTimes::default();
        (1..=16).for_each(|rows| free.learn(rows, 0.01));
        assert_eq!((free.best(0.9, 15, 0.01), free.best(0.9, 15, 0.0)), (0, 15));
    }

    #[test]
    fn recent_guesses_count_most_and_age() {
        let mut acceptance = Acceptance::default();
        assert_eq!(acceptance.rate(), BELIEF.0);
        (0..20).for_each(|_| acceptance.learn(4, 4));
        assert!(acceptance.rate() > 0.95);
        (0..20).for_each(|_| acceptance.learn(0, 1));
        assert!(acceptance.rate() < 0.4);
        let low = acceptance.rate();
        (0..300).for_each(|_| acceptance.forget());
        assert!(acceptance.rate() > low + 0.1);
    }

    #[test]
    fn times_are_learned_and_a_hiccup_counts_little() {
        let mut times = StepTimes::default();
        times.learn(1, 0.01);
        times.learn(1, 10.0);
        assert!(times.estimate(1) < 0.013);
        times.learn(4, 0.02);
        assert!(times.estimate(3) < times.estimate(4) && times.estimate(5) > times.estimate(4));
    }
}
