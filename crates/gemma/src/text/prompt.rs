//! From a rendered chat to token ids, images included.

use super::guard::Guard;
use super::{Part, Special, Tokenizer};
use crate::Error;
use std::ops::Range;

/// A prompt before it is token ids: text, control tokens, and places for images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    segments: Vec<Segment>,
}

/// A stretch of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    /// Text without meaning to the model but its words.
    Text(String),
    /// A control token, written by the template.
    Control(u32),
}

/// The tokens around and for an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageTokens {
    /// Begins an image; in a rendered template it is the place of one: `<start_of_image>`.
    pub start: u32,
    /// Stands for one vector of the image encoder: `<image_soft_token>`.
    pub soft: u32,
    /// Ends an image: `<end_of_image>`.
    pub end: u32,
}

impl ImageTokens {
    /// The image tokens of a tokenizer, by their texts.
    ///
    /// # Errors
    /// When it lacks one: it is that of a text-only model.
    pub fn of(tokenizer: &Tokenizer) -> Result<Self, Error> {
        let id = |text: &str| {
            let problem = || format!("the vocabulary has no {text}: this is a text-only model, which takes no images");
            tokenizer.id(text).ok_or_else(|| Error::Prompt { problem: problem() })
        };
        Ok(Self { start: id("<start_of_image>")?, soft: id("<image_soft_token>")?, end: id("<end_of_image>")? })
    }
}

/// The images of a prompt, in the order of their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageLayout<'a> {
    /// Their tokens.
    pub tokens: ImageTokens,
    /// Vectors that the encoder gives for one picture: 256 for the published models.
    pub per_image: usize,
    /// For each image, how many crops pan-and-scan made of it: 0 without.
    pub crops: &'a [usize],
}

/// A prompt as token ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// The ids, beginning with bos.
    pub ids: Vec<u32>,
    /// Positions of the soft tokens of each picture: for each image itself, then its crops.
    pub pictures: Vec<Range<usize>>,
}

impl Prompt {
    /// What a template wrote, its control tokens recognised and the guard's marks taken out.
    pub(super) fn rendered(text: &str, guard: &Guard, tokenizer: &Tokenizer) -> Self {
        let mut prompt = Self { segments: Vec::new() };
        let mut from = 0;
        while let Some(found) = tokenizer.find_control(text, from) {
            prompt.push_text(guard.clean(&text[from..found.start]));
            prompt.segments.push(Segment::Control(found.value));
            from = found.end;
        }
        prompt.push_text(guard.clean(&text[from..]));
        prompt.begin_with(tokenizer.prefix());
        prompt
    }

    /// A prompt for plain continuation, as pre-trained checkpoints take it: bos, then the parts. Text stays text.
    ///
    /// # Errors
    /// When there is an image and the vocabulary has no image tokens.
    pub fn continuation(parts: &[Part], tokenizer: &Tokenizer) -> Result<Self, Error> {
        let mut prompt = Self { segments: Vec::new() };
        for part in parts {
            match part {
                Part::Text(text) => prompt.push_text(text.clone()),
                Part::Image { .. } => prompt.segments.push(Segment::Control(ImageTokens::of(tokenizer)?.start)),
            }
        }
        prompt.begin_with(tokenizer.prefix());
        Ok(prompt)
    }

    fn push_text(&mut self, text: String) {
        match self.segments.last_mut() {
            _ if text.is_empty() => {}
            Some(Segment::Text(last)) => last.push_str(&text),
            _ => self.segments.push(Segment::Text(text)),
        }
    }

    /// Puts bos first, once: templates mostly write it themselves.
    fn begin_with(&mut self, prefix: &[u32]) {
        let prefix = prefix.iter().map(|&id| Segment::Control(id));
        if !self.segments.iter().zip(prefix.clone()).all(|(have, want)| *have == want)
            || self.segments.len() < prefix.len()
        {
            self.segments.splice(0..0, prefix);
        }
    }

    /// The prompt as text. Control-token text in it can't be told from control tokens.
    pub fn text(&self, tokenizer: &Tokenizer) -> String {
        let text = |segment| match segment {
            &Segment::Control(id) => tokenizer.token(id).unwrap_or_default(),
            Segment::Text(text) => text,
        };
        self.segments.iter().map(text).collect()
    }

    /// The token ids of a prompt without images.
    ///
    /// # Errors
    /// When the prompt has a place for an image.
    pub fn encode(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>, Error> {
        let start = tokenizer.id("<start_of_image>").filter(|&id| tokenizer.is_control(id));
        let places =
            self.segments.iter().filter(|segment| start.is_some_and(|id| **segment == Segment::Control(id))).count();
        if places > 0 {
            return Err(count_mismatch(places, 0));
        }
        let mut writer = Writer::new(tokenizer);
        self.segments.iter().for_each(|segment| writer.segment(segment));
        Ok(writer.finish().ids)
    }

    /// The token ids of a prompt with images: each place is written out as the reference's processor does, the soft
    /// tokens between blank lines, and with pan-and-scan a sentence around the picture and its crops.
    ///
    /// # Errors
    /// When the images are more or fewer than their places.
    pub fn encode_with_images(&self, tokenizer: &Tokenizer, images: ImageLayout) -> Result<Encoded, Error> {
        let place = Segment::Control(images.tokens.start);
        let places = self.segments.iter().filter(|segment| **segment == place).count();
        if places != images.crops.len() {
            return Err(count_mismatch(places, images.crops.len()));
        }
        let mut writer = Writer::new(tokenizer);
        let mut crops = images.crops.iter();
        for segment in &self.segments {
            if *segment == place {
                writer.image(images, crops.next().copied().unwrap_or(0));
            } else {
                writer.segment(segment);
            }
        }
        Ok(writer.finish())
    }
}

fn count_mismatch(places: usize, images: usize) -> Error {
    let hint = match (places, images) {
        (_, 0) => "give the images of the messages",
        (0, _) => "this checkpoint's chat template takes no images",
        _ => "give one image for each place",
    };
    Error::Prompt { problem: format!("the prompt has {places} places for images and {images} were given: {hint}") }
}

/// Collects text, so that what stands side by side is tokenised together, and ids.
struct Writer<'t> {
    tokenizer: &'t Tokenizer,
    text: String,
    out: Encoded,
}

impl<'t> Writer<'t> {
    fn new(tokenizer: &'t Tokenizer) -> Self {
        Self { tokenizer, text: String::new(), out: Encoded::default() }
    }

    fn segment(&mut self, segment: &Segment) {
        match segment {
            Segment::Text(text) => self.text.push_str(text),
            Segment::Control(id) => self.control(*id),
        }
    }

    fn control(&mut self, id: u32) {
        self.flush();
        self.out.ids.push(id);
    }

    fn flush(&mut self) {
        self.tokenizer.encode_into(&self.text, Special::Plain, &mut self.out.ids);
        self.text.clear();
    }

    /// An image and its crops, in the words of `transformers`' Gemma3Processor.
    fn image(&mut self, images: ImageLayout, crops: usize) {
        if crops == 0 {
            return self.picture(images);
        }
        self.text.push_str("Here is the original image ");
        self.picture(images);
        self.text.push_str(" and here are some crops to help you see better");
        for _ in 0..crops {
            self.text.push(' ');
            self.picture(images);
        }
    }

    fn picture(&mut self, images: ImageLayout) {
        self.text.push_str("\n\n");
        self.control(images.tokens.start);
        let first = self.out.ids.len();
        self.out.ids.resize(first + images.per_image, images.tokens.soft);
        self.out.pictures.push(first..first + images.per_image);
        self.control(images.tokens.end);
        self.text.push_str("\n\n");
    }

    fn finish(mut self) -> Encoded {
        self.flush();
        self.out
    }
}
