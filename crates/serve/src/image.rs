//! Pictures in requests: data URLs. What may be fetched ([`crate::fetch`]) has become one before.

use crate::config::Config;
use crate::failure::Failure;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use medgemma_gemma::image::{Limits, RgbImage, decode};
use medgemma_gemma::text::{Message, Part};

/// All pictures of a request may have so many times the pixels of one.
const TOGETHER: u64 = 4;

/// Decodes the pictures of one request, as many and as large as the server allows.
pub(crate) struct Decoder<'a> {
    config: &'a Config,
    images: Vec<RgbImage>,
    /// Pixels that there may still be.
    left: u64,
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(config: &'a Config) -> Self {
        Self { config, images: Vec::new(), left: config.pixels.saturating_mul(TOGETHER) }
    }

    /// Decodes a picture in base64. No memory is taken for one that is too large.
    ///
    /// # Errors
    /// When it can't be read, or there are too many or too large ones.
    pub(crate) fn base64(&mut self, field: &str, data: &str) -> Result<(), Failure> {
        if self.images.len() == self.config.images {
            return Err(Failure::field(field, format!("a request may have {} pictures at most", self.config.images)));
        }
        let bytes = STANDARD.decode(data.trim()).map_err(|_| Failure::field(field, "it isn't base64"))?;
        let limits = Limits { pixels: self.config.pixels.min(self.left), ..Limits::default() };
        let image = decode("picture", &bytes, &limits).map_err(|error| match self.left < self.config.pixels {
            true => {
                let all = self.config.pixels.saturating_mul(TOGETHER);
                let note =
                    format!("all pictures of a request may have {all} pixels together, and {} are left", self.left);
                Failure::field(field, format!("{error} ({note})"))
            }
            false => Failure::field(field, error),
        })?;
        self.left = self.left.saturating_sub(image.width() as u64 * image.height() as u64);
        self.images.push(image);
        Ok(())
    }

    fn url(&mut self, field: &str, url: &str) -> Result<(), Failure> {
        let data = url.get(..5).filter(|scheme| scheme.eq_ignore_ascii_case("data:")).map(|_| &url[5..]);
        let Some(data) = data else {
            let problem = "pictures aren't fetched here: send the picture itself (in a data URL, data:image/png;base64,…, or as a base64 source where the API has these)";
            return Err(Failure::field(field, problem));
        };
        let (_, data) = data
            .split_once(',')
            .filter(|(kind, _)| kind.to_ascii_lowercase().ends_with(";base64"))
            .ok_or_else(|| Failure::field(field, "a data URL must be base64"))?;
        self.base64(field, data)
    }

    /// The pictures, in order.
    pub(crate) fn into_images(self) -> Vec<RgbImage> {
        self.images
    }
}

/// Where a message's part stands in a request: by its number, or `within` a field where messages don't stand one by one.
pub(crate) fn place(within: Option<&str>, message: usize, part: usize) -> String {
    within.map_or_else(|| format!("messages[{message}].content[{part}]"), str::to_owned)
}

/// Decodes the pictures of messages, in order, leaving their places; `within` is as for [`place`].
pub(crate) fn take(messages: &mut [Message], within: Option<&str>, config: &Config) -> Result<Vec<RgbImage>, Failure> {
    let mut decoder = Decoder::new(config);
    for (at, message) in messages.iter_mut().enumerate() {
        for (part, content) in message.content.iter_mut().enumerate() {
            let Part::Image { url } = content else { continue };
            let field = place(within, at, part);
            let url = url.take().ok_or_else(|| Failure::field(&field, "the picture is missing"))?;
            decoder.url(&field, &url)?;
        }
    }
    Ok(decoder.into_images())
}
