//! The thought of a reply, told apart from its answer.
//!
//! A model that thinks writes `<unused94>thought\n`, the thought, `<unused95>`, the answer. Version 1.5 may do so unasked,
//! and the budget may end inside the thought: the reply is always split.

use super::{DecodeStream, Tokenizer};

/// Begins a thought, as text.
const OPEN: &str = "<unused94>";
/// Ends a thought, as text.
const CLOSE: &str = "<unused95>";
/// What the model writes first in a thought: it isn't part of it.
const HEADER: &str = "thought\n";

/// The system text that asks for a thought before the answer, with the instructions that it stands before.
pub fn thinking_system(persona: Option<&str>) -> String {
    let ask = "SYSTEM INSTRUCTION: think silently if needed.";
    match persona {
        Some(persona) => format!("{ask} {persona}"),
        None => ask.into(),
    }
}

/// The tokens that begin and end a thought; `None` when the vocabulary hasn't both.
pub fn thought_tokens(tokenizer: &Tokenizer) -> Option<(u32, u32)> {
    tokenizer.id(OPEN).zip(tokenizer.id(CLOSE))
}

/// A piece of a reply, never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// More of the thought.
    Thought(String),
    /// More of the answer.
    Answer(String),
}

/// Where in a reply the text stands, and what of it waits to be understood.
#[derive(Clone, Debug, Default)]
struct Splitter {
    in_thought: bool,
    /// The beginning of a thought while it may still be [`HEADER`].
    header: Option<String>,
}

impl Splitter {
    fn text(&mut self, text: &str, events: &mut Vec<Event>) {
        let Some(mut begun) = self.header.take() else { return self.emit(text, events) };
        begun.push_str(text);
        if let Some(thought) = begun.strip_prefix(HEADER) {
            self.emit(thought, events);
        } else if HEADER.starts_with(&begun[..]) {
            self.header = Some(begun);
        } else {
            self.emit(&begun, events);
        }
    }

    fn emit(&self, text: &str, events: &mut Vec<Event>) {
        match events.last_mut() {
            _ if text.is_empty() => {}
            Some(Event::Thought(last)) if self.in_thought => last.push_str(text),
            Some(Event::Answer(last)) if !self.in_thought => last.push_str(text),
            _ if self.in_thought => events.push(Event::Thought(text.into())),
            _ => events.push(Event::Answer(text.into())),
        }
    }

    fn open(&mut self, events: &mut Vec<Event>) {
        self.settle(events);
        self.in_thought = true;
        self.header = Some(String::new());
    }

    fn close(&mut self, events: &mut Vec<Event>) {
        self.settle(events);
        self.in_thought = false;
    }

    /// Decides on a header that is cut off: `thought` without its line's end is one, a part of the word is not.
    fn settle(&mut self, events: &mut Vec<Event>) {
        if let Some(begun) = self.header.take()
            && begun != HEADER.trim_end()
        {
            self.emit(&begun, events);
        }
    }
}

/// Splits a reply into thought and answer as its tokens come.
#[derive(Clone, Debug)]
pub struct ThoughtParser {
    stream: DecodeStream,
    open: Option<u32>,
    close: Option<u32>,
    splitter: Splitter,
}

impl ThoughtParser {
    /// A parser for replies in this tokenizer's ids; `skip_special` leaves out tokens marked special, such as
    /// `<end_of_turn>`. A tokenizer without the two tokens makes everything the answer.
    pub fn new(tokenizer: &Tokenizer, skip_special: bool) -> Self {
        Self {
            stream: DecodeStream::new(tokenizer, skip_special),
            open: tokenizer.id(OPEN),
            close: tokenizer.id(CLOSE),
            splitter: Splitter::default(),
        }
    }

    /// Takes a token and gives the text that can be shown now: none, or one or two pieces.
    pub fn push(&mut self, id: u32) -> Vec<Event> {
        let mut events = Vec::new();
        if self.open == Some(id) {
            self.splitter.text(&self.stream.finish(), &mut events);
            self.splitter.open(&mut events);
        } else if self.close == Some(id) {
            self.splitter.text(&self.stream.finish(), &mut events);
            self.splitter.close(&mut events);
        } else {
            self.splitter.text(&self.stream.push(id), &mut events);
        }
        events
    }

    /// Gives what was held back, at the end of the reply.
    pub fn finish(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        self.splitter.text(&self.stream.finish(), &mut events);
        self.splitter.settle(&mut events);
        events
    }

    /// Whether the reply stands inside a thought. At its end this says that the budget was too small: there is no
    /// answer.
    pub fn in_thought(&self) -> bool {
        self.splitter.in_thought
    }
}

/// Splits a reply into thought and answer as its text comes, where token ids aren't at hand. Unlike
/// [`ThoughtParser`] it can't tell the two marker tokens from their texts.
#[derive(Clone, Debug, Default)]
pub struct ThoughtTextParser {
    splitter: Splitter,
    /// The text's end while it may still become a marker.
    held: String,
}

impl ThoughtTextParser {
    /// A parser at the beginning of a reply.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next piece of text and gives what can be shown now.
    pub fn push(&mut self, text: &str) -> Vec<Event> {
        let mut events = Vec::new();
        self.held.push_str(text);
        let held = std::mem::take(&mut self.held);
        let mut rest = &held[..];
        while let Some((at, opens)) = first_marker(rest) {
            self.splitter.text(&rest[..at], &mut events);
            if opens {
                self.splitter.open(&mut events);
                rest = &rest[at + OPEN.len()..];
            } else {
                self.splitter.close(&mut events);
                rest = &rest[at + CLOSE.len()..];
            }
        }
        // The last "<" is the only place where a marker may have begun.
        let keep = rest.rfind('<').filter(|&at| [OPEN, CLOSE].iter().any(|marker| marker.starts_with(&rest[at..])));
        let (show, keep) = rest.split_at(keep.unwrap_or(rest.len()));
        self.splitter.text(show, &mut events);
        self.held = keep.to_owned();
        events
    }

    /// Gives what was held back, at the end of the reply.
    pub fn finish(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        self.splitter.text(&std::mem::take(&mut self.held), &mut events);
        self.splitter.settle(&mut events);
        events
    }

    /// As [`ThoughtParser::in_thought`].
    pub fn in_thought(&self) -> bool {
        self.splitter.in_thought
    }
}

/// Where the first marker is, and whether it is the one that opens.
fn first_marker(text: &str) -> Option<(usize, bool)> {
    let open = text.find(OPEN).map(|at| (at, true));
    let close = text.find(CLOSE).map(|at| (at, false));
    open.into_iter().chain(close).min()
}

#[cfg(test)]
mod tests {
    use super::super::tests::TINY;
    use super::super::{Special, Tokenizer};
    use super::*;
    use proptest::prelude::*;

    /// Thought and answer of a whole reply.
    fn split(events: &[Event]) -> (String, String) {
        let mut both = (String::new(), String::new());
        for event in events {
            match event {
                Event::Thought(text) => both.0 += text,
                Event::Answer(text) => both.1 += text,
            }
        }
        both
    }

    fn by_tokens(tokenizer: &Tokenizer, reply: &str) -> (String, String, bool) {
        let mut parser = ThoughtParser::new(tokenizer, true);
        let mut events: Vec<Event> =
            tokenizer.encode(reply, Special::Parse).into_iter().flat_map(|id| parser.push(id)).collect();
        events.extend(parser.finish());
        let (thought, answer) = split(&events);
        (thought, answer, parser.in_thought())
    }

    fn by_characters(reply: &str) -> (String, String, bool) {
        let mut parser = ThoughtTextParser::new();
        let mut events: Vec<Event> = reply.chars().flat_map(|c| parser.push(&c.to_string())).collect();
        events.extend(parser.finish());
        let (thought, answer) = split(&events);
        (thought, answer, parser.in_thought())
    }

    const REPLIES: [(&str, &str, &str, bool); 14] = [
        ("The heart is normal.", "", "The heart is normal.", false),
        ("<unused94>thought\nIs it? 日本 𓀀<unused95>It is.", "Is it? 日本 𓀀", "It is.", false),
        ("Before <unused94>thought\na<unused95> after", "a", "Before  after", false),
        ("<unused94>thought\na<unused95>b<unused94>thought\nc<unused95>d", "ac", "bd", false),
        ("<unused94>thought\ncut sho", "cut sho", "", true),
        ("<unused94>though", "though", "", true),
        ("<unused94>thought", "", "", true),
        ("<unused94>", "", "", true),
        ("<unused94><unused95>only", "", "only", false),
        ("<unused94>no header<unused95>b", "no header", "b", false),
        ("<unused94>thoughtful<unused95>b", "thoughtful", "b", false),
        ("stray<unused95> close", "", "stray close", false),
        ("<unused94>thought\na<unused94>thought\nb<unused95>c", "ab", "c", false),
        ("a < b <unused9 <b>x</b> <", "", "a < b <unused9 <b>x</b> <", false),
    ];

    #[test]
    fn splits_replies_of_every_kind() {
        for (reply, thought, answer, cut) in REPLIES {
            let expected = (thought.to_owned(), answer.to_owned(), cut);
            for tokenizer in &*TINY {
                assert_eq!(by_tokens(tokenizer, reply), expected, "{reply:?} by tokens");
            }
            assert_eq!(by_characters(reply), expected, "{reply:?} by characters");
            let mut parser = ThoughtTextParser::new();
            let mut events = parser.push(reply);
            events.extend(parser.finish());
            let (a, b) = split(&events);
            assert_eq!((a, b, parser.in_thought()), expected, "{reply:?} at once");
        }
    }

    #[test]
    fn marker_text_made_of_other_tokens_is_text() {
        let tokenizer = &TINY[0];
        let mut parser = ThoughtParser::new(tokenizer, true);
        let ids = tokenizer.encode("say <unused94>thought", Special::Plain);
        let mut events: Vec<Event> = ids.into_iter().flat_map(|id| parser.push(id)).collect();
        events.extend(parser.finish());
        assert_eq!(split(&events), (String::new(), "say <unused94>thought".into()));
    }

    #[test]
    fn shows_what_it_can_at_once() {
        let mut parser = ThoughtTextParser::new();
        assert_eq!(parser.push("a<un"), [Event::Answer("a".into())]);
        assert_eq!(parser.push("used"), []);
        assert_eq!(parser.push("94>thou"), []);
        assert_eq!(parser.push("ght\nwhy"), [Event::Thought("why".into())]);
        assert_eq!(parser.push("?<unused95>so"), [Event::Thought("?".into()), Event::Answer("so".into())]);
    }

    #[test]
    fn asks_for_a_thought() {
        assert_eq!(thinking_system(None), "SYSTEM INSTRUCTION: think silently if needed.");
        assert_eq!(
            thinking_system(Some("You are a doctor.")),
            "SYSTEM INSTRUCTION: think silently if needed. You are a doctor."
        );
    }

    proptest! {
        #[test]
        fn text_and_tokens_agree(pieces in prop::collection::vec(
            prop::sample::select(vec!["<unused94>", "<unused95>", "thought", "\n", "thought\n", "é", "𓀀", "<", "word ", "<unus"]), 0..10,
        )) {
            let reply = pieces.concat();
            let expected = by_characters(&reply);
            for tokenizer in &*TINY {
                prop_assert_eq!(by_tokens(tokenizer, &reply), expected.clone());
            }
        }
    }
}
