//! From messages and pictures to a prompt.

use super::assets::Assets;
use super::{Options, Request};
use crate::error::Error;
use medgemma_gemma::Config;
use medgemma_gemma::image::RgbImage;
use medgemma_gemma::text::{
    Encoded, ImageLayout, ImageTokens, Message, Part, Prompt, RenderOptions, Role, thinking_system,
};

impl Assets {
    /// The prompt of a conversation.
    ///
    /// # Errors
    /// When the checkpoint has no template, or it refuses the messages.
    pub(super) fn render(&self, request: &Request) -> Result<Prompt, Error> {
        let Some(template) = &self.template else {
            return Err(Error::Parameter(
                "this checkpoint is a pre-trained one: it has no chat template and continues text instead".into(),
            ));
        };
        let messages = match request.options.think {
            true => &with_thinking(&request.messages),
            false => &request.messages,
        };
        check_turns(messages)?;
        let prompt = template.render(messages, &self.tokenizer, RenderOptions::default())?;
        // A damaged template may answer for the user: better no answer than one to another question.
        let question = messages.iter().rev().find(|m| m.role == Role::User);
        let text = prompt.text(&self.tokenizer);
        let left_out = |part: &Part| matches!(part, Part::Text(part) if !text.contains(part.trim()));
        if question.is_some_and(|q| q.content.iter().any(left_out)) {
            return Err(Error::Parameter(
                "the chat template leaves out the question: it is damaged, or another model's".into(),
            ));
        }
        Ok(prompt)
    }

    /// The crops of each picture, where pan-and-scan is on.
    pub(super) fn crops(&self, images: &[RgbImage], options: &Options) -> Result<Vec<Vec<RgbImage>>, Error> {
        if images.is_empty() {
            return Ok(Vec::new());
        }
        let preprocessor = self.preprocessor.as_ref().ok_or(medgemma_gemma::Error::NoVision)?;
        let wanted = options.pan_and_scan.unwrap_or(preprocessor.default_pan_and_scan());
        Ok(images.iter().map(|image| if wanted { preprocessor.crops(image) } else { Vec::new() }).collect())
    }

    /// A prompt's token ids, and where its pictures are; `crops` says how many crops each has.
    pub(super) fn encode(&self, prompt: &Prompt, crops: &[usize], config: &Config) -> Result<Encoded, Error> {
        let tokenizer = &self.tokenizer;
        let Some(vision) = &config.vision else {
            return Ok(Encoded { ids: prompt.encode(tokenizer)?, pictures: Vec::new() });
        };
        let layout = ImageLayout { tokens: ImageTokens::of(tokenizer)?, per_image: vision.tokens_per_image, crops };
        Ok(prompt.encode_with_images(tokenizer, layout)?)
    }
}

/// Refuses conversations that the published template can't say, or would leave the system text out of.
fn check_turns(messages: &[Message]) -> Result<(), Error> {
    let turns = match messages.split_first() {
        Some((first, rest)) if first.role == Role::System => rest,
        _ => messages,
    };
    let problem = turns.iter().enumerate().find_map(|(at, message)| match (at % 2, message.role) {
        (0, Role::User) | (1, Role::Assistant) => None,
        (_, Role::System) => Some("a system text can only stand first, and once"),
        (_, Role::Assistant) if at == 0 => Some("the user must speak first"),
        (_, Role::User) => Some("two messages of the user follow each other: join them"),
        (_, Role::Assistant) => Some("two messages of the assistant follow each other: join them"),
    });
    match problem.or(turns.is_empty().then_some("there is no message of the user")) {
        None => Ok(()),
        Some(problem) => {
            Err(medgemma_gemma::Error::Messages { field: "messages".into(), problem: problem.into() }.into())
        }
    }
}

/// The messages with the words before the system text that ask the model to think.
fn with_thinking(messages: &[Message]) -> Vec<Message> {
    let (persona, rest) = match messages.split_first() {
        Some((first, rest)) if first.role == Role::System => (Some(first.text()), rest),
        _ => (None, messages),
    };
    let mut with = vec![Message::system(thinking_system(persona.as_deref()))];
    with.extend_from_slice(rest);
    with
}
