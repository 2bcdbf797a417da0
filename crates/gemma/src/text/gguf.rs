//! The tokenizer of a GGUF file: pieces with scores, from which the merges follow.

use super::tokenizer::{Mark, Problem, Tables, special_by_text, steers_unmarked};
use super::vocab::{SPACE, Vocab};
use medgemma_formats::Gguf;
use std::cmp::Reverse;

/// Token types of `tokenizer.ggml.token_type`.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// What a GGUF says of its tokenizer.
#[derive(Clone, Debug, Default)]
pub(super) struct Metadata<'a> {
    pub(super) model: Option<&'a str>,
    pub(super) tokens: &'a [String],
    pub(super) scores: &'a [f32],
    pub(super) types: &'a [i32],
    pub(super) add_space_prefix: bool,
    /// The token put before a text, and the one put after it.
    pub(super) bos: Option<u64>,
    pub(super) eos: Option<u64>,
}

impl<'a> Metadata<'a> {
    /// Reads the keys; files that don't say what is added mean what Gemma does: bos before a text and nothing else.
    pub(super) fn of(gguf: &'a Gguf) -> Result<Self, medgemma_formats::Error> {
        let bos = gguf.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(true);
        let eos = gguf.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
        let id = |wanted: bool, key: &str| if wanted { gguf.u64(key) } else { Ok(None) };
        Ok(Self {
            model: gguf.str("tokenizer.ggml.model")?,
            tokens: gguf.strings("tokenizer.ggml.tokens")?.unwrap_or_default(),
            scores: gguf.f32s("tokenizer.ggml.scores")?.unwrap_or_default(),
            types: gguf.i32s("tokenizer.ggml.token_type")?.unwrap_or_default(),
            add_space_prefix: gguf.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(false),
            bos: id(bos, "tokenizer.ggml.bos_token_id")?,
            eos: id(eos, "tokenizer.ggml.eos_token_id")?,
        })
    }
}

pub(super) fn read(metadata: Metadata) -> Result<Tables, Problem> {
    let Metadata { model, tokens, scores, types, add_space_prefix, bos, eos } = metadata;
    if model != Some("llama") {
        let problem = format!("it is {model:?}, not \"llama\" (SentencePiece), which Gemma 3's files have");
        return Err(Problem::new("tokenizer.ggml.model", problem));
    }
    if add_space_prefix {
        let problem = "a space before every text is not what Gemma 3's tokenizer has, and isn't supported";
        return Err(Problem::new("tokenizer.ggml.add_space_prefix", problem));
    }
    if tokens.is_empty() {
        return Err(Problem::new("tokenizer.ggml.tokens", "it is missing or lists no token"));
    }
    for (field, len) in [("tokenizer.ggml.scores", scores.len()), ("tokenizer.ggml.token_type", types.len())] {
        if len != tokens.len() {
            let problem = format!("it has {len} entries where tokenizer.ggml.tokens has {}", tokens.len());
            return Err(Problem::new(field, problem));
        }
    }
    let mut tables = Tables::default();
    for (id, (text, &kind)) in tokens.iter().zip(types).enumerate() {
        let id = id as u32;
        // Converters write runs of spaces, which are user-defined, with real spaces.
        let text = if kind == USER_DEFINED { &text.replace(' ', SPACE.encode_utf8(&mut [0; 4])) } else { text };
        tables.vocab.insert(text, id).map_err(|problem| Problem::new("tokenizer.ggml.tokens", problem))?;
        let control = matches!(kind, CONTROL | UNKNOWN | UNUSED);
        match kind {
            NORMAL | BYTE | UNUSED => {}
            UNKNOWN | CONTROL | USER_DEFINED => {
                tables.added.insert(text, id).map_err(|problem| Problem::new("tokenizer.ggml.tokens", problem))?
            }
            _ => {
                let problem = format!("token {id} has the type {kind}, which is none of 1 to 6");
                return Err(Problem::new("tokenizer.ggml.token_type", problem));
            }
        }
        tables.marks.push(Mark { special: false, control, byte: None });
    }
    tables.mark_by_text();
    for (mark, &kind) in tables.marks.iter_mut().zip(types) {
        // A byte token is what its type says.
        mark.byte = mark.byte.filter(|_| kind == BYTE);
    }
    mark_special(&mut tables, types);
    merges_from_scores(&mut tables, scores, types)?;
    for (affix, field, id) in [
        (&mut tables.affixes.0, "tokenizer.ggml.bos_token_id", bos),
        (&mut tables.affixes.1, "tokenizer.ggml.eos_token_id", eos),
    ] {
        if let Some(id) = id {
            let known = u32::try_from(id).ok().filter(|&id| (id as usize) < tokens.len());
            affix.push(known.ok_or_else(|| Problem::new(field, format!("no token has the id {id}")))?);
        }
    }
    Ok(tables)
}

/// Says which tokens a decoder leaves out, as tokenizer.json does: converters also call `<unusedN>` and `<mask>` control
/// tokens, and the image tokens of text-only models not.
fn mark_special(tables: &mut Tables, types: &[i32]) {
    for (id, text) in tables.vocab.iter() {
        let control = matches!(types[id as usize], CONTROL | UNKNOWN) && !steers_unmarked(text);
        tables.marks[id as usize].special = control || special_by_text(text);
    }
}

/// Derives the merges as `transformers`' converter does: each way to write a token as two others, ranked by the
/// token's score, then by the lengths of the two.
fn merges_from_scores(tables: &mut Tables, scores: &[f32], types: &[i32]) -> Result<(), Problem> {
    struct Pair {
        left: u32,
        right: u32,
        id: u32,
        /// Characters of the two halves.
        chars: (u32, u32),
    }
    if let Some(id) = scores.iter().position(|score| score.is_nan()) {
        return Err(Problem::new("tokenizer.ggml.scores", format!("the score of token {id} is not a number")));
    }
    let mut pairs: Vec<Pair> = Vec::new();
    let part =
        |vocab: &Vocab, text: &str| vocab.id(text).filter(|&id| matches!(types[id as usize], NORMAL | USER_DEFINED));
    for (id, text) in tables.vocab.iter() {
        if !matches!(types[id as usize], NORMAL | USER_DEFINED) || tables.marks[id as usize].control {
            continue;
        }
        let chars = text.chars().count() as u32;
        for (before, (at, _)) in text.char_indices().enumerate().skip(1) {
            let (left, right) = text.split_at(at);
            if let Some(left) = part(&tables.vocab, left)
                && let Some(right) = part(&tables.vocab, right)
            {
                pairs.push(Pair { left, right, id, chars: (before as u32, chars - before as u32) });
            }
        }
    }
    // SentencePiece gives user-defined pieces the best score, 0; converters write another in its place.
    // (Adding 0 makes -0 and 0 equal.)
    let score = |id: u32| if types[id as usize] == USER_DEFINED { 0.0 } else { scores[id as usize] + 0.0 };
    pairs.sort_by(|a, b| score(b.id).total_cmp(&score(a.id)).then_with(|| Reverse(a.chars).cmp(&Reverse(b.chars))));
    tables.merges.reserve(pairs.len());
    for (rank, pair) in pairs.iter().enumerate() {
        tables.merges.insert(pair.left, pair.right, rank as u32, pair.id);
    }
    Ok(())
}
