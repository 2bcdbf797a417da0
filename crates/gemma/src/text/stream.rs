//! Token ids to text, as they come.

use super::Tokenizer;

/// Decodes token ids one at a time; what it has given is always whole characters, and all of it together is what
/// [`Tokenizer::decode`] gives for the whole.
///
/// Only byte-fallback tokens are held back, until their run ends: the reference replaces a whole run when any part of
/// it isn't UTF-8.
#[derive(Clone, Debug)]
pub struct DecodeStream {
    tokenizer: Tokenizer,
    skip_special: bool,
    run: Vec<u8>,
}

impl DecodeStream {
    /// A stream at its beginning; `skip_special` leaves out tokens marked special.
    pub fn new(tokenizer: &Tokenizer, skip_special: bool) -> Self {
        Self { tokenizer: tokenizer.clone(), skip_special, run: Vec::new() }
    }

    /// Takes a token and gives the text that can be shown now, which may be empty.
    pub fn push(&mut self, id: u32) -> String {
        if let Some(byte) = self.tokenizer.byte(id) {
            self.run.push(byte);
            return String::new();
        }
        let bytes = self.tokenizer.token_bytes(id);
        if bytes.is_empty() || (self.skip_special && self.tokenizer.is_special(id)) {
            return String::new();
        }
        let mut text = close_run(&mut self.run);
        // The bytes of every token but a byte token are a whole string's.
        text.push_str(&String::from_utf8_lossy(bytes));
        text
    }

    /// Gives what was held back. The stream is then at its beginning again.
    pub fn finish(&mut self) -> String {
        close_run(&mut self.run)
    }
}

/// The text of a run of byte tokens.
fn close_run(run: &mut Vec<u8>) -> String {
    String::from_utf8(std::mem::take(run))
        .unwrap_or_else(|error| char::REPLACEMENT_CHARACTER.to_string().repeat(error.as_bytes().len()))
}
