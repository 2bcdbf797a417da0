//! From what a person calls a model to files on this machine. Nothing here goes to the network.

mod cache;

pub use cache::{Cache, HubId};

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The name of the model inside the program.
pub const DEMO: &str = "demo";

/// Where a model's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Located {
    /// A folder in Hugging Face layout.
    Folder(PathBuf),
    /// A GGUF file, and the file of its image encoder when one lies beside it.
    Gguf {
        /// The language model.
        model: PathBuf,
        /// The image encoder (`mmproj`). Without it the model can't see.
        mmproj: Option<PathBuf>,
    },
    /// The model inside the program.
    Demo,
}

/// Why a model isn't found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A hub id that isn't one.
    #[error("{id:?} is neither a file or folder here nor a hub id: {problem}")]
    BadId {
        /// What was given.
        id: String,
        /// What an id looks like.
        problem: &'static str,
    },
    /// A path with nothing there.
    #[error("{}: no such file or folder", .0.display())]
    NoSuchPath(PathBuf),
    /// A hub id whose files aren't on this machine.
    #[error("{0} is not on this machine: get it with `medgemma pull {0}`")]
    NotPulled(HubId),
    /// A pull that was cut short.
    #[error("{id} is here in part only ({missing} is missing): finish it with `medgemma pull {id}`")]
    Incomplete {
        /// The model.
        id: HubId,
        /// The first file that is missing.
        missing: String,
    },
    /// A place that holds no model.
    #[error("{}: {problem}", path.display())]
    NoModel {
        /// The file or folder.
        path: PathBuf,
        /// What is missing, and the remedy.
        problem: String,
    },
    /// Several models where one is needed.
    #[error("{}: several models are here ({}): name one of them", path.display(), names.join(", "))]
    Ambiguous {
        /// The folder.
        path: PathBuf,
        /// Their names.
        names: Vec<String>,
    },
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// Finds MODEL: `demo`, a folder, a `.gguf` file, or a hub id (`OWNER/NAME`, with `:QUANT` for one of several GGUFs)
/// whose files are in the hub's cache.
///
/// A path that exists wins over a hub id of the same spelling.
///
/// # Errors
/// When it isn't there, is there in part only, or isn't a model; the message says what to do.
pub fn locate(model: &str) -> Result<Located, Error> {
    locate_in(model, &Cache::from_env())
}

/// As [`locate`], with the hub's cache in a given place.
///
/// # Errors
/// As [`locate`].
pub fn locate_in(model: &str, cache: &Cache) -> Result<Located, Error> {
    if model == DEMO {
        return Ok(Located::Demo);
    }
    let path = Path::new(model);
    if path.is_dir() {
        return folder(path, None, 1);
    }
    if path.exists() {
        return gguf(path);
    }
    if looks_like_path(model) {
        return Err(Error::NoSuchPath(path.to_owned()));
    }
    let id = HubId::parse(model)?;
    let Some(snapshot) = cache.snapshot(&id) else { return Err(Error::NotPulled(id)) };
    match folder(&snapshot, id.quant(), REPOSITORY_DEPTH) {
        Err(Error::NoModel { .. }) => Err(Error::NotPulled(id)),
        Ok(Located::Folder(folder)) => match missing_file(&folder)? {
            Some(missing) => Err(Error::Incomplete { id, missing }),
            None => Ok(Located::Folder(folder)),
        },
        other => other,
    }
}

/// How far below a repository's top its GGUFs are looked for.
const REPOSITORY_DEPTH: usize = 8;

/// Whether this can only have been meant as a path.
fn looks_like_path(model: &str) -> bool {
    let file = model.to_lowercase().ends_with(".gguf") && !model.contains(':');
    file || Path::new(model).is_absolute() || model.starts_with(['.', '~']) || model.ends_with(['/', '\\'])
}

/// The model in a folder: its safetensors unless a quantization is asked for, else its GGUF, which may lie up to `depth`
/// folders below.
fn folder(path: &Path, quant: Option<&str>, depth: usize) -> Result<Located, Error> {
    if quant.is_none() && path.join("config.json").is_file() {
        return Ok(Located::Folder(path.to_owned()));
    }
    let mut ggufs = ggufs(path)?;
    if quant.is_some() || ggufs.iter().all(|name| is_mmproj(name)) {
        // Large repositories keep each quantization in a folder of its own.
        ggufs_below(path, "", depth, &mut ggufs);
    }
    let models: Vec<&String> = ggufs.iter().filter(|name| !is_mmproj(name) && quant_matches(name, quant)).collect();
    match models.as_slice() {
        [one] => {
            let mmproj = best_mmproj(one, &ggufs).map(|name| path.join(name));
            Ok(Located::Gguf { model: path.join(one), mmproj })
        }
        [] => Err(Error::NoModel {
            path: path.to_owned(),
            problem: match quant {
                Some(quant) => format!("no GGUF of {quant} is here"),
                None => {
                    "no model is here: a folder holds config.json, a tokenizer and *.safetensors, or a *.gguf".into()
                }
            },
        }),
        several => {
            Err(Error::Ambiguous { path: path.to_owned(), names: several.iter().map(|name| (*name).clone()).collect() })
        }
    }
}

/// A GGUF file and its image encoder.
fn gguf(path: &Path) -> Result<Located, Error> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if !name.to_lowercase().ends_with(".gguf") {
        let problem = "not a model: give a folder, or a file that ends in .gguf".into();
        return Err(Error::NoModel { path: path.to_owned(), problem });
    }
    if is_mmproj(&name) {
        let problem = "this is an image encoder: give the language model's .gguf (it is found beside it)".into();
        return Err(Error::NoModel { path: path.to_owned(), problem });
    }
    let beside = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let mmproj = best_mmproj(&name, &ggufs(beside)?).map(|name| beside.join(name));
    Ok(Located::Gguf { model: path.to_owned(), mmproj })
}

/// Whether a file name is that of an image encoder, by llama.cpp's custom.
pub fn is_mmproj(name: &str) -> bool {
    let name = name.to_lowercase();
    name.contains("mmproj") && name.ends_with(".gguf")
}

/// Whether the GGUF `name` is the one that `quant` asks for: its own name, or a part of it such as `Q4_K_M`.
pub fn quant_matches(name: &str, quant: Option<&str>) -> bool {
    let Some(quant) = quant else { return true };
    let (name, quant) = (name.to_lowercase(), quant.to_lowercase());
    let (stem, quant) = (name.trim_end_matches(".gguf"), quant.trim_end_matches(".gguf"));
    // `Q4_K` must not match `Q4_K_M`, nor `Q4_0` a file of `UD-IQ4_0X`: it ends where a word ends.
    stem == quant
        || stem.match_indices(quant).any(|(at, _)| {
            let edge = |c: Option<char>| c.is_none_or(|c| !c.is_ascii_alphanumeric() && c != '_');
            edge(stem[..at].chars().next_back()) && edge(stem[at + quant.len()..].chars().next())
        })
}

/// The image encoder that belongs to the GGUF `model`: the one named after it, else the one whose name is most like it,
/// then the most precise. One that is named after another model here is that model's.
pub fn best_mmproj<'a>(model: &str, names: &'a BTreeSet<String>) -> Option<&'a String> {
    let own = |model: &str| format!("mmproj-{}", file_name(model).to_lowercase());
    let others: BTreeSet<String> =
        names.iter().filter(|name| !is_mmproj(name) && *name != model).map(|name| own(name)).collect();
    let named_after = |name: &str| own(model) == file_name(name).to_lowercase();
    let bare =
        |name: &str| file_name(name).to_lowercase().replace("mmproj", "").trim_matches(['-', '_', '.']).to_owned();
    let common = |name: &str| bare(model).bytes().zip(bare(name).bytes()).take_while(|(a, b)| a == b).count();
    let precision = |name: &str| {
        let name = name.to_lowercase();
        let worse = ["bf16", "f32", "f16", "q8_0"].iter().position(|kind| name.contains(kind)).unwrap_or(4);
        4 - worse
    };
    let free = |name: &&String| named_after(name) || !others.contains(&file_name(name).to_lowercase());
    names
        .iter()
        .filter(|name| is_mmproj(name))
        .filter(free)
        .max_by_key(|name| (named_after(name), common(name), precision(name)))
}

fn file_name(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// Names of the GGUFs in a folder.
fn ggufs(path: &Path) -> Result<BTreeSet<String>, Error> {
    let entries = std::fs::read_dir(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    let names = entries.flatten().filter(|entry| entry.path().is_file());
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter(|name| name.to_lowercase().ends_with(".gguf")).collect())
}

/// Adds the GGUFs in the folders of a folder, up to `depth` below it, each with its folders' names before it. What can't
/// be read has none, and links to folders aren't followed: they may lead in a circle.
fn ggufs_below(path: &Path, above: &str, depth: usize, names: &mut BTreeSet<String>) {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    for folder in entries.filter(|entry| depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        let Ok(name) = folder.file_name().into_string() else { continue };
        let above = format!("{above}{name}/");
        names.extend(ggufs(&folder.path()).into_iter().flatten().map(|name| format!("{above}{name}")));
        ggufs_below(&folder.path(), &above, depth - 1, names);
    }
}

/// Every GGUF of a snapshot, by its path in the repository (`/` between its parts).
pub fn repository_ggufs(snapshot: &Path) -> BTreeSet<String> {
    let mut names = ggufs(snapshot).unwrap_or_default();
    ggufs_below(snapshot, "", REPOSITORY_DEPTH, &mut names);
    names
}

/// The first file that a snapshot in Hugging Face layout lacks.
///
/// # Errors
/// When the shard index can't be read or isn't one.
pub fn missing_file(folder: &Path) -> Result<Option<String>, Error> {
    let absent = |name: &str| !folder.join(name).is_file();
    if absent("config.json") {
        return Ok(Some("config.json".into()));
    }
    if absent("tokenizer.json") {
        return Ok(Some("tokenizer.json".into()));
    }
    let index = folder.join("model.safetensors.index.json");
    if !index.is_file() {
        return Ok(absent("model.safetensors").then(|| "model.safetensors".into()));
    }
    let text = std::fs::read(&index).map_err(|source| Error::Io { path: index.clone(), source })?;
    let shards = shards(&text).map_err(|problem| Error::NoModel { path: index, problem })?;
    Ok(shards.into_iter().find(|shard| absent(shard)))
}

/// The shards that a `model.safetensors.index.json` names.
///
/// # Errors
/// What is wrong with it: not JSON, no `weight_map`, or a shard that lies outside the folder.
pub fn shards(index: &[u8]) -> Result<BTreeSet<String>, String> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: std::collections::HashMap<String, String>,
    }
    let index: Index = serde_json::from_slice(index).map_err(|error| format!("not a shard index: {error}"))?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    match shards.iter().find(|shard| shard.contains(['/', '\\']) || shard.starts_with('.')) {
        Some(shard) => Err(format!("weight_map: {shard:?} is not a file beside it")),
        None => Ok(shards),
    }
}

#[cfg(test)]
#[path = "locate/tests.rs"]
mod tests;
