//! `medgemma run`: one answer, or a chat.

mod ask;
mod chat;
mod command;
mod ending;
mod openai;
mod session;

pub(crate) use ending::speed;

use super::print_json;
use crate::args;
use crate::conversation::Turn;
use crate::engine;
use crate::terminal::{self, AnswerView, Look};
use anyhow::{Result, bail};
use ask::Ask;
use ending::Remedies;
use medgemma_engine::{Finish, Pipeline, Reply};
use openai::Completion;
use session::Settings;
use std::io::IsTerminal;

pub(crate) fn run(args: &args::Run, quiet: bool) -> Result<()> {
    let settings = Settings::new(args)?;
    if args.speculation.draft.is_some() && !settings.sampling().is_greedy() {
        bail!(
            "--draft guesses the likeliest tokens, which a --temperature above 0 doesn't take: leave one of them out"
        );
    }
    let ask = ask::read(args)?;
    let pictures = match &ask {
        Ask::Once(turns) => turns.iter().any(Turn::has_picture),
        Ask::Chat => !args.image.is_empty(),
    };
    let draft = args.speculation.draft.as_deref();
    let mut pipeline = engine::load_with_draft(&args.model, draft, &args.load, pictures, quiet)?;
    match ask {
        Ask::Chat => chat::chat(&mut pipeline, args, settings, quiet),
        Ask::Once(turns) => once(&mut pipeline, &turns, args, &settings, quiet),
    }
}

/// One answer on stdout; what there is to say about it on stderr.
fn once(pipeline: &mut Pipeline, turns: &[Turn], args: &args::Run, settings: &Settings, quiet: bool) -> Result<()> {
    let look = if args.json { Look::Hidden } else { look(args.plain) };
    let mut view = AnswerView::new(std::io::stdout().lock(), look, quiet);
    let mut options = settings.for_engine();
    options.logprobs = args.logprobs.map(usize::from);
    let reply = engine::answer(pipeline, turns, &options, &mut view)?;
    view.finish()?;
    if reply.finish == Finish::Cancelled {
        bail!("stopped");
    }
    if args.json {
        print_json(&Completion::new(pipeline.name(), &reply, args.logprobs.is_some()))?;
    }
    tell(&reply, pipeline.context(), &Remedies::ONCE, args.verbose, quiet);
    Ok(())
}

/// How answers are shown on stdout.
pub(crate) fn look(plain: bool) -> Look {
    match (std::io::stdout().is_terminal(), plain) {
        (false, _) => Look::Bare,
        (true, true) => Look::Plain,
        (true, false) => Look::Rendered { width: terminal::width(), styled: console::colors_enabled() },
    }
}

/// Says on stderr how an answer ended, when it isn't the usual way, and how fast it was, when asked.
fn tell(reply: &Reply, context: usize, remedies: &Remedies, verbose: bool, quiet: bool) {
    if let Some(note) = ending::note(reply, context, remedies).filter(|_| !quiet) {
        terminal::say_note(&note);
    }
    if verbose {
        terminal::say_note(&speed(reply));
    }
}
