//! What can be typed: names and flags, as the README and scripts rely on them.

use clap::{Args, Parser, Subcommand};
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
