//! Messages of a chat, and their OpenAI JSON.

use crate::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

/// Who says a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions ahead of the conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The role's name in JSON and in chat templates.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// A part of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text, with no meaning but its words: control-token text in it stays text.
    Text(String),
    /// A place for an image. Pixels are kept apart, in the order of these parts over the whole chat.
    Image {
        /// Where the image is, when the message says so: a `data:` URL, another URL or a path. It isn't opened here.
        url: Option<String>,
    },
}

/// One message of a chat.
///
/// In JSON it is OpenAI's: `{"role": …, "content": …}`, where the content is a string or a list of `text` and
/// `image_url` parts. The role `developer` is read as `system`; `image` parts, as `transformers` writes them, are read
/// too. Fields that say nothing about the text (`name`, `refusal`, `annotations`) are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said, in order.
    pub content: Vec<Part>,
}

impl Part {
    /// An image whose pixels are given apart.
    pub const IMAGE: Self = Self::Image { url: None };
}

impl From<&str> for Part {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Part {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl Message {
    /// A message of these parts.
    pub fn new(role: Role, content: impl IntoIterator<Item = Part>) -> Self {
        Self { role, content: content.into_iter().collect() }
    }

    /// Instructions ahead of the conversation.
    pub fn system(text: impl Into<String>) -> Self {
        Self::new(Role::System, [Part::Text(text.into())])
    }

    /// What the person says.
    pub fn user(text: impl Into<String>) -> Self {
        Self::new(Role::User, [Part::Text(text.into())])
    }

    /// What the person says of an image whose pixels are given apart.
    pub fn user_with_image(text: impl Into<String>) -> Self {
        Self::new(Role::User, [Part::IMAGE, Part::Text(text.into())])
    }

    /// What the model said, without its thought.
    pub fn assistant(text: impl Into<String>) -> Self {
        Self::new(Role::Assistant, [Part::Text(text.into())])
    }

    /// The text parts together.
    pub fn text(&self) -> String {
        self.content
            .iter()
            .filter_map(|part| if let Part::Text(text) = part { Some(&text[..]) } else { None })
            .collect()
    }

    /// How many images it has.
    pub fn images(&self) -> usize {
        self.content.iter().filter(|part| matches!(part, Part::Image { .. })).count()
    }

    /// Reads one message from JSON; `place` says which one it is, such as `messages[0]`.
    ///
    /// # Errors
    /// When it isn't a message of text and images. The error names the field and never repeats what the message says.
    pub fn from_value(value: &Value, place: &str) -> Result<Self, Error> {
        let wrong =
            |field: &str, problem: &str| Error::Messages { field: format!("{place}{field}"), problem: problem.into() };
        let Value::Object(fields) = value else {
            return Err(wrong("", "a message is an object with role and content"));
        };
        let role = match fields.get("role").and_then(Value::as_str) {
            Some("system" | "developer") => Role::System,
            Some("user") => Role::User,
            Some("assistant") => Role::Assistant,
            Some("tool" | "function") => {
                return Err(wrong(".role", "tools aren't supported: these models weren't trained for them"));
            }
            _ => {
                return Err(wrong(
                    ".role",
                    "it must be system, developer, user or assistant, or tool where functions are offered",
                ));
            }
        };
        let calls =
            ["tool_calls", "function_call"].into_iter().find(|key| fields.get(*key).is_some_and(holds_something));
        if let Some(calls) = calls {
            return Err(wrong(&format!(".{calls}"), "tools aren't supported: these models weren't trained for them"));
        }
        let content = match fields.get("content") {
            Some(Value::String(text)) => vec![Part::Text(text.clone())],
            Some(Value::Array(parts)) => parts
                .iter()
                .enumerate()
                .map(|(at, part)| {
                    read_part(part).map_err(|(field, problem)| wrong(&format!(".content[{at}]{field}"), problem))
                })
                .collect::<Result<_, _>>()?,
            _ => return Err(wrong(".content", "it must be a string or a list of parts")),
        };
        let message = Self { role, content };
        if role != Role::User && message.images() > 0 {
            return Err(wrong(".content", "only messages of the user can have images"));
        }
        Ok(message)
    }

    /// Reads a list of messages: the value of `messages` in a request, or the whole of a file.
    ///
    /// # Errors
    /// As [`Message::from_value`]; also when there is no message.
    pub fn list(value: &Value) -> Result<Vec<Self>, Error> {
        let empty = || Error::Messages {
            field: "messages".into(),
            problem: "it must be a list of at least one message".into(),
        };
        let list = value.as_array().filter(|list| !list.is_empty()).ok_or_else(empty)?;
        list.iter().enumerate().map(|(at, message)| Self::from_value(message, &format!("messages[{at}]"))).collect()
    }

    /// Reads messages from JSON text: a list, or an object (a request) with a list named `messages`.
    ///
    /// # Errors
    /// As [`Message::list`]; also when the text isn't JSON.
    pub fn from_json(json: &[u8]) -> Result<Vec<Self>, Error> {
        // serde_json's own errors say where, not what.
        let value: Value = serde_json::from_slice(json)
            .map_err(|error| Error::Messages { field: "messages".into(), problem: format!("not JSON: {error}") })?;
        Self::list(value.get("messages").unwrap_or(&value))
    }
}

/// Whether a field is there and says something.
fn holds_something(value: &Value) -> bool {
    !(value.is_null() || value.as_array().is_some_and(Vec::is_empty))
}

/// Reads a part; the error is the field under it and the problem.
fn read_part(value: &Value) -> Result<Part, (&'static str, &'static str)> {
    let Value::Object(fields) = value else { return Err(("", "a part is an object with a type")) };
    let text = |fields: &Map<String, Value>, key: &str| fields.get(key).and_then(Value::as_str).map(str::to_owned);
    match fields.get("type").and_then(Value::as_str) {
        Some("text") => Ok(Part::Text(text(fields, "text").ok_or((".text", "it must be a string"))?)),
        Some("image_url") => {
            let image = fields.get("image_url");
            let url = image.and_then(|image| match image {
                Value::Object(image) => text(image, "url"),
                Value::String(url) => Some(url.clone()),
                _ => None,
            });
            Ok(Part::Image { url: Some(url.ok_or((".image_url", "it must be an object with a url"))?) })
        }
        Some("image") => match ["image", "url", "path"].into_iter().find_map(|key| Some((key, fields.get(key)?))) {
            Some((_, Value::String(url))) => Ok(Part::Image { url: Some(url.clone()) }),
            Some(_) => Err((".image", "it must be a URL or a path")),
            None => Ok(Part::IMAGE),
        },
        Some("input_audio" | "file" | "video_url" | "audio_url") => {
            Err((".type", "the models take text and images, no sound, film or file"))
        }
        _ => Err((".type", "it must be text or image_url")),
    }
}

impl Serialize for Message {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let content = match &self.content[..] {
            [Part::Text(text)] => json!(text),
            parts => parts
                .iter()
                .map(|part| match part {
                    Part::Text(text) => json!({"type": "text", "text": text}),
                    Part::Image { url: Some(url) } => json!({"type": "image_url", "image_url": {"url": url}}),
                    Part::Image { url: None } => json!({"type": "image"}),
                })
                .collect(),
        };
        json!({"role": self.role.name(), "content": content}).serialize(to)
    }
}

impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::from_value(&Value::deserialize(from)?, "message").map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_clients_send() {
        let json = json!({"model": "x", "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "name": "n", "content": [
                {"type": "text", "text": "Look: "},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "high"}},
                {"type": "image"},
                {"type": "image", "path": "a.png"}
            ]},
            {"role": "assistant", "content": "Yes.", "refusal": null, "tool_calls": [], "annotations": []}
        ]});
        let messages = Message::from_json(json.to_string().as_bytes()).unwrap();
        let image = |url: &str| Part::Image { url: Some(url.into()) };
        let parts = ["Look: ".into(), image("data:image/png;base64,AA=="), Part::IMAGE, image("a.png")];
        let expected = [Message::system("Be brief."), Message::new(Role::User, parts), Message::assistant("Yes.")];
        assert_eq!(messages, expected);
        assert_eq!((messages[1].images(), &messages[1].text()[..]), (3, "Look: "));
        let again = serde_json::to_vec(&messages).unwrap();
        assert_eq!(Message::from_json(&again).unwrap(), messages);
        assert_eq!(serde_json::from_slice::<Vec<Message>>(&again).unwrap(), messages);
    }

    #[test]
    fn refuses_what_it_does_not_know_without_repeating_it() {
        let user = |content: Value| json!([{"role": "user", "content": content}]);
        let wrong = [
            (json!([]), "messages"),
            (json!("John Smith"), "messages"),
            (json!(["John Smith"]), "messages[0]"),
            (json!([{"content": "John Smith"}]), "messages[0].role"),
            (json!([{"role": "John Smith", "content": ""}]), "messages[0].role"),
            (json!([{"role": "tool", "content": "John Smith"}]), "tools"),
            (
                json!([{"role": "assistant", "content": null, "tool_calls": [{"id": "John Smith"}]}]),
                "messages[0].tool_calls",
            ),
            (json!([{"role": "assistant", "content": [{"type": "image"}]}]), "only messages of the user"),
            (json!([{"role": "system", "content": [{"type": "image"}]}]), "only messages of the user"),
            (user(json!(null)), "messages[0].content"),
            (user(json!(7)), "messages[0].content"),
            (user(json!({"John": "Smith"})), "messages[0].content"),
            (user(json!(["John Smith"])), "messages[0].content[0]"),
            (user(json!([{"text": "John Smith"}])), "messages[0].content[0].type"),
            (user(json!([{"type": "text", "text": 1}])), "messages[0].content[0].text"),
            (user(json!([{"type": "text", "text": ""}, {"type": "image_url"}])), "messages[0].content[1].image_url"),
            (user(json!([{"type": "image_url", "image_url": {"url": 3}}])), "messages[0].content[0].image_url"),
            (user(json!([{"type": "image", "image": [1]}])), "messages[0].content[0].image"),
            (user(json!([{"type": "input_audio"}])), "no sound"),
        ];
        for (json, word) in wrong {
            let error = Message::from_json(json.to_string().as_bytes()).unwrap_err().to_string();
            assert!(error.contains(word) && !error.contains("John"), "{json}: {error}");
        }
        assert!(Message::from_json(b"[{\"role\": \"user\"").unwrap_err().to_string().contains("not JSON"));
        assert!(Message::from_json("[".repeat(1 << 20).as_bytes()).is_err());
    }
}
