//! From what was typed to a model that can be asked.

use crate::args::{Device, Load, Quant};
use crate::footprint::{self, USUAL_CONTEXT};
use crate::machine;
use crate::terminal::bytes;
use anyhow::{Result, bail};
use medgemma_engine::Checkpoint;
use medgemma_formats::{DType, Folder};
use medgemma_gemma::locate::{Located, locate};
use medgemma_kernels::WeightFormat;
use std::path::Path;

/// How weights are held: as the file has them, or smaller.
pub(crate) fn weight_format(quant: Option<Quant>) -> WeightFormat {
    match quant {
        None => WeightFormat::Stored,
        Some(Quant::Bf16) => WeightFormat::BF16,
        Some(Quant::Q8) => WeightFormat::Q8,
        Some(Quant::Q4) => WeightFormat::Q4,
        Some(Quant::Nf4) => WeightFormat::Nf4,
    }
}

/// Refuses a device that isn't there.
///
/// # Errors
/// For a GPU: this version has none.
pub(crate) fn check_device(device: Device) -> Result<()> {
    match device {
        Device::Auto | Device::Cpu => Ok(()),
        Device::Cuda => bail!("this version computes on the processor only: leave --device out"),
    }
}

/// Opens a model's files without loading its weights.
///
/// # Errors
/// When it isn't here, or its files are malformed.
pub(crate) fn checkpoint(model: &str, mmproj: Option<&Path>) -> Result<Checkpoint> {
    Ok(match locate(model)? {
        Located::Folder(folder) => Checkpoint::from_folder(&Folder::open(&folder)?)?,
        Located::Gguf { model, mmproj: beside } => Checkpoint::open_gguf(&model, mmproj.or(beside.as_deref()))?,
        Located::Demo => bail!("`demo` is too small to measure: give a model, or --synthetic 4b-it"),
    })
}

/// What a model is and whether there is room for it, in a sentence.
///
/// # Errors
/// When its weights alone are more than this machine's memory: it would be killed, or run for hours.
pub(crate) fn announcement(name: &str, checkpoint: &Checkpoint, load: &Load) -> Result<String> {
    let stored = checkpoint.weights.stored_as()?.unwrap_or(DType::BF16);
    let dtype = load.quant.map_or(stored, Quant::dtype);
    let context = load.context.unwrap_or(USUAL_CONTEXT);
    let needed = footprint::memory(&checkpoint.config, dtype, context);
    let memory = machine::memory()?;
    let smaller = [Quant::Q8, Quant::Q4].into_iter().find(|quant| {
        let smaller = footprint::memory(&checkpoint.config, quant.dtype(), context);
        smaller < needed && smaller < memory.available
    });
    let remedy = smaller.map_or_else(String::new, |quant| format!(": use --quant {}", quant.name()));
    let weights = footprint::weights(&checkpoint.config, dtype);
    if weights > memory.total {
        bail!("{name} has {} of weights, this machine {} of memory{remedy}", bytes(weights), bytes(memory.total));
    }
    let about = format!("{name} ({dtype:?}) takes about {}; {} are free", bytes(needed), bytes(memory.available));
    Ok(if needed > memory.available { format!("{about}, so that it may be very slow{remedy}.") } else { about + "." })
}
