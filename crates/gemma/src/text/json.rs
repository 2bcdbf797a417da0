//! The tokenizer of a Hugging Face folder: `tokenizer.json`.

use super::tokenizer::{Mark, Problem, Tables};
use super::vocab::Vocab;
use crate::text::bpe::Merges;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::fmt;

/// The file's fields that say what the tokenizer does. (`truncation` and `padding` are up to the caller.)
#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow, default)]
    added_tokens: Vec<Added<'a>>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(borrow)]
    model: Model<'a>,
}

#[derive(Deserialize)]
struct Added<'a> {
    id: u32,
    #[serde(borrow)]
    content: Cow<'a, str>,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Model<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Option<Cow<'a, str>>,
    #[serde(default)]
    dropout: Option<f32>,
    #[serde(borrow, default)]
    continuing_subword_prefix: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    end_of_word_suffix: Option<Cow<'a, str>>,
    /// With it, and with every byte's token, no character is unknown: `unk_token` and `fuse_unk` say nothing more.
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    // Read in a second pass, straight into tables: the merges need the vocabulary, and neither needs a tree of values.
    #[serde(borrow)]
    vocab: &'a RawValue,
    #[serde(borrow, default)]
    merges: Option<&'a RawValue>,
}

pub(super) fn read(bytes: &[u8]) -> Result<Tables, Problem> {
    let syntax = |error: serde_json::Error| Problem::new("tokenizer", error.to_string());
    // Checking the encoding once is faster than at every string.
    let text = std::str::from_utf8(bytes).map_err(|error| Problem::new("tokenizer", error.to_string()))?;
    let file: File = serde_json::from_str(text).map_err(syntax)?;
    check_kind(&file)?;
    let mut tables = Tables { ignore_merges: file.model.ignore_merges, ..Tables::default() };
    seed(file.model.vocab, VocabSeed(&mut tables.vocab)).map_err(|e| Problem::new("model.vocab", e.to_string()))?;
    read_added(&file.added_tokens, &mut tables)?;
    if let Some(merges) = file.model.merges {
        let seed_ = MergesSeed { vocab: &tables.vocab, marks: &tables.marks, merges: &mut tables.merges };
        seed(merges, seed_).map_err(|e| Problem::new("model.merges", e.to_string()))?;
    }
    tables.affixes = affixes(&file.post_processor, &tables.vocab)?;
    Ok(tables)
}

/// Refuses what Gemma 3's tokenizer doesn't do: ids would silently differ.
fn check_kind(file: &File) -> Result<(), Problem> {
    let Model { kind, dropout, continuing_subword_prefix, end_of_word_suffix, byte_fallback, .. } = &file.model;
    let refuse = |field: &str, found: String| {
        Err(Problem::new(field, format!("{found} is not what Gemma 3's tokenizer has, and isn't supported")))
    };
    if let Some(kind) = kind
        && kind != "BPE"
    {
        return refuse("model.type", format!("{kind:?}"));
    }
    if dropout.is_some_and(|rate| rate != 0.0) {
        return refuse("model.dropout", "dropping merges at random".into());
    }
    for (field, value) in
        [("continuing_subword_prefix", continuing_subword_prefix), ("end_of_word_suffix", end_of_word_suffix)]
    {
        if let Some(value) = value
            && !value.is_empty()
        {
            return refuse(&format!("model.{field}"), format!("{value:?}"));
        }
    }
    if !byte_fallback {
        return refuse("model.byte_fallback", "false".into());
    }
    let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let normalizer = replace(" ", "▁");
    if file.normalizer != normalizer && file.normalizer != json!({"type": "Sequence", "normalizers": [normalizer]}) {
        return refuse("normalizer", brief(&file.normalizer));
    }
    // Splitting at spaces does nothing once the normalizer has replaced them.
    let split = json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false});
    if !file.pre_tokenizer.is_null() && file.pre_tokenizer != split {
        return refuse("pre_tokenizer", brief(&file.pre_tokenizer));
    }
    let decoder =
        json!({"type": "Sequence", "decoders": [replace("▁", " "), {"type": "ByteFallback"}, {"type": "Fuse"}]});
    if file.decoder != decoder {
        return refuse("decoder", brief(&file.decoder));
    }
    Ok(())
}

/// The beginning of a value, for an error.
fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(120) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn read_added(added: &[Added], tables: &mut Tables) -> Result<(), Problem> {
    for (at, token) in added.iter().enumerate() {
        let problem = |problem: String| Problem::new(format!("added_tokens[{at}]"), problem);
        for (option, set) in [("single_word", token.single_word), ("lstrip", token.lstrip), ("rstrip", token.rstrip)] {
            if set {
                return Err(problem(format!("{option} is not what Gemma 3's tokenizer has, and isn't supported")));
            }
        }
        if tables.vocab.id(&token.content) != Some(token.id) {
            tables.vocab.insert(&token.content, token.id).map_err(problem)?;
        }
        if token.normalized {
            let text = token.content.replace(' ', "▁");
            tables.added_normalized.insert(&text, token.id).map_err(problem)?;
        } else {
            tables.added.insert(&token.content, token.id).map_err(problem)?;
        }
    }
    tables.marks.resize(tables.vocab.len(), Mark::default());
    for token in added.iter().filter(|token| token.special) {
        tables.marks[token.id as usize].special = true;
    }
    tables.mark_by_text();
    Ok(())
}

/// Ids that a `TemplateProcessing` puts before and after a single text.
fn affixes(post_processor: &Value, vocab: &Vocab) -> Result<(Vec<u32>, Vec<u32>), Problem> {
    let refuse = |problem: &str| Problem::new("post_processor", problem);
    if post_processor.is_null() {
        return Ok(Default::default());
    }
    if post_processor["type"] != "TemplateProcessing" {
        return Err(refuse("it is not of the type TemplateProcessing, which Gemma 3's tokenizer has"));
    }
    let parts = post_processor["single"].as_array().ok_or_else(|| refuse("single is not a list"))?;
    let (mut prefix, mut suffix, mut texts) = (Vec::new(), Vec::new(), 0);
    for part in parts {
        if part.get("Sequence").is_some() {
            texts += 1;
            continue;
        }
        let name = part["SpecialToken"]["id"].as_str();
        let name = name.ok_or_else(|| refuse("single has a part that is neither Sequence nor SpecialToken"))?;
        let ids = post_processor["special_tokens"][name]["ids"].as_array();
        let ids = ids.ok_or_else(|| refuse("special_tokens has no ids for a part of single"))?;
        for id in ids {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok()).filter(|&id| vocab.text(id).is_some());
            let id = id.ok_or_else(|| refuse("special_tokens has an id that is no token's"))?;
            if texts == 0 { &mut prefix } else { &mut suffix }.push(id);
        }
    }
    if texts != 1 {
        return Err(refuse("single holds the text more or less than once"));
    }
    Ok((prefix, suffix))
}

fn seed<'a>(raw: &'a RawValue, seed: impl DeserializeSeed<'a, Value = ()>) -> Result<(), serde_json::Error> {
    seed.deserialize(&mut serde_json::Deserializer::from_str(raw.get()))
}

/// A string, borrowed from the file unless it has escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Reads `{"text": id, …}` into a vocabulary.
struct VocabSeed<'v>(&'v mut Vocab);

impl<'a> DeserializeSeed<'a> for VocabSeed<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'a>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for VocabSeed<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of token ids")
    }
    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((Text(text), id)) = map.next_entry()? {
            self.0.insert(&text, id).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

/// Reads `["left right", …]` or `[["left", "right"], …]` into merges.
struct MergesSeed<'v> {
    vocab: &'v Vocab,
    marks: &'v [Mark],
    merges: &'v mut Merges,
}

impl<'a> DeserializeSeed<'a> for MergesSeed<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'a>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'a> Visitor<'a> for MergesSeed<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of merges")
    }
    fn visit_seq<A: SeqAccess<'a>>(self, mut list: A) -> Result<(), A::Error> {
        let mut joined = String::new();
        // Gemma has about two for each token.
        self.merges.reserve(2 * self.vocab.len());
        let mut rank = 0;
        while let Some(Pair(left, right)) = list.next_element()? {
            joined.clear();
            joined.push_str(&left);
            joined.push_str(&right);
            let id = |text: &str| {
                let missing = || A::Error::custom(format!("merge {rank}: {text:?} is not in the vocabulary"));
                self.vocab.id(text).ok_or_else(missing)
            };
            let (left, right, merged) = (id(&left)?, id(&right)?, id(&joined)?);
            // A merge that makes a control token of plain text is left out: no text may steer the model.
            if !self.marks[merged as usize].control {
                self.merges.insert(left, right, rank, merged);
            }
            rank = rank.checked_add(1).ok_or_else(|| A::Error::custom("there are more than 2³² merges"))?;
        }
        Ok(())
    }
}

/// The two sides of a merge, in either spelling.
struct Pair<'a>(Cow<'a, str>, Cow<'a, str>);

impl<'a> Deserialize<'a> for Pair<'a> {
    fn deserialize<D: Deserializer<'a>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(PairVisitor)
    }
}

struct PairVisitor;

impl<'a> Visitor<'a> for PairVisitor {
    type Value = Pair<'a>;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a merge such as \"a b\" or [\"a\", \"b\"]")
    }
    fn visit_borrowed_str<E: serde::de::Error>(self, text: &'a str) -> Result<Pair<'a>, E> {
        let (left, right) = split(text)?;
        Ok(Pair(left.into(), right.into()))
    }
    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Pair<'a>, E> {
        let (left, right) = split(text)?;
        Ok(Pair(left.to_owned().into(), right.to_owned().into()))
    }
    fn visit_seq<A: SeqAccess<'a>>(self, mut list: A) -> Result<Pair<'a>, A::Error> {
        let (left, right) = (list.next_element()?, list.next_element()?);
        let more = list.next_element::<Text>()?.is_some();
        match (left, right) {
            (Some(Text(left)), Some(Text(right))) if !more => Ok(Pair(left, right)),
            _ => Err(A::Error::custom("a merge is a list of two tokens")),
        }
    }
}

/// Splits "a b", which must hold one space.
fn split<E: serde::de::Error>(text: &str) -> Result<(&str, &str), E> {
    match text.split_once(' ') {
        Some((left, right)) if !right.contains(' ') => Ok((left, right)),
        _ => Err(E::custom(format!("{text:?} is not two tokens with a space between"))),
    }
}
