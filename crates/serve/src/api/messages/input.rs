//! What is asked in Anthropic's words: blocks, calls and their results among them.

use crate::failure::Failure;
use crate::fields::Fields;
use crate::tools;
use medgemma_gemma::text::{Message, Role};
use serde_json::{Value, json};
use std::collections::HashMap;

/// The system text and the messages, in OpenAI's words.
pub(super) fn conversation(fields: &Fields) -> Result<Vec<Message>, Failure> {
    let mut messages: Vec<Message> = Vec::new();
    match fields.get("system") {
        None => {}
        Some(Value::String(text)) => messages.push(Message::system(text.clone())),
        Some(Value::Array(blocks)) => {
            let text: Option<Vec<&str>> = blocks.iter().map(words).collect();
            let text = text.ok_or_else(|| fields.wrong("system", "it must be a text or text blocks"))?;
            messages.push(Message::system(text.join("\n\n")));
        }
        Some(_) => return Err(fields.wrong("system", "it must be a text or text blocks")),
    }
    let list = fields.get("messages").and_then(Value::as_array).filter(|list| !list.is_empty());
    let list = list.ok_or_else(|| fields.wrong("messages", "it must be a list of at least one message"))?;
    let mut names = HashMap::new();
    for (at, message) in list.iter().enumerate() {
        let place = format!("messages[{at}]");
        if !["user", "assistant"].iter().any(|role| message["role"] == *role) {
            return Err(Failure::field(&format!("{place}.role"), "it must be user or assistant"));
        }
        let mut message = message.clone();
        if let Some(blocks) = message.get_mut("content").and_then(Value::as_array_mut) {
            *blocks = parts(blocks, &format!("{place}.content"), &mut names)?;
        }
        let message = Message::from_value(&message, &place).map_err(medgemma_engine::Error::from)?;
        match messages.last_mut() {
            // Anthropic's turns may follow each other; they are one then.
            Some(last) if last.role == message.role => tools::join(last, message),
            _ => messages.push(message),
        }
    }
    if messages.last().is_some_and(|message| message.role == Role::Assistant) {
        return Err(fields.wrong("messages", "the last message must be the user's"));
    }
    Ok(messages)
}

/// Blocks of a message as parts of a chat's. `names` are the functions that were called.
fn parts(blocks: &[Value], place: &str, names: &mut HashMap<String, String>) -> Result<Vec<Value>, Failure> {
    let (mut parts, mut calls): (Vec<Value>, bool) = (Vec::new(), false);
    for (at, block) in blocks.iter().enumerate() {
        let wrong = |field: &str, problem: &str| Failure::field(&format!("{place}[{at}]{field}"), problem);
        match block["type"].as_str() {
            // What was thought before isn't part of the conversation.
            Some("thinking" | "redacted_thinking") => {}
            Some("image") => parts.push(
                picture(block)
                    .ok_or_else(|| wrong(".source", "it must be of type base64, with media_type and data"))?,
            ),
            Some("tool_use") => {
                let here = format!("{place}[{at}]");
                let (id, name) = (tools::text(block, "id", &here)?, tools::text(block, "name", &here)?);
                if !block["input"].is_object() {
                    return Err(wrong(".input", "it must be an object"));
                }
                names.insert(id.to_owned(), name.to_owned());
                parts.push(json!({"type": "text", "text": tools::call_text(name, &block["input"])}));
                calls = true;
            }
            Some("tool_result") => {
                let name = names.get(tools::text(block, "tool_use_id", &format!("{place}[{at}]"))?);
                let mut said = String::new();
                match &block["content"] {
                    Value::Null => {}
                    Value::String(text) => said.push_str(text),
                    Value::Array(inner) => {
                        for part in inner {
                            match (words(part), picture(part)) {
                                (Some(text), _) => said.push_str(text),
                                (None, Some(picture)) => parts.push(picture),
                                _ => return Err(wrong(".content", "it must be text and images")),
                            }
                        }
                    }
                    _ => return Err(wrong(".content", "it must be a text or blocks")),
                }
                let name = name.map_or("the function", String::as_str);
                parts.push(json!({"type": "text", "text": tools::result_text(name, &said)}));
                calls = true;
            }
            Some("text") => parts.push(block.clone()),
            _ => return Err(wrong(".type", "it must be text, image, tool_use, tool_result or thinking")),
        }
    }
    Ok(if calls { joined(parts) } else { parts })
}

/// Makes texts that follow each other one: the template writes parts without anything between.
fn joined(parts: Vec<Value>) -> Vec<Value> {
    let mut joined: Vec<Value> = Vec::with_capacity(parts.len());
    for part in parts {
        match (joined.last_mut().map(|last| &mut last["text"]), part["text"].as_str()) {
            (Some(Value::String(before)), Some(text)) => {
                before.push_str("\n\n");
                before.push_str(text);
            }
            _ => joined.push(part),
        }
    }
    joined
}

/// The words of a block that is text.
fn words(block: &Value) -> Option<&str> {
    block["text"].as_str().filter(|_| block["type"] == "text")
}

/// The picture of a block that is one.
fn picture(block: &Value) -> Option<Value> {
    if block["type"] != "image" {
        return None;
    }
    let source = &block["source"];
    let url = match (source["type"].as_str(), source["media_type"].as_str(), source["data"].as_str()) {
        (Some("base64"), Some(kind), Some(data)) => format!("data:{kind};base64,{data}"),
        (Some("url"), _, _) => source["url"].as_str().unwrap_or_default().to_owned(),
        _ => return None,
    };
    Some(json!({"type": "image_url", "image_url": {"url": url}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_of_the_same_side_are_one() {
        let body = json!({"system": "Be brief.", "messages": [
            {"role": "user", "content": "One."}, {"role": "user", "content": [{"type": "text", "text": "Two."}]},
            {"role": "assistant", "content": "A."}, {"role": "assistant", "content": "B."},
            {"role": "user", "content": "Three."},
        ]});
        let fields = Fields::parse(body.to_string().as_bytes()).unwrap();
        let texts: Vec<String> = conversation(&fields).unwrap().iter().map(Message::text).collect();
        assert_eq!(texts, ["Be brief.", "One.\n\nTwo.", "A.\n\nB.", "Three."]);
    }
}
