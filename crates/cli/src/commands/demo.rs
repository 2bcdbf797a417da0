//! `medgemma demo`: the whole path on the model inside the program, with nothing downloaded.

use super::print_lines;
use super::run::{look, speed};
use crate::args;
use crate::conversation::{Picture, Turn};
use crate::engine;
use crate::terminal::{AnswerView, say_note, show_picture, width, wrap};
use anyhow::Result;
use medgemma_engine::Options;
use medgemma_gemma::image::RgbImage;
use medgemma_gemma::locate::DEMO;
use medgemma_gemma::sampler::Sampling;

/// Asked when nothing else is.
const QUESTION: &str = "Describe this picture.";

/// Said first: nobody may take its words for an answer.
const WHAT: &str = "This is a demonstration on a tiny random model inside the program: its words mean nothing. The \
                    path is the real one: picture, chat template, tokenizer, image encoder, decoder, sampler.";

pub(crate) fn run(args: &args::Demo, quiet: bool) -> Result<()> {
    if !quiet {
        say_note(WHAT);
    }
    let mut pipeline = engine::load(DEMO, &args.load, false, quiet)?;
    let pictures = match args.image.as_slice() {
        [] => vec![Picture::decode("a disc, drawn by the program", disc().to_png())?],
        paths => paths.iter().map(|path| Picture::read(path)).collect::<Result<_>>()?,
    };
    for picture in &pictures {
        show_picture(&picture.image);
        if !quiet {
            say_note(&picture.about());
        }
    }
    let question = args.prompt.as_deref().unwrap_or(QUESTION);
    if !quiet {
        say_note(&format!("Question: {question}"));
    }
    let options = Options { max_tokens: Some(args.max_tokens), sampling: Some(Sampling::GREEDY), ..Options::default() };
    let mut view = AnswerView::new(std::io::stdout().lock(), look(false), quiet);
    let reply = engine::answer(&mut pipeline, &[Turn::user(pictures, question)], &options, &mut view)?;
    view.finish()?;
    if quiet {
        return Ok(());
    }
    say_note(&speed(&reply));
    let next = "Real answers come from MedGemma: `medgemma models` shows which fits this machine, `medgemma pull \
                google/medgemma-4b-it` gets one.";
    print_lines([String::new()])?;
    print_lines(wrap(next, width()))
}

/// A bright disc on black, with a small dark spot in it.
pub(crate) fn disc() -> RgbImage {
    const SIDE: usize = 96;
    let value = |x: usize, y: usize| {
        let from = |cx: f32, cy: f32| (x as f32 - cx).hypot(y as f32 - cy);
        let (outer, spot) = (from(47.5, 47.5), from(60.0, 38.0));
        if spot < 7.0 { 60 } else { (230.0 * (1.0 - (outer / 40.0).powi(4))).max(0.0) as u8 }
    };
    let pixels = (0..SIDE * SIDE).flat_map(|at| [value(at % SIDE, at / SIDE); 3]).collect();
    RgbImage::from_raw(SIDE, SIDE, pixels).expect("the pixels are SIDE · SIDE · 3")
}
