//! Text to token ids and back.

use super::added::{Match, Trie};
use super::bpe::{Merges, Scratch};
use super::vocab::{SPACE, Vocab, byte_of};
use super::{DecodeStream, gguf, json};
use crate::Error;
use medgemma_formats::Gguf;
use std::sync::Arc;

/// What to do with control-token text, such as `<end_of_turn>`, inside a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// It becomes the control token, as `tokenizers` does: for texts that the program itself wrote.
    Parse,
    /// It stays text: no control token comes out, whatever the text says. For everything a person, a record or a
    /// network peer wrote.
    Plain,
}

/// Gemma's tokenizer: byte-pair encoding with byte fallback, read from `tokenizer.json` or GGUF metadata.
///
/// Token ids are those of Hugging Face's `tokenizers` on the same file. It is our own because starting up is felt:
/// Gemma's 33 MB file is read in a fraction of a second, and a GGUF, which lists no merges, needs them derived.
///
/// Control tokens are those the file marks as special, and those of Gemma that steer the model without that mark:
/// `<unusedN>` (thinking is delimited by two of them), `<mask>` and `[multimodal]`.
///
/// A clone shares the tables.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    tables: Arc<Tables>,
}

/// What a file says, checked.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) vocab: Vocab,
    pub(super) merges: Merges,
    /// Properties of each id.
    pub(super) marks: Vec<Mark>,
    /// Added tokens looked for in the text as it is.
    pub(super) added: Trie,
    /// Added tokens looked for once spaces are [`SPACE`].
    pub(super) added_normalized: Trie,
    /// Whether a whole word that is a token needs no merges.
    pub(super) ignore_merges: bool,
    /// Ids the file's post-processor puts before a text and after it.
    pub(super) affixes: (Vec<u32>, Vec<u32>),
    /// The token of each byte: every character without a token is written in them.
    pub(super) bytes: Vec<u32>,
    /// Texts of the control tokens that prompts may hold, and their ids.
    pub(super) controls: Trie,
    pub(super) control_ids: Vec<u32>,
    /// The bytes of every token, one after the other, and where each id's begin.
    pub(super) raw: Vec<u8>,
    pub(super) raw_starts: Vec<u32>,
}

/// Properties of a token.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mark {
    /// Marked special by the file: left out by a decoder that skips special tokens.
    pub(super) special: bool,
    /// Steers the model: never made from plain text.
    pub(super) control: bool,
    /// A byte-fallback token.
    pub(super) byte: Option<u8>,
}

impl Tables {
    /// Properties of an id, plain ones past the vocabulary.
    fn mark(&self, id: u32) -> Mark {
        self.marks.get(id as usize).copied().unwrap_or_default()
    }

    /// The id of a token that may come from plain text.
    fn plain_id(&self, text: &str) -> Option<u32> {
        self.vocab.id(text).filter(|&id| !self.mark(id).control)
    }

    /// Sets the properties that follow from the texts: bytes, and control tokens by name.
    pub(super) fn mark_by_text(&mut self) {
        self.marks.resize(self.vocab.len(), Mark::default());
        for (id, text) in self.vocab.iter() {
            let mark = &mut self.marks[id as usize];
            mark.byte = byte_of(text);
            mark.control |= mark.special || special_by_text(text) || steers_unmarked(text);
        }
    }

    /// Fills the tables that follow from the others.
    fn finish(&mut self) -> Result<(), String> {
        for byte in 0..=255u8 {
            let text = format!("<0x{byte:02X}>");
            let id = self.vocab.id(&text).filter(|&id| self.mark(id).byte == Some(byte));
            self.bytes.push(id.ok_or_else(|| format!("the byte token {text} is missing"))?);
        }
        // One character can't be split by the guard's mark, and a template may trim white space.
        let usable = |text: &str| text.chars().nth(1).is_some() && !text.contains(char::is_whitespace);
        for (id, text) in self.vocab.iter().filter(|&(id, text)| self.marks[id as usize].control && usable(text)) {
            self.controls.insert(text, id)?;
            self.control_ids.push(id);
        }
        for id in 0..self.vocab.len() as u32 {
            self.raw_starts
                .push(u32::try_from(self.raw.len()).map_err(|_| "the tokens are longer than 4 GiB together")?);
            match (self.marks[id as usize].byte, self.vocab.text(id)) {
                (Some(byte), _) => self.raw.push(byte),
                (None, Some(text)) => {
                    let mut parts = text.split(SPACE);
                    self.raw.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
                    for part in parts {
                        self.raw.push(b' ');
                        self.raw.extend_from_slice(part.as_bytes());
                    }
                }
                (None, None) => {}
            }
        }
        Ok(())
    }

    /// Splits a text without added tokens, its spaces already [`SPACE`], into subwords.
    fn encode_word(&self, word: &str, scratch: &mut Scratch, out: &mut Vec<u32>) {
        if word.is_empty() {
            return;
        }
        if self.ignore_merges
            && let Some(id) = self.plain_id(word)
        {
            out.push(id);
            return;
        }
        let mut utf8 = [0; 4];
        for c in word.chars() {
            let text = c.encode_utf8(&mut utf8);
            match self.plain_id(text) {
                Some(id) => scratch.push(id),
                None => text.bytes().for_each(|byte| scratch.push(self.bytes[usize::from(byte)])),
            }
        }
        self.merges.apply(scratch, out);
    }
}

/// Tokens that steer Gemma and that some files mark as special, some not: a GGUF of a text-only model calls the image
/// tokens user-defined.
const STEERING: [&str; 9] = [
    "<pad>",
    "<eos>",
    "<bos>",
    "<unk>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<start_of_image>",
    "<end_of_image>",
    "<image_soft_token>",
];

/// Whether Gemma's own files mark a token of this text as special.
pub(super) fn special_by_text(text: &str) -> bool {
    STEERING.contains(&text)
}

/// Whether a token steers Gemma without being special: its own files don't mark these.
pub(super) fn steers_unmarked(text: &str) -> bool {
    let unused = || {
        let digits = text.strip_prefix("<unused")?.strip_suffix('>')?;
        Some(!digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit()))
    };
    matches!(text, "<mask>" | "[multimodal]") || unused() == Some(true)
}

impl Tokenizer {
    /// Reads a Hugging Face `tokenizer.json` of Gemma's kind; `name` is the file's name for errors.
    ///
    /// # Errors
    /// When the file is malformed, or describes another kind of tokenizer.
    pub fn from_json(name: &str, bytes: &[u8]) -> Result<Self, Error> {
        json::read(bytes).and_then(Self::new).map_err(|problem| problem.of(name))
    }

    /// Reads the tokenizer of a GGUF's metadata. It gives the same ids as the `tokenizer.json` of the same model.
    ///
    /// # Errors
    /// When the metadata is malformed, or describes another kind of tokenizer.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, Error> {
        let name = gguf.path().display().to_string();
        let metadata = gguf::Metadata::of(gguf)?;
        gguf::read(metadata).and_then(Self::new).map_err(|problem| problem.of(&name))
    }

    fn new(mut tables: Tables) -> Result<Self, Problem> {
        tables.finish().map_err(|problem| Problem::new("vocab", problem))?;
        Ok(Self { tables: Arc::new(tables) })
    }

    pub(super) fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The ids of a text. No bos is added (see [`Tokenizer::prefix`]).
    ///
    /// Time is O(n log n) in the length, also for a long text without a space.
    pub fn encode(&self, text: &str, special: Special) -> Vec<u32> {
        let mut out = Vec::new();
        self.encode_into(text, special, &mut out);
        out
    }

    /// As [`Tokenizer::encode`], appending to `out`.
    pub fn encode_into(&self, text: &str, special: Special, out: &mut Vec<u32>) {
        let tables = &*self.tables;
        let accept = |id: u32| special == Special::Parse || !tables.mark(id).control;
        let mut scratch = Scratch::default();
        let mut word = String::new();
        each_piece(&tables.added, text, accept, &mut |piece| match piece {
            Piece::Added(id) => out.push(id),
            Piece::Text(text) => {
                word.clear();
                word.extend(text.chars().map(|c| if c == ' ' { SPACE } else { c }));
                each_piece(&tables.added_normalized, &word, accept, &mut |piece| match piece {
                    Piece::Added(id) => out.push(id),
                    Piece::Text(word) => tables.encode_word(word, &mut scratch, out),
                });
            }
        });
    }

    /// The text of token ids, as `tokenizers` decodes them with `clean_up_tokenization_spaces=False`.
    ///
    /// `skip_special` leaves out tokens marked special. Ids without a token give nothing. A run of byte tokens that
    /// isn't UTF-8 gives one replacement character for each of its bytes.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut stream = DecodeStream::new(self, skip_special);
        let mut text = String::new();
        for &id in ids {
            text.push_str(&stream.push(id));
        }
        text.push_str(&stream.finish());
        text
    }

    /// The id of a token by its text as the file spells it: `<end_of_turn>`, `▁the`, `<0x0A>`.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.tables.vocab.id(token)
    }

    /// The text of a token as the file spells it, or `None` when no token has the id.
    pub fn token(&self, id: u32) -> Option<&str> {
        self.tables.vocab.text(id)
    }

    /// The bytes a token stands for: one for a byte-fallback token, none when no token has the id.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        let Tables { raw, raw_starts, .. } = &*self.tables;
        let at = id as usize;
        let Some(&start) = raw_starts.get(at) else { return &[] };
        let end = raw_starts.get(at + 1).map_or(raw.len(), |&end| end as usize);
        &raw[start as usize..end]
    }

    /// One past the highest token id. The model's embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.tables.vocab.len()
    }

    /// Whether the file marks the token as special, so that decoding can leave it out.
    pub fn is_special(&self, id: u32) -> bool {
        self.tables.mark(id).special
    }

    /// Whether the token steers the model: plain text never becomes it.
    pub fn is_control(&self, id: u32) -> bool {
        self.tables.mark(id).control
    }

    /// The byte a byte-fallback token stands for.
    pub fn byte(&self, id: u32) -> Option<u8> {
        self.tables.mark(id).byte
    }

    /// The first control token at or after `from` in a text that a template wrote.
    pub(super) fn find_control(&self, text: &str, from: usize) -> Option<Match> {
        self.tables.controls.find(text, from, |_| true)
    }

    /// Whether a text begins with a control token, or is the beginning of one.
    pub(super) fn begins_control(&self, text: &str) -> bool {
        self.tables.controls.begins(text)
    }

    /// The control tokens that prompts may hold: all but those of one character or with white space.
    pub(super) fn controls(&self) -> impl Iterator<Item = (u32, &str)> {
        self.tables.control_ids.iter().filter_map(|&id| Some((id, self.token(id)?)))
    }

    /// Ids that the file's post-processor puts before a text (bos), to be put there for plain continuation. A chat
    /// template writes its own.
    pub fn prefix(&self) -> &[u32] {
        &self.tables.affixes.0
    }

    /// Ids that the file's post-processor puts after a text: none for Gemma.
    pub fn suffix(&self) -> &[u32] {
        &self.tables.affixes.1
    }
}

/// A part of a text.
enum Piece<'t> {
    /// An added token.
    Added(u32),
    /// What lies between.
    Text(&'t str),
}

/// Splits a text at the added tokens that `accept` takes.
fn each_piece(trie: &Trie, text: &str, accept: impl Fn(u32) -> bool + Copy, visit: &mut impl FnMut(Piece)) {
    let mut from = 0;
    while let Some(found) = trie.find(text, from, accept) {
        if found.start > from {
            visit(Piece::Text(&text[from..found.start]));
        }
        visit(Piece::Added(found.value));
        from = found.end;
    }
    if from < text.len() {
        visit(Piece::Text(&text[from..]));
    }
}

/// What is wrong with a tokenizer, and where in the file.
#[derive(Debug)]
pub(super) struct Problem {
    field: String,
    problem: String,
}

impl Problem {
    pub(super) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }

    pub(super) fn of(self, file: &str) -> Error {
        Error::Tokenizer { file: file.into(), field: self.field, problem: self.problem }
    }
}
