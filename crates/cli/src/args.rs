//! What can be typed: names and flags, as the README and scripts rely on them.

mod serve;

pub(crate) use serve::Serve;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use medgemma_engine::Device;
use medgemma_engine::speculate::DRAFT_MAX;
use medgemma_gemma::convert::Target;
use medgemma_gemma::sampler::Sampling;
use std::path::PathBuf;

/// Run Google's MedGemma models on this machine: text and medical images in, text out. Nothing leaves the machine.
#[derive(Debug, Parser)]
#[command(name = "medgemma", version, arg_required_else_help = true, disable_help_subcommand = true)]
#[command(
    after_help = "MODEL is a hub id (google/medgemma-4b-it, OWNER/NAME:Q4_K_M), a folder, a .gguf file, or `demo`.
Not a medical device: a clinician reviews every answer."
)]
pub(crate) struct Cli {
    /// No progress and no notes: errors only
    #[arg(short, long, global = true, display_order = 900)]
    pub(crate) quiet: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// See it work, on a tiny model inside the program: nothing is downloaded
    Demo(Demo),
    /// List the models, what each is for, and which are here and fit
    Models(Models),
    /// Get a model from the hub
    Pull(Pull),
    /// Ask a model: one answer, or a chat when there is no PROMPT
    Run(Run),
    /// Show what the model would see of pictures
    Image(Image),
    /// Write a model as GGUF files, smaller if wanted
    Quantize(Quantize),
    /// Say how likely a model finds a text
    Score(Score),
    /// Measure how fast a model is on this machine
    Bench(Bench),
    /// Serve a model over HTTP: the OpenAI, Anthropic and Ollama APIs
    Serve(Serve),
    /// Look at this machine and say what to change
    Doctor(Doctor),
    /// Print a shell's completions
    #[command(hide = true)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Models {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Pull {
    /// Hub id: OWNER/NAME, or OWNER/NAME:Q4_K_M for one of a repository's GGUFs
    pub(crate) model: String,
    /// Branch, tag or commit
    #[arg(long, default_value = "main")]
    pub(crate) revision: String,
    /// One GGUF by its name or path in the repository
    #[arg(long, value_name = "NAME")]
    pub(crate) file: Option<String>,
    /// Access token; else HF_TOKEN, else the one saved by `hf auth login`
    #[arg(long)]
    pub(crate) token: Option<String>,
    /// The hub's address
    #[arg(long, value_name = "URL", env = "HF_ENDPOINT", default_value = "https://huggingface.co")]
    pub(crate) endpoint: String,
    /// Compute the checksums of files that are already here
    #[arg(long)]
    pub(crate) verify: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Image {
    /// PNG, JPEG, WebP, TIFF or BMP files
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Write what the model sees as PNG files
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Pad to a black square first, so that the shape is kept
    #[arg(long)]
    pub(crate) pad: bool,
    /// Also give long pictures in pieces
    #[arg(long)]
    pub(crate) pan_and_scan: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Weights as they are held in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Quant {
    /// As published: exact
    Bf16,
    /// 8 bits
    Q8,
    /// 8-bit floats (E4M3), a scale for each row
    Fp8,
    /// 4 bits
    Q4,
    /// 4 bits, NormalFloat
    Nf4,
}

/// Keys and values as they are held in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kv {
    /// 16 bits
    Bf16,
    /// 8-bit floats (E4M3): half the memory
    Fp8,
}

/// How a model is loaded.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct Load {
    /// Hold the weights smaller than the file does
    #[arg(long, value_enum)]
    pub(crate) quant: Option<Quant>,
    /// Hold keys and values smaller; else exactly beside float weights on the processor, in bf16 otherwise
    #[arg(long, value_enum, value_name = "TYPE")]
    pub(crate) kv: Option<Kv>,
    /// Where to compute: auto (what fits on an NVIDIA GPU, the rest on the processor), cpu, cuda or cuda:N for one of several
    #[arg(long, value_name = "DEVICE", value_parser = device, default_value = "auto")]
    pub(crate) device: Device,
    /// Layers to compute on the GPU, the last ones; else as many as fit with --device auto, all with --device cuda
    #[arg(long, value_name = "N", alias = "n-gpu-layers")]
    pub(crate) gpu_layers: Option<usize>,
    /// Tokens of prompt and answer together
    #[arg(long, value_name = "N", value_parser = at_least_1)]
    pub(crate) context: Option<usize>,
    /// Threads; else one for each core
    #[arg(long, value_name = "N", value_parser = at_least_1)]
    pub(crate) threads: Option<usize>,
    /// A GGUF's image encoder, when it isn't found beside it
    #[arg(long, value_name = "FILE")]
    pub(crate) mmproj: Option<PathBuf>,
    /// Neither use nor keep packed weights on disk. They are kept in MEDGEMMA_PACK_CACHE (a folder, or `off`), else in
    /// ~/.cache/medgemma/packed, so that the next start is fast
    #[arg(long)]
    pub(crate) no_pack_cache: bool,
}

/// How an answer is generated.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Answer")]
pub(crate) struct Sample {
    /// Let the model think before it answers
    #[arg(long)]
    pub(crate) think: bool,
    /// Most tokens of the thought: then it is ended, and the answer follows
    #[arg(long, value_name = "N", requires = "think")]
    pub(crate) think_budget: Option<usize>,
    /// Most tokens of an answer, its thought included
    #[arg(long, value_name = "N", value_parser = at_least_1)]
    pub(crate) max_tokens: Option<usize>,
    /// 0: the same answer every time; 1, with the other defaults: drawn as the checkpoints' authors publish it
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = temperature, allow_negative_numbers = true)]
    pub(crate) temperature: f32,
    /// Draw from the K most likely tokens (0: all)
    #[arg(long, value_name = "K", default_value_t = 64)]
    pub(crate) top_k: usize,
    /// Draw from the most likely tokens that make up P
    #[arg(long, value_name = "P", default_value_t = 0.95, value_parser = top_p)]
    pub(crate) top_p: f32,
    /// Draw from tokens at least P times as likely as the likeliest
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = min_p)]
    pub(crate) min_p: f32,
    /// Seed of the draws
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// End the answer before this text (may be repeated)
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
}

/// How tokens are guessed ahead. The answers are the same to the token; only their speed changes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Speculation (at temperature 0; the answer stays the same)")]
pub(crate) struct Speculation {
    /// Most tokens guessed and then verified at once, as long as it pays (0: none)
    #[arg(long, value_name = "N", default_value_t = DRAFT_MAX as u8,
          value_parser = clap::value_parser!(u8).range(0..=DRAFT_MAX as i64))]
    pub(crate) draft_max: u8,
    /// A smaller model of the same family that guesses, too; else only what the text repeats is guessed
    #[arg(long, value_name = "MODEL", alias = "model-draft")]
    pub(crate) draft: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Hub id, folder, .gguf file or `demo`
    pub(crate) model: String,
    /// The question; `-` reads it from stdin. Text piped in is put after it
    pub(crate) prompt: Option<String>,
    /// A picture to ask about: PNG, JPEG, WebP, TIFF or BMP (may be repeated)
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Vec<PathBuf>,
    /// Who the model is to be, such as "You are an expert radiologist."
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// OpenAI messages to answer, or - for stdin; pictures in them are data URLs or paths
    #[arg(long, value_name = "FILE.json", conflicts_with_all = ["prompt", "image", "system"])]
    pub(crate) messages: Option<PathBuf>,
    /// With --json: log-probabilities of the tokens, and of N others for each
    #[arg(long, value_name = "N", requires = "json", value_parser = clap::value_parser!(u8).range(0..=20))]
    pub(crate) logprobs: Option<u8>,
    /// Pad pictures to a black square first, so that their shape is kept
    #[arg(long)]
    pub(crate) pad: bool,
    /// Also show the model long pictures in pieces
    #[arg(long)]
    pub(crate) pan_and_scan: bool,
    /// Print one OpenAI chat.completion
    #[arg(long)]
    pub(crate) json: bool,
    /// Print the answer as the model writes it, Markdown unrendered
    #[arg(long)]
    pub(crate) plain: bool,
    /// Keep the chat's input lines in a file (they may be about patients)
    #[arg(long, value_name = "FILE")]
    pub(crate) history: Option<PathBuf>,
    /// Say how many tokens there were and how fast
    #[arg(short, long)]
    pub(crate) verbose: bool,
    #[command(flatten)]
    pub(crate) sample: Sample,
    #[command(flatten)]
    pub(crate) speculation: Speculation,
    #[command(flatten)]
    pub(crate) load: Load,
}

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Hub id, folder, .gguf file or `demo`
    #[arg(required_unless_present = "synthetic")]
    pub(crate) model: Option<String>,
    /// A model of a published shape with random weights: 4b-it, 27b-it, 27b-text-it, 12b, 1b or 270m
    #[arg(long, value_name = "VARIANT", conflicts_with = "model")]
    pub(crate) synthetic: Option<String>,
    /// Tokens of the prompt (0: none)
    #[arg(short, long, value_name = "N", default_value_t = 512)]
    pub(crate) prompt: usize,
    /// Tokens to generate after it (0: none)
    #[arg(short = 'n', long, value_name = "N", default_value_t = 64)]
    pub(crate) generate: usize,
    /// Tokens that stand before the prompt; reading them isn't measured
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    pub(crate) depth: usize,
    /// Sequences to generate together; the prompt is read once for each
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_1)]
    pub(crate) batch: usize,
    /// Times to measure
    #[arg(short, long, value_name = "N", default_value_t = 3, value_parser = at_least_1)]
    pub(crate) runs: usize,
    /// Measure the image encoder, too
    #[arg(long)]
    pub(crate) image: bool,
    /// Take turns with another program: say in a line of JSON when ready, wait for a line on stdin before each run, give
    /// its times as a line of JSON, and end with stdin
    #[arg(long, conflicts_with_all = ["json", "runs"])]
    pub(crate) turns: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) load: Load,
}

fn temperature(text: &str) -> Result<f32, String> {
    in_range(text, |temperature| Sampling { temperature, ..Sampling::GREEDY })
}

fn top_p(text: &str) -> Result<f32, String> {
    in_range(text, |top_p| Sampling { top_p, ..Sampling::GREEDY })
}

fn min_p(text: &str) -> Result<f32, String> {
    in_range(text, |min_p| Sampling { min_p, ..Sampling::GREEDY })
}

/// A number that the sampler takes in its place.
fn in_range(text: &str, placed: impl Fn(f32) -> Sampling) -> Result<f32, String> {
    let number = text.parse().map_err(|_| "a number is needed".to_owned())?;
    placed(number).check()?;
    Ok(number)
}

/// `auto`, `cpu`, `cuda` or `cuda:N`.
fn device(text: &str) -> Result<Device, String> {
    let number = match text {
        "auto" => return Ok(Device::Auto),
        "cpu" => return Ok(Device::Cpu),
        "cuda" => "0",
        other => other.strip_prefix("cuda:").unwrap_or_default(),
    };
    number.parse().map(Device::Cuda).map_err(|_| "give auto, cpu, cuda or cuda:N".to_owned())
}

fn at_least_1(text: &str) -> Result<usize, String> {
    at_least(text, 1)
}

fn at_least(text: &str, least: usize) -> Result<usize, String> {
    let number: Option<usize> = text.parse().ok();
    number.filter(|&number| number >= least).ok_or(format!("a number of {least} at least is needed"))
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// A question of your own
    pub(crate) prompt: Option<String>,
    /// Write the picture, and the picture with the box that the model found, to this folder
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// A picture of your own (may be repeated)
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Vec<PathBuf>,
    /// Most tokens of the answer
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = at_least_1)]
    pub(crate) max_tokens: usize,
    #[command(flatten)]
    pub(crate) load: Load,
}

#[derive(Debug, Args)]
pub(crate) struct Score {
    /// Hub id, folder, .gguf file or `demo`
    pub(crate) model: String,
    /// A text in UTF-8; `-` reads it from stdin
    pub(crate) file: PathBuf,
    /// Print one JSON object, with every token's log-probability
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) load: Load,
}

#[derive(Debug, Args)]
pub(crate) struct Quantize {
    /// Hub id, folder or .gguf file
    pub(crate) model: String,
    /// The file to write; the image encoder goes beside it as mmproj-OUT.gguf
    #[arg(value_name = "OUT.gguf")]
    pub(crate) out: PathBuf,
    /// How weights are held
    #[arg(long = "type", value_name = "TYPE", default_value = "q4_k_m", value_parser = target_parser())]
    pub(crate) target: Target,
    /// Replace files that are there
    #[arg(long)]
    pub(crate) force: bool,
    /// Threads; else one for each core
    #[arg(long, value_name = "N", value_parser = at_least_1)]
    pub(crate) threads: Option<usize>,
    /// A GGUF's image encoder, when it isn't found beside it
    #[arg(long, value_name = "FILE")]
    pub(crate) mmproj: Option<PathBuf>,
}

/// `run` without a question where nobody can be asked for one: a mistake in typing, as a missing argument is.
#[derive(Debug)]
pub(crate) struct NothingAsked;

impl std::fmt::Display for NothingAsked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("nothing is asked: give a PROMPT, or `-` and a text on stdin")
    }
}

impl std::error::Error for NothingAsked {}

/// Reads a target by its name, and lists the names in the help.
fn target_parser() -> impl TypedValueParser<Value = Target> {
    PossibleValuesParser::new(Target::ALL.map(Target::name)).try_map(|name| name.parse::<Target>())
}
