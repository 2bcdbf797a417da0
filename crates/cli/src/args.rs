//! What can be typed: names and flags, as the README and scripts rely on them.

use clap::{Args, Parser, Subcommand, ValueEnum};
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
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the models, what each is for, and which are here and fit
    Models(Models),
    /// Get a model from the hub
    Pull(Pull),
    /// Show what the model would see of pictures
    Image(Image),
    /// Measure how fast a model is on this machine
    Bench(Bench),
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
    /// One GGUF by its name
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
    /// 4 bits
    Q4,
    /// 4 bits, NormalFloat
    Nf4,
}

/// Where a model is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Device {
    /// The fastest there is
    #[default]
    Auto,
    /// The processor
    Cpu,
    /// An NVIDIA GPU
    Cuda,
}

/// How a model is loaded.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct Load {
    /// Hold the weights smaller than the file does
    #[arg(long, value_enum)]
    pub(crate) quant: Option<Quant>,
    /// Where to compute
    #[arg(long, value_enum, default_value_t)]
    pub(crate) device: Device,
    /// Tokens of prompt and answer together
    #[arg(long, value_name = "N")]
    pub(crate) context: Option<usize>,
    /// Threads; else one for each core
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// A GGUF's image encoder, when it isn't found beside it
    #[arg(long, value_name = "FILE")]
    pub(crate) mmproj: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Hub id, folder, .gguf file or `demo`
    #[arg(required_unless_present = "synthetic")]
    pub(crate) model: Option<String>,
    /// A model of a published shape with random weights: 4b-it, 27b-it, 27b-text-it, 12b, 1b or 270m
    #[arg(long, value_name = "VARIANT", conflicts_with = "model")]
    pub(crate) synthetic: Option<String>,
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = at_least_1)]
    pub(crate) prompt: usize,
    /// Tokens to generate
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = at_least_2)]
    pub(crate) generate: usize,
    /// Times to measure
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = at_least_1)]
    pub(crate) runs: usize,
    /// Measure the image encoder, too
    #[arg(long)]
    pub(crate) image: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) load: Load,
}

fn at_least_1(text: &str) -> Result<usize, String> {
    at_least(text, 1)
}

/// Two tokens are the fewest that have time between them.
fn at_least_2(text: &str) -> Result<usize, String> {
    at_least(text, 2)
}

fn at_least(text: &str, least: usize) -> Result<usize, String> {
    let number: Option<usize> = text.parse().ok();
    number.filter(|&number| number >= least).ok_or(format!("a number of {least} at least is needed"))
}
