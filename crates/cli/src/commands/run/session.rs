//! What a chat remembers, and what its commands change.

use super::command::{Command, HELP, Setting};
use crate::args;
use crate::conversation::{Picture, Role, Turn, save};
use crate::terminal::{Table, show_picture};
use anyhow::{Result, bail};
use medgemma_engine::Options;
use medgemma_gemma::sampler::Sampling;

/// How answers are generated.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    /// 0 is greedy: the same question gets the same answer.
    pub(crate) temperature: f32,
    pub(crate) top_k: usize,
    pub(crate) top_p: f32,
    pub(crate) min_p: f32,
    pub(crate) seed: u64,
    /// None for as many as the model can.
    pub(crate) max_tokens: Option<usize>,
    pub(crate) think: bool,
    /// Most tokens of the thought; None for no bound.
    pub(crate) think_budget: Option<usize>,
    /// The answer ends before any of these.
    pub(crate) stop: Vec<String>,
    /// Crops of long pictures; None as the checkpoint has it.
    pub(crate) pan_and_scan: Option<bool>,
    /// Most tokens that are guessed at once.
    pub(crate) draft_max: usize,
}

impl Settings {
    /// As the arguments have it.
    ///
    /// # Errors
    /// When one is out of range.
    pub(crate) fn new(args: &args::Run) -> Result<Self> {
        let sample = &args.sample;
        let settings = Self {
            temperature: sample.temperature,
            top_k: sample.top_k,
            top_p: sample.top_p,
            min_p: sample.min_p,
            seed: sample.seed,
            max_tokens: sample.max_tokens,
            think: sample.think,
            think_budget: sample.think_budget,
            stop: sample.stop.clone(),
            pan_and_scan: args.pan_and_scan.then_some(true),
            draft_max: args.speculation.draft_max.into(),
        };
        settings.check()?;
        Ok(settings)
    }

    /// As the engine has them.
    pub(crate) fn for_engine(&self) -> Options {
        Options {
            max_tokens: self.max_tokens,
            sampling: Some(self.sampling()),
            think: self.think,
            thought_budget: self.think_budget,
            stop: self.stop.clone(),
            pan_and_scan: self.pan_and_scan,
            draft_max: Some(self.draft_max),
            ..Options::default()
        }
    }

    /// How tokens are chosen.
    pub(crate) fn sampling(&self) -> Sampling {
        let Self { temperature, top_k, top_p, min_p, seed, .. } = *self;
        Sampling { temperature, top_k, top_p, min_p, seed }
    }

    fn check(&self) -> Result<()> {
        if self.max_tokens == Some(0) {
            bail!("max_tokens is out of range (1 at least)");
        }
        self.sampling().check().map_err(anyhow::Error::msg)
    }
}

/// A chat so far.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) settings: Settings,
    system: Option<String>,
    turns: Vec<Turn>,
    /// Pictures for the next question.
    pending: Vec<Picture>,
    /// Whether the model takes pictures, and whether they are padded to a square first.
    sees: bool,
    pad: bool,
}

impl Session {
    /// A chat in which nothing was said yet.
    pub(crate) fn new(settings: Settings, system: Option<String>, sees: bool, pad: bool) -> Self {
        Self { settings, system, turns: Vec::new(), pending: Vec::new(), sees, pad }
    }

    /// Adds a picture to the next question and shows it; returns what to tell about it.
    ///
    /// # Errors
    /// When the model can't see.
    pub(crate) fn attach(&mut self, picture: Picture) -> Result<String> {
        if !self.sees {
            return Err(medgemma_gemma::Error::NoVision.into());
        }
        show_picture(&picture.image);
        let about = picture.about();
        self.pending.push(picture.padded(self.pad)?);
        Ok(about)
    }

    /// Forgets what was said and shown.
    pub(crate) fn clear(&mut self) {
        self.turns.clear();
        self.pending.clear();
    }

    /// The conversation with a question at its end, as the model is given it. The question stays only once it is
    /// answered.
    pub(crate) fn with_question(&self, text: &str) -> Vec<Turn> {
        let mut turns = self.all();
        turns.push(Turn::user(self.pending.clone(), text));
        turns
    }

    /// Remembers a question and its answer.
    pub(crate) fn answered(&mut self, text: &str, answer: &str) {
        self.turns.push(Turn::user(std::mem::take(&mut self.pending), text));
        self.turns.push(Turn::text(Role::Assistant, answer));
    }

    fn all(&self) -> Vec<Turn> {
        let system = self.system.iter().map(|text| Turn::text(Role::System, text.as_str()));
        system.chain(self.turns.iter().cloned()).collect()
    }

    /// Does what a command says; returns what to tell about it.
    ///
    /// # Errors
    /// When a file can't be read or written, or a value is out of range.
    pub(crate) fn apply(&mut self, command: Command, width: usize) -> Result<Vec<String>> {
        let said = match command {
            Command::Image(path) => self.attach(Picture::read(&path)?)?,
            Command::System(None) => match &self.system {
                Some(text) => text.clone(),
                None => "There is no role instruction. Set one: /system You are an expert radiologist.".into(),
            },
            Command::System(Some(text)) => {
                self.system = (!text.is_empty()).then_some(text);
                if self.turns.is_empty() { String::new() } else { "It counts for the conversation so far, too.".into() }
            }
            Command::Think(on) => {
                self.settings.think = on;
                format!("Thinking is {}.", if on { "on" } else { "off" })
            }
            Command::Set(setting) => {
                self.set(setting)?;
                String::new()
            }
            Command::Clear => {
                self.clear();
                "The conversation is forgotten.".into()
            }
            Command::Save(_) if self.turns.is_empty() => bail!("nothing was said yet"),
            Command::Save(path) => {
                save(&self.all(), &path)?;
                format!("Saved to {}.", path.display())
            }
            Command::Help => return Ok(help(width)),
            Command::Bye => String::new(),
        };
        Ok(if said.is_empty() { Vec::new() } else { crate::terminal::wrap(&said, width) })
    }

    fn set(&mut self, setting: Setting) -> Result<()> {
        let mut new = self.settings.clone();
        match setting {
            Setting::Temperature(value) => new.temperature = value,
            Setting::TopK(value) => new.top_k = value,
            Setting::TopP(value) => new.top_p = value,
            Setting::MinP(value) => new.min_p = value,
            Setting::Seed(value) => new.seed = value,
            Setting::MaxTokens(value) => new.max_tokens = Some(value),
            Setting::ThinkBudget(value) => new.think_budget = Some(value),
        }
        new.check()?;
        self.settings = new;
        Ok(())
    }

    /// Names of the pictures that go with the next question.
    #[cfg(test)]
    fn pending(&self) -> Vec<&str> {
        self.pending.iter().map(|picture| picture.name.as_str()).collect()
    }
}

fn help(width: usize) -> Vec<String> {
    let mut table = Table::new(&[]);
    for (name, value, what) in HELP {
        table.row([format!("{name} {value}").trim().to_owned(), what.to_owned()]);
    }
    let mut lines = table.lines(width);
    lines.extend(crate::terminal::wrap(
        "\"\"\" begins a text of several lines and ends it. Ctrl-C stops an answer. A picture's path in a question \
         attaches it.",
        width,
    ));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conversation::Part;

    fn pictures(turn: &Turn) -> usize {
        turn.parts.iter().filter(|part| matches!(part, Part::Image(_))).count()
    }

    fn session() -> Session {
        let settings = Settings {
            temperature: 0.0,
            top_k: 64,
            top_p: 0.95,
            min_p: 0.0,
            seed: 0,
            max_tokens: None,
            think: false,
            think_budget: None,
            stop: Vec::new(),
            pan_and_scan: None,
            draft_max: 15,
        };
        Session::new(settings, None, true, false)
    }

    fn apply(session: &mut Session, line: &str) -> Result<Vec<String>> {
        session.apply(Command::parse(line).unwrap().unwrap(), 80)
    }

    #[test]
    fn a_picture_goes_with_one_question_and_stays_until_it_is_answered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.png");
        std::fs::write(&path, &Picture::grey("x").file).unwrap();
        let mut session = session();
        apply(&mut session, &format!("/image {}", path.display())).unwrap();
        // The first try was stopped: the picture is still there for the second.
        session.with_question("what?");
        assert_eq!(session.pending(), ["x.png"]);
        assert_eq!(pictures(session.with_question("what?").last().unwrap()), 1);
        session.answered("what?", "an X-ray");
        assert!(session.pending().is_empty());
        let turns = session.with_question("sure?");
        assert_eq!(turns.iter().map(pictures).collect::<Vec<_>>(), [1, 0, 0]);
    }

    #[test]
    fn a_model_that_cannot_see_is_shown_nothing() {
        let mut session = Session { sees: false, ..session() };
        assert!(session.attach(Picture::grey("x.png")).unwrap_err().to_string().contains("can't see"));
        assert!(session.pending().is_empty());
    }

    #[test]
    fn the_role_instruction_comes_first_and_survives_clear() {
        let mut session = session();
        apply(&mut session, "/system You are a nurse.").unwrap();
        session.answered("a", "b");
        apply(&mut session, "/clear").unwrap();
        assert_eq!(session.with_question("c")[0], Turn::text(Role::System, "You are a nurse."));
        assert_eq!(session.with_question("c").len(), 2);
        apply(&mut session, "/system \"\"").unwrap();
        assert_eq!(session.with_question("c").len(), 1);
    }

    #[test]
    fn a_value_out_of_range_changes_nothing() {
        let mut session = session();
        let before = session.settings.clone();
        for line in ["/set temperature -1", "/set top_p 2", "/set max_tokens 0", "/set temperature nan"] {
            assert!(apply(&mut session, line).is_err(), "{line}");
        }
        assert_eq!(session.settings, before);
        apply(&mut session, "/set temperature 0.7").unwrap();
        apply(&mut session, "/think on").unwrap();
        assert_eq!((session.settings.temperature, session.settings.think), (0.7, true));
    }

    #[test]
    fn help_fits_the_terminal() {
        for width in [40, 60, 80] {
            assert!(help(width).iter().all(|line| line.chars().count() <= width), "{width}: {:#?}", help(width));
        }
    }
}
