//! What comes of a request: collected until it has ended, whatever API it came by.

use crate::failure::Failure;
use crate::worker::Reply;
use medgemma_engine::pipeline::{PromptToken, Said, SpokenToken};
use medgemma_engine::{Finish, Timings};

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The turn ended.
    Stop,
    /// A stop string came.
    StopString,
    /// The budget or the context was used up.
    Length,
    /// The same, inside the thought.
    Thought,
    /// The text repeated itself without end.
    Loop,
    /// The time was up.
    Time,
}

impl End {
    /// OpenAI's word.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Stop | Self::StopString => "stop",
            Self::Length | Self::Thought | Self::Loop | Self::Time => "length",
        }
    }

    /// What OpenAI has no word for.
    pub(crate) fn detail(self) -> Option<&'static str> {
        match self {
            Self::Stop | Self::StopString | Self::Length => None,
            Self::Thought => Some("thought"),
            Self::Loop => Some("loop"),
            Self::Time => Some("time"),
        }
    }
}

/// One answer so far.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) thought: String,
    pub(crate) answer: String,
    pub(crate) tokens: Vec<SpokenToken>,
    pub(crate) scores: Vec<PromptToken>,
    pub(crate) prompt_tokens: usize,
    pub(crate) cached_tokens: usize,
    pub(crate) new_tokens: usize,
    /// Of these, tokens of the thought.
    pub(crate) thought_tokens: usize,
    /// How long it took; zeros where the time was up.
    pub(crate) timings: Timings,
    pub(crate) end: Option<End>,
    pub(crate) stop: Option<String>,
    /// The token that ended the text, which no text shows.
    pub(crate) last: Option<SpokenToken>,
}

/// What one reply added.
#[derive(Debug, Default)]
pub(crate) struct Piece {
    pub(crate) thought: String,
    pub(crate) answer: String,
    pub(crate) token: Option<SpokenToken>,
    pub(crate) end: Option<End>,
    /// The token that ended the text, which no text shows.
    pub(crate) last: Option<SpokenToken>,
}

impl Outcome {
    /// Takes a reply; gives what it added.
    pub(crate) fn take(&mut self, reply: Reply) -> Result<Piece, Failure> {
        let mut piece = Piece::default();
        match reply {
            Reply::Accepted => {}
            Reply::TimedOut => piece.end = Some(End::Time),
            Reply::Said(Said::Begun { prompt_tokens, cached_tokens }) => {
                (self.prompt_tokens, self.cached_tokens) = (prompt_tokens, cached_tokens);
            }
            Reply::Said(Said::Scores(scores)) => self.scores = scores,
            Reply::Said(Said::Token { thought, answer, token, thinks }) => {
                self.new_tokens += 1;
                self.thought_tokens += usize::from(thinks);
                piece = Piece { thought, answer, token, ..Piece::default() };
            }
            Reply::Said(Said::Ended(ending)) => {
                self.timings = ending.timings;
                self.new_tokens = ending.timings.generated_tokens;
                piece.end = Some(match ending.finish {
                    Finish::Stop | Finish::Cancelled if ending.stop.is_some() => End::StopString,
                    Finish::Stop | Finish::Cancelled => End::Stop,
                    Finish::Length if ending.cut_in_thought => End::Thought,
                    Finish::Length => End::Length,
                    Finish::Loop => End::Loop,
                });
                self.stop = ending.stop;
                (piece.thought, piece.answer, piece.last) =
                    (ending.thought, ending.answer, ending.token.map(|token| *token));
            }
            Reply::Said(Said::Failed(error)) => return Err(error.into()),
        }
        self.thought.push_str(&piece.thought);
        self.answer.push_str(&piece.answer);
        self.tokens.extend(piece.token.clone());
        self.last = self.last.take().or_else(|| piece.last.clone());
        self.end = self.end.or(piece.end);
        Ok(piece)
    }
}
