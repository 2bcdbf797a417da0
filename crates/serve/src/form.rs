//! Answers held to a form: JSON, a JSON schema, a regular expression or a grammar, by the `llguidance` crate, which
//! says of each token of the vocabulary whether it may come next.

use crate::failure::Failure;
use crate::fields::Fields;
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use medgemma_engine::pipeline::Frontend;
use medgemma_engine::scheduler::Mask;
use serde_json::{Value, json};
use std::sync::Arc;

/// Bytes of a schema or grammar, at most.
const LONGEST: usize = 256 << 10;
/// Most choices.
const CHOICES: usize = 1000;
/// Words of JSON Schema that a refusal may name: it must not repeat what else a schema says.
const KEYWORDS: [&str; 24] = [
    "$anchor",
    "$dynamicRef",
    "$id",
    "$ref",
    "contains",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "format",
    "if",
    "maxContains",
    "maxProperties",
    "minContains",
    "minProperties",
    "not",
    "oneOf",
    "pattern",
    "patternProperties",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
    "uniqueItems",
];

/// What an answer is held to, as a request says it.
pub(crate) struct Form {
    grammar: TopLevelGrammar,
    field: &'static str,
}

impl Form {
    fn new(field: &'static str, grammar: TopLevelGrammar) -> Self {
        Self { grammar, field }
    }

    /// The form of a chat's answer, if a request names one.
    pub(crate) fn of(fields: &Fields) -> Result<Option<Self>, Failure> {
        let forms = [response_format(fields)?, guided(fields)?];
        let mut forms = forms.into_iter().flatten();
        match (forms.next(), forms.next()) {
            (Some(_), Some(second)) => Err(fields.wrong(second.field, "an answer can have one form only")),
            (form, _) => Ok(form),
        }
    }

    /// Ollama's word for it: `"json"`, or a schema.
    pub(crate) fn ollama(fields: &Fields) -> Result<Option<Self>, Failure> {
        match fields.get("format") {
            None => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) if text == "json" => {
                Ok(Some(Self::new("format", schema(json!({"type": "object"})))))
            }
            Some(value @ Value::Object(_)) => Ok(Some(Self::new("format", of_schema(fields, "format", value)?))),
            Some(_) => Err(fields.wrong("format", "it must be \"json\" or a JSON schema")),
        }
    }
}

fn response_format(fields: &Fields) -> Result<Option<Form>, Failure> {
    let name = "response_format";
    let format = fields.object(name)?;
    let grammar = match format.text("type")? {
        None | Some("text") => return Ok(None),
        Some("json_object") => schema(json!({"type": "object"})),
        Some("json_schema") => {
            let asked = format.object("json_schema")?;
            let wanted = asked.get("schema").ok_or_else(|| asked.wrong("schema", "it is missing"))?;
            of_schema(&asked, "schema", wanted)?
        }
        Some(_) => return Err(format.wrong("type", "it must be text, json_object or json_schema")),
    };
    Ok(Some(Form::new(name, grammar)))
}

/// The words of other servers for it.
fn guided(fields: &Fields) -> Result<Option<Form>, Failure> {
    let mut forms = Vec::new();
    if let Some(value) = fields.get("guided_json") {
        let grammar = match value {
            Value::String(text) => {
                let parsed = serde_json::from_str(text).map_err(|_| fields.wrong("guided_json", "it isn't JSON"))?;
                of_schema(fields, "guided_json", &parsed)?
            }
            value => of_schema(fields, "guided_json", value)?,
        };
        forms.push(Form::new("guided_json", grammar));
    }
    if let Some(regex) = text(fields, "guided_regex")? {
        forms.push(Form::new("guided_regex", TopLevelGrammar::from_regex(regex)));
    }
    if let Some(grammar) = text(fields, "guided_grammar")? {
        forms.push(Form::new("guided_grammar", TopLevelGrammar::from_lark(grammar.to_owned())));
    }
    let choices = fields.texts("guided_choice", CHOICES)?;
    if !choices.is_empty() {
        let quoted: Vec<String> = choices.iter().map(|choice| json!(choice).to_string()).collect();
        let grammar = format!("start: {}", quoted.join(" | "));
        forms.push(Form::new("guided_choice", TopLevelGrammar::from_lark(grammar)));
    }
    match forms.len() {
        0 | 1 => Ok(forms.pop()),
        _ => Err(fields.wrong(forms[1].field, "an answer can have one form only")),
    }
}

fn text<'a>(fields: &'a Fields, name: &str) -> Result<Option<&'a str>, Failure> {
    match fields.text(name)? {
        Some(text) if text.len() > LONGEST => Err(fields.wrong(name, format!("longer than {LONGEST} bytes"))),
        text => Ok(text),
    }
}

fn of_schema(fields: &Fields, name: &str, value: &Value) -> Result<TopLevelGrammar, Failure> {
    match value {
        Value::Object(_) if value.to_string().len() > LONGEST => {
            Err(fields.wrong(name, format!("longer than {LONGEST} bytes")))
        }
        Value::Object(_) => Ok(schema(value.clone())),
        _ => Err(fields.wrong(name, "it must be a JSON schema")),
    }
}

/// A schema's grammar. Between its parts stands one space, or none: a model could write spaces without end.
fn schema(mut schema: Value) -> TopLevelGrammar {
    schema["x-guidance"] = json!({"whitespace_flexible": false});
    TopLevelGrammar::from_json_schema(schema)
}

/// Makes masks from forms, for one vocabulary.
pub(crate) struct Forms {
    factory: ParserFactory,
    eos: Arc<[u32]>,
    /// The tokens that begin and end a thought.
    thought: Option<(u32, u32)>,
}

impl Forms {
    /// Reads the vocabulary, which takes a moment.
    ///
    /// # Errors
    /// When it has no token that ends a text.
    pub(crate) fn new(frontend: &Frontend) -> Result<Self, Failure> {
        let tokenizer = frontend.tokenizer();
        let problem = || Failure::engine("this model's vocabulary can't be held to a form");
        let eos: Arc<[u32]> = frontend.config().tokens.eos.iter().copied().collect();
        let first = *eos.first().ok_or_else(problem)?;
        let words: Vec<Vec<u8>> = (0..tokenizer.vocab_size() as u32)
            .map(|id| match tokenizer.token(id) {
                // How the crate marks tokens that plain text never becomes.
                Some(name) if tokenizer.is_control(id) || tokenizer.is_special(id) => {
                    [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat()
                }
                _ => tokenizer.token_bytes(id).to_vec(),
            })
            .collect();
        if first as usize >= words.len() || words.iter().any(|word| word.len() > 255) {
            return Err(problem());
        }
        let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, first), &words);
        let vocabulary: llguidance::toktrie::TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let made = ParserFactory::new(&vocabulary, InferenceCapabilities::default(), &[]);
        let mut factory = made.map_err(|_| problem())?;
        factory.quiet();
        // Errors would hold the request's text.
        factory.limits_mut().verbose_errors = false;
        let thought = tokenizer.id("<unused94>").zip(tokenizer.id("<unused95>"));
        Ok(Self { factory, eos, thought })
    }

    /// A mask at the beginning of an answer, or of a thought before it where `think` says so.
    ///
    /// # Errors
    /// When the form can't be followed.
    pub(crate) fn mask(&self, form: Form, think: bool) -> Result<Box<dyn Mask>, Failure> {
        let matcher = Matcher::new(self.factory.create_parser(form.grammar));
        if let Some(error) = matcher.get_error() {
            let named: Vec<&str> = KEYWORDS.into_iter().filter(|word| error.contains(&format!("\"{word}\""))).collect();
            let problem = match named.is_empty() {
                true => "it can't be followed: it is wrong, too large, or uses what isn't supported".to_owned(),
                false => format!("it can't be followed: {} isn't supported", named.join(", ")),
            };
            return Err(Failure::field(form.field, problem).code("unsupported_form"));
        }
        let thought = self.thought.filter(|_| think);
        let place = if thought.is_some() { Place::Start } else { Place::Answer };
        Ok(Box::new(Held { matcher, eos: Arc::clone(&self.eos), thought, place }))
    }
}

/// Where an answer stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A thought may begin, or the answer.
    Start,
    /// Inside the thought, which is free.
    Thought,
    Answer,
}

/// An answer held to a form.
struct Held {
    matcher: Matcher,
    eos: Arc<[u32]>,
    thought: Option<(u32, u32)>,
    place: Place,
}

impl Mask for Held {
    fn allow(&mut self, logits: &mut [f32]) -> Result<(), String> {
        if self.place == Place::Thought {
            return Ok(());
        }
        let allowed = self.matcher.compute_mask_or_eos();
        let allowed = allowed.map_err(|_| "the answer's form is too complex to be followed".to_owned())?;
        let may_end = self.eos.first().is_some_and(|id| allowed.is_allowed(*id));
        let begins = self.thought.filter(|_| self.place == Place::Start).map(|(open, _)| open);
        for (id, logit) in logits.iter_mut().enumerate() {
            let id = id as u32;
            let ends = may_end && self.eos.contains(&id);
            let follows = (id as usize) < allowed.len() && allowed.is_allowed(id);
            if !(follows || ends || begins == Some(id)) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    fn accept(&mut self, token: u32) {
        match (self.place, self.thought) {
            (Place::Start, Some((open, _))) if token == open => self.place = Place::Thought,
            (Place::Thought, Some((_, close))) if token == close => self.place = Place::Answer,
            (Place::Thought, _) => {}
            _ => {
                self.place = Place::Answer;
                // What goes wrong here is told before the next token.
                let _ = self.matcher.consume_token(token);
            }
        }
    }

    fn fork(&self) -> Box<dyn Mask> {
        let (matcher, eos) = (self.matcher.deep_clone(), Arc::clone(&self.eos));
        Box::new(Self { matcher, eos, thought: self.thought, place: self.place })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use medgemma_engine::{LoadOptions, Pipeline, ServingOptions};

    #[test]
    fn a_thought_is_free_and_what_follows_is_held() {
        let options = LoadOptions { threads: Some(1), context: Some(512), ..LoadOptions::default() };
        let pipeline = Pipeline::load_with("demo", &options, |_| {}).unwrap();
        let frontend = pipeline.into_serving(&ServingOptions::default()).unwrap().frontend();
        let forms = Forms::new(&frontend).unwrap();
        let (open, close) = forms.thought.unwrap();
        let vocab = frontend.config().text.vocab;
        let digit = frontend.tokenizer().id("7").unwrap();
        let form = || Form::new("guided_regex", TopLevelGrammar::from_regex("[0-9]"));
        let allowed = |mask: &mut dyn Mask| {
            let mut logits = vec![0.0; vocab];
            mask.allow(&mut logits).unwrap();
            (0..vocab as u32).filter(|id| logits[*id as usize] == 0.0).collect::<Vec<_>>()
        };
        let mut plain = forms.mask(form(), false).unwrap();
        let at_once = allowed(&mut *plain);
        assert!(at_once.contains(&digit) && !at_once.contains(&open) && at_once.len() < 30);
        let mut thinks = forms.mask(form(), true).unwrap();
        assert!(allowed(&mut *thinks).contains(&open) && allowed(&mut *thinks).len() == at_once.len() + 1);
        thinks.accept(open);
        assert_eq!(allowed(&mut *thinks).len(), vocab);
        thinks.accept(digit);
        let mut other = thinks.fork();
        for mask in [&mut thinks, &mut other] {
            mask.accept(close);
            assert_eq!(allowed(&mut **mask), at_once);
            mask.accept(digit);
            let mut ends = forms.eos.to_vec();
            ends.sort_unstable();
            assert_eq!(allowed(&mut **mask), ends);
        }
        // Without a thought the answer begins at once, and no thought may come later.
        let mut unasked = forms.mask(form(), true).unwrap();
        unasked.accept(digit);
        assert!(!allowed(&mut *unasked).contains(&open));
    }
}
