//! OpenAI's messages from a file: text, and pictures as data URLs or paths. Never from the network.

use super::{Part, Picture, Turn};
use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use medgemma_gemma::text::{Message, Part as Written};
use std::path::Path;

/// Reads messages; paths of pictures are relative to `folder`.
///
/// # Errors
/// When they aren't messages, or a picture can't be read.
pub(crate) fn parse(json: &[u8], folder: &Path) -> Result<Vec<Turn>> {
    let mut turns = Vec::new();
    for (at, message) in Message::from_json(json)?.into_iter().enumerate() {
        let part = |part| match part {
            Written::Text(text) => Ok(Part::Text(text)),
            Written::Image { url: Some(url) } => picture(&url, folder).map(Part::Image),
            Written::Image { url: None } => Err(anyhow!("a picture without an image_url")),
        };
        let parts: Result<Vec<Part>> = message.content.into_iter().map(part).collect();
        turns.push(Turn { role: message.role, parts: parts.with_context(|| format!("messages[{at}]"))? });
    }
    Ok(turns)
}

fn picture(url: &str, folder: &Path) -> Result<Picture> {
    let scheme = |scheme: &str| url.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    if scheme("http://") || scheme("https://") {
        bail!("a picture on the network is not fetched: save it and give its path");
    }
    if scheme("data:") {
        let (head, data) = url.split_once(',').ok_or(anyhow!("a data URL without a comma"))?;
        if !head.to_lowercase().ends_with(";base64") {
            bail!("a data URL must be base64: data:image/png;base64,…");
        }
        let file = STANDARD.decode(data.trim()).map_err(|error| anyhow!("a data URL: {error}"))?;
        return Picture::decode("picture", file);
    }
    Picture::read(&folder.join(url.strip_prefix("file://").unwrap_or(url)))
}

#[cfg(test)]
mod tests {
    use super::super::Role;
    use super::*;

    fn failure(url: &str) -> String {
        let image = format!(r#"{{"type": "image_url", "image_url": {{"url": "{url}"}}}}"#);
        let json = format!(r#"[{{"role": "user", "content": [{image}]}}]"#);
        format!("{:#}", parse(json.as_bytes(), Path::new("/nowhere")).unwrap_err())
    }

    #[test]
    fn text_and_pictures_are_read_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let grey = Picture::grey("x.png");
        std::fs::write(folder.path().join("x.png"), &grey.file).unwrap();
        let data = STANDARD.encode(&grey.file);
        let json = format!(
            r#"{{"model": "m", "messages": [
            {{"role": "system", "content": "be brief"}},
            {{"role": "user", "content": [
                {{"type": "image_url", "image_url": {{"url": "data:image/png;base64,{data}"}}}},
                {{"type": "text", "text": "and"}},
                {{"type": "image", "image": "x.png"}}]}},
            {{"role": "assistant", "content": "yes"}}]}}"#
        );
        let turns = parse(json.as_bytes(), folder.path()).unwrap();
        assert_eq!(turns[0], Turn::text(Role::System, "be brief"));
        let image = |name| Part::Image(Picture::grey(name));
        assert_eq!(turns[1].parts, [image("picture"), Part::Text("and".into()), image("x.png")]);
        assert_eq!(turns[2], Turn::text(Role::Assistant, "yes"));
    }

    #[test]
    fn the_network_is_never_asked() {
        for url in ["http://127.0.0.1/x.png", "https://example.org/x.png", "HTTP://example.org/x"] {
            assert!(failure(url).contains("not fetched"), "{url}");
        }
    }

    #[test]
    fn a_picture_that_cannot_be_read_is_named() {
        assert!(failure("data:image/png;base64,***").contains("messages[0]: a data URL"));
        assert!(failure("data:image/png,abc").contains("must be base64"));
        assert!(failure("data:image/png;base64,AAAA").contains("picture"));
        assert!(failure("absent.png").contains("absent.png"));
    }
}
