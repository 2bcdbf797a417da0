//! Does this machine compute what it should? The model inside the program answers twice, each time with its work cut
//! up differently: the answers must be the same to the last bit.

use crate::commands::demo::phantom;
use anyhow::{Result, bail};
use medgemma_engine::{Device, LoadOptions, Options, Pipeline, Request};
use medgemma_gemma::locate::DEMO;
use medgemma_gemma::text::Message;

/// Tokens of the answer.
const TOKENS: usize = 24;

/// Runs it; returns what computed it, such as `cpu (AVX-512 VNNI, 2 threads)`.
///
/// # Errors
/// When the answers differ, or there is none.
pub(super) fn run() -> Result<String> {
    let (device, first) = answer(None, None)?;
    let (_, second) = answer(Some(1), Some(3))?;
    if first.is_empty() || first.iter().any(|(_, logprob)| !logprob.is_finite()) {
        bail!("the probabilities of the answer are no numbers: the processor or its memory may be faulty");
    }
    if first != second {
        bail!("two ways to compute the same answer differ: the processor or its memory may be faulty");
    }
    Ok(device)
}

/// Token ids and log-probabilities of a greedy answer about a picture.
fn answer(threads: Option<usize>, chunk: Option<usize>) -> Result<(String, Vec<(u32, f32)>)> {
    let options = LoadOptions { device: Device::Cpu, threads, chunk, context: Some(512), ..LoadOptions::default() };
    let mut pipeline = Pipeline::load_with(DEMO, &options, |_| {})?;
    let request = Request::new([Message::user("What is a pleural effusion?")]).image(phantom()?).greedy();
    let options = Options { max_tokens: Some(TOKENS), logprobs: Some(0), ignore_eos: true, ..request.options.clone() };
    let reply = pipeline.chat(request.options(options))?;
    Ok((pipeline.device(), reply.tokens.iter().map(|token| (token.id, token.logprob)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_passes() {
        assert!(run().unwrap().contains("thread"));
    }
}
