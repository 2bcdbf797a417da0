//! The `medgemma` command: reads what was typed, runs it, and says in one line what went wrong.

mod args;
mod catalog;
mod commands;
mod conversation;
mod engine;
mod hub;
mod interrupt;
mod machine;
mod packed;
mod private;
mod terminal;

use args::{Cli, Command};
use clap::{CommandFactory, Parser};
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    interrupt::listen();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has enough of it (`medgemma models | head -1`).
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::say_error(&one_line(&error));
            if is_usage(&error) { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    match &cli.command {
        Command::Demo(args) => commands::demo::run(args, cli.quiet),
        Command::Models(args) => commands::models::run(args),
        Command::Pull(args) => commands::pull::run(args, cli.quiet),
        Command::Image(args) => commands::image::run(args, cli.quiet),
        Command::Run(args) => commands::run::run(args, cli.quiet),
        Command::Quantize(args) => commands::quantize::run(args, cli.quiet),
        Command::Score(args) => commands::score::run(args, cli.quiet),
        Command::Bench(args) => commands::bench::run(args, cli.quiet),
        Command::Serve(args) => commands::serve::run(args, cli.quiet),
        Command::Doctor(args) => commands::doctor::run(args, cli.quiet),
        Command::Completions { shell } => {
            // Into memory first: clap_complete panics when a reader has enough.
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "medgemma", &mut text);
            std::io::stdout().write_all(&text)?;
            Ok(())
        }
    }
}

/// An error and its causes on one line, without what would steer a terminal: parts of it may come from a file.
///
/// A cause that the error before it has already told is not told again.
fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&cause);
        }
    }
    terminal::one_line(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Whether it was asked in a way that can't be answered, whatever the machine and the files are.
fn is_usage(error: &anyhow::Error) -> bool {
    error.is::<args::NothingAsked>() || matches!(error.downcast_ref(), Some(medgemma_serve::Error::NeedsKeys(_)))
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let is_pipe = |error: &std::io::Error| error.kind() == std::io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| {
        let json = || cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
        cause.downcast_ref().is_some_and(is_pipe) || json() == Some(std::io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn an_error_is_one_line_that_repeats_nothing() {
        let error = anyhow!("no such file").context("x.png: no such file").context("messages[0]");
        assert_eq!(one_line(&error), "messages[0]: x.png: no such file");
        assert_eq!(one_line(&anyhow!("a\n\x1b[2Jb\u{202e}").context("c")), "c: a [2Jb");
    }
}
