//! What is said to a model, before it is the engine's: turns of text and pictures from files, stdin and the keyboard.

mod attach;
mod messages;
mod picture;
mod save;

pub(crate) use attach::attach;
pub(crate) use medgemma_gemma::text::Role;
pub(crate) use messages::parse as parse_messages;
pub(crate) use picture::Picture;
pub(crate) use save::save;

use anyhow::Result;
use medgemma_engine::Request;
use medgemma_gemma::text::{Message, Part as Written};

/// One turn.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Turn {
    /// Who speaks.
    pub(crate) role: Role,
    /// What is said and shown, in order.
    pub(crate) parts: Vec<Part>,
}

/// A part of a turn.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Part {
    /// Words.
    Text(String),
    /// A picture.
    Image(Picture),
}

impl Turn {
    /// A turn of words alone.
    pub(crate) fn text(role: Role, text: impl Into<String>) -> Self {
        Self { role, parts: vec![Part::Text(text.into())] }
    }

    /// Pictures first, as the models were trained, then the words.
    pub(crate) fn user(pictures: Vec<Picture>, text: impl Into<String>) -> Self {
        let mut parts: Vec<Part> = pictures.into_iter().map(Part::Image).collect();
        parts.push(Part::Text(text.into()));
        Self { role: Role::User, parts }
    }

    /// Whether it shows something.
    pub(crate) fn has_picture(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Image(_)))
    }

    /// The turn with its pictures in black squares when `pad` says so.
    ///
    /// # Errors
    /// When a square would be too large.
    pub(crate) fn padded(mut self, pad: bool) -> Result<Self> {
        let padded = |part| match part {
            Part::Image(picture) => picture.padded(pad).map(Part::Image),
            text => Ok(text),
        };
        self.parts = self.parts.into_iter().map(padded).collect::<Result<_>>()?;
        Ok(self)
    }
}

/// The turns as the engine takes them: messages, and the pixels of their pictures in order.
pub(crate) fn for_engine(turns: &[Turn]) -> Request {
    let mut images = Vec::new();
    let mut part = |part: &Part| match part {
        Part::Text(text) => Written::Text(text.clone()),
        Part::Image(picture) => {
            images.push((*picture.image).clone());
            Written::IMAGE
        }
    };
    let messages = turns.iter().map(|turn| Message::new(turn.role, turn.parts.iter().map(&mut part))).collect();
    Request { messages, images, ..Request::default() }
}
