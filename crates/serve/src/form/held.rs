//! An answer on its way through a form, token by token.

use llguidance::Matcher;
use medgemma_engine::scheduler::Mask;
use std::sync::Arc;

/// Where an answer stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A thought may begin, or the answer.
    Start,
    /// Inside the thought, which is free.
    Thought,
    /// In the form.
    Answer,
    /// In text that needn't have the form.
    Free,
}

/// An answer held to a form.
pub(super) struct Held {
    matcher: Matcher,
    eos: Arc<[u32]>,
    /// The tokens that begin and end a thought, where one may come.
    thought: Option<(u32, u32)>,
    /// Where only an answer that begins with `{` has the form.
    optional: Option<Arc<Openings>>,
    place: Place,
}

/// What tokens say of an answer that begins with them.
pub(super) struct Openings {
    /// Those that begin with `{`, spaces before it or not.
    pub(super) braces: Box<[bool]>,
    /// Those of spaces alone, which leave it open.
    pub(super) blank: Box<[bool]>,
}

impl Held {
    pub(super) fn new(
        matcher: Matcher,
        eos: Arc<[u32]>,
        thought: Option<(u32, u32)>,
        optional: Option<Arc<Openings>>,
    ) -> Self {
        let place = if thought.is_some() || optional.is_some() { Place::Start } else { Place::Answer };
        Self { matcher, eos, thought, optional, place }
    }
}

impl Mask for Held {
    fn allow(&mut self, logits: &mut [f32]) -> Result<(), String> {
        if self.is_idle() {
            return Ok(());
        }
        let allowed = self.matcher.compute_mask_or_eos();
        let allowed = allowed.map_err(|_| "the answer's form is too complex to be followed".to_owned())?;
        let may_end = self.eos.first().is_some_and(|id| allowed.is_allowed(*id));
        let begins = self.thought.filter(|_| self.place == Place::Start).map(|(open, _)| open);
        let optional = self.optional.as_ref().filter(|_| self.place == Place::Start);
        for (id, logit) in logits.iter_mut().enumerate() {
            let free = optional.is_some_and(|openings| !openings.braces.get(id).copied().unwrap_or(false));
            let follows = id < allowed.len() && allowed.is_allowed(id as u32);
            let ends = may_end && self.eos.contains(&(id as u32));
            if !(free || follows || ends || begins == Some(id as u32)) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    fn is_idle(&self) -> bool {
        matches!(self.place, Place::Thought | Place::Free)
    }

    fn accept(&mut self, token: u32) {
        self.place = match (self.place, self.thought, &self.optional) {
            (Place::Free, ..) => Place::Free,
            (Place::Start, Some((open, _)), _) if token == open => Place::Thought,
            (Place::Thought, Some((_, close)), None) if token == close => Place::Answer,
            (Place::Thought, Some((_, close)), Some(_)) if token == close => Place::Start,
            (Place::Thought, ..) => Place::Thought,
            (Place::Start, _, Some(openings)) if openings.blank.get(token as usize).copied().unwrap_or(false) => {
                Place::Start
            }
            (Place::Start, _, Some(openings)) if !openings.braces.get(token as usize).copied().unwrap_or(false) => {
                Place::Free
            }
            _ => {
                // What goes wrong here is told before the next token.
                let _ = self.matcher.consume_token(token);
                Place::Answer
            }
        };
    }

    fn fork(&self) -> Box<dyn Mask> {
        let (matcher, eos) = (self.matcher.deep_clone(), Arc::clone(&self.eos));
        Box::new(Self { matcher, eos, thought: self.thought, optional: self.optional.clone(), place: self.place })
    }
}
