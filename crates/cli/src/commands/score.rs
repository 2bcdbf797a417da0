//! `medgemma score`: how likely a model finds a text.

use super::{print_json, print_lines};
use crate::args;
use crate::engine;
use crate::interrupt;
use crate::terminal::{AnswerView, Look};
use anyhow::{Context, Result, bail};
use medgemma_engine::Event;
use medgemma_engine::pipeline::ScoredToken;
use serde::Serialize;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;

#[derive(Serialize)]
struct Report {
    model: String,
    /// Tokens that have a probability: all but the first, which has nothing before it.
    scored_tokens: usize,
    /// Sum of their natural logarithms.
    logprob: f64,
    perplexity: f64,
    tokens: Vec<Token>,
}

#[derive(Serialize)]
struct Token {
    id: u32,
    token: String,
    logprob: Option<f32>,
}

impl Report {
    fn new(model: &str, tokens: &[ScoredToken]) -> Self {
        let scores: Vec<f64> = tokens.iter().filter_map(|token| token.logprob).map(f64::from).collect();
        let logprob: f64 = scores.iter().sum();
        let token = |token: &ScoredToken| Token {
            id: token.id,
            token: String::from_utf8_lossy(&token.bytes).into_owned(),
            logprob: token.logprob,
        };
        Self {
            model: model.to_owned(),
            scored_tokens: scores.len(),
            logprob,
            perplexity: (-logprob / scores.len().max(1) as f64).exp(),
            tokens: tokens.iter().map(token).collect(),
        }
    }
}

pub(crate) fn run(args: &args::Score, quiet: bool) -> Result<()> {
    let text = read(&args.file)?;
    if text.is_empty() {
        bail!("{}: there is no text to score", args.file.display());
    }
    let mut pipeline = engine::load(&args.model, &args.load, false, quiet)?;
    let _polite = interrupt::guard();
    let view = AnswerView::new(std::io::sink(), Look::Hidden, quiet);
    let tokens = pipeline.score(&text, &mut |event| {
        if let Event::Prompt { done, total } = event {
            view.prompt(done, total);
        }
        if interrupt::asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    view.finish()?;
    if interrupt::asked() {
        bail!("stopped");
    }
    let report = Report::new(pipeline.name(), &tokens);
    if args.json {
        return print_json(&report);
    }
    print_lines([format!(
        "{} tokens, log-probability {:.4}, perplexity {:.4}",
        report.scored_tokens, report.logprob, report.perplexity
    )])
}

fn read(path: &Path) -> Result<String> {
    let name = || path.display().to_string();
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().lock().read_to_string(&mut text).context("stdin")?;
    } else {
        text = std::fs::read_to_string(path).with_context(name)?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perplexity_is_the_inverse_of_the_mean_probability() {
        let token = |logprob| ScoredToken { id: 1, bytes: b"x".to_vec(), logprob };
        let half = Some(0.5_f32.ln());
        let report = Report::new("m", &[token(None), token(half), token(half)]);
        assert_eq!(report.scored_tokens, 2);
        assert!((report.perplexity - 2.0).abs() < 1e-6 && (report.logprob - 0.25_f64.ln()).abs() < 1e-6);
    }
}
