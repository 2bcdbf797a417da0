//! Which functions a request offers, in the words of each API.

use super::{Tool, Tools};
use crate::failure::Failure;
use crate::fields::Fields;
use serde_json::{Value, json};

/// Most functions of a request.
const MOST: usize = 512;
/// The longest name, in bytes.
const NAME: usize = 128;
/// Bytes of all of them together.
const LONGEST: usize = 1 << 20;

/// Which of the functions may or must be called.
enum Choice {
    Auto,
    None,
    Required,
    Named(String),
}

impl Tools {
    /// OpenAI's words in chats: `{"type": "function", "function": {…}}`.
    pub(crate) fn chat(fields: &Fields) -> Result<Option<Self>, Failure> {
        Self::wrapped(fields, |kind| kind == "function")
    }

    /// Ollama's words: OpenAI's, whose type needn't be said.
    pub(crate) fn ollama(fields: &Fields) -> Result<Option<Self>, Failure> {
        Self::wrapped(fields, |kind| kind.is_null() || kind == "function")
    }

    /// Functions that are each in an object beside their type.
    fn wrapped(fields: &Fields, is_function: impl Fn(&Value) -> bool) -> Result<Option<Self>, Failure> {
        let tools = list(fields, |tool| {
            let function = &tool["function"];
            is_function(&tool["type"]).then_some((function, &function["parameters"]))
        })?;
        let choice = match fields.get("tool_choice") {
            Some(named @ Value::Object(_)) => named_choice(fields, &named["type"], &named["function"]["name"])?,
            _ => worded_choice(fields)?,
        };
        fields.flag("parallel_tool_calls")?;
        offered(fields, tools, choice)
    }

    /// OpenAI's words in responses: `{"type": "function", "name": …, "parameters": …}`.
    pub(crate) fn responses(fields: &Fields) -> Result<Option<Self>, Failure> {
        let tools = list(fields, |tool| (tool["type"] == "function").then(|| (tool, &tool["parameters"])))?;
        let choice = match fields.get("tool_choice") {
            Some(named @ Value::Object(_)) => named_choice(fields, &named["type"], &named["name"])?,
            _ => worded_choice(fields)?,
        };
        fields.flag("parallel_tool_calls")?;
        offered(fields, tools, choice)
    }

    /// Anthropic's words.
    pub(crate) fn anthropic(fields: &Fields) -> Result<Option<Self>, Failure> {
        let own = |tool: &Value| tool["type"].is_null() || tool["type"] == "custom";
        let tools = list(fields, |tool| own(tool).then(|| (tool, &tool["input_schema"])))?;
        let without = |tool: &Value| !tool["input_schema"].is_object();
        if let Some(at) = fields.get("tools").and_then(Value::as_array).and_then(|list| list.iter().position(without)) {
            return Err(fields.wrong(&format!("tools[{at}].input_schema"), "it must be a JSON schema"));
        }
        let asked = fields.object("tool_choice")?;
        let name = asked.text("name")?;
        let choice = match asked.text("type")? {
            None | Some("auto") => Choice::Auto,
            Some("none") => Choice::None,
            Some("any") => Choice::Required,
            Some("tool") => Choice::Named(name.unwrap_or_default().to_owned()),
            Some(_) => return Err(asked.wrong("type", "it must be auto, any, tool or none")),
        };
        offered(fields, tools, choice)
    }
}

/// Reads each of `tools` by `find`, which gives where its name and its schema are.
fn list<'a>(
    fields: &'a Fields,
    find: impl Fn(&'a Value) -> Option<(&'a Value, &'a Value)>,
) -> Result<Vec<Tool>, Failure> {
    let list = match fields.get("tools") {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) if list.len() <= MOST => list,
        Some(_) => return Err(fields.wrong("tools", format!("it must be a list of {MOST} functions at most"))),
    };
    let mut bytes = 0;
    list.iter()
        .enumerate()
        .map(|(at, tool)| {
            let wrong = |problem: &str| fields.wrong(&format!("tools[{at}]"), problem);
            let (function, schema) =
                find(tool).ok_or_else(|| wrong("only functions are supported").code("unsupported_parameter"))?;
            let name = function["name"].as_str().unwrap_or_default();
            if name.is_empty() || name.len() > NAME || name.bytes().any(|byte| !(b' '..=b'~').contains(&byte)) {
                return Err(wrong("it must have a name, of 128 ASCII characters at most"));
            }
            let parameters = match schema {
                Value::Null => json!({"type": "object"}),
                Value::Object(_) => schema.clone(),
                _ => return Err(wrong("its parameters must be a JSON schema")),
            };
            let description = match &function["description"] {
                Value::Null => "",
                text => text.as_str().ok_or_else(|| wrong("its description must be a text"))?,
            };
            bytes += parameters.to_string().len() + description.len();
            if bytes > LONGEST {
                return Err(fields.wrong("tools", format!("longer than {LONGEST} bytes")));
            }
            Ok(Tool { name: name.to_owned(), description: description.to_owned(), parameters })
        })
        .collect()
}

/// OpenAI's words that name no function.
fn worded_choice(fields: &Fields) -> Result<Choice, Failure> {
    match fields.get("tool_choice").map(Value::as_str) {
        None | Some(Some("auto")) => Ok(Choice::Auto),
        Some(Some("none")) => Ok(Choice::None),
        Some(Some("required")) => Ok(Choice::Required),
        Some(_) => Err(fields.wrong("tool_choice", "it must be auto, none, required or a function")),
    }
}

fn named_choice(fields: &Fields, kind: &Value, name: &Value) -> Result<Choice, Failure> {
    match name.as_str().filter(|_| kind == "function") {
        Some(name) => Ok(Choice::Named(name.to_owned())),
        None => Err(fields.wrong("tool_choice", "it must be auto, none, required or a function")),
    }
}

fn offered(fields: &Fields, mut list: Vec<Tool>, choice: Choice) -> Result<Option<Tools>, Failure> {
    let must = match choice {
        Choice::None => return Ok(None),
        Choice::Auto => false,
        Choice::Required => true,
        Choice::Named(name) => {
            list.retain(|tool| tool.name == name);
            true
        }
    };
    match (list.is_empty(), must) {
        (true, true) => Err(fields.wrong("tool_choice", "tools has no function that it could be")),
        (true, false) => Ok(None),
        (false, must) => Ok(Some(Tools { list, must })),
    }
}
