//! A conversation on disk, for its owner's eyes only.

use super::{Part, Role, Turn};
use crate::private;
use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use medgemma_gemma::text::{Message, Part as Written};
use std::path::Path;

/// Writes the turns: OpenAI's messages when the name ends in `.json`, else text. A file that exists is not replaced.
///
/// # Errors
/// When the file exists or can't be written.
pub(crate) fn save(turns: &[Turn], path: &Path) -> Result<()> {
    let is_json = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json"));
    let text = if is_json { serde_json::to_string_pretty(&messages(turns))? } else { transcript(turns) };
    private::write(path, text.as_bytes())
}

/// The turns as `--messages` reads them.
fn messages(turns: &[Turn]) -> Vec<Message> {
    let part = |part: &Part| match part {
        Part::Text(text) => Written::Text(text.clone()),
        Part::Image(picture) => {
            let kind = picture.format.name().to_lowercase();
            Written::Image { url: Some(format!("data:image/{kind};base64,{}", STANDARD.encode(&picture.file))) }
        }
    };
    turns.iter().map(|turn| Message::new(turn.role, turn.parts.iter().map(part))).collect()
}

fn transcript(turns: &[Turn]) -> String {
    let mut text = String::new();
    for turn in turns {
        text.push_str(match turn.role {
            Role::System => "## Instruction\n\n",
            Role::User => "## Question\n\n",
            Role::Assistant => "## Answer\n\n",
        });
        for part in &turn.parts {
            match part {
                Part::Text(words) => text.push_str(words.trim()),
                Part::Image(picture) => text.push_str(&format!("[picture: {}]\n\n", picture.name)),
            }
        }
        text.push_str("\n\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::{Picture, parse_messages};
    use super::*;

    fn turns() -> Vec<Turn> {
        vec![
            Turn::text(Role::System, "Be brief."),
            Turn::user(vec![Picture::grey("picture")], "What is it?"),
            Turn::text(Role::Assistant, "An X-ray."),
        ]
    }

    #[test]
    fn what_was_saved_can_be_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("talk.json");
        save(&turns(), &path).unwrap();
        assert_eq!(parse_messages(&std::fs::read(&path).unwrap(), folder.path()).unwrap(), turns());
    }

    #[test]
    fn other_names_get_text_and_nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("talk.txt");
        save(&turns(), &path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.matches("## ").count(), 3);
        assert!(text.contains("[picture: picture]\n\nWhat is it?"));
        assert!(save(&turns(), &path).is_err());
    }
}
