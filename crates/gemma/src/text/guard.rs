//! Keeps control-token text of messages text, through a chat template.
//!
//! The template mixes its own control tokens with what people wrote into one string. A mark is put inside the control
//! tokens that a message's text holds, or could complete together with what the template puts beside it; it keeps them
//! from being recognised in the rendered string, and is then taken out again. Everything else of a text stays as it
//! is, so that templates which look into it see the same.

use super::Tokenizer;
use std::collections::HashSet;

/// Puts marks in and takes them out.
pub(super) struct Guard<'t> {
    tokenizer: &'t Tokenizer,
    mark: char,
}

impl<'t> Guard<'t> {
    /// A guard whose mark none of `texts` holds; `None` when they hold every character that could be one.
    pub(super) fn new<'s>(tokenizer: &'t Tokenizer, texts: impl Iterator<Item = &'s str>) -> Option<Self> {
        // Noncharacters first, which no honest text has; then the private planes, too many for a text to hold them all
        // unless it was made to.
        let candidates = || ('\u{fdd0}'..='\u{fdef}').chain('\u{f0000}'..='\u{ffffd}');
        let taken: HashSet<char> = texts.flat_map(str::chars).filter(|&c| c >= '\u{fdd0}').collect();
        let mark = candidates().find(|c| !taken.contains(c))?;
        Some(Self { tokenizer, mark })
    }

    /// The text with marks.
    pub(super) fn protect(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        // A template may trim the text, so it is its trimmed form that may meet what stands beside it. No control token
        // looked for has white space.
        let trimmed = trim(text);
        let start = trimmed.as_ptr() as usize - text.as_ptr() as usize;
        let end = start + trimmed.len();
        out.push_str(&text[..start]);
        if self.completes(trimmed) {
            out.push(self.mark);
        }
        for (at, c) in trimmed.char_indices() {
            out.push(c);
            if self.tokenizer.begins_control(&text[start + at..end]) {
                out.push(self.mark);
            }
        }
        out.push_str(&text[end..]);
        out
    }

    /// Whether the text could be the rest of a control token, or a piece from its middle.
    fn completes(&self, text: &str) -> bool {
        let Some(&first) = text.as_bytes().first() else { return false };
        self.tokenizer.controls().any(|(_, control)| {
            // Bytes will do: a text's first byte is never inside a character.
            (1..control.len()).filter(|&at| control.as_bytes()[at] == first).any(|at| {
                let rest = &control[at..];
                text.starts_with(rest) || rest.starts_with(text)
            })
        })
    }

    /// The text without marks.
    pub(super) fn clean(&self, text: &str) -> String {
        text.replace(self.mark, "")
    }
}

/// As Python's `str.strip`, whose white space is Unicode's and the four ASCII separators.
pub(super) fn trim(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// Whether Python calls it white space.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\x1c'..='\x1f')
}

#[cfg(test)]
mod tests {
    use super::super::tests::TINY;
    use super::*;

    fn protect(text: &str) -> String {
        let guard = Guard::new(&TINY[0], [text].into_iter()).unwrap();
        let out = guard.protect(text);
        assert_eq!(guard.clean(&out), text);
        out.replace(guard.mark, "·")
    }

    #[test]
    fn marks_control_tokens_and_what_could_become_one() {
        assert_eq!(protect("Hello <b>bold</b> a < b > c, x>y"), "Hello <b>bold</b> a < b > c, x>y");
        assert_eq!(protect(" <start_of_turn>user "), " <·start_of_turn>user ");
        assert_eq!(protect("<<bos><eos>"), "<<·bos><·eos>");
        assert_eq!(protect("a <start_of \n"), "a <·start_of \n");
        assert_eq!(protect("<"), "<·");
        assert_eq!(protect("  turn> x"), "  ·turn> x");
        assert_eq!(protect("> quoted"), "·> quoted");
        assert_eq!(protect("_of_"), "·_of_");
        assert_eq!(protect("_of_x"), "_of_x");
        assert_eq!(protect("turn <start_of_turn"), "turn <·start_of_turn");
        assert_eq!(protect("<unused94>thought"), "<·unused94>thought");
        assert_eq!(protect("  "), "  ");
        assert_eq!(protect(""), "");
    }

    #[test]
    fn the_mark_is_a_character_that_no_text_has() {
        let all: String = ('\u{fdd0}'..='\u{fdef}').collect();
        let guard = Guard::new(&TINY[0], ["x", &all].into_iter()).unwrap();
        assert_eq!(guard.mark, '\u{f0000}');
        assert_eq!(guard.clean(&guard.protect(&all)), all);
        let all: String = ('\u{fdd0}'..='\u{10ffff}').collect();
        assert!(Guard::new(&TINY[0], [&all[..]].into_iter()).is_none());
    }

    #[test]
    fn trims_as_python_does() {
        assert_eq!(trim("\u{1c}\u{1f}\u{85}\u{a0}\u{3000} \n x y \u{200b} \t"), "x y \u{200b}");
    }
}
