//! A response's instructions and input, in the words of a chat.

use crate::failure::Failure;
use crate::fields::Fields;
use crate::tools::{History, text};
use medgemma_gemma::text::Message;
use serde_json::{Value, json};

/// Reads them.
///
/// # Errors
/// When there is no message, or something isn't as OpenAI describes it.
pub(super) fn conversation(fields: &Fields) -> Result<Vec<Message>, Failure> {
    let mut history = History::default();
    if let Some(text) = fields.text("instructions")? {
        history.messages.push(Message::system(text));
    }
    match fields.get("input") {
        Some(Value::String(text)) => history.messages.push(Message::user(text.clone())),
        Some(Value::Array(list)) if !list.is_empty() => {
            for (at, item) in list.iter().enumerate() {
                let place = format!("input[{at}]");
                if let Some(message) = in_chat(item, &place)? {
                    history.add(&message, &place, |_| Ok(()))?;
                }
            }
        }
        _ => return Err(fields.wrong("input", "it must be a text or a list of messages")),
    }
    match history.messages.is_empty() {
        true => Err(fields.wrong("input", "there is no message in it")),
        false => Ok(history.messages),
    }
}

/// An item as a chat's message; none where it isn't part of the conversation.
fn in_chat(item: &Value, place: &str) -> Result<Option<Value>, Failure> {
    let kind = match item.get("type") {
        None => Some("message"),
        Some(kind) => kind.as_str(),
    };
    match kind {
        Some("message") => {
            let role = ["system", "developer", "user", "assistant"].into_iter().find(|role| item["role"] == *role);
            let wrong = || Failure::field(&format!("{place}.role"), "it must be system, developer, user or assistant");
            let content = content(&item["content"], &format!("{place}.content"))?;
            Ok(Some(json!({"role": role.ok_or_else(wrong)?, "content": content})))
        }
        // What was thought before isn't said again.
        Some("reasoning") => Ok(None),
        Some("function_call") => {
            let [id, name, arguments] = ["call_id", "name", "arguments"].map(|field| text(item, field, place));
            let call = json!({"id": id?, "type": "function", "function": {"name": name?, "arguments": arguments?}});
            Ok(Some(json!({"role": "assistant", "content": null, "tool_calls": [call]})))
        }
        Some("function_call_output") => {
            let (id, output) = (text(item, "call_id", place)?, content(&item["output"], &format!("{place}.output"))?);
            Ok(Some(json!({"role": "tool", "tool_call_id": id, "content": output})))
        }
        _ => Err(Failure::field(&format!("{place}.type"), "it must be message, reasoning or a function's")),
    }
}

/// A text or parts, these with their names in a chat.
fn content(value: &Value, place: &str) -> Result<Value, Failure> {
    let Value::Array(parts) = value else { return Ok(value.clone()) };
    let part = |(at, part): (usize, &Value)| match part["type"].as_str() {
        Some("input_text" | "output_text") => {
            Ok(json!({"type": "text", "text": text(part, "text", &format!("{place}[{at}]"))?}))
        }
        Some("input_image") => {
            let url = text(part, "image_url", &format!("{place}[{at}]"))?;
            Ok(json!({"type": "image_url", "image_url": {"url": url}}))
        }
        _ => Err(Failure::field(&format!("{place}[{at}].type"), "it must be input_text, output_text or input_image")),
    };
    parts.iter().enumerate().map(part).collect::<Result<_, _>>().map(Value::Array)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_as_openai_describes_them() {
        let read = |item: Value| in_chat(&item, "input[0]");
        let said = json!({"role": "user", "content": [{"type": "input_text", "text": "a"}]});
        assert_eq!(read(said).unwrap().unwrap()["content"], json!([{"type": "text", "text": "a"}]));
        assert!(read(json!({"type": "reasoning", "summary": []})).unwrap().is_none());
        for wrong in [
            json!("Smith"),
            json!({"type": null, "role": "user", "content": "a"}),
            json!({"type": ["message"], "role": "user", "content": "a"}),
            json!({"role": "tool", "tool_call_id": "a", "content": "a"}),
            json!({"role": "user", "content": [{"type": "text", "text": "a"}]}),
            json!({"role": "user", "content": [{"type": "input_image", "image_url": {"url": "Smith"}}]}),
            json!({"type": "function_call", "call_id": ["Smith"], "name": "f", "arguments": "{}"}),
            json!({"type": "function_call", "call_id": "a", "name": "f"}),
            json!({"type": "function_call", "call_id": "a", "name": "f", "arguments": {}}),
            json!({"type": "function_call_output", "output": "a"}),
        ] {
            let failure = read(wrong).unwrap_err();
            assert!(failure.param.is_some() && !failure.message.contains("Smith"), "{failure:?}");
        }
    }
}
