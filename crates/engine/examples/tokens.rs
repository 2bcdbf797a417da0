//! The lower level: token ids in, token ids out, with log-probabilities.
//!
//! ```text
//! cargo run --release -p medgemma-engine --example tokens -- path/to/checkpoint/folder
//! ```

use medgemma_engine::{Checkpoint, Generation, Progress, Runner, RunnerConfig, Sequence, generate};
use medgemma_formats::Folder;
use medgemma_gemma::sampler::Sampling;
use medgemma_kernels::{CacheType, WeightFormat};
use std::ops::ControlFlow;
use std::path::PathBuf;

fn main() -> Result<(), medgemma_engine::Error> {
    let testdata = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/tiny-text");
    let folder = std::env::args().nth(1).map_or_else(|| PathBuf::from(testdata), PathBuf::from);
    let checkpoint = Checkpoint::from_folder(&Folder::open(&folder)?)?;
    let model = checkpoint.load_cpu(WeightFormat::Stored, None, |_| {})?;
    let config = RunnerConfig { context: 512, sequences: 1, chunk: 128, outputs: 1, cache: CacheType::F32 };
    let mut runner = Runner::new(model, config)?;
    let mut sequence = Sequence::default();
    runner.start(&mut sequence, vec![2, 105, 300, 301, 302], Vec::new())?;
    let options = Generation {
        max_tokens: 10,
        sampling: Sampling::GREEDY,
        stop_ids: Vec::new(),
        logprobs: Some(2),
        detect_loops: false,
        draft_max: 0,
    };
    let (finish, _) = generate(&mut runner, &mut sequence, &options, &mut |progress| {
        if let Progress::Token(token) = progress {
            println!("{:>6}  {:>8.4}  instead of {:?}", token.id, token.logprob.unwrap_or(0.0), token.top);
        }
        ControlFlow::Continue(())
    })?;
    println!("{finish:?}");
    Ok(())
}
