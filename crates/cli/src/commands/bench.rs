//! `medgemma bench`: how fast a model reads and writes on this machine, and how much memory it takes.

use super::{print_json, print_lines};
use crate::args;
use crate::engine;
use crate::interrupt;
use crate::machine;
use crate::terminal::{LoadBar, Table, bytes, say_note, width};
use anyhow::{Context, Result, bail};
use medgemma_engine::pipeline::CHUNK;
use medgemma_engine::{Checkpoint, Runner, RunnerConfig, Sequence, Work};
use medgemma_gemma::sampler::argmax;
use medgemma_kernels::{Backend, CpuBackend, WeightFormat};
use serde::Serialize;
use std::time::{Duration, Instant};

#[derive(Serialize)]
struct Report {
    model: String,
    /// Whether the weights are random: speed and memory are those of the true shape, words mean nothing.
    synthetic: bool,
    device: String,
    context: usize,
    /// Sequences generated together; speeds are of all of them.
    batch: usize,
    load_seconds: f64,
    weights_bytes: usize,
    /// Most memory that the process held, where the system says.
    peak_memory_bytes: Option<u64>,
    prompt: Speed,
    generate: Speed,
    /// Seconds to encode one image.
    image_seconds: Option<Spread>,
}

/// Tokens a second over several runs.
#[derive(Serialize)]
struct Speed {
    tokens: usize,
    tokens_per_second: Spread,
}

/// What several runs gave.
#[derive(Clone, Copy, Serialize)]
struct Spread {
    median: f64,
    least: f64,
    most: f64,
    runs: usize,
}

impl Spread {
    /// # Panics
    /// When there is no value.
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Self { median: (low + high) / 2.0, least: values[0], most: values[values.len() - 1], runs: values.len() }
    }
}

pub(crate) fn run(args: &args::Bench, quiet: bool) -> Result<()> {
    let _polite = interrupt::guard();
    let options = args.load.for_engine()?;
    let (name, checkpoint) = open(args)?;
    if !quiet {
        say_note(&engine::announcement(&name, &checkpoint, &args.load)?);
    }
    let begun = Instant::now();
    let bar = LoadBar::new(&name, quiet);
    // Synthetic weights were made as small as was asked for.
    let format = match args.synthetic {
        Some(_) => WeightFormat::Stored,
        None => args.load.weight_format(),
    };
    let cache = checkpoint.cache_type(format)?;
    let model = checkpoint.load_cpu(format, options.threads, |progress| bar.set(progress.done, progress.total))?;
    bar.finish();
    let load_seconds = begun.elapsed().as_secs_f64();
    let context = args.load.context.unwrap_or(args.prompt + args.generate + 1);
    if args.prompt + args.generate > context {
        bail!("--context {context} has no room for {} tokens: make it larger", args.prompt + args.generate);
    }
    let (device, weights_bytes) = (model.backend().name(), model.weight_bytes());
    let config = RunnerConfig { context, sequences: args.batch, chunk: CHUNK, outputs: args.batch, cache };
    let mut runner = Runner::new(model, config)?;

    let (mut read, mut written) = (Vec::new(), Vec::new());
    for run in 0..args.runs {
        let took = once(&mut runner, args, run)?;
        let per_second = |tokens: usize, time: Duration| tokens as f64 / time.as_secs_f64().max(1e-9);
        read.push(per_second(args.batch * args.prompt, took.prompt));
        written.push(per_second(args.batch * (args.generate - 1), took.generation));
    }
    let report = Report {
        model: name,
        synthetic: args.synthetic.is_some(),
        device,
        context,
        batch: args.batch,
        load_seconds,
        weights_bytes,
        prompt: Speed { tokens: args.prompt, tokens_per_second: Spread::of(read) },
        generate: Speed { tokens: args.generate, tokens_per_second: Spread::of(written) },
        image_seconds: if args.image { Some(images(&runner, args.runs)?) } else { None },
        peak_memory_bytes: machine::peak_memory(),
    };
    if args.json { print_json(&report) } else { print_lines(lines(&report)) }
}

fn open(args: &args::Bench) -> Result<(String, Checkpoint)> {
    match (&args.synthetic, &args.model) {
        (Some(variant), _) => {
            let dtype = args.load.quant.unwrap_or(args::Quant::Bf16).dtype();
            Ok((format!("synthetic {variant}"), Checkpoint::synthetic(variant, dtype)?))
        }
        (None, Some(model)) => Ok((model.clone(), engine::open(model, args.load.mmproj.as_deref())?.into_checkpoint())),
        (None, None) => bail!("give a MODEL, or --synthetic VARIANT"),
    }
}

/// What one run took.
struct Run {
    prompt: Duration,
    generation: Duration,
}

/// Reads prompts of arbitrary tokens, one after another, then writes to all of them together.
fn once(runner: &mut Runner<CpuBackend>, args: &args::Bench, run: usize) -> Result<Run> {
    let vocab = runner.model().config().text.vocab;
    let mut sequences: Vec<Sequence<CpuBackend>> = (0..args.batch).map(|_| Sequence::default()).collect();
    let mut logits = vec![0.0; vocab];
    let begun = Instant::now();
    for (at, sequence) in sequences.iter_mut().enumerate() {
        // Any ids will do; other ones each time, so that nothing is shared.
        let salt = (run * args.batch + at) * 104_729;
        let tokens = (0..args.prompt).map(|at| ((at * 7919 + salt + 1000) % vocab) as u32).collect();
        runner.start(sequence, tokens, Vec::new())?;
        let mut last = 0;
        while sequence.computed() < args.prompt {
            let tokens = runner.next_chunk(sequence);
            runner.step(&mut [Work { sequence, tokens }])?;
            last = tokens as u32 - 1;
            stop_if_asked()?;
        }
        runner.logits(&[last], &mut logits);
        runner.push(sequence, argmax(&logits));
    }
    let prompt = begun.elapsed();
    let rows: Vec<u32> = (0..args.batch as u32).collect();
    let mut logits = vec![0.0; args.batch * vocab];
    let begun = Instant::now();
    // The first token came out of the prompt's computation.
    for _ in 1..args.generate {
        let mut work: Vec<_> = sequences.iter_mut().map(|sequence| Work { sequence, tokens: 1 }).collect();
        runner.step(&mut work)?;
        runner.logits(&rows, &mut logits);
        for (sequence, logits) in sequences.iter_mut().zip(logits.chunks_exact(vocab)) {
            runner.push(sequence, argmax(logits));
        }
        stop_if_asked()?;
    }
    let generation = begun.elapsed();
    sequences.iter_mut().for_each(|sequence| runner.release(sequence));
    Ok(Run { prompt, generation })
}

fn stop_if_asked() -> Result<()> {
    if interrupt::asked() { bail!("stopped") } else { Ok(()) }
}

/// Seconds to encode an image.
fn images(runner: &Runner<CpuBackend>, runs: usize) -> Result<Spread> {
    let vision = runner.model().config().vision.as_ref().context("--image: this model can't see")?;
    let pixels: Vec<f32> = (0..3 * vision.image * vision.image).map(|at| (at % 255) as f32 / 127.5 - 1.0).collect();
    let mut seconds = Vec::new();
    for _ in 0..runs {
        let begun = Instant::now();
        runner.encode_image(&pixels)?;
        seconds.push(begun.elapsed().as_secs_f64());
        stop_if_asked()?;
    }
    Ok(Spread::of(seconds))
}

fn lines(report: &Report) -> Vec<String> {
    let mut table = Table::new(&[]);
    let random = if report.synthetic { " (random weights of the true shape)" } else { "" };
    table.row(["Model", &format!("{}{random}", report.model)]);
    table.row(["Device", &report.device]);
    let peak = report.peak_memory_bytes.map_or_else(String::new, |peak| format!(", {} at most in all", bytes(peak)));
    table.row(["Memory", &format!("{} of weights{peak}", bytes(report.weights_bytes as u64))]);
    if report.batch > 1 {
        table.row(["Batch", &format!("{} sequences together", report.batch)]);
    }
    table.row(["Load", &format!("{:.1} s", report.load_seconds)]);
    let speed = |speed: &Speed| {
        let Spread { median, least, most, runs } = speed.tokens_per_second;
        match runs {
            1 => format!("{median:.1} tokens a second (one run of {})", speed.tokens),
            _ => format!("{median:.1} tokens a second ({least:.1} to {most:.1} in {runs} runs of {})", speed.tokens),
        }
    };
    table.row(["Prompt", &speed(&report.prompt)]);
    table.row(["Answer", &speed(&report.generate)]);
    if let Some(Spread { median, least, most, runs }) = report.image_seconds {
        let range = if runs == 1 { String::new() } else { format!(" ({least:.2} to {most:.2} in {runs} runs)") };
        table.row(["Image", &format!("{median:.2} s{range}")]);
    }
    table.lines(width())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let spread = Spread::of(vec![3.0, 1.0, 2.0]);
        assert_eq!((spread.median, spread.least, spread.most, spread.runs), (2.0, 1.0, 3.0, 3));
        assert_eq!(Spread::of(vec![4.0, 1.0]).median, 2.5);
    }
}
