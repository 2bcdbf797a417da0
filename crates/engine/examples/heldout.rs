//! How the demo model does on its held-out cases, task by task: the tables of docs/demo-model.md.
//!
//! ```text
//! cargo run --release -p medgemma-engine --example heldout [-- stored|f32|bf16|q8|q4|nf4 [MODEL [REPLIES]]]
//! ```
//!
//! MODEL is another form of the model, such as the folder that tools/demo-model/export.py --hf writes. The replies are
//! written to REPLIES, a JSON string a line.

#[path = "../tests/heldout/mod.rs"]
mod heldout;

use medgemma_engine::{Error, LoadOptions, Pipeline, Quant};

fn main() -> Result<(), Error> {
    let quant = match std::env::args().nth(1).as_deref() {
        None | Some("stored") => None,
        Some("f32") => Some(Quant::F32),
        Some("bf16") => Some(Quant::Bf16),
        Some("q8") => Some(Quant::Q8),
        Some("fp8") => Some(Quant::F8),
        Some("q4") => Some(Quant::Q4),
        Some("nf4") => Some(Quant::Nf4),
        Some(other) => return Err(Error::Parameter(format!("{other}: not stored, f32, bf16, q8, fp8, q4 or nf4"))),
    };
    let model = std::env::args().nth(2).unwrap_or_else(|| "demo".to_owned());
    let mut pipeline = Pipeline::load_with(&model, &LoadOptions { quant, ..LoadOptions::default() }, |_| {})?;
    let cases = heldout::cases();
    let mut replies = String::new();
    let scores = cases.iter().enumerate().map(|(at, case)| {
        eprint!("\r{} of {}", at + 1, cases.len());
        let score = heldout::ask(&mut pipeline, case);
        replies += &format!("{}\n", serde_json::json!(score.reply));
        (case.task.clone(), score)
    });
    let tallies = heldout::tally(scores);
    if let Some(path) = std::env::args().nth(3) {
        std::fs::write(&path, &replies).map_err(|e| Error::Parameter(format!("{path}: {e}")))?;
    }
    println!("\n| task | right | of | 95 % interval | median IoU |\n|---|---|---|---|---|");
    for (task, mut tally) in tallies {
        let (low, high) = wilson(tally.right, tally.cases);
        let iou = match tally.ious.is_empty() {
            true => String::new(),
            false => format!("{:.2}", median(&mut tally.ious)),
        };
        let share = 100.0 * tally.right as f64 / tally.cases as f64;
        println!("| {task} | {share:.1} % | {} | {:.1}–{:.1} | {iou} |", tally.cases, 100.0 * low, 100.0 * high);
    }
    Ok(())
}

/// Wilson's 95 % interval of a proportion.
fn wilson(hits: usize, count: usize) -> (f64, f64) {
    let (n, z) = (count as f64, 1.959_964f64);
    let p = hits as f64 / n;
    let middle = p + z * z / (2.0 * n);
    let spread = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    ((middle - spread) / (1.0 + z * z / n), (middle + spread) / (1.0 + z * z / n))
}

/// The middle value.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { values[half] } else { f64::midpoint(values[half - 1], values[half]) }
}
