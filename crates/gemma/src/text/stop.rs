//! Stop strings in streamed text.

/// Finds the first of several stop strings in a text that comes in pieces, and holds back only what could still become
/// one. Which stop string is found, and where, doesn't depend on how the text was cut.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    stops: Vec<Stop>,
    /// Text not given out yet.
    held: String,
    found: Option<usize>,
}

/// One stop string and how much of it the text's end is.
#[derive(Clone, Debug)]
struct Stop {
    text: Vec<u8>,
    /// For each prefix of the text, the length of the longest shorter prefix that it ends with.
    fallback: Vec<usize>,
    matched: usize,
}

impl Stop {
    fn new(text: &str) -> Self {
        let text = text.as_bytes().to_vec();
        let mut fallback = vec![0; text.len()];
        for at in 1..text.len() {
            let mut len = fallback[at - 1];
            while len > 0 && text[len] != text[at] {
                len = fallback[len - 1];
            }
            fallback[at] = if text[len] == text[at] { len + 1 } else { 0 };
        }
        Self { text, fallback, matched: 0 }
    }

    /// Takes the next byte; whether the stop string ends with it.
    fn step(&mut self, byte: u8) -> bool {
        while self.matched > 0 && self.text[self.matched] != byte {
            self.matched = self.fallback[self.matched - 1];
        }
        self.matched += usize::from(self.text[self.matched] == byte);
        self.matched == self.text.len()
    }
}

impl StopMatcher {
    /// Looks for these strings; empty ones are left out.
    pub fn new<S: AsRef<str>>(stops: &[S]) -> Self {
        let stops = stops.iter().map(AsRef::as_ref).filter(|stop| !stop.is_empty()).map(Stop::new).collect();
        Self { stops, held: String::new(), found: None }
    }

    /// Takes the next piece and gives what can be shown: whole characters, and nothing of a stop string or after it.
    pub fn push(&mut self, text: &str) -> String {
        if self.found.is_some() {
            return String::new();
        }
        let before = self.held.len();
        self.held.push_str(text);
        for at in before..self.held.len() {
            let byte = self.held.as_bytes()[at];
            // Every stop string must see every byte: no short cut.
            let ended = self
                .stops
                .iter_mut()
                .enumerate()
                .filter_map(|(i, stop)| stop.step(byte).then_some((i, stop.text.len())));
            // Of those that end here the longest began first.
            if let Some((stop, len)) = ended.max_by_key(|&(i, len)| (len, std::cmp::Reverse(i))) {
                self.found = Some(stop);
                self.held.truncate(at + 1 - len);
                return std::mem::take(&mut self.held);
            }
        }
        // What may become a stop string is a beginning of one, so it begins at a character.
        let keep = self.stops.iter().map(|stop| stop.matched).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        std::mem::replace(&mut self.held, rest)
    }

    /// The stop string found, by its place among those that aren't empty.
    pub fn found(&self) -> Option<usize> {
        self.found
    }

    /// Gives what was held back, when the text ends without a stop string.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn holds_back_only_what_may_become_a_stop_string() {
        let mut stop = StopMatcher::new(&["", "END", "\n\nQ:", "日本"]);
        assert_eq!(stop.push("one E"), "one ");
        assert_eq!(stop.push("N"), "");
        assert_eq!(stop.push("x\n"), "ENx");
        assert_eq!(stop.push("\n日"), "\n\n");
        assert_eq!(stop.push("曜"), "日曜");
        assert_eq!(stop.push("EENDafter"), "E");
        assert_eq!((stop.found(), &stop.push("more")[..], &stop.finish()[..]), (Some(0), "", ""));
        let mut none = StopMatcher::new(&["abab"]);
        assert_eq!(none.push("xaba"), "x");
        assert_eq!(none.push("aba"), "aba");
        assert_eq!((none.finish(), none.found()), ("aba".into(), None));
        let mut two = StopMatcher::new(&["b", "ab", "abc"]);
        assert_eq!((two.push("xabc"), two.found()), ("x".into(), Some(1)), "the longest of those that end first");
    }

    proptest! {
        #[test]
        fn finds_the_same_however_the_text_is_cut(
            text in "[abé\n]{0,24}",
            stops in prop::collection::vec("[abé\n]{1,4}", 0..4),
            cuts in prop::collection::vec(0usize..24, 0..6),
        ) {
            // The stop string that ends first; of several, the longest.
            let first = stops
                .iter()
                .filter_map(|stop| text.find(&stop[..]).map(|at| (at + stop.len(), at)))
                .min();
            let mut matcher = StopMatcher::new(&stops);
            let mut shown = String::new();
            let mut piece = String::new();
            for (at, c) in text.chars().enumerate() {
                piece.push(c);
                if cuts.contains(&at) {
                    shown += &matcher.push(&std::mem::take(&mut piece));
                }
            }
            shown += &matcher.push(&piece);
            shown += &matcher.finish();
            prop_assert_eq!(&shown, &text[..first.map_or(text.len(), |(_, at)| at)]);
            prop_assert_eq!(matcher.found().map(|i| stops[i].len()), first.map(|(end, at)| end - at));
        }
    }
}
