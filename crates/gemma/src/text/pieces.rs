//! A tokenizer as the pieces with scores that a GGUF lists.

use super::gguf::{self, Metadata};
use super::tokenizer::{Problem, Tables, Tokenizer, steers_unmarked};
use super::vocab::SPACE;
use crate::Error;
use std::collections::HashMap;

/// Token types of `tokenizer.ggml.token_type`.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// Scores that llama.cpp's converter gives to added tokens, which no merge makes, and to rows without a token.
const ADDED_SCORE: f32 = -1000.0;
const UNUSED_SCORE: f32 = -10000.0;

/// `tokenizer.ggml.{tokens,scores,token_type}`, by token id.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pieces {
    /// Texts; runs of spaces with real spaces, ids without a token as `[PAD<id>]`.
    pub tokens: Vec<String>,
    /// What decides which pieces are merged first: the higher score.
    pub scores: Vec<f32>,
    /// 1 normal, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub types: Vec<i32>,
}

impl Pieces {
    /// Cuts to `rows` tokens, or adds unused ones: a GGUF's list is as long as its embedding table. Returns how many
    /// tokens were cut off.
    pub fn resize(&mut self, rows: usize) -> usize {
        let cut = self.tokens.len().saturating_sub(rows);
        for id in self.tokens.len()..rows {
            self.tokens.push(padding(id));
        }
        self.tokens.truncate(rows);
        self.scores.resize(rows, UNUSED_SCORE);
        self.types.resize(rows, UNUSED);
        cut
    }
}

/// The text of a row that no token has.
fn padding(id: usize) -> String {
    format!("[PAD{id}]")
}

impl Tokenizer {
    /// The tokenizer as a GGUF lists it; `name` is the file's name for errors.
    ///
    /// A GGUF has no list of merges: any two pieces that make a third one merge, the best score first. So the scores
    /// are counted down along the tokenizer's merges, and a tokenizer whose merges don't follow from any scores (not
    /// Gemma's) is refused rather than written as one that cuts text differently.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the merges can't be said by scores.
    pub fn pieces(&self, name: &str) -> Result<Pieces, Error> {
        pieces(self.tables()).map_err(|problem| problem.of(name))
    }
}

fn pieces(tables: &Tables) -> Result<Pieces, Problem> {
    let mut out = Pieces::default();
    for id in 0..tables.vocab.len() as u32 {
        let (text, kind, score) = match tables.vocab.text(id) {
            None => (padding(id as usize), UNUSED, UNUSED_SCORE),
            Some(text) => match kind(tables, id, text) {
                USER_DEFINED => (text.replace(SPACE, " "), USER_DEFINED, ADDED_SCORE),
                CONTROL => (text.to_owned(), CONTROL, ADDED_SCORE),
                kind => (text.to_owned(), kind, 0.0),
            },
        };
        out.tokens.push(text);
        out.types.push(kind);
        out.scores.push(score);
    }
    let merges = tables.merges.ordered();
    // Gemma's ids are in the order of its scores: counting along them gives the scores its own model file has.
    let normal: Vec<u32> = (0..out.types.len() as u32).filter(|&id| out.types[id as usize] == NORMAL).collect();
    count_down(&mut out, normal.iter().copied());
    if !follows(tables, &merges, &out) {
        let mut first = HashMap::new();
        for (rank, &(_, _, id)) in merges.iter().enumerate() {
            first.entry(id).or_insert(rank);
        }
        let mut by_merge = normal;
        by_merge.sort_by_key(|id| first.get(id).copied().unwrap_or(usize::MAX));
        count_down(&mut out, by_merge.into_iter());
        if !follows(tables, &merges, &out) {
            let problem = "a GGUF can't say them: they don't follow from an order of the tokens, as Gemma's do";
            return Err(Problem::new("model.merges", problem));
        }
    }
    Ok(out)
}

/// The type of a token, as llama.cpp's converter takes it from `tokenizer_config.json`.
fn kind(tables: &Tables, id: u32, text: &str) -> i32 {
    let added = |trie: &super::added::Trie| {
        trie.longest(text.as_bytes(), |value| value == id).is_some_and(|(len, _)| len == text.len())
    };
    let mark = tables.marks[id as usize];
    // llama.cpp calls this one user-defined.
    let steers = steers_unmarked(text) && text != "[multimodal]";
    match () {
        () if mark.special || steers => CONTROL,
        () if added(&tables.added) || added(&tables.added_normalized) => USER_DEFINED,
        () if mark.byte.is_some() => BYTE,
        () => NORMAL,
    }
}

fn count_down(out: &mut Pieces, order: impl Iterator<Item = u32>) {
    for (place, id) in order.enumerate() {
        // Below 2²⁴, so exact.
        out.scores[id as usize] = -(place as f32);
    }
}

/// Whether the merges that a reader derives from `pieces` are `merges`, in an order that cuts every text alike.
fn follows(tables: &Tables, merges: &[(u32, u32, u32)], pieces: &Pieces) -> bool {
    let Pieces { tokens, scores, types } = pieces;
    let metadata = Metadata { model: Some("llama"), tokens, scores, types, ..Metadata::default() };
    let Ok(derived) = gguf::read(metadata) else { return false };
    let derived = derived.merges.ordered();
    let mut sorted = [derived, merges.to_vec()];
    sorted.iter_mut().for_each(|list| list.sort_unstable());
    if sorted[0] != sorted[1] {
        return false;
    }
    // A reader sorts by score, then by the lengths of the halves; what is equal in both can't be in each other's way.
    let chars = |id: u32| tables.vocab.text(id).map_or(0, |text| text.chars().count());
    let key = |&(left, right, id): &(u32, u32, u32)| {
        let user_defined = pieces.types[id as usize] == USER_DEFINED;
        (if user_defined { 0.0 } else { pieces.scores[id as usize] }, chars(left), chars(right))
    };
    merges.is_sorted_by(|a, b| key(a) >= key(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Special;
    use crate::text::tests::TINY;
    use medgemma_formats::{Gguf, GgufWriter};
    use proptest::prelude::*;

    /// Through a GGUF with `rows` tokens.
    fn back(tokenizer: &Tokenizer, rows: usize) -> Tokenizer {
        let mut pieces = tokenizer.pieces("tokenizer.json").unwrap();
        assert_eq!(pieces.resize(rows), 0);
        let mut file = GgufWriter::new("m.gguf");
        file.set("tokenizer.ggml.model", "llama").unwrap();
        file.set("tokenizer.ggml.tokens", pieces.tokens).unwrap();
        file.set("tokenizer.ggml.scores", pieces.scores).unwrap();
        file.set("tokenizer.ggml.token_type", pieces.types).unwrap();
        let file = file.to(Vec::new()).unwrap().finish().unwrap();
        Tokenizer::from_gguf(&Gguf::from_bytes("m.gguf", file.into()).unwrap()).unwrap()
    }

    #[test]
    fn types_and_scores_are_those_of_llama_cpp() {
        let pieces = TINY[0].pieces("tokenizer.json").unwrap();
        let of = |text: &str| {
            let id = pieces.tokens.iter().position(|t| t == text).unwrap();
            (pieces.types[id], pieces.scores[id])
        };
        for control in ["<bos>", "<unused94>", "<mask>", "<start_of_turn>", "<image_soft_token>"] {
            assert_eq!(of(control), (CONTROL, -1000.0), "{control}");
        }
        for user_defined in ["\n\n", "   ", "<table>", "[multimodal]", "\t"] {
            assert_eq!(of(user_defined), (USER_DEFINED, -1000.0), "{user_defined:?}");
        }
        assert_eq!(of("<0x0A>"), (BYTE, 0.0));
        let normal: Vec<f32> =
            (0..pieces.types.len()).filter(|&id| pieces.types[id] == NORMAL).map(|id| pieces.scores[id]).collect();
        assert!(normal.len() > 100 && normal.iter().enumerate().all(|(i, &score)| score == -(i as f32)));
    }

    #[test]
    fn rows_without_a_token_are_padded() {
        let mut pieces = TINY[0].pieces("tokenizer.json").unwrap();
        assert_eq!((pieces.tokens.len(), pieces.resize(1024)), (1001, 0));
        assert_eq!((pieces.tokens[1023].as_str(), pieces.types[1023]), ("[PAD1023]", UNUSED));
        assert_eq!(pieces.resize(1000), 24);
        assert_eq!((pieces.tokens.len(), pieces.scores.len(), pieces.types.len()), (1000, 1000, 1000));
    }

    #[test]
    fn ids_out_of_order_are_ranked_by_their_merges() {
        let file = small();
        let tokenizer = Tokenizer::from_json("t", file.as_bytes()).unwrap();
        let pieces = tokenizer.pieces("t").unwrap();
        let score = |text: &str| pieces.scores[tokenizer.id(text).unwrap() as usize];
        assert!(score("ab") > score("bc"), "the merge of the higher id comes first");
        let again = back(&tokenizer, pieces.tokens.len());
        assert_eq!(again.encode("abc", Special::Plain), tokenizer.encode("abc", Special::Plain));
        // "abc" can be cut in two ways, of which the file lists one.
        let one_way =
            file.replace(r#""bc": 4"#, r#""bc": 4, "abc": 7"#).replace(r#"["b", "c"]"#, r#"["b", "c"], ["ab", "c"]"#);
        let error = Tokenizer::from_json("t", one_way.as_bytes()).unwrap().pieces("t").unwrap_err().to_string();
        assert!(error.contains("t: model.merges"), "{error}");
    }

    /// A tokenizer.json of `a`, `b`, `c`, `bc` and `ab`, where `ab` merges first though its id is higher.
    fn small() -> String {
        let bytes: String = (0..256).map(|b| format!(r#", "<0x{b:02X}>": {}"#, 10 + b)).collect();
        format!(
            r#"{{"normalizer": {{"type": "Replace", "pattern": {{"String": " "}}, "content": "▁"}},
            "decoder": {{"type": "Sequence", "decoders": [
                {{"type": "Replace", "pattern": {{"String": "▁"}}, "content": " "}}, {{"type": "ByteFallback"}}, {{"type": "Fuse"}}]}},
            "model": {{"type": "BPE", "byte_fallback": true, "vocab": {{"a": 0, "b": 1, "c": 2, "▁": 3, "bc": 4, "ab": 5{bytes}}},
                "merges": [["a", "b"], ["b", "c"]]}}}}"#
        )
    }

    proptest! {
        #[test]
        fn a_gguf_cuts_text_as_tokenizer_json_does(text in "[ -~\n\t\u{a0}-\u{2ff}日本]{0,60}") {
            static GGUF: std::sync::LazyLock<[Tokenizer; 2]> =
                std::sync::LazyLock::new(|| [back(&TINY[0], 1024), back(&TINY[1], 700)]);
            for (json, gguf) in TINY.iter().zip(&*GGUF) {
                for special in [Special::Plain, Special::Parse] {
                    prop_assert_eq!(json.encode(&text, special), gguf.encode(&text, special));
                }
            }
        }
    }
}
