//! Where a model is computed: on the processor, on a card, or its last layers on a card and the others on the processor.
//!
//! Layers that lie on the processor cost a step as much as they would there, those on the card next to nothing, so as many
//! as there is room for go to the card. They are the last ones: with them go the output matrix, of which all is read for
//! each token, and the image encoder, which a processor takes seconds for. Between the devices goes one row for each token.

use crate::error::Error;
use crate::footprint::{USUAL_CONTEXT, encoder_weights, matrices, table_dtype, table_weights};
use crate::load::Checkpoint;
use crate::pipeline::{CARD_CHUNK, CHUNK, LoadOptions, MOST_THREADS, OUTPUTS, Quant};
use crate::runner::{RunnerConfig, Sizes};
use medgemma_formats::DType;
use medgemma_gemma::{Config, Weights};
use medgemma_kernels::{AnyBackend, BLOCK, Backend, CacheType, CpuBackend, CudaBackend};

/// Where a model is to be computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// As much as fits on an NVIDIA card where there is one, the rest on the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// The NVIDIA card of this number.
    Cuda(usize),
}

/// Where a model is computed, found out by [`Checkpoint::place`].
pub struct Placed {
    /// The device, or both.
    pub backend: AnyBackend,
    /// The decoder's layers.
    pub layers: usize,
    /// How many of them, the last ones, are on a card.
    pub gpu_layers: usize,
    /// Tokens that a conversation may have.
    pub context: usize,
    /// Prompt tokens in one step.
    pub chunk: usize,
    /// What was decided about the card and why, in a sentence; none where there was nothing to decide.
    pub note: Option<String>,
}

/// What goes to a card.
struct Share {
    /// The last layers, so many.
    layers: usize,
    /// Prompt tokens in one step.
    chunk: usize,
    /// This and why, in a sentence.
    note: String,
}

/// What a model takes of a card, in bytes.
struct Needs {
    /// Of each layer: its weights, and room for its keys and values.
    layers: Vec<u64>,
    /// The output matrix, the image encoder, and what is computed in between.
    besides: u64,
}

/// Room that is left on a card beside what is counted: kernels' and cuBLASLt's own, and what memory is rounded up to.
const SPARE: u64 = 1 << 30;

impl Needs {
    /// Of a model whose matrices a card holds in so many bytes: `weights(layer)`, and `table` for the output matrix.
    fn new(config: &Config, run: &RunnerConfig, weights: impl Fn(usize) -> u64, table: u64) -> Self {
        let sizes = run.sizes(config);
        let layer = |(index, &global): (usize, &bool)| {
            let blocks = if global { sizes.global_blocks } else { sizes.local_blocks };
            weights(index).saturating_add(cache_bytes(config, run.cache, blocks))
        };
        let layers = config.text.global.iter().enumerate().map(layer).collect();
        let widened = widened_bytes(config, run.cache, sizes.global_blocks.max(sizes.local_blocks));
        Self { layers, besides: (table + work(config, &sizes)).saturating_add(widened) }
    }

    /// How many of the last layers `free` bytes have room for.
    fn fit(&self, free: u64) -> usize {
        let room = free.saturating_sub(self.besides);
        let sums = self.layers.iter().rev().scan(0_u64, |sum, layer| {
            *sum = sum.saturating_add(*layer);
            Some(*sum)
        });
        sums.take_while(|sum| *sum <= room).count()
    }
}

/// Keys and values of a layer on a card: bf16, or 8 bits where that is asked for.
fn cache_bytes(config: &Config, cache: CacheType, blocks: usize) -> u64 {
    let element = if cache == CacheType::F8 { 1 } else { 2 };
    let token = (2 * element * config.text.kv_heads * config.text.head_dim) as u64;
    token.saturating_mul(BLOCK as u64).saturating_mul(blocks as u64)
}

/// Room for one layer's keys and values in bf16, which many rows read instead of 8 bits.
fn widened_bytes(config: &Config, cache: CacheType, blocks: usize) -> u64 {
    if cache == CacheType::F8 { cache_bytes(config, CacheType::BF16, blocks) } else { 0 }
}

/// Bytes of a card beside the decoder's weights, keys and values: a step's matrices, the image encoder, and [`SPARE`].
fn work(config: &Config, sizes: &Sizes) -> u64 {
    let text = &config.text;
    let heads = (2 * text.heads + 2 * text.kv_heads) * text.head_dim + text.heads * text.head_dim;
    let row = 3 * text.hidden + heads + 3 * text.ffn + 2 * text.head_dim;
    let step = 4 * (sizes.rows * row + sizes.outputs * (text.vocab + 2 * text.hidden)) as u64;
    let images = config.vision.as_ref().map_or(0, |vision| {
        let row = 3 * vision.patch * vision.patch + 8 * vision.hidden + vision.ffn + vision.hidden;
        2 * encoder_weights(vision, text.hidden) + 4 * (vision.patches() * row) as u64
    });
    step + images + SPARE
}

/// Bytes that a card holds so many weights in: quantized ones with wider scales than the file's (`cuda/weight.rs`).
fn card_bytes(weights: u64, dtype: DType) -> u64 {
    let eighths_of_bits = match dtype {
        DType::F32 | DType::F16 | DType::BF16 | DType::Nf4 => 128,
        DType::F8 => 64,
        DType::Q4_0 => 36,
        DType::Q4_1 | DType::Q4K => 48,
        DType::Q8_0 | DType::Q5_0 | DType::Iq4Nl => 68,
        DType::Q3K | DType::Q6K | DType::Iq4Xs | DType::Q5_1 | DType::Q5K => 80,
        DType::Q2K => 96,
    };
    weights * eighths_of_bits / 64
}

/// How many of a model's last layers a card with so many free bytes takes, with its matrices as `dtype` and room for
/// `context` tokens.
pub fn gpu_layers(config: &Config, dtype: DType, context: usize, free: u64) -> usize {
    let text = &config.text;
    let weights: u64 = matrices(text).into_iter().map(|(_, weights)| card_bytes(weights, dtype)).sum();
    let tables = card_bytes(table_weights(text), table_dtype(dtype));
    let needs = |chunk| Needs::new(config, &run_config(context, 1, chunk, None), |_| weights, tables);
    most(text.global.len(), |chunk| needs(chunk).fit(free)).0
}

/// The layers that fit by the prompt tokens in a step, and these tokens: a model that is whole on the card reads many at once
/// if that fits.
fn most(all: usize, fit: impl Fn(usize) -> usize) -> (usize, usize) {
    if fit(CARD_CHUNK) == all { (all, CARD_CHUNK) } else { (fit(CHUNK), CHUNK) }
}

fn run_config(context: usize, sequences: usize, chunk: usize, cache: Option<CacheType>) -> RunnerConfig {
    let chunk = chunk.clamp(1, context.max(1));
    RunnerConfig { context, sequences, chunk, outputs: OUTPUTS, cache: cache.unwrap_or(CacheType::BF16) }
}

/// Tokens whose keys and values fit a card beside the weights that are there; as many as `run` says where there is none.
pub(crate) fn fitting(backend: &AnyBackend, config: &Config, run: &RunnerConfig) -> Result<usize, Error> {
    let Some(card) = backend.back() else { return Ok(run.context) };
    let sizes = run.sizes(config);
    let local = config.text.local_layers() as u64 * cache_bytes(config, run.cache, sizes.local_blocks);
    let local = local.saturating_add(widened_bytes(config, run.cache, sizes.local_blocks));
    let free = (card.memory()?.0 as u64).saturating_sub(work(config, &sizes).saturating_add(local));
    let block = block_bytes(config, run.cache);
    Ok((free / block.max(1) * BLOCK as u64).clamp(1024, u64::MAX).min(run.context as u64) as usize)
}

/// What a block more of context takes.
fn block_bytes(config: &Config, cache: CacheType) -> u64 {
    config.text.global_layers().max(1) as u64 * cache_bytes(config, cache, 1) + widened_bytes(config, cache, 1)
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

impl Checkpoint {
    /// Finds out where the model is computed.
    ///
    /// # Errors
    /// When an option is out of range, the card that was asked for isn't there, or the first layer's tensors are broken.
    pub fn place(&self, options: &LoadOptions) -> Result<Placed, Error> {
        let (longest, layers) = (self.config.text.max_position, self.config.text.global.len());
        let context = options.context.unwrap_or(longest);
        if context == 0 || context > longest {
            return Err(Error::Parameter(format!("a context of {context} tokens is out of range (1 to {longest})")));
        }
        if options.threads.is_some_and(|threads| threads == 0 || threads > MOST_THREADS) {
            return Err(Error::Parameter(format!("the number of threads is out of range (1 to {MOST_THREADS})")));
        }
        let (card, share) = match self.card(options)? {
            Some((card, share)) => (Some(card).filter(|_| share.layers > 0), Some(share)),
            None => (None, None),
        };
        let gpu_layers = share.as_ref().map_or(0, |share| share.layers);
        let cpu = || CpuBackend::new(options.threads).keeping(options.packed.clone());
        let backend = match card {
            None => AnyBackend::only_front(cpu()),
            Some(card) if gpu_layers == layers => AnyBackend::only_back(card),
            Some(card) => AnyBackend::new(cpu(), card, layers - gpu_layers),
        };
        let split = backend.boundary().is_some();
        // A card's memory is taken at once: a model that has it for itself takes what there is.
        let context = if split { options.context.unwrap_or(longest.min(USUAL_CONTEXT)) } else { context };
        let chunk = options.chunk.or(share.as_ref().map(|share| share.chunk)).unwrap_or(CHUNK).clamp(1, context);
        Ok(Placed { backend, layers, gpu_layers, context, chunk, note: share.map(|share| share.note) })
    }

    /// The card to use and what goes there; none where no card is to be used.
    fn card(&self, options: &LoadOptions) -> Result<Option<(CudaBackend, Share)>, Error> {
        let layers = self.config.text.global.len();
        let chosen = options.gpu_layers.map(|number| number.min(layers));
        let card = match (options.device, chosen) {
            (Device::Cpu, Some(1..)) => {
                return Err(Error::Parameter("layers on the GPU need --device auto or cuda, not cpu".into()));
            }
            (Device::Cpu, _) | (Device::Auto, Some(0)) => None,
            (Device::Auto, Some(_)) => Some(CudaBackend::new(0)?),
            (Device::Auto, None) => CudaBackend::new(0).ok(),
            (Device::Cuda(index), _) => Some(CudaBackend::new(index)?),
        };
        let Some(card) = card else { return Ok(None) };
        let share = match (options.device, chosen) {
            (Device::Auto, None) => self.most_layers(options, card.memory()?.0 as u64)?,
            (_, chosen) => {
                let number = chosen.unwrap_or(layers);
                let chunk = if number == layers { CARD_CHUNK } else { CHUNK };
                Share { layers: number, chunk, note: said(number, layers, "as asked") }
            }
        };
        Ok(Some((card, share)))
    }

    /// How many layers go to a card with so much free memory, and why.
    fn most_layers(&self, options: &LoadOptions, free: u64) -> Result<Share, Error> {
        let text = &self.config.text;
        let layers = text.global.len();
        let quant = options.quant.map(Quant::dtype);
        let stored = self.weights.stored_as()?.unwrap_or(DType::BF16);
        // A GGUF's matrices may each be of another type; elsewhere they are alike.
        let held = |name: &str, otherwise: DType| match (&self.weights, quant) {
            (Weights::Gguf { .. }, None) => Ok::<_, Error>(self.weights.stored(name)?.unwrap_or(otherwise)),
            _ => Ok(quant.unwrap_or(stored)),
        };
        let mut weights = vec![0; layers];
        for (index, bytes) in weights.iter_mut().enumerate() {
            for (part, count) in matrices(text) {
                *bytes += card_bytes(count, held(&format!("blk.{index}.{part}.weight"), stored)?);
            }
        }
        let output = if text.tied { "token_embd.weight" } else { "output.weight" };
        let dtype = match quant {
            Some(quant) => table_dtype(quant),
            None => held(output, table_dtype(stored))?,
        };
        let tables = card_bytes(table_weights(text), dtype);
        let context = options.context.unwrap_or(USUAL_CONTEXT).min(text.max_position);
        let needs = |chunk: usize| {
            let chunk = options.chunk.unwrap_or(chunk);
            let run = run_config(context, options.conversations.max(1), chunk, options.cache);
            Needs::new(&self.config, &run, |layer| weights[layer], tables)
        };
        let (number, chunk) = most(layers, |chunk| needs(chunk).fit(free));
        let why = format!(
            "of its {} free, {} are for the output matrix, images and what is computed in between",
            gigabytes(free),
            gigabytes(needs(chunk).besides)
        );
        Ok(Share { layers: number, chunk, note: said(number, layers, &why) })
    }
}

/// Says in a sentence where layers go.
fn said(number: usize, layers: usize, why: &str) -> String {
    match number {
        0 => format!("Nothing goes to the GPU, all to the processor: {why}."),
        _ if number == layers => format!("All {layers} layers go to the GPU: {why}."),
        _ => format!("{number} of {layers} layers go to the GPU, the others to the processor: {why}."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::footprint;

    fn fits(variant: &str, dtype: DType, gigabytes: f64) -> usize {
        gpu_layers(&Config::of_variant(variant).unwrap(), dtype, 8192, (gigabytes * 1e9) as u64)
    }

    #[test]
    fn as_many_layers_as_there_is_room_for_go_to_the_card() {
        // What an 80 GB card, a 24 GB one and small ones have.
        assert_eq!(fits("27b-it", DType::BF16, 84.0), 62);
        assert_eq!(fits("27b-it", DType::Q4_0, 25.0), 62);
        assert_eq!(fits("4b-it", DType::Q4_0, 11.5), 34);
        let on_16 = fits("27b-it", DType::Q4_0, 16.5);
        let on_8 = fits("27b-it", DType::Q4_0, 8.0);
        assert!(35 < on_16 && on_16 < 55 && 8 < on_8 && on_8 < 20, "{on_16} {on_8}");
        assert_eq!(fits("27b-it", DType::Q4_0, 3.0), 0);
        assert_eq!(fits("4b-it", DType::BF16, 0.0), 0);
    }

    #[test]
    fn more_memory_never_takes_fewer_layers_and_what_is_placed_fits() {
        let config = Config::of_variant("27b-it").unwrap();
        let needs = |chunk| {
            let table = card_bytes((config.text.vocab * config.text.hidden) as u64, DType::Q8_0);
            let weights: u64 = matrices(&config.text).into_iter().map(|(_, n)| card_bytes(n, DType::Q4_0)).sum();
            Needs::new(&config, &run_config(8192, 1, chunk, None), |_| weights, table)
        };
        let mut before = 0;
        for free in (0..40_000).map(|megabytes| megabytes * 1_000_000).step_by(97) {
            let number = gpu_layers(&config, DType::Q4_0, 8192, free);
            assert!(number >= before, "{free}");
            let needs = needs(CHUNK);
            let taken: u64 = needs.layers.iter().rev().take(number).sum();
            assert!(number == 0 || taken + needs.besides <= free, "{free}");
            before = number;
        }
        assert_eq!(before, 62);
    }

    /// Half the bytes a token, but for what many rows read of one layer: the more layers there are, the less that is.
    #[test]
    fn more_tokens_fit_in_8_bits() {
        for (variant, least) in [("4b-it", 1.4), ("27b-it", 1.65)] {
            let config = Config::of_variant(variant).unwrap();
            let [wide, narrow] = [CacheType::BF16, CacheType::F8].map(|cache| block_bytes(&config, cache) as f64);
            assert!(wide / narrow > least && wide / narrow < 2.0, "{variant}: {wide} {narrow}");
        }
        // Where the context is what takes the room, more layers fit.
        let checkpoint = Checkpoint::synthetic("27b-it", DType::Q4_0).unwrap();
        let most = |cache| {
            let (quant, context) = (Some(Quant::Q4), Some(131_072));
            let options = LoadOptions { quant, cache, context, ..LoadOptions::default() };
            checkpoint.most_layers(&options, 24 << 30).unwrap().layers
        };
        assert!(most(Some(CacheType::F8)) > most(None) && most(None) == most(Some(CacheType::BF16)));
    }

    /// The decoder's weights on a card in Q4_0 and bf16 are as large as elsewhere.
    #[test]
    fn a_card_holds_blocks_as_files_do() {
        for dtype in [DType::BF16, DType::Q4_0, DType::Q8_0] {
            assert_eq!(card_bytes(1 << 20, dtype), footprint::bytes_as(1 << 20, dtype));
        }
        assert!(card_bytes(1 << 20, DType::Q4K) > footprint::bytes_as(1 << 20, DType::Q4K));
    }

    #[test]
    fn what_cannot_be_is_said() {
        let checkpoint = Checkpoint::synthetic("270m", DType::BF16).unwrap();
        let place = |options: LoadOptions| checkpoint.place(&LoadOptions { threads: Some(1), ..options });
        let cpu = place(LoadOptions { device: Device::Cpu, ..LoadOptions::default() }).unwrap();
        assert_eq!((cpu.gpu_layers, cpu.note, cpu.chunk), (0, None, CHUNK));
        let none = place(LoadOptions { gpu_layers: Some(0), ..LoadOptions::default() }).unwrap();
        assert!(none.backend.back().is_none());
        let both = LoadOptions { device: Device::Cpu, gpu_layers: Some(3), ..LoadOptions::default() };
        assert!(place(both).err().unwrap().to_string().contains("--device"));
        let long = LoadOptions { context: Some(usize::MAX), ..LoadOptions::default() };
        assert!(place(long).err().unwrap().to_string().contains("context"));
        let most = |free| checkpoint.most_layers(&LoadOptions::default(), free).unwrap();
        let Share { layers, note, .. } = most(1 << 30);
        assert!(layers == 0 && note.contains("processor") && note.contains("1.1 GB free"), "{note}");
        let Share { layers, note, chunk } = most(80 << 30);
        assert!(layers == 18 && chunk == CARD_CHUNK && note.starts_with("All 18 layers"), "{note}");
    }
}
