//! A chat on the terminal.

use super::super::print_lines;
use super::command::{Command, HELP};
use super::ending::Remedies;
use super::session::{Session, Settings};
use super::{ask, look, tell};
use crate::args;
use crate::conversation::{Picture, attach};
use crate::engine;
use crate::terminal::{self, AnswerView, Input, LineEditor, say_note};
use anyhow::Result;
use medgemma_engine::{Finish, Pipeline};

/// Said once, at the beginning.
const SAFETY: &str = "Not a medical device: a clinician reviews every answer before it counts.";

/// Talks until the user ends it.
///
/// # Errors
/// When the terminal fails; what goes wrong with one question is said, and the chat goes on.
pub(crate) fn chat(pipeline: &mut Pipeline, args: &args::Run, settings: Settings, quiet: bool) -> Result<()> {
    let mut session = Session::new(settings, args.system.clone(), pipeline.can_see(), args.pad);
    let mut editor = LineEditor::new(HELP.iter().map(|(name, _, _)| *name).collect(), args.history.as_deref())?;
    if !quiet {
        say_note(SAFETY);
        say_note(match (pipeline.can_chat(), pipeline.can_see()) {
            (false, _) => "This model is a pre-trained one: it continues what you type. /help lists the commands.",
            (true, true) => "Ask, or drop a picture here. /help lists the commands, /bye ends.",
            (true, false) => "Ask; this model can't see pictures. /help lists the commands, /bye ends.",
        });
    }
    for picture in ask::pictures(args)? {
        say_note(&session.attach(picture)?);
    }
    loop {
        println!();
        let line = match editor.read()? {
            Input::Line(line) => line,
            Input::Cancelled => {
                say_note("/bye or Ctrl-D ends the chat.");
                continue;
            }
            Input::End => return Ok(()),
        };
        match Command::parse(&line) {
            Some(Ok(Command::Bye)) => return Ok(()),
            Some(Ok(command)) => {
                if command == Command::Clear {
                    // What the engine computed of it, and what the arrow keys bring back, are the conversation, too.
                    pipeline.forget();
                    editor.forget()?;
                }
                match session.apply(command, terminal::width()) {
                    Ok(lines) => print_lines(lines)?,
                    Err(error) => terminal::say_error(&crate::one_line(&error)),
                }
            }
            Some(Err(problem)) => terminal::say_error(&problem),
            None => {
                if let Err(error) = question(pipeline, &mut session, &line, args, quiet) {
                    if crate::is_broken_pipe(&error) {
                        return Err(error);
                    }
                    terminal::say_error(&crate::one_line(&error));
                }
            }
        }
    }
}

/// Asks, and remembers the answer.
fn question(pipeline: &mut Pipeline, session: &mut Session, line: &str, args: &args::Run, quiet: bool) -> Result<()> {
    let typed = attach(line, |path| path.is_file());
    for path in &typed.pictures {
        say_note(&session.attach(Picture::read(path)?)?);
    }
    if typed.text.is_empty() {
        return Ok(());
    }
    let mut view = AnswerView::new(std::io::stdout().lock(), look(args.plain), quiet);
    let turns = session.with_question(&typed.text);
    let reply = engine::answer(pipeline, &turns, &session.settings.for_engine(), &mut view)?;
    view.finish()?;
    tell(&reply, pipeline.context(), &Remedies::CHAT, args.verbose, quiet);
    // An answer that was stopped still was said; without a word of it the question may be asked again.
    if reply.finish != Finish::Cancelled || !reply.answer.is_empty() {
        session.answered(&typed.text, &reply.answer);
    }
    if !pipeline.can_chat() {
        // Each text is continued for itself.
        session.clear();
    }
    Ok(())
}
