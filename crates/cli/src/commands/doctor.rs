//! `medgemma doctor`: what this machine has, what is set up, and what to change.

mod selftest;

use super::{print_json, print_lines};
use crate::args;
use crate::args::Quant;
use crate::catalog::{PRECISIONS, Variant, usable};
use crate::hub;
use crate::machine::{self, Memory};
use crate::packed;
use crate::terminal::{Table, bytes, to_stderr, width, wrap};
use anyhow::{Result, bail};
use medgemma_gemma::locate::Cache;
use medgemma_kernels::{CudaBackend, PackCache};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[derive(Serialize)]
struct Report {
    version: &'static str,
    processor: String,
    threads: usize,
    instruction_sets: Vec<&'static str>,
    memory: Memory,
    /// Bytes a second that all threads together read.
    memory_bytes_per_second: u64,
    gpu: Gpu,
    cache: CacheReport,
    /// Packed weights; none when they aren't kept.
    packed: Option<PackedReport>,
    /// Where the token was found; never the token.
    token: Option<String>,
    offline: bool,
    self_test: SelfTest,
    advice: Vec<String>,
}

/// Whether the model inside the program computes what it should.
#[derive(Serialize)]
struct SelfTest {
    passed: bool,
    /// What computed it, or what went wrong.
    detail: String,
}

/// NVIDIA's driver and what it drives.
#[derive(Default, Serialize)]
struct Gpu {
    driver: bool,
    /// As `nvidia-smi` lists them: name, memory.
    devices: Vec<String>,
    /// Why models aren't computed there, where there is a driver.
    problem: Option<String>,
    /// Bytes of the first one that are free, and how much of a model goes there.
    free_bytes: Option<u64>,
    placement: Vec<Placement>,
}

/// How many of a model's last layers `--device auto` computes on the GPU; the others are computed on the processor.
#[derive(Serialize)]
struct Placement {
    model: &'static str,
    precision: &'static str,
    gpu_layers: usize,
    layers: usize,
}

#[derive(Serialize)]
struct CacheReport {
    path: PathBuf,
    writable: bool,
    models: usize,
    bytes: u64,
    free_bytes: Option<u64>,
}

#[derive(Serialize)]
struct PackedReport {
    path: PathBuf,
    files: usize,
    bytes: u64,
    /// Bytes of files whose checkpoint is gone or has changed.
    stale_bytes: u64,
}

/// A model of each of MedGemma's sizes.
const SIZES: [&str; 2] = ["google/medgemma-27b-it", "google/medgemma-4b-it"];

pub(crate) fn run(args: &args::Doctor, quiet: bool) -> Result<()> {
    if !quiet && !args.json {
        to_stderr("Looking at this machine…\n");
    }
    let mut report = Report {
        version: env!("CARGO_PKG_VERSION"),
        processor: machine::cpu_name(),
        threads: machine::threads(),
        instruction_sets: machine::instruction_sets(),
        memory: machine::memory()?,
        memory_bytes_per_second: read_speed(machine::threads()),
        gpu: gpu(),
        cache: cache(&Cache::from_env()),
        packed: packed::from_env().map(|cache| packed(&cache)),
        token: hub::find_token(None, |name| std::env::var_os(name)).map(|(_, source)| source.to_string()),
        offline: hub::offline(),
        self_test: match selftest::run() {
            Ok(device) => SelfTest { passed: true, detail: device },
            Err(error) => SelfTest { passed: false, detail: format!("{error:#}") },
        },
        advice: Vec::new(),
    };
    report.advice = advice(&report);
    if args.json {
        print_json(&report)?
    } else {
        print_lines(lines(&report, width()))?
    }
    match report.self_test.passed {
        true => Ok(()),
        false => bail!("the self-test failed: {}", report.self_test.detail),
    }
}

/// Bytes a second that `threads` read from memory together, the best of three short tries.
fn read_speed(threads: usize) -> u64 {
    const BYTES: usize = 64 << 20;
    let buffers: Vec<Vec<u64>> = (0..threads.min(32)).map(|seed| vec![seed as u64 | 1; BYTES / 8]).collect();
    let once = || {
        let begin = Instant::now();
        std::thread::scope(|scope| {
            for buffer in &buffers {
                scope.spawn(|| std::hint::black_box(buffer.iter().fold(0_u64, |sum, value| sum.wrapping_add(*value))));
            }
        });
        begin.elapsed()
    };
    let best = (0..3).map(|_| once()).min().unwrap_or_default();
    ((buffers.len() * BYTES) as f64 / best.as_secs_f64().max(1e-9)) as u64
}

fn gpu() -> Gpu {
    let mut folders: Vec<PathBuf> =
        ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/lib/wsl/lib"]
            .map(PathBuf::from)
            .to_vec();
    folders.extend(std::env::var_os("LD_LIBRARY_PATH").iter().flat_map(std::env::split_paths));
    folders.extend(std::env::var_os("SystemRoot").map(|root| Path::new(&root).join("System32")));
    let here = |name: &str| folders.iter().any(|folder| folder.join(name).exists());
    let driver = here("libcuda.so.1") || here("nvcuda.dll");
    let devices = if driver { nvidia_smi().unwrap_or_default() } else { Vec::new() };
    // Whether everything that a model needs can be had is known once it was had.
    let free = if driver { Some(CudaBackend::new(0).and_then(|card| card.memory())) } else { None };
    let (free_bytes, problem) = match free {
        None => (None, None),
        Some(Ok((free, _))) => (Some(free as u64), None),
        Some(Err(error)) => (None, Some(error.to_string())),
    };
    Gpu { driver, devices, problem, free_bytes, placement: free_bytes.map(placement).unwrap_or_default() }
}

/// How much of each of MedGemma's sizes a GPU with so much free memory takes.
fn placement(free: u64) -> Vec<Placement> {
    let models = SIZES.into_iter().filter_map(Variant::find);
    let each = models.flat_map(|model| PRECISIONS.map(|precision| (model, precision)));
    let placed = |(model, precision): (&Variant, Quant)| {
        let (gpu_layers, layers) = model.gpu_layers(precision, free);
        Placement { model: model.id, precision: precision.name(), gpu_layers, layers }
    };
    each.map(placed).collect()
}

/// The devices that `nvidia-smi` lists; none when it isn't there, fails or hangs.
fn nvidia_smi() -> Option<Vec<String>> {
    let mut child = Command::new("nvidia-smi")
        .args(["--query-gpu=name,memory.total", "--format=csv,noheader"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let until = Instant::now() + Duration::from_secs(5);
    while child.try_wait().ok()?.is_none() {
        if Instant::now() > until {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    output.status.success().then(|| lines.map(str::to_owned).collect())
}

fn cache(cache: &Cache) -> CacheReport {
    let models = cache.models();
    let size = |folder: PathBuf| -> u64 {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum()
    };
    CacheReport {
        path: cache.root().to_owned(),
        writable: is_writable(cache.root()),
        models: models.len(),
        bytes: models.iter().map(|id| size(cache.repo(id).join("blobs"))).sum(),
        free_bytes: machine::free_disk(cache.root()),
    }
}

fn packed(cache: &PackCache) -> PackedReport {
    let files = cache.list();
    let stale = files.iter().filter(|file| file.files.is_empty());
    PackedReport {
        path: cache.folder().to_owned(),
        files: files.len(),
        bytes: files.iter().map(|file| file.bytes).sum(),
        stale_bytes: stale.map(|file| file.bytes).sum(),
    }
}

/// Whether a file can be made in the folder, or in the nearest one above that exists.
fn is_writable(folder: &Path) -> bool {
    let Some(folder) = folder.ancestors().find(|folder| folder.is_dir()) else { return false };
    let probe = folder.join(format!(".medgemma-doctor-{}", std::process::id()));
    let made = std::fs::File::create_new(&probe).is_ok();
    let _ = std::fs::remove_file(probe);
    made
}

fn advice(report: &Report) -> Vec<String> {
    let mut advice = Vec::new();
    if cfg!(target_arch = "x86_64") && !report.instruction_sets.contains(&"AVX2") {
        advice.push("This processor has no AVX2: answers will be very slow. Use a machine from 2013 or later.".into());
    }
    let fits: Vec<String> =
        SIZES.into_iter().filter_map(Variant::find).filter_map(|variant| fit(variant, report)).collect();
    if fits.is_empty() {
        advice.push(format!(
            "{} of memory is too little for MedGemma: the 4B model needs {} in 4 bits. `medgemma demo` runs anywhere.",
            bytes(report.memory.total),
            bytes(Variant::find("google/medgemma-4b-it").map_or(0, |variant| variant.memory(Quant::Q4)))
        ));
    }
    advice.extend(fits);
    if report.memory.available < report.memory.total / 2 {
        advice.push("Other programs hold more than half of the memory: close what isn't needed first.".into());
    }
    if !report.cache.writable {
        advice.push(format!(
            "{} can't be written: put the cache elsewhere with HF_HUB_CACHE.",
            report.cache.path.display()
        ));
    }
    if report.token.is_none() && report.cache.models == 0 {
        advice.push(
            "MedGemma is gated: accept its licence at https://huggingface.co/google/medgemma-4b-it, make a token at \
             https://huggingface.co/settings/tokens, then medgemma pull google/medgemma-4b-it --token hf_…"
                .into(),
        );
    }
    if let Some(problem) = &report.gpu.problem {
        advice.push(format!("There is an NVIDIA driver, but models are computed on the processor: {problem}."));
    }
    advice
}

/// In which precisions a model fits, and how fast it can be: each token reads all of its weights once.
fn fit(variant: &Variant, report: &Report) -> Option<String> {
    let room = usable(report.memory.total);
    let fitting = PRECISIONS.into_iter().filter(|&precision| variant.memory(precision) <= room);
    let speed = |precision| report.memory_bytes_per_second as f64 / variant.read_per_token(precision) as f64;
    let mut kinds = fitting.map(|kind| (kind.name(), speed(kind)));
    let (name, first) = kinds.next()?;
    let others: String = kinds.map(|(name, speed)| format!(", {name} ({speed:.1})")).collect();
    Some(format!("{} fits in {name} (at most {first:.1} tokens a second){others}.", variant.id))
}

fn lines(report: &Report, width: usize) -> Vec<String> {
    let mut rows: Vec<(&str, String)> = Vec::new();
    rows.push(("Processor", format!("{}, {} threads", report.processor, report.threads)));
    rows.push(("", if report.instruction_sets.is_empty() { "-".into() } else { report.instruction_sets.join(", ") }));
    let memory = report.memory;
    let speed = bytes(report.memory_bytes_per_second);
    rows.push(("Memory", format!("{}, {} free, read at {speed}/s", bytes(memory.total), bytes(memory.available))));
    let gpu = match (report.gpu.driver, report.gpu.devices.is_empty()) {
        (false, _) => "no NVIDIA driver".to_owned(),
        (true, true) => "NVIDIA driver, no device listed".to_owned(),
        (true, false) => report.gpu.devices.join("; "),
    };
    rows.push(("GPU", gpu));
    if let Some(free) = report.gpu.free_bytes {
        rows.push(("", format!("{} free; layers that --device auto computes there:", bytes(free))));
    }
    for of_model in report.gpu.placement.chunk_by(|a, b| a.model == b.model) {
        let each = of_model.iter().map(|p| format!("{} of {} in {}", p.gpu_layers, p.layers, p.precision));
        rows.push(("", format!("{}: {}", of_model[0].model, each.collect::<Vec<_>>().join(", "))));
    }
    let cache = &report.cache;
    rows.push(("Cache", cache.path.display().to_string()));
    let free = cache.free_bytes.map_or_else(String::new, |free| format!(", {} free", bytes(free)));
    let models = if cache.models == 1 { "1 model".to_owned() } else { format!("{} models", cache.models) };
    rows.push(("", format!("{models}, {}{free}", bytes(cache.bytes))));
    match &report.packed {
        None => rows.push(("Packed", "not kept".into())),
        Some(packed) => {
            let stale = match packed.stale_bytes {
                0 => String::new(),
                stale => format!(" ({} of it of no use)", bytes(stale)),
            };
            let held = format!("{}{stale}; delete the folder to free it", bytes(packed.bytes));
            rows.push(("Packed", format!("{}: {held}", packed.path.display())));
        }
    }
    rows.push(("Token", report.token.as_ref().map_or_else(|| "none".to_owned(), |source| format!("from {source}"))));
    rows.push((
        "Network",
        if report.offline { "forbidden by HF_HUB_OFFLINE".into() } else { "only for `pull`".into() },
    ));
    let verdict = if report.self_test.passed { "passed" } else { "FAILED" };
    rows.push(("Self-test", format!("{verdict}: {}", report.self_test.detail)));
    let mut table = Table::new(&[]);
    for (name, text) in rows {
        table.row([name.to_owned(), text]);
    }
    let mut lines = table.lines(width);
    lines.push(String::new());
    for text in &report.advice {
        let wrapped = wrap(text, width.saturating_sub(2));
        let mark = |at: usize| if at == 0 { "- " } else { "  " };
        lines.extend(wrapped.into_iter().enumerate().map(|(at, line)| format!("{}{line}", mark(at))));
    }
    lines
}
