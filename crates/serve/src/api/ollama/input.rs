//! What is asked in Ollama's words: messages or a question, and pictures beside them.

use crate::config::Config;
use crate::failure::Failure;
use crate::fields::Fields;
use crate::image::Decoder;
use crate::tools::{History, text};
use medgemma_gemma::image::RgbImage;
use medgemma_gemma::text::{Message, Part, Role};
use serde_json::{Value, json};

/// Base64 pictures by the field that they stand in, decoded where work may be done.
pub(super) type Pictures = Vec<(String, Vec<String>)>;

/// Decodes pictures, in order.
pub(super) fn decode(pictures: &Pictures, config: &Config) -> Result<Vec<RgbImage>, Failure> {
    let mut decoder = Decoder::new(config);
    for (field, data) in pictures.iter().flat_map(|(field, list)| list.iter().map(move |data| (field, data))) {
        decoder.base64(field, data)?;
    }
    Ok(decoder.into_images())
}

/// A message's pictures, in base64.
fn pictures(value: &Value, place: &str) -> Result<Vec<String>, Failure> {
    let wrong = || Failure::field(&format!("{place}images"), "it must be a list of pictures in base64");
    match &value["images"] {
        Value::Null => Ok(Vec::new()),
        Value::Array(list) => list.iter().map(|data| data.as_str().map(str::to_owned).ok_or_else(wrong)).collect(),
        _ => Err(wrong()),
    }
}

/// The messages of a chat.
pub(super) fn conversation(fields: &Fields) -> Result<(Vec<Message>, Pictures), Failure> {
    let list = fields.get("messages").and_then(Value::as_array).filter(|list| !list.is_empty());
    let list = list.ok_or_else(|| fields.wrong("messages", "it must be a list of at least one message"))?;
    let (mut history, mut images) = (History::default(), Vec::new());
    for (at, value) in list.iter().enumerate() {
        let place = format!("messages[{at}]");
        check(value, &place)?;
        let shown = pictures(value, &format!("{place}."))?;
        history.add(value, &place, |message| {
            if !shown.is_empty() && message.role != Role::User {
                return Err(Failure::field(&format!("{place}.images"), "only messages of the user can have pictures"));
            }
            message.content.splice(0..0, shown.iter().map(|_| Part::IMAGE));
            Ok(())
        })?;
        images.push((format!("{place}.images"), shown));
    }
    Ok((history.messages, images))
}

/// What Ollama asks of a message besides what is made of it.
fn check(message: &Value, place: &str) -> Result<(), Failure> {
    let wrong = |field: &str, problem: &str| Err(Failure::field(&format!("{place}.{field}"), problem));
    if !["system", "user", "assistant", "tool"].iter().any(|role| message["role"] == *role) {
        return wrong("role", "it must be system, user, assistant or tool");
    }
    let calls = match &message["tool_calls"] {
        Value::Null => &[][..],
        Value::Array(list) => list,
        _ => return wrong("tool_calls", "it must be a list of calls"),
    };
    for (at, call) in calls.iter().enumerate() {
        let function = &call["function"];
        text(function, "name", &format!("{place}.tool_calls[{at}].function"))?;
        if !function["arguments"].is_object() && !function["arguments"].is_null() {
            return wrong(&format!("tool_calls[{at}].function.arguments"), "it must be an object");
        }
    }
    // A message that calls may say nothing.
    let silent = message["role"] == "assistant" && !calls.is_empty() && message["content"].is_null();
    if !silent && !message["content"].is_string() {
        return wrong("content", "it must be a text; pictures go into images");
    }
    match &message["tool_name"] {
        Value::Null | Value::String(_) => Ok(()),
        _ => wrong("tool_name", "it must be a text"),
    }
}

/// The pictures beside a question.
pub(super) fn shown(fields: &Fields) -> Result<Vec<String>, Failure> {
    pictures(&json!({"images": fields.get("images")}), "")
}

/// The question of a request without a conversation.
pub(super) fn question(fields: &Fields) -> Result<(Vec<Message>, Pictures), Failure> {
    let text = fields.text("prompt")?.filter(|text| !text.is_empty());
    let text = text.ok_or_else(|| fields.wrong("prompt", "it must be a text that isn't empty"))?;
    let shown = shown(fields)?;
    let parts = shown.iter().map(|_| Part::IMAGE).chain([Part::Text(text.to_owned())]);
    let mut messages = Vec::new();
    if let Some(system) = fields.text("system")? {
        messages.push(Message::system(system));
    }
    messages.push(Message::new(Role::User, parts));
    Ok((messages, vec![("images".to_owned(), shown)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_ollama_describes_them() {
        let call = json!([{"function": {"name": "find", "arguments": {"a": 1}}}]);
        for right in [
            json!({"role": "user", "content": "a"}),
            json!({"role": "assistant", "tool_calls": call}),
            json!({"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "find"}}]}),
            json!({"role": "tool", "content": "a", "tool_name": null}),
        ] {
            assert!(check(&right, "messages[0]").is_ok(), "{right}");
        }
        for wrong in [
            json!("Smith"),
            json!({"role": "developer", "content": "a"}),
            json!({"role": "user", "content": [{"type": "text", "text": "Smith"}]}),
            json!({"role": "user", "tool_calls": call}),
            json!({"role": "assistant", "tool_calls": []}),
            json!({"role": "assistant", "content": "a", "tool_calls": "Smith"}),
            json!({"role": "assistant", "tool_calls": [{"function": {"name": "find", "arguments": "{}"}}]}),
            json!({"role": "assistant", "tool_calls": [{"function": {"name": ["Smith"]}}]}),
            json!({"role": "tool", "content": "a", "tool_name": ["Smith"]}),
        ] {
            let failure = check(&wrong, "messages[0]").unwrap_err();
            assert!(failure.param.is_some() && !failure.message.contains("Smith"), "{failure:?}");
        }
    }
}
