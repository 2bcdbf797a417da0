//! Functions that an answer may call. The models weren't trained to call any: they are told of the functions in words,
//! and whatever begins like a call is held to one of the functions and its schema. A call is JSON,
//! `{"name": …, "parameters": {…}}`, and the whole of an answer; an answer that doesn't begin with `{` is text.

mod history;
mod offer;

pub(crate) use history::{History, call_text, conversation, join, result_text, text};

use crate::failure::Failure;
use medgemma_engine::pipeline::Frontend;
use medgemma_gemma::text::{Message, Part, Role, Special};
use serde_json::{Value, json};
use std::sync::Arc;

/// What a response to a request with tools says in `x-medgemma-warning`.
pub(crate) const WARNING: &str = "tools: these models were not trained to call functions; check every call";

/// A function that may be called.
#[derive(Clone, Debug)]
pub(crate) struct Tool {
    pub(crate) name: String,
    description: String,
    /// A JSON schema of an object.
    pub(crate) parameters: Value,
}

/// What a request offers.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    pub(crate) list: Vec<Tool>,
    /// Whether one must be called.
    pub(crate) must: bool,
}

impl Tools {
    /// Their names.
    pub(crate) fn names(&self) -> Names {
        Some(self.list.iter().map(|tool| tool.name.clone()).collect())
    }

    /// Adds what the model is told of them to the instructions ahead of a conversation. Of many functions it is told
    /// less, so that they take a third of the context at most.
    pub(crate) fn tell(&self, messages: &mut Vec<Message>, frontend: &Frontend) {
        let fits = |text: &String| frontend.tokenizer().encode(text, Special::Plain).len() <= frontend.context() / 3;
        let mut texts = [Detail::Schema, Detail::Bare, Detail::Signature].map(|detail| self.text(detail)).into_iter();
        let last = self.text(Detail::Name);
        let text = texts.find(fits).unwrap_or(last);
        match messages.first_mut() {
            Some(first) if first.role == Role::System => {
                let persona = first.text();
                first.content = vec![Part::Text(format!("{persona}\n\n{text}"))];
            }
            _ => messages.insert(0, Message::system(text)),
        }
    }

    fn text(&self, detail: Detail) -> String {
        let rule = match self.must {
            true => "Answer by calling one of the functions below: write one JSON object and nothing else",
            false => {
                "You can call the functions below, if you need one to answer. To call one, write one JSON object and \
                 nothing else"
            }
        };
        let functions: Vec<String> = self.list.iter().map(|tool| tool.text(detail)).collect();
        format!(
            "{rule}: {{\"name\": \"name of the function\", \"parameters\": {{\"name of an argument\": its value}}}}\n\
             {}\n{}",
            if self.must { "Functions:" } else { "Otherwise answer in plain words. Functions:" },
            functions.join("\n")
        )
    }
}

/// How much is told of a function.
#[derive(Clone, Copy)]
enum Detail {
    /// What it is for, and its arguments' schema as it came.
    Schema,
    /// The same without what the schema says in words.
    Bare,
    /// Its arguments' names.
    Signature,
    Name,
}

impl Tool {
    fn text(&self, detail: Detail) -> String {
        let Self { name, description, parameters } = self;
        let described =
            |parameters: &Value| spaced(&json!({"name": name, "description": description, "parameters": parameters}));
        match detail {
            Detail::Schema => described(parameters),
            Detail::Bare => described(&bare(parameters)),
            Detail::Signature => {
                let names = parameters["properties"].as_object().into_iter().flat_map(|map| map.keys());
                format!("{name}({})", names.map(String::as_str).collect::<Vec<_>>().join(", "))
            }
            Detail::Name => name.clone(),
        }
    }
}

/// A schema without what it says in words.
fn bare(schema: &Value) -> Value {
    match schema {
        Value::Object(map) => {
            let words = |key: &str, value: &Value| {
                ["description", "title", "examples", "default"].contains(&key) && !value.is_object()
            };
            map.iter()
                .filter(|(key, value)| !words(key, value))
                .map(|(key, value)| (key.clone(), bare(value)))
                .collect()
        }
        Value::Array(list) => list.iter().map(bare).collect(),
        other => other.clone(),
    }
}

/// JSON on one line, with spaces where people put them.
pub(crate) fn spaced(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let entries: Vec<String> =
                map.iter().map(|(key, value)| format!("{}: {}", Value::from(key.as_str()), spaced(value))).collect();
            format!("{{{}}}", entries.join(", "))
        }
        Value::Array(list) => format!("[{}]", list.iter().map(spaced).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// Names of the functions that an answer may call; `None` where none may be.
pub(crate) type Names = Option<Arc<[String]>>;

/// A function that an answer calls.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    pub(crate) name: String,
    /// An object.
    pub(crate) arguments: Value,
}

impl Call {
    fn read(text: &str, names: &[String]) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let (name, arguments) = (value["name"].as_str()?, &value["parameters"]);
        let known = names.iter().any(|other| other == name) && arguments.is_object();
        known.then(|| Self { name: name.to_owned(), arguments: arguments.clone() })
    }
}

/// An answer in the making: tells a call from text.
pub(crate) struct Turn {
    names: Names,
    /// What may be a call.
    held: String,
    is_text: bool,
}

/// What is left of an answer at its end.
#[derive(Debug, PartialEq)]
pub(crate) enum Rest {
    /// It called a function.
    Call(Call),
    /// Text that wasn't shown: a call that was cut, or nothing.
    Text(String),
}

impl Turn {
    pub(crate) fn new(names: &Names) -> Self {
        Self { names: names.clone(), held: String::new(), is_text: names.is_none() }
    }

    /// Takes more of the answer; gives what can be shown of it now.
    pub(crate) fn push(&mut self, text: &str) -> String {
        if self.is_text {
            return text.to_owned();
        }
        self.held.push_str(text);
        self.is_text = self.held.trim_start().chars().next().is_some_and(|first| first != '{');
        if self.is_text { std::mem::take(&mut self.held) } else { String::new() }
    }

    /// What is left at the end.
    pub(crate) fn end(&mut self) -> Rest {
        let held = std::mem::take(&mut self.held);
        let call = self.names.as_deref().and_then(|names| Call::read(&held, names));
        call.map_or(Rest::Text(held), Rest::Call)
    }

    /// Text and call of a whole answer.
    pub(crate) fn whole(names: &Names, answer: &str) -> (String, Option<Call>) {
        let mut turn = Self::new(names);
        let text = turn.push(answer);
        match turn.end() {
            Rest::Call(call) => (text, Some(call)),
            Rest::Text(rest) => (text + &rest, None),
        }
    }
}

/// Refuses a form beside tools.
pub(crate) fn refuse_form(form: bool, tools: &Option<Tools>) -> Result<(), Failure> {
    match form && tools.is_some() {
        true => Err(Failure::field("tools", "an answer can't have a form of its own where it may call functions")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Some(["find".to_owned()].into())
    }

    #[test]
    fn calls_are_told_from_text_as_they_come() {
        let call = |arguments: Value| Rest::Call(Call { name: "find".into(), arguments });
        let mut turn = Turn::new(&names());
        assert_eq!(["\n", "{\"name\": \"find\"", ", \"parameters\": {\"a\": 1}}"].map(|t| turn.push(t)), ["", "", ""]);
        assert_eq!(turn.end(), call(json!({"a": 1})));
        let mut turn = Turn::new(&names());
        assert_eq!([" ", "It is", " {so}."].map(|t| turn.push(t)), ["", " It is", " {so}."]);
        assert_eq!(turn.end(), Rest::Text(String::new()));
        for text in ["{\"name\": \"find\", \"para", "{\"name\": \"other\", \"parameters\": {}}", "{}", "  ", ""] {
            assert_eq!(Turn::whole(&names(), text), (text.to_owned(), None));
        }
        assert_eq!(Turn::whole(&None, "{\"name\": \"find\", \"parameters\": {}}").1, None);
    }

    #[test]
    fn schemas_lose_their_words_and_nothing_else() {
        let schema = json!({"type": "object", "description": "Smith", "properties": {
            "description": {"type": "string", "description": "Smith", "enum": ["a", "b"]}, "title": {"type": "integer"}}});
        let wanted = json!({"type": "object", "properties": {
            "description": {"type": "string", "enum": ["a", "b"]}, "title": {"type": "integer"}}});
        assert_eq!(bare(&schema), wanted);
        assert_eq!(spaced(&json!({"a": [1, "x\""], "b": {}})), "{\"a\": [1, \"x\\\"\"], \"b\": {}}");
    }
}
