//! Answers held to a form: JSON, a JSON schema, a regular expression or a grammar, by the `llguidance` crate, which
//! says of each token of the vocabulary whether it may come next.

mod held;

use crate::failure::Failure;
use crate::fields::Fields;
use crate::tools::{Tool, Tools};
use held::{Held, Openings};
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use medgemma_engine::pipeline::Frontend;
use medgemma_engine::scheduler::Mask;
use medgemma_gemma::text::thought_tokens;
use serde_json::{Value, json};
use std::sync::Arc;

/// Bytes of a schema or grammar, at most.
const LONGEST: usize = 256 << 10;
const EMPTY: &str = "it must not be empty";
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
#[derive(Clone)]
pub(crate) struct Form {
    grammar: TopLevelGrammar,
    field: &'static str,
}

impl Form {
    fn new(field: &'static str, grammar: TopLevelGrammar) -> Self {
        Self { grammar, field }
    }

    /// The form of a chat's or a text's continuation, if a request names one.
    pub(crate) fn of(fields: &Fields) -> Result<Option<Self>, Failure> {
        let format = fields.object("response_format")?;
        let structured = fields.object("structured_outputs")?;
        one([
            described("response_format", &format, Some("json_schema"))?,
            guided(fields, GUIDED)?,
            guided(&structured, STRUCTURED)?,
        ])
    }

    /// OpenAI's word for it in `/v1/responses`: `text.format`; or as elsewhere.
    pub(crate) fn responses(fields: &Fields) -> Result<Option<Self>, Failure> {
        let format = fields.object("text")?.object("format")?;
        one([described("text.format", &format, None)?, Self::of(fields)?])
    }

    /// Anthropic's words for it, of which the second is older.
    pub(crate) fn anthropic(fields: &Fields) -> Result<Option<Self>, Failure> {
        let format = fields.object("output_config")?.object("format")?;
        let older = fields.object("output_format")?;
        one([described("output_config.format", &format, None)?, described("output_format", &older, None)?])
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

/// The only one of some forms that a request could name.
fn one(forms: impl IntoIterator<Item = Option<Form>>) -> Result<Option<Form>, Failure> {
    let mut forms = forms.into_iter().flatten();
    match (forms.next(), forms.next()) {
        (Some(_), Some(second)) => Err(Failure::field(second.field, "an answer can have one form only")),
        (form, _) => Ok(form),
    }
}

/// A form as OpenAI and Anthropic describe it: by a `type`, and a schema under `within`, or beside the type where that
/// is `None`. `name` is the field that it is.
fn described(name: &'static str, format: &Fields, within: Option<&str>) -> Result<Option<Form>, Failure> {
    let inner = within.map(|name| format.object(name)).transpose()?;
    let asked = inner.as_ref().unwrap_or(format);
    let wanted = asked.get("schema").map(|wanted| of_schema(asked, "schema", wanted)).transpose()?;
    // A name and a description are for people, and a form is always held to strictly.
    for field in ["name", "description", "strict"] {
        asked.get(field);
    }
    let grammar = match format.text("type")? {
        None | Some("text") => return Ok(None),
        Some("json_object") => schema(json!({"type": "object"})),
        Some("json_schema") => wanted.ok_or_else(|| asked.wrong("schema", "it is missing"))?,
        Some(_) => return Err(format.wrong("type", "it must be text, json_object or json_schema")),
    };
    Ok(Some(Form::new(name, grammar)))
}

/// Other servers' names for a schema, a regular expression, a grammar and a list of texts; and the fields that they are.
type Names = [(&'static str, &'static str); 4];
const GUIDED: Names = [
    ("guided_json", "guided_json"),
    ("guided_regex", "guided_regex"),
    ("guided_grammar", "guided_grammar"),
    ("guided_choice", "guided_choice"),
];
/// The same in an object of its own.
const STRUCTURED: Names = [
    ("json", "structured_outputs.json"),
    ("regex", "structured_outputs.regex"),
    ("grammar", "structured_outputs.grammar"),
    ("choice", "structured_outputs.choice"),
];

/// The words of other servers for it.
fn guided(fields: &Fields, [json, regex, grammar, choice]: Names) -> Result<Option<Form>, Failure> {
    let schema = match fields.get(json.0) {
        None => None,
        Some(Value::String(text)) => {
            let parsed = serde_json::from_str(text).map_err(|_| fields.wrong(json.0, "it isn't JSON"))?;
            Some(of_schema(fields, json.0, &parsed)?)
        }
        Some(value) => Some(of_schema(fields, json.0, value)?),
    };
    let lark = text(fields, grammar.0)?.map(|grammar| TopLevelGrammar::from_lark(grammar.to_owned()));
    let choices = fields.texts(choice.0, CHOICES)?;
    let quoted: Vec<String> = choices.iter().map(|choice| json!(choice).to_string()).collect();
    let choices = match (fields.get(choice.0), quoted.is_empty()) {
        (None, _) => None,
        (Some(_), true) => return Err(fields.wrong(choice.0, EMPTY)),
        (Some(_), false) => Some(TopLevelGrammar::from_lark(format!("start: {}", quoted.join(" | ")))),
    };
    one([
        schema.map(|schema| Form::new(json.1, schema)),
        text(fields, regex.0)?.map(|written| Form::new(regex.1, TopLevelGrammar::from_regex(written))),
        lark.map(|lark| Form::new(grammar.1, lark)),
        choices.map(|choices| Form::new(choice.1, choices)),
    ])
}

fn text<'a>(fields: &'a Fields, name: &str) -> Result<Option<&'a str>, Failure> {
    match fields.text(name)? {
        Some(text) if text.len() > LONGEST => Err(fields.wrong(name, format!("longer than {LONGEST} bytes"))),
        Some("") => Err(fields.wrong(name, EMPTY)),
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

/// The rules of a call of a function; any object may be its arguments unless `held`.
fn call_rules(at: usize, tool: &Tool, held: bool) -> String {
    let begin = format!("{{\"name\": {}, \"parameters\": ", Value::from(&tool.name[..]));
    let schema = if held { arguments(tool) } else { spaced(json!({"type": "object"})) };
    format!("call{at}: {} arguments{at} \"}}\"\narguments{at}: %json {schema}\n", Value::from(begin))
}

/// The schema of a call's arguments. A model would invent some that nobody reads, where it may.
fn arguments(tool: &Tool) -> Value {
    let mut schema = tool.parameters.clone();
    let plain = ["anyOf", "oneOf", "allOf", "$ref", "patternProperties", "additionalProperties"];
    if schema.get("properties").is_some_and(Value::is_object) && plain.iter().all(|word| schema.get(word).is_none()) {
        schema["additionalProperties"] = json!(false);
    }
    schema["type"] = json!("object");
    spaced(schema)
}

/// As [`schema`], with spaces where people put them.
fn spaced(mut schema: Value) -> Value {
    schema["x-guidance"] = json!({"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "});
    schema
}

/// Makes masks from forms, for one vocabulary.
pub(crate) struct Forms {
    factory: ParserFactory,
    eos: Arc<[u32]>,
    /// The tokens that begin and end a thought.
    thought: Option<(u32, u32)>,
    openings: Arc<Openings>,
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
        let thought = thought_tokens(tokenizer);
        let first = |word: &Vec<u8>| word.iter().copied().find(|byte| !byte.is_ascii_whitespace());
        let openings = Openings {
            braces: words.iter().map(|word| first(word) == Some(b'{')).collect(),
            blank: words.iter().map(|word| first(word).is_none()).collect(),
        };
        Ok(Self { factory, eos, thought, openings: Arc::new(openings) })
    }

    /// A mask at the beginning of an answer, or of a thought before it where `think` says so.
    ///
    /// # Errors
    /// When the form can't be followed.
    pub(crate) fn mask(&self, form: Form, think: bool) -> Result<Box<dyn Mask>, Failure> {
        let matcher = self.matcher(form.grammar);
        if let Some(error) = matcher.get_error() {
            let named: Vec<&str> = KEYWORDS.into_iter().filter(|word| error.contains(&format!("\"{word}\""))).collect();
            let problem = match named.is_empty() {
                true => "it can't be followed: it is wrong, too large, or uses what isn't supported".to_owned(),
                false => format!("it can't be followed: {} isn't supported", named.join(", ")),
            };
            return Err(Failure::field(form.field, problem).code("unsupported_form"));
        }
        Ok(Box::new(Held::new(matcher, Arc::clone(&self.eos), self.thought.filter(|_| think), None)))
    }

    /// A mask of an answer that may call functions, or must. Of a function whose schema can't be followed any object
    /// may be the arguments.
    ///
    /// # Errors
    /// When there are too many functions.
    pub(crate) fn calls(&self, tools: &Tools, think: bool) -> Result<Box<dyn Mask>, Failure> {
        let follows = |grammar: TopLevelGrammar| {
            let matcher = self.matcher(grammar);
            matcher.get_error().is_none().then_some(matcher)
        };
        let grammar = |keep: &dyn Fn(&Tool) -> bool| {
            let calls = tools.list.iter().enumerate().map(|(at, tool)| call_rules(at, tool, keep(tool)));
            let starts: Vec<String> = (0..tools.list.len()).map(|at| format!("call{at}")).collect();
            TopLevelGrammar::from_lark(format!("start: {}\n{}", starts.join(" | "), calls.collect::<String>()))
        };
        let alone = |tool: &Tool| follows(TopLevelGrammar::from_json_schema(arguments(tool))).is_some();
        let matcher = follows(grammar(&|_| true))
            .or_else(|| follows(grammar(&alone)))
            .or_else(|| follows(grammar(&|_| false)))
            .ok_or_else(|| Failure::field("tools", "there are too many functions").code("unsupported_form"))?;
        let optional = (!tools.must).then(|| Arc::clone(&self.openings));
        Ok(Box::new(Held::new(matcher, Arc::clone(&self.eos), self.thought.filter(|_| think), optional)))
    }

    fn matcher(&self, grammar: TopLevelGrammar) -> Matcher {
        Matcher::new(self.factory.create_parser(grammar))
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
