//! `medgemma quantize`: a checkpoint to GGUF files that llama.cpp reads, too.

use super::print_lines;
use crate::args;
use crate::engine;
use crate::interrupt;
use crate::machine;
use crate::terminal::{ByteBar, bytes, say_note};
use anyhow::{Result, bail};
use medgemma_formats::Folder;
use medgemma_gemma::Error;
use medgemma_gemma::convert::{Options, Plan, Source, Written};
use medgemma_gemma::locate::Located;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

pub(crate) fn run(args: &args::Quantize, quiet: bool) -> Result<()> {
    let checkpoint = engine::open(&args.model, args.mmproj.as_deref())?.into_checkpoint();
    let folder = match engine::find(&args.model)? {
        Located::Folder(path) => Some(Folder::open(&path)?),
        _ => None,
    };
    let source = Source {
        name: short_name(&args.model),
        config: &checkpoint.config,
        weights: &checkpoint.weights,
        folder: folder.as_ref(),
    };
    let options = Options { target: args.target, overwrite: args.force, threads: args.threads };
    let plan = Plan::new(source, &args.out, options)?;
    if !quiet {
        plan.notes().iter().for_each(|note| say_note(note));
    }
    check_space(&args.out, plan.bytes())?;
    let _polite = interrupt::guard();
    let start = Instant::now();
    let bar = ByteBar::new(plan.bytes(), quiet);
    let report = plan.run(|progress| {
        bar.set(progress.tensor, progress.done);
        if interrupt::asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish();
    let report = match report {
        Err(Error::Interrupted) => bail!("stopped: nothing was written"),
        report => report?,
    };
    print_lines([&report.model].into_iter().chain(&report.mmproj).map(line))?;
    let seconds = start.elapsed().as_secs_f64();
    print_lines([format!("Took {seconds:.1} s. Try it: medgemma run {}", args.out.display())])
}

fn line(file: &Written) -> String {
    let types: Vec<String> = file.types.iter().map(|(dtype, (tensors, _))| format!("{dtype} {tensors}")).collect();
    let (size, bits) = (bytes(file.bytes), file.bits_per_weight());
    format!("{}: {size}, {bits:.2} bits a weight (tensors: {})", file.path.display(), types.join(", "))
}

/// What a reader of the file will call the model: the last part of its id or path.
fn short_name(model: &str) -> &str {
    let model = model.trim_end_matches(['/', '\\']);
    model.rsplit(['/', '\\']).next().unwrap_or(model)
}

fn check_space(out: &Path, needed: u64) -> Result<()> {
    match machine::free_disk(out.parent().unwrap_or(Path::new("."))) {
        Some(free) if free < needed => {
            bail!("{} needs {}, its disk has {} free: make room", out.display(), bytes(needed), bytes(free))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_called_by_the_last_part_of_its_name() {
        for model in ["google/medgemma-4b-it", "/models/medgemma-4b-it/", "medgemma-4b-it"] {
            assert_eq!(short_name(model), "medgemma-4b-it");
        }
    }
}
