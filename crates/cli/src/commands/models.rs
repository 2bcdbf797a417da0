//! `medgemma models`: what there is, what fits, what is here.

use super::{print_json, print_lines};
use crate::args;
use crate::args::Quant;
use crate::catalog::{VARIANTS, Variant, usable};
use crate::machine;
use crate::terminal::{Table, bytes, width, wrap};
use anyhow::Result;
use medgemma_engine::footprint::USUAL_CONTEXT;
use medgemma_gemma::locate::{Cache, Error, HubId, Located, is_mmproj, locate_in, repository_ggufs};
use medgemma_kernels::CudaBackend;
use serde::Serialize;
use std::path::Path;

/// How much of a model is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Here {
    Yes,
    Part,
    No,
}

#[derive(Serialize)]
struct Report {
    memory_bytes: u64,
    /// All of the first GPU's memory, where there is one.
    gpu_memory_bytes: Option<u64>,
    cache: std::path::PathBuf,
    models: Vec<Model>,
    others: Vec<String>,
}

#[derive(Serialize)]
struct Model {
    id: &'static str,
    parameters: &'static str,
    input: &'static str,
    thinks: bool,
    purpose: &'static str,
    context: usize,
    download_bytes: u64,
    memory: Needs,
    fits: Option<&'static str>,
    /// Its layers, and how many of them fit on the GPU in each precision, where there is one.
    layers: usize,
    gpu_layers: Option<GpuLayers>,
    here: Here,
}

/// Bytes to run it in with the usual context, by precision.
#[derive(Serialize)]
struct Needs {
    bf16: u64,
    q8: u64,
    q4: u64,
}

/// Layers on a GPU that nobody else uses, with the usual context, by precision.
#[derive(Serialize)]
struct GpuLayers {
    bf16: usize,
    q8: usize,
    q4: usize,
}

pub(crate) fn run(args: &args::Models) -> Result<()> {
    let cache = Cache::from_env();
    let memory = machine::memory()?.total;
    let gpu = CudaBackend::card(0).ok().map(|card| card.memory as u64);
    let model = |variant: &'static Variant| Model {
        id: variant.id,
        parameters: variant.parameters,
        input: variant.input,
        thinks: variant.thinks,
        purpose: variant.purpose,
        context: variant.context(),
        download_bytes: variant.weights(Quant::Bf16),
        memory: Needs {
            bf16: variant.memory(Quant::Bf16),
            q8: variant.memory(Quant::Q8),
            q4: variant.memory(Quant::Q4),
        },
        fits: variant.best_fit(usable(memory)).map(Quant::name),
        layers: variant.gpu_layers(Quant::Q4, 0).1,
        gpu_layers: gpu.map(|memory| {
            // Some of it is the driver's.
            let layers = |quant| variant.gpu_layers(quant, memory / 100 * 95).0;
            GpuLayers { bf16: layers(Quant::Bf16), q8: layers(Quant::Q8), q4: layers(Quant::Q4) }
        }),
        here: here(variant.id, &cache),
    };
    let report = Report {
        memory_bytes: memory,
        gpu_memory_bytes: gpu,
        cache: cache.root().to_owned(),
        models: VARIANTS.iter().map(model).collect(),
        others: others(&cache),
    };
    if args.json { print_json(&report) } else { print_lines(lines(&report, width())) }
}

fn here(id: &str, cache: &Cache) -> Here {
    let Ok(id) = HubId::parse(id) else { return Here::No };
    match locate_in(&id.to_string(), cache) {
        Ok(Located::Folder(folder)) if folder.starts_with(cache.root()) => Here::Yes,
        Err(Error::Incomplete { .. }) => Here::Part,
        _ => Here::No,
    }
}

/// Models in the cache beyond the published ones, as `run` takes them.
fn others(cache: &Cache) -> Vec<String> {
    let mut names = Vec::new();
    for id in cache.models().iter().filter(|id| Variant::find(&id.repo()).is_none()) {
        let Some(snapshot) = cache.snapshot(id) else { continue };
        if is_gemma3(&snapshot) {
            names.push(id.repo());
        }
        for file in repository_ggufs(&snapshot).iter().filter(|file| !is_mmproj(file)) {
            names.push(format!("{}:{}", id.repo(), file.rsplit('/').next().unwrap_or(file)));
        }
    }
    names
}

/// Whether a folder is a Gemma 3 in Hugging Face layout.
fn is_gemma3(folder: &Path) -> bool {
    let config = std::fs::read(folder.join("config.json")).ok();
    let config: Option<serde_json::Value> = config.and_then(|text| serde_json::from_slice(&text).ok());
    let kind = config.as_ref().and_then(|config| config.get("model_type")?.as_str());
    kind.is_some_and(|kind| kind.starts_with("gemma3"))
}

fn lines(report: &Report, width: usize) -> Vec<String> {
    let mut table = Table::new(&[1, 2, 3, 4]);
    table.row(["MODEL", "BF16", "Q8", "Q4", "FITS", "HERE"]);
    for model in &report.models {
        let here = match model.here {
            Here::Yes => "yes",
            Here::Part => "part",
            Here::No => "-",
        };
        let gigabytes = |bytes: u64| format!("{:.1}", bytes as f64 / 1e9);
        let [bf16, q8, q4] = [model.memory.bf16, model.memory.q8, model.memory.q4].map(gigabytes);
        table.row([model.id.to_owned(), bf16, q8, q4, model.fits.unwrap_or("no").to_owned(), here.to_owned()]);
        let thinks = if model.thinks { "; thinks" } else { "" };
        let gpu = model.gpu_layers.as_ref().map_or_else(String::new, |GpuLayers { bf16, q8, q4 }| {
            format!(" Layers on the GPU: {bf16} in BF16, {q8} in Q8, {q4} in Q4, of {}.", model.layers)
        });
        table.note(format!("{}{thinks}. For {}.{gpu}", model.input, model.purpose));
    }
    let mut lines = table.lines(width);
    let mut say = |text: String| lines.extend(wrap(&text, width));
    say(String::new());
    say(format!(
        "BF16, Q8, Q4: gigabytes of memory to run it with {USUAL_CONTEXT} tokens of context, as published or made \
         smaller while loading (--quant). FITS: the most exact that this machine's {} have room for.",
        bytes(report.memory_bytes)
    ));
    if !report.others.is_empty() {
        say(String::new());
        say("Also here:".into());
        for other in &report.others {
            say(format!("  {other}"));
        }
    }
    say(String::new());
    say("Get one: medgemma pull google/medgemma-4b-it".into());
    say("Without any download: medgemma demo".into());
    lines
}
