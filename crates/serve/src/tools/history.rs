//! Calls and their results in a conversation, as text: the chat template has no place for them. A call stands as the
//! model would write it; a result is said by the user.

use super::spaced;
use crate::failure::Failure;
use medgemma_gemma::text::{Message, Part, Role};
use serde_json::{Value, json};
use std::collections::HashMap;

/// A call, as the model writes it.
pub(crate) fn call_text(name: &str, arguments: &Value) -> String {
    spaced(&json!({"name": name, "parameters": arguments}))
}

/// What a function gave.
pub(crate) fn result_text(name: &str, result: &str) -> String {
    format!("Result of {name}:\n{result}")
}

/// Reads messages of a chat, calls and results among them.
///
/// # Errors
/// When one isn't a message, or there is none.
pub(crate) fn conversation(value: &Value) -> Result<Vec<Message>, Failure> {
    let list = value.as_array().filter(|list| !list.is_empty());
    let list = list.ok_or_else(|| Failure::field("messages", "it must be a list of at least one message"))?;
    let mut history = History::default();
    for (at, message) in list.iter().enumerate() {
        let place = format!("messages[{at}]");
        check(message, &place)?;
        history.add(message, &place, |_| Ok(()))?;
    }
    Ok(history.messages)
}

/// What OpenAI asks of a message besides what is made of it.
fn check(message: &Value, place: &str) -> Result<(), Failure> {
    match message["role"].as_str() {
        Some("tool") => text(message, "tool_call_id", place).map(|_| ()),
        Some("function") => text(message, "name", place).map(|_| ()),
        _ => calls(message).iter().enumerate().try_for_each(|(at, call)| {
            let place = format!("{place}.tool_calls[{at}]");
            text(call, "id", &place)?;
            match (&call["type"], &call["function"]["arguments"]) {
                (kind, _) if kind != "function" => Err(Failure::field(&format!("{place}.type"), "it must be function")),
                (_, Value::String(_) | Value::Object(_)) => Ok(()),
                _ => Err(Failure::field(&format!("{place}.function.arguments"), "it must be JSON in a text")),
            }
        }),
    }
}

/// A text that must be there.
///
/// # Errors
/// When it isn't.
pub(crate) fn text<'a>(value: &'a Value, field: &str, place: &str) -> Result<&'a str, Failure> {
    value[field].as_str().ok_or_else(|| Failure::field(&format!("{place}.{field}"), "it must be a text"))
}

/// A conversation, as it is read.
#[derive(Default)]
pub(crate) struct History {
    pub(crate) messages: Vec<Message>,
    /// The functions that were called, by the calls' names.
    pub(crate) names: HashMap<String, String>,
    after_result: bool,
}

impl History {
    /// Adds a message, which `edit` may change before.
    ///
    /// # Errors
    /// When it isn't one.
    pub(crate) fn add(
        &mut self,
        value: &Value,
        place: &str,
        edit: impl FnOnce(&mut Message) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let result = is_result(value);
        let mut message = match result {
            true => tool_result(value, place, &self.names)?,
            false => said(value, place, &mut self.names)?,
        };
        edit(&mut message)?;
        match self.messages.last_mut() {
            // Results are the user's, whose turns can't follow each other.
            Some(last) if last.role == message.role && message.role == Role::User && (result || self.after_result) => {
                join(last, message);
            }
            // Nor can the model's: calls that stand apart from their words.
            Some(last) if last.role == message.role && !calls(value).is_empty() => join(last, message),
            _ => self.messages.push(message),
        }
        self.after_result = result;
        Ok(())
    }
}

fn is_result(message: &Value) -> bool {
    matches!(message["role"].as_str(), Some("tool" | "function"))
}

/// The calls of a message, which only the model's can have.
fn calls(message: &Value) -> &[Value] {
    let list = message["tool_calls"].as_array().filter(|_| message["role"] == "assistant");
    list.map_or(&[], Vec::as_slice)
}

/// A message, with the calls in it as text.
fn said(message: &Value, place: &str, names: &mut HashMap<String, String>) -> Result<Message, Failure> {
    let calls = calls(message);
    if calls.is_empty() {
        return read(message, place);
    }
    let mut texts = Vec::new();
    for (at, call) in calls.iter().enumerate() {
        let wrong = |problem: &str| Failure::field(&format!("{place}.tool_calls[{at}]"), problem);
        let function = &call["function"];
        let name = function["name"].as_str().ok_or_else(|| wrong("it must have a function with a name"))?;
        let arguments = match &function["arguments"] {
            // OpenAI's are JSON in a text, Ollama's are not.
            Value::String(text) if text.trim().is_empty() => json!({}),
            Value::String(text) => serde_json::from_str(text).map_err(|_| wrong("its arguments aren't JSON"))?,
            Value::Null => json!({}),
            other => other.clone(),
        };
        if let Some(id) = call["id"].as_str() {
            names.insert(id.to_owned(), name.to_owned());
        }
        texts.push(call_text(name, &arguments));
    }
    let mut plain = message.clone();
    plain["tool_calls"] = Value::Null;
    if plain["content"].is_null() {
        plain["content"] = json!("");
    }
    let mut read = read(&plain, place)?;
    let words = read.text();
    let words = (!words.trim().is_empty()).then_some(words);
    read.content = vec![Part::Text(words.into_iter().chain(texts).collect::<Vec<_>>().join("\n"))];
    Ok(read)
}

/// What a function gave, as the user's message.
fn tool_result(message: &Value, place: &str, names: &HashMap<String, String>) -> Result<Message, Failure> {
    let known = message["tool_call_id"].as_str().and_then(|id| names.get(id).map(String::as_str));
    let name = known.or(message["name"].as_str()).or(message["tool_name"].as_str()).unwrap_or("the function");
    let mut said = read(&json!({"role": "user", "content": message["content"]}), place)?;
    let text = result_text(name, &said.text());
    said.content.retain(|part| !matches!(part, Part::Text(_)));
    said.content.push(Part::Text(text));
    Ok(said)
}

fn read(message: &Value, place: &str) -> Result<Message, Failure> {
    Ok(Message::from_value(message, place).map_err(medgemma_engine::Error::from)?)
}

/// Adds a message to the one before it. Texts that meet become one: the template writes parts without anything between.
pub(crate) fn join(last: &mut Message, next: Message) {
    for part in next.content {
        match (last.content.last_mut(), part) {
            (Some(Part::Text(before)), Part::Text(text)) => {
                before.push_str("\n\n");
                before.push_str(&text);
            }
            (_, part) => last.content.push(part),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_results_become_turns_that_alternate() {
        let call = |id: &str, arguments: Value| json!({"id": id, "type": "function", "function": {"name": "find", "arguments": arguments}});
        let chat = json!([
            {"role": "user", "content": "Which?"},
            {"role": "assistant", "content": null, "tool_calls": [call("a", json!("{\"x\": [1, 2]}")), call("b", json!({}))]},
            {"role": "tool", "tool_call_id": "a", "content": "one"},
            {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "two"}]},
            {"role": "user", "content": "And?"},
            {"role": "assistant", "content": "Both."},
            {"role": "user", "content": "Thanks."},
        ]);
        let read: Vec<(Role, String)> =
            conversation(&chat).unwrap().into_iter().map(|message| (message.role, message.text())).collect();
        let texts: Vec<&str> = read.iter().map(|(_, text)| &text[..]).collect();
        assert_eq!(
            texts,
            [
                "Which?",
                "{\"name\": \"find\", \"parameters\": {\"x\": [1, 2]}}\n{\"name\": \"find\", \"parameters\": {}}",
                "Result of find:\none\n\nResult of find:\ntwo\n\nAnd?",
                "Both.",
                "Thanks.",
            ]
        );
        assert!(read.windows(2).all(|pair| pair[0].0 != pair[1].0));
        for wrong in [
            json!([{"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}]),
            json!([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{Smith"}}]}]),
            json!([{"role": "tool", "tool_call_id": "a"}]),
            json!([{"role": "tool", "tool_call_id": ["Smith"], "content": "x"}]),
            json!([{"role": "tool", "content": "x"}]),
            json!([{"role": "function", "content": "x"}]),
            json!([{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}]}]),
            json!([{"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]}]),
            json!([{"role": "assistant", "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f"}}]}]),
            json!([{"role": "user", "tool_calls": [call("a", json!("{}"))]}]),
        ] {
            let failure = conversation(&wrong).unwrap_err();
            assert!(failure.param.is_some() && !failure.message.contains("Smith"), "{failure:?}");
        }
    }
}
