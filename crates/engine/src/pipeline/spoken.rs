//! From tokens to text: splits the thought from the answer, watches for stop strings, keeps log-probabilities.

use crate::generate::NewToken;
use medgemma_gemma::text::{self, DecodeStream, StopMatcher, ThoughtParser, Tokenizer};

/// A token of a reply, as log-probabilities report it.
#[derive(Clone, Debug, PartialEq)]
pub struct SpokenToken {
    /// Its id.
    pub id: u32,
    /// Its bytes; a character may be spread over several tokens.
    pub bytes: Vec<u8>,
    /// Its log-probability.
    pub logprob: f32,
    /// The most likely tokens in its place: id, bytes and log-probability, most likely first.
    pub top: Vec<(u32, Vec<u8>, f32)>,
    /// Whether it belongs to the thought (markers included).
    pub thought: bool,
}

impl SpokenToken {
    pub(super) fn new(tokenizer: &Tokenizer, token: &NewToken, logprob: f32, thought: bool) -> Self {
        let bytes = |id: u32| tokenizer.token_bytes(id).to_vec();
        let top = token.top.iter().map(|t| (t.id, bytes(t.id), t.logprob)).collect();
        Self { id: token.id, bytes: bytes(token.id), logprob, top, thought }
    }
}

/// The text of a reply in the making.
pub(super) struct Speech {
    parser: Parser,
    stops: StopMatcher,
    pub(super) thought: String,
    pub(super) answer: String,
    pub(super) tokens: Vec<SpokenToken>,
    /// A thought was begun, even if it is empty.
    pub(super) thinks: bool,
}

/// How tokens are read.
enum Parser {
    /// A reply: thought and answer.
    Reply(ThoughtParser),
    /// The continuation of a text: all of it is the answer.
    Plain(DecodeStream),
}

impl Parser {
    fn push(&mut self, id: u32) -> Vec<text::Event> {
        match self {
            Self::Reply(parser) => parser.push(id),
            Self::Plain(stream) => answer(stream.push(id)),
        }
    }

    fn finish(&mut self) -> Vec<text::Event> {
        match self {
            Self::Reply(parser) => parser.finish(),
            Self::Plain(stream) => answer(stream.finish()),
        }
    }

    fn in_thought(&self) -> bool {
        matches!(self, Self::Reply(parser) if parser.in_thought())
    }
}

fn answer(text: String) -> Vec<text::Event> {
    if text.is_empty() { Vec::new() } else { vec![text::Event::Answer(text)] }
}

/// More text to show.
pub(super) enum Spoken {
    Thought(String),
    Answer(String),
}

impl Speech {
    pub(super) fn new(tokenizer: &Tokenizer, stops: &[String]) -> Self {
        Self::of(Parser::Reply(ThoughtParser::new(tokenizer, true)), stops)
    }

    /// The continuation of a text: nothing in it is a thought.
    pub(super) fn plain(tokenizer: &Tokenizer, stops: &[String]) -> Self {
        Self::of(Parser::Plain(DecodeStream::new(tokenizer, true)), stops)
    }

    fn of(parser: Parser, stops: &[String]) -> Self {
        Self {
            parser,
            stops: StopMatcher::new(stops),
            thought: String::new(),
            answer: String::new(),
            tokens: Vec::new(),
            thinks: false,
        }
    }

    /// Takes a token; gives what can be shown now.
    pub(super) fn push(&mut self, tokenizer: &Tokenizer, token: &NewToken) -> Vec<Spoken> {
        let was_thinking = self.parser.in_thought();
        let events = self.parser.push(token.id);
        let thought = was_thinking || self.parser.in_thought();
        self.thinks |= thought;
        if let Some(logprob) = token.logprob {
            self.tokens.push(SpokenToken::new(tokenizer, token, logprob, thought));
        }
        self.show(events)
    }

    /// Takes the end of the text; gives what was held back.
    pub(super) fn finish(&mut self) -> Vec<Spoken> {
        let events = self.parser.finish();
        let mut spoken = self.show(events);
        let rest = self.stops.finish();
        if !rest.is_empty() {
            self.answer.push_str(&rest);
            spoken.push(Spoken::Answer(rest));
        }
        spoken
    }

    /// Whether a stop string came.
    pub(super) fn stopped(&self) -> bool {
        self.stops.found().is_some()
    }

    /// The stop string that came, by its place among those that aren't empty.
    pub(super) fn stop_found(&self) -> Option<usize> {
        self.stops.found()
    }

    /// Whether the text ended inside the thought.
    pub(super) fn in_thought(&self) -> bool {
        self.parser.in_thought()
    }

    fn show(&mut self, events: Vec<text::Event>) -> Vec<Spoken> {
        let mut spoken = Vec::new();
        for event in events {
            match event {
                text::Event::Thought(text) => {
                    self.thought.push_str(&text);
                    spoken.push(Spoken::Thought(text));
                }
                text::Event::Answer(text) => {
                    let text = self.stops.push(&text);
                    if !text.is_empty() {
                        self.answer.push_str(&text);
                        spoken.push(Spoken::Answer(text));
                    }
                }
            }
        }
        spoken
    }
}
