//! The header of one safetensors file: eight bytes of length, then JSON, then the elements.

use crate::{Bytes, Error};
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;

/// The format's own limit: a longer header is no safetensors file.
const LONGEST: u64 = 100_000_000;

/// What the header says of a tensor, checked against the file.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The format's name of the element type.
    pub(super) dtype: String,
    /// Outermost first.
    pub(super) shape: Vec<usize>,
    /// Its bytes in the file.
    pub(super) range: Range<usize>,
}

#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The header's JSON object. Read by hand, since a derived map would let a second tensor of one name win silently.
struct Raw(Vec<(String, RawEntry)>);

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Raw;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<Option<HashMap<String, String>>>()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(Raw(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// Bits of an element, for the types the format defines.
fn bits(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => 8,
        "I16" | "U16" | "F16" | "BF16" => 16,
        "I32" | "U32" | "F32" => 32,
        "I64" | "U64" | "F64" | "C64" => 64,
        _ => return None,
    })
}

/// Reads the header. Tensors must cover the rest of the file without gap or overlap, as the format demands: so a
/// file whose download was cut short is found here.
pub(super) fn read(path: &Path, file: &Bytes) -> Result<BTreeMap<String, Entry>, Error> {
    let header_error = |problem: String| Error::malformed(path, "header", problem);
    let length = file.first_chunk().map(|raw| u64::from_le_bytes(*raw));
    let length = length.ok_or_else(|| header_error(format!("a file of {} bytes has none", file.len())))?;
    if length > LONGEST {
        return Err(header_error(format!("claims {length} bytes, more than the format allows ({LONGEST})")));
    }
    let start = 8 + usize::try_from(length).map_err(|_| header_error(format!("claims {length} bytes")))?;
    let json = file
        .get(8..start)
        .ok_or_else(|| header_error(format!("claims {length} bytes, the file has {} in all", file.len())))?;
    let Raw(raw) = serde_json::from_slice(json).map_err(|e| header_error(format!("not the JSON expected: {e}")))?;

    let mut entries = BTreeMap::new();
    for (name, raw) in raw {
        let entry = entry(&raw, start, file.len()).map_err(|problem| Error::malformed(path, &name, problem))?;
        if entries.contains_key(&name) {
            return Err(Error::malformed(path, name, "there twice"));
        }
        entries.insert(name, entry);
    }

    let mut order: Vec<(&String, &Range<usize>)> = entries.iter().map(|(name, entry)| (name, &entry.range)).collect();
    order.sort_by_key(|(_, range)| (range.start, range.end));
    let mut next = start;
    for (name, range) in order {
        if range.start != next {
            let what = if range.start < next { "overlaps another tensor" } else { "leaves a gap before it" };
            return Err(Error::malformed(path, name, format!("data_offsets: {what}")));
        }
        next = range.end;
    }
    if next != file.len() {
        return Err(header_error(format!("the tensors end at byte {next}, the file at {}", file.len())));
    }
    Ok(entries)
}

/// Checks one entry against the size of the file, whose elements begin at `start`.
fn entry(raw: &RawEntry, start: usize, file_len: usize) -> Result<Entry, String> {
    let (from, to) = raw.data_offsets;
    let size = to.checked_sub(from).ok_or_else(|| format!("data_offsets [{from}, {to}] run backwards"))?;
    let data_len = (file_len - start) as u64;
    if to > data_len {
        return Err(format!(
            "data_offsets [{from}, {to}] reach past the file's {data_len} bytes of data: was it cut short? Download it again"
        ));
    }
    let bits = bits(&raw.dtype).ok_or_else(|| format!("unknown dtype {:?}", raw.dtype))?;
    let elements = raw.shape.iter().try_fold(1u64, |n, &dim| n.checked_mul(dim));
    let expected = elements.and_then(|n| n.checked_mul(bits)).ok_or("the shape overflows")?;
    if size.checked_mul(8) != Some(expected) {
        return Err(format!("shape {:?} in {} does not take the {size} bytes of data_offsets", raw.shape, raw.dtype));
    }
    let shape = raw.shape.iter().map(|&dim| usize::try_from(dim)).collect::<Result<_, _>>();
    let shape = shape.map_err(|_| "the shape overflows")?;
    // Both offsets are at most `data_len`, which came from a usize.
    let range = start + from as usize..start + to as usize;
    Ok(Entry { dtype: raw.dtype.clone(), shape, range })
}
