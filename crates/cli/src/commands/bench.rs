//! `medgemma bench`: how fast a model reads and writes on this machine, and how much memory it takes.

use super::{print_json, print_lines};
use crate::args;
use crate::engine;
use crate::interrupt;
use crate::machine;
use crate::terminal::{LoadBar, Table, bytes, say_note, width};
use anyhow::{Context, Result, bail, ensure};
use medgemma_engine::{Checkpoint, LoadOptions, Runner, RunnerConfig, Sequence, Work};
use medgemma_formats::DType;
use medgemma_kernels::{AnyBackend, Backend, Greedy, WeightFormat};
use serde::Serialize;
use serde_json::json;
use std::io::Write;
use std::time::Instant;

#[derive(Serialize)]
struct Report {
    model: String,
    /// Whether the weights are random: speed and memory are those of the true shape, words mean nothing.
    synthetic: bool,
    device: String,
    /// The decoder's layers, and how many of them are on a GPU.
    layers: usize,
    gpu_layers: usize,
    context: usize,
    /// Tokens that stood before the prompt.
    depth: usize,
    /// Sequences generated together; speeds are of all of them.
    batch: usize,
    load_seconds: f64,
    weights_bytes: usize,
    /// Most memory that the process held, where the system says.
    peak_memory_bytes: Option<u64>,
    prompt: Option<Speed>,
    generate: Option<Speed>,
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
    /// Of no values there is none.
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Self { median: (low + high) / 2.0, least, most, runs: values.len() })
    }
}

/// What one run took, in seconds; what wasn't done is absent.
#[derive(Serialize)]
struct Run {
    prompt_seconds: Option<f64>,
    generate_seconds: Option<f64>,
    image_seconds: Option<f64>,
}

pub(crate) fn run(args: &args::Bench, quiet: bool) -> Result<()> {
    let _polite = interrupt::guard();
    if args.prompt + args.generate == 0 && !args.image {
        bail!("nothing is measured: give --prompt, --generate or --image");
    }
    let tokens = args.depth.saturating_add(args.prompt).saturating_add(args.generate);
    let context = args.load.context.unwrap_or(tokens.saturating_add(1));
    if tokens > context {
        bail!("--context {context} has no room for {tokens} tokens: make it larger");
    }
    let (name, checkpoint) = open(args)?;
    let options = LoadOptions { context: Some(context), conversations: args.batch, ..args.load.for_engine() };
    let placed = checkpoint.place(&options)?;
    if !quiet {
        say_note(&engine::announcement(&name, &checkpoint, &args.load, &placed)?);
    }
    let begun = Instant::now();
    let bar = LoadBar::new(&name, quiet);
    // Synthetic weights were made as small as was asked for, but for those that no file holds.
    let format = match (&args.synthetic, args.load.quant) {
        (Some(_), Some(args::Quant::Fp8)) | (None, _) => args.load.weight_format(),
        (Some(_), _) => WeightFormat::Stored,
    };
    let cache = args.load.cache().map_or_else(|| checkpoint.cache_type(format), Ok)?;
    let (layers, gpu_layers, chunk) = (placed.layers, placed.gpu_layers, placed.chunk);
    let model = checkpoint.load(placed.backend, format, |progress| bar.set(progress.done, progress.total))?;
    if args.image && model.config().vision.is_some() {
        model.load_vision()?;
    }
    bar.finish();
    let load_seconds = begun.elapsed().as_secs_f64();
    let (device, weights_bytes) = (model.backend().name(), model.weight_bytes());
    let config = RunnerConfig { context, sequences: args.batch, chunk, outputs: args.batch, cache };
    let mut bench = Bench::new(Runner::new(model, config)?, args)?;
    if args.turns {
        return take_turns(&mut bench, load_seconds);
    }
    let runs = (0..args.runs).map(|_| bench.run()).collect::<Result<Vec<_>>>()?;
    let seconds = |part: fn(&Run) -> Option<f64>| runs.iter().filter_map(part).collect::<Vec<f64>>();
    let speed = |tokens: usize, seconds: Vec<f64>| {
        let all = (args.batch * tokens) as f64;
        let tokens_per_second = Spread::of(seconds.into_iter().map(|time| all / time.max(1e-9)).collect())?;
        Some(Speed { tokens, tokens_per_second })
    };
    let report = Report {
        model: name,
        synthetic: args.synthetic.is_some(),
        device,
        layers,
        gpu_layers,
        context,
        depth: args.depth,
        batch: args.batch,
        load_seconds,
        weights_bytes,
        prompt: speed(args.prompt, seconds(|run| run.prompt_seconds)),
        generate: speed(args.generate, seconds(|run| run.generate_seconds)),
        image_seconds: Spread::of(seconds(|run| run.image_seconds)),
        peak_memory_bytes: machine::peak_memory(),
    };
    if args.json { print_json(&report) } else { print_lines(lines(&report)) }
}

fn open(args: &args::Bench) -> Result<(String, Checkpoint)> {
    match (&args.synthetic, &args.model) {
        (Some(variant), _) => {
            let dtype = match args.load.quant {
                None | Some(args::Quant::Fp8) => DType::BF16,
                Some(quant) => quant.dtype(),
            };
            Ok((format!("synthetic {variant}"), Checkpoint::synthetic(variant, dtype)?))
        }
        (None, Some(model)) => Ok((model.clone(), engine::open(model, args.load.mmproj.as_deref())?.into_checkpoint())),
        (None, None) => bail!("give a MODEL, or --synthetic VARIANT"),
    }
}

/// Runs when a line on stdin says so, until there is none: what else measures on this machine waits meanwhile.
fn take_turns(bench: &mut Bench, load_seconds: f64) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let mut say = |value: serde_json::Value| -> Result<()> {
        writeln!(out, "{value}")?;
        Ok(out.flush()?)
    };
    say(json!({ "ready": true, "load_seconds": load_seconds }))?;
    for line in std::io::stdin().lines() {
        line.context("stdin")?;
        let mut said = serde_json::to_value(bench.run()?)?;
        said["peak_memory_bytes"] = json!(machine::peak_memory());
        say(said)?;
    }
    Ok(())
}

/// The model and what is measured of it.
struct Bench {
    runner: Runner<AnyBackend>,
    sequences: Vec<Sequence<AnyBackend>>,
    /// The most likely token of each sequence.
    chosen: Vec<Greedy>,
    /// Tokens of the prompt, and tokens to generate after it.
    sizes: (usize, usize),
    depth: usize,
    /// The pixels of an image, when the encoder is measured.
    pixels: Option<Vec<f32>>,
    /// Room for an image's features.
    features: Vec<f32>,
    /// Runs so far.
    runs: usize,
}

impl Bench {
    /// Reads what stands before the prompts, or a few tokens to wake up memory and threads.
    fn new(runner: Runner<AnyBackend>, args: &args::Bench) -> Result<Self> {
        let config = runner.model().config();
        let pixels = match (args.image, &config.vision) {
            (true, None) => bail!("--image: this model can't see"),
            (true, Some(v)) => Some((0..3 * v.image * v.image).map(|at| (at % 255) as f32 / 127.5 - 1.0).collect()),
            (false, _) => None,
        };
        let features = match (&pixels, &config.vision) {
            (Some(_), Some(v)) => vec![0.0; v.tokens_per_image * config.text.hidden],
            _ => Vec::new(),
        };
        let chosen = vec![Greedy::default(); args.batch];
        let sequences = (0..args.batch).map(|_| Sequence::default()).collect();
        let (sizes, depth) = ((args.prompt, args.generate), args.depth);
        let mut bench = Self { runner, sequences, chosen, sizes, depth, pixels, features, runs: 0 };
        if args.prompt + args.generate > 0 {
            for at in 0..args.batch {
                let warm = if depth > 0 { depth } else { args.prompt.clamp(1, 32) };
                bench.begin(at, bench.before(at, warm))?;
                bench.read(at)?;
            }
        }
        Ok(bench)
    }

    /// Arbitrary tokens that stand before the prompts of a sequence.
    fn before(&self, at: usize, count: usize) -> Vec<u32> {
        (0..count).map(|position| self.token(at, position)).collect()
    }

    fn token(&self, salt: usize, position: usize) -> u32 {
        ((position * 7919 + salt * 104_729 + 1000) % self.runner.model().config().text.vocab) as u32
    }

    /// Makes a sequence hold these tokens; returns how many of them are computed already.
    fn begin(&mut self, at: usize, tokens: Vec<u32>) -> Result<usize> {
        Ok(self.runner.start(&mut self.sequences[at], tokens, Vec::new())?)
    }

    /// Computes a sequence's waiting tokens.
    fn read(&mut self, at: usize) -> Result<()> {
        let sequence = &mut self.sequences[at];
        let mut last = 0;
        while sequence.computed() < sequence.tokens().len() {
            let tokens = self.runner.next_chunk(sequence);
            self.runner.step(&mut [Work { sequence: &mut *sequence, tokens }])?;
            last = tokens as u32 - 1;
            stop_if_asked()?;
        }
        self.runner.greedy(&[last], &mut self.chosen[at..=at]);
        Ok(())
    }

    /// Measures once: the prompts one after another, then generation for all sequences together, then an image.
    fn run(&mut self) -> Result<Run> {
        self.runs += 1;
        let (prompt, generate) = self.sizes;
        if prompt + generate > 0 {
            for at in 0..self.sequences.len() {
                // Other tokens each time, so that nothing but what stands before them is shared.
                let salt = self.runs * self.sequences.len() + at;
                let mut tokens = self.before(at, self.depth);
                tokens.push(self.token(salt, self.depth));
                // The sequence begins with one token, and the others are pushed: what it can go back to is its beginning.
                let kept = self.begin(at, tokens)?;
                ensure!(kept == self.depth, "only {kept} of the {} tokens before the prompt were kept", self.depth);
                for position in 1..prompt {
                    let token = self.token(salt, self.depth + position);
                    self.runner.push(&mut self.sequences[at], token);
                }
            }
        }
        let begun = Instant::now();
        if prompt > 0 {
            (0..self.sequences.len()).try_for_each(|at| self.read(at))?;
        }
        let prompt_seconds = begun.elapsed().as_secs_f64();
        let begun = Instant::now();
        self.generate()?;
        let generate_seconds = begun.elapsed().as_secs_f64();
        let begun = Instant::now();
        if let Some(pixels) = &self.pixels {
            // A GPU is done when what it made has arrived.
            let features = self.runner.encode_image(pixels)?;
            features.download(self.runner.model().backend(), &mut self.features);
            stop_if_asked()?;
        }
        let image_seconds = begun.elapsed().as_secs_f64();
        Ok(Run {
            prompt_seconds: (prompt > 0).then_some(prompt_seconds),
            generate_seconds: (generate > 0).then_some(generate_seconds),
            image_seconds: self.pixels.is_some().then_some(image_seconds),
        })
    }

    /// Generates for all sequences together.
    fn generate(&mut self) -> Result<()> {
        let (prompt, generate) = self.sizes;
        let rows: Vec<u32> = (0..self.sequences.len() as u32).collect();
        for done in 0..generate {
            // Without a prompt the first token waits already. Whatever the tokens are, they take the same time.
            if prompt > 0 || done > 0 {
                for (sequence, chosen) in self.sequences.iter_mut().zip(&self.chosen) {
                    self.runner.push(sequence, chosen.id);
                }
            }
            let mut work: Vec<_> = self.sequences.iter_mut().map(|sequence| Work { sequence, tokens: 1 }).collect();
            self.runner.step(&mut work)?;
            self.runner.greedy(&rows, &mut self.chosen);
            stop_if_asked()?;
        }
        Ok(())
    }
}

fn stop_if_asked() -> Result<()> {
    if interrupt::asked() { bail!("stopped") } else { Ok(()) }
}

fn lines(report: &Report) -> Vec<String> {
    let mut table = Table::new(&[]);
    let random = if report.synthetic { " (random weights of the true shape)" } else { "" };
    table.row(["Model", &format!("{}{random}", report.model)]);
    table.row(["Device", &report.device]);
    if (1..report.layers).contains(&report.gpu_layers) {
        table.row(["Layers", &format!("{} of {} on the GPU", report.gpu_layers, report.layers)]);
    }
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
    if report.depth > 0 {
        table.row(["Depth", &format!("{} tokens before the prompt", report.depth)]);
    }
    for (name, part) in [("Prompt", &report.prompt), ("Answer", &report.generate)] {
        if let Some(part) = part {
            table.row([name, &speed(part)]);
        }
    }
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
        let spread = Spread::of(vec![3.0, 1.0, 2.0]).unwrap();
        assert_eq!((spread.median, spread.least, spread.most, spread.runs), (2.0, 1.0, 3.0, 3));
        assert_eq!(Spread::of(vec![4.0, 1.0]).unwrap().median, 2.5);
        assert!(Spread::of(Vec::new()).is_none());
    }
}
