//! `medgemma demo`: what the program does, shown on the model inside it, with nothing downloaded.

mod boxes;

use super::print_lines;
use super::run::{look, speed};
use crate::args;
use crate::conversation::{Picture, Turn};
use crate::engine;
use crate::terminal::{AnswerView, say_note, show_picture, width, wrap};
use anyhow::{Context, Result};
use medgemma_engine::{Options, Pipeline, Reply};
use medgemma_gemma::image::{Limits, RgbImage, decode};
use medgemma_gemma::locate::DEMO;
use medgemma_gemma::sampler::Sampling;
use std::path::Path;

/// A radiograph drawn by tools/demo-model, of a seed that training never saw.
const PHANTOM: &[u8] = include_bytes!("phantom.png");
/// A record made up by tools/demo-model, likewise.
const RECORD: &str = include_str!("record.txt");

/// Said first: nobody may take its words for an answer about a patient.
const WHAT: &str = "A demonstration on a toy inside the program: a model of MedGemma's architecture, two hundred times \
                    smaller, trained on synthetic pictures and made-up records only. Never use it for patients.";

/// Said last.
const NEXT: &str = "Real answers come from MedGemma: `medgemma models` shows which fits this machine, `medgemma pull \
                    google/medgemma-4b-it` gets one. Talk to the toy: `medgemma run demo`.";

/// What is shown: a title, the question, whether the picture goes with it, and whether the model should think.
const SCENES: [(&str, &str, bool, bool); 3] = [
    ("A report on a radiograph", "Write a findings report for this chest radiograph.", true, false),
    ("Where is it? With a thought first", "Where is the pleural effusion? Answer with box_2d JSON.", true, true),
    ("A question about a record, with its source", "On 2019-03-04, which respiratory rate was found?", false, false),
];

pub(crate) fn run(args: &args::Demo, quiet: bool) -> Result<()> {
    if !quiet {
        say_note(WHAT);
    }
    let mut pipeline = engine::load(DEMO, &args.load, false, quiet)?;
    let reply = if args.prompt.is_some() || !args.image.is_empty() {
        own(&mut pipeline, args, quiet)?
    } else {
        story(&mut pipeline, args, quiet)?
    };
    if quiet {
        return Ok(());
    }
    say_note(&speed(&reply));
    print_lines([String::new()])?;
    print_lines(wrap(NEXT, width()))
}

/// The user's own question or pictures.
fn own(pipeline: &mut Pipeline, args: &args::Demo, quiet: bool) -> Result<Reply> {
    let pictures = args.image.iter().map(|path| Picture::read(path)).collect::<Result<Vec<_>>>()?;
    for picture in &pictures {
        show(picture, quiet);
    }
    let question = args.prompt.as_deref().unwrap_or("What kind of image is this?");
    ask(pipeline, args, Turn::user(pictures, question), false, quiet)
}

/// The picture of the first scenes.
pub(crate) fn phantom() -> Result<RgbImage> {
    Ok(decode("the phantom", PHANTOM, &Limits::default())?)
}

/// The three scenes.
fn story(pipeline: &mut Pipeline, args: &args::Demo, quiet: bool) -> Result<Reply> {
    let picture = || Picture::decode("a synthetic chest radiograph", PHANTOM.to_vec());
    show(&picture()?, quiet);
    let mut last = None;
    for (title, question, shows, thinks) in SCENES {
        if !quiet {
            say_note("");
            say_note(&format!("— {title}"));
            say_note(&format!("Question: {question}"));
        }
        let turn = match shows {
            true => Turn::user(vec![picture()?], question),
            false => Turn::user(Vec::new(), format!("{RECORD}\n{question}")),
        };
        let reply = ask(pipeline, args, turn, thinks, quiet)?;
        if shows {
            boxed(&picture()?, &reply.answer, args.out.as_deref(), quiet)?;
        }
        last = Some(reply);
    }
    last.context("the demonstration has scenes")
}

/// Shows a picture and says what it is.
fn show(picture: &Picture, quiet: bool) {
    show_picture(&picture.image);
    if !quiet {
        say_note(&picture.about());
    }
}

fn ask(pipeline: &mut Pipeline, args: &args::Demo, turn: Turn, think: bool, quiet: bool) -> Result<Reply> {
    let options =
        Options { max_tokens: Some(args.max_tokens), sampling: Some(Sampling::GREEDY), think, ..Options::default() };
    let mut view = AnswerView::new(std::io::stdout().lock(), look(false), quiet);
    let reply = engine::answer(pipeline, &[turn], &options, &mut view)?;
    view.finish()?;
    Ok(reply)
}

/// Draws the boxes of an answer on the picture, shows it, and writes both to `out`.
fn boxed(picture: &Picture, answer: &str, out: Option<&Path>, quiet: bool) -> Result<()> {
    let found = boxes::boxes(answer);
    let Some(drawn) = (!found.is_empty()).then(|| boxes::draw(&picture.image, &found)).flatten() else { return Ok(()) };
    show_picture(&drawn);
    let Some(out) = out else { return Ok(()) };
    std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    for (name, image) in [("phantom.png", &*picture.image), ("phantom-boxes.png", &drawn)] {
        let path = out.join(name);
        std::fs::write(&path, image.to_png()).with_context(|| path.display().to_string())?;
        if !quiet {
            say_note(&format!("Written: {}", path.display()));
        }
    }
    Ok(())
}
