//! Prompt lookup: where the last tokens occurred before, what followed there may follow again.

/// Tokens that must be equal before anything is guessed: one alone says too little.
const LEAST: usize = 2;
/// Tokens that are compared at most: more don't make a guess better.
const MOST: usize = 16;
/// Numbers of equal tokens from which guesses are counted apart.
const BOUNDS: [usize; CLASSES] = [LEAST, 3, 4, 6, 10];
/// How many such classes there are.
pub(super) const CLASSES: usize = 5;

/// Guesses from the text so far, prompt and answer.
#[derive(Clone, Copy, Debug)]
pub struct Lookup;

/// How a guess was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Tokens at the end of the text that were the same at the earlier place, 16 at most.
    pub equal: usize,
}

impl Found {
    /// The more tokens are equal, the likelier a guess is right: which share of experience it belongs to.
    pub fn class(self) -> usize {
        BOUNDS.partition_point(|bound| *bound <= self.equal).saturating_sub(1)
    }
}

impl Lookup {
    /// Appends to `draft` up to `most` tokens that followed the earlier place most like the end of the text; the latest
    /// of several. `None` when there is no such place.
    ///
    /// It reads the text once: some ten microseconds for 32K tokens, a thousandth of a step.
    pub fn find(tokens: &[u32], most: usize, draft: &mut Vec<u32>) -> Option<Found> {
        let [.., before, last] = *tokens else { return None };
        let mut best = (0, 0);
        // `end` is the position behind the earlier place.
        for end in (LEAST..tokens.len()).rev() {
            if tokens[end - 1] != last || tokens[end - 2] != before {
                continue;
            }
            let back = tokens[..end].iter().rev().zip(tokens.iter().rev());
            let equal = back.take(MOST).take_while(|(a, b)| a == b).count();
            if equal > best.0 {
                best = (equal, end);
                if equal == MOST {
                    break;
                }
            }
        }
        let (equal, end) = best;
        if equal < LEAST {
            return None;
        }
        let first = draft.len();
        for at in end..end + most {
            // A place that overlaps the end of the text goes on with the guess itself: a repetition.
            let next = if at < tokens.len() { tokens[at] } else { draft[first + at - tokens.len()] };
            draft.push(next);
        }
        Some(Found { equal })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(tokens: &[u32], most: usize) -> Option<(usize, Vec<u32>)> {
        let mut draft = Vec::new();
        let found = Lookup::find(tokens, most, &mut draft)?;
        Some((found.equal, draft))
    }

    #[test]
    fn the_longest_match_wins_and_the_latest_of_equals() {
        assert_eq!(find(&[1, 2, 3, 9, 5, 2, 3, 8, 1, 2, 3], 2), Some((3, vec![9, 5])));
        assert_eq!(find(&[7, 2, 3, 9, 5, 2, 3, 8, 1, 2, 3], 2), Some((2, vec![8, 1])));
        assert_eq!(find(&[1, 2, 4, 5, 6], 2), None);
        assert_eq!(find(&[3, 3], 2), None);
        assert_eq!(find(&[], 2), None);
    }

    #[test]
    fn a_repetition_goes_on() {
        assert_eq!(find(&[9, 1, 2, 1, 2, 1, 2], 5), Some((4, vec![1, 2, 1, 2, 1])));
        assert_eq!(find(&[4; 30], 3), Some((16, vec![4; 3])));
    }

    #[test]
    fn classes_follow_the_length() {
        let classes: Vec<usize> = (LEAST..=MOST).map(|equal| Found { equal }.class()).collect();
        assert_eq!(classes, [0, 1, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4]);
    }
}
