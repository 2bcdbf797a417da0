//! Pictures in requests: data URLs. What may be fetched ([`crate::fetch`]) has become one before.

use crate::config::Config;
use crate::failure::Failure;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use medgemma_gemma::image::{Limits, RgbImage, decode};
use medgemma_gemma::text::{Message, Part};

/// Decodes the pictures of messages, in order, leaving their places.
pub(crate) fn take(messages: &mut [Message], config: &Config) -> Result<Vec<RgbImage>, Failure> {
    let mut images = Vec::new();
    for (at, message) in messages.iter_mut().enumerate() {
        for (part, content) in message.content.iter_mut().enumerate() {
            let Part::Image { url } = content else { continue };
            let field = format!("messages[{at}].content[{part}]");
            if images.len() == config.images {
                return Err(Failure::field(&field, format!("more than {} pictures", config.images)));
            }
            let url = url.take().ok_or_else(|| Failure::field(&field, "the picture is missing"))?;
            images.push(decode_url(&field, &url, config)?);
        }
    }
    Ok(images)
}

fn decode_url(field: &str, url: &str, config: &Config) -> Result<RgbImage, Failure> {
    let data = url.get(..5).filter(|scheme| scheme.eq_ignore_ascii_case("data:")).map(|_| &url[5..]);
    let Some(data) = data else {
        return Err(Failure::field(field, "pictures aren't fetched here: give a data URL (data:image/png;base64,…)"));
    };
    let (_, data) = data
        .split_once(',')
        .filter(|(kind, _)| kind.to_ascii_lowercase().ends_with(";base64"))
        .ok_or_else(|| Failure::field(field, "a data URL must be base64"))?;
    decode_base64(field, data, config)
}

/// Decodes a picture in base64.
pub(crate) fn decode_base64(field: &str, data: &str, config: &Config) -> Result<RgbImage, Failure> {
    let bytes = STANDARD.decode(data.trim()).map_err(|_| Failure::field(field, "it isn't base64"))?;
    let limits = Limits { pixels: config.pixels, ..Limits::default() };
    decode("picture", &bytes, &limits).map_err(|error| Failure::field(field, error))
}
