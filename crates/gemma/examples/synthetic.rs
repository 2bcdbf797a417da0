//! Writes a model of a published shape with random weights as the GGUF files that both `medgemma` and llama.cpp load:
//! what they are compared with, since speed doesn't depend on the values. The words mean nothing.
//!
//! ```sh
//! cargo run --release -p medgemma-gemma --example synthetic -- 4b-it q4_0 testdata/fetched/gemma3-tokenizer OUT.gguf
//! ```
//!
//! Arguments: a variant (4b-it, 27b-text-it, …), a type (as `medgemma quantize --type`), a folder with `tokenizer.json`,
//! the file to write. A variant that sees also gets `mmproj-OUT.gguf`, its image encoder in F16.

use medgemma_formats::{DType, Folder};
use medgemma_gemma::convert::{Options, Plan, Source};

use medgemma_gemma::{Config, Synthetic, Weights};
use std::error::Error;
use std::ops::ControlFlow;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [variant, target, folder, out] = args.as_slice() else {
        return Err("usage: synthetic VARIANT TYPE TOKENIZER_FOLDER OUT.gguf".into());
    };
    let config = Config::of_variant(variant).ok_or_else(|| format!("no variant is called {variant}"))?;
    let weights = Weights::Synthetic(Synthetic::new(variant, DType::F16, 0));
    let folder = Folder::open(Path::new(folder))?;
    let source = Source { name: variant, config: &config, weights: &weights, folder: Some(&folder) };
    let options = Options { target: target.parse()?, overwrite: true, threads: None };
    let report = Plan::new(source, Path::new(out), options)?.run(|_| ControlFlow::Continue(()))?;
    for file in [Some(report.model), report.mmproj].into_iter().flatten() {
        println!("{}  {} bytes, {:.2} bits a weight", file.path.display(), file.bytes, file.bits_per_weight());
    }
    Ok(())
}
