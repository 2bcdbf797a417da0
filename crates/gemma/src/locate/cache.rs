//! The hub's cache on disk, laid out as Python's `huggingface_hub` lays it, so that both find each other's files.
//!
//! ```text
//! ROOT/models--OWNER--NAME/blobs/ETAG            the bytes, one file each
//!                          refs/main             text: the commit that `main` was when it was pulled
//!                          snapshots/COMMIT/…    the repository's files, each a link into blobs/
//! ```

use super::Error;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// The longest part of a hub id, as the hub itself limits it.
const MAX_PART: usize = 96;

/// A model on the hub: `OWNER/NAME`, with `@REVISION` or `:QUANT` after it when a revision or one GGUF is meant.
///
/// ```
/// let id = medgemma_gemma::locate::HubId::parse("google/medgemma-4b-it").unwrap();
/// assert_eq!((id.owner(), id.name(), id.quant()), ("google", "medgemma-4b-it", None));
/// let id = medgemma_gemma::locate::HubId::parse("someone/medgemma-4b-it-GGUF:Q4_K_M").unwrap();
/// assert_eq!(id.quant(), Some("Q4_K_M"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubId {
    owner: String,
    name: String,
    revision: Option<String>,
    quant: Option<String>,
}

impl HubId {
    /// Reads an id.
    ///
    /// # Errors
    /// [`Error::BadId`] when it is not of that form: what an id names becomes a path, so nothing else gets through.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let bad = |problem| Error::BadId { id: text.to_owned(), problem };
        let (rest, quant) = match text.split_once(':') {
            Some((rest, quant)) if part_is_safe(quant) => (rest, Some(quant.to_owned())),
            Some(_) => return Err(bad("after `:` stands a quantization, such as Q4_K_M, or a GGUF's name")),
            None => (text, None),
        };
        let (repo, revision) = match rest.split_once('@') {
            Some((repo, revision)) if revision_is_safe(revision) => (repo, Some(revision.to_owned())),
            Some(_) => return Err(bad("after `@` stands a branch, tag or commit")),
            None => (rest, None),
        };
        let (owner, name) = repo.split_once('/').ok_or(bad("a hub id is OWNER/NAME"))?;
        if !part_is_safe(owner) || !part_is_safe(name) {
            return Err(bad("owner and name are letters, digits, `-`, `_` and `.`"));
        }
        Ok(Self { owner: owner.to_owned(), name: name.to_owned(), revision, quant })
    }

    /// The same model at another revision.
    ///
    /// # Errors
    /// [`Error::BadId`] when `revision` can't be a branch, tag or commit.
    pub fn at(mut self, revision: &str) -> Result<Self, Error> {
        if !revision_is_safe(revision) {
            return Err(Error::BadId {
                id: format!("{self}@{revision}"),
                problem: "a revision is a branch, tag or commit",
            });
        }
        self.revision = Some(revision.to_owned());
        Ok(self)
    }

    /// The account that publishes it.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// The repository's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `OWNER/NAME`.
    pub fn repo(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }

    /// Branch, tag or commit; `main` unless another was named.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    /// The quantization after `:`, which picks one of a repository's GGUFs.
    pub fn quant(&self) -> Option<&str> {
        self.quant.as_deref()
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        match &self.quant {
            Some(quant) => write!(f, ":{quant}"),
            None => Ok(()),
        }
    }
}

/// Whether `part` may stand alone in a path: neither hidden nor a flag, and `--` is the cache's own separator.
fn part_is_safe(part: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=MAX_PART).contains(&part.len())
        && part.chars().all(plain)
        && !part.starts_with(['-', '.'])
        && !part.ends_with(['-', '.'])
        && !part.contains("--")
        && !part.contains("..")
}

/// Whether `revision` is a branch, tag or commit that can become a path under `refs/`.
fn revision_is_safe(revision: &str) -> bool {
    revision.len() <= 2 * MAX_PART && revision.split('/').all(part_is_safe)
}

/// The folder that holds every model pulled from the hub.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Where the environment puts it: `HF_HUB_CACHE`, else `HF_HOME/hub`, else `~/.cache/huggingface/hub`.
    pub fn from_env() -> Self {
        Self::from_vars(|name| std::env::var_os(name))
    }

    /// As [`Cache::from_env`], from any set of variables.
    pub fn from_vars(var: impl Fn(&str) -> Option<OsString>) -> Self {
        let path = |name| var(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = path("HF_HUB_CACHE")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .unwrap_or_else(|| Self::home_from(&var).join("hub"));
        Self { root }
    }

    /// The folder of the hub's token and cache: `HF_HOME`, else `~/.cache/huggingface`.
    pub fn home_from(var: &impl Fn(&str) -> Option<OsString>) -> PathBuf {
        let path = |name| var(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        path("HF_HOME").unwrap_or_else(|| {
            let user = || path("HOME").or_else(|| path("USERPROFILE")).unwrap_or_else(|| PathBuf::from("."));
            path("XDG_CACHE_HOME").unwrap_or_else(|| user().join(".cache")).join("huggingface")
        })
    }

    /// A cache in a given folder.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of one model.
    pub fn repo(&self, id: &HubId) -> PathBuf {
        self.root.join(format!("models--{}--{}", id.owner, id.name))
    }

    /// The files of the id's revision, when any of them was pulled.
    pub fn snapshot(&self, id: &HubId) -> Option<PathBuf> {
        let repo = self.repo(id);
        let commit = match std::fs::read_to_string(repo.join("refs").join(id.revision())) {
            Ok(text) => text.trim().to_owned(),
            Err(_) => id.revision().to_owned(),
        };
        // A file in the cache is no more trusted than any other: the commit becomes a path.
        let folder = repo.join("snapshots").join(Some(commit).filter(|commit| part_is_safe(commit))?);
        folder.is_dir().then_some(folder)
    }

    /// Every model with a snapshot, sorted by id.
    pub fn models(&self) -> Vec<HubId> {
        let Ok(entries) = std::fs::read_dir(&self.root) else { return Vec::new() };
        let mut ids: Vec<HubId> = entries
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let (owner, name) = name.strip_prefix("models--")?.split_once("--")?;
                HubId::parse(&format!("{owner}/{name}")).ok()
            })
            .filter(|id| self.repo(id).join("snapshots").is_dir())
            .collect();
        ids.sort_by_key(HubId::repo);
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_would_leave_the_cache_are_refused() {
        for text in [
            "google",
            "google/",
            "/etc",
            "../x",
            "a/..",
            "a/b/c",
            "a/.b",
            "-a/b",
            "a--b/c",
            "a/b@../../x",
            "a/b:../x",
            "a/b:",
            "a/b@",
            "a/b c",
            "a\\b/c",
            "a/b@main:",
        ] {
            assert!(HubId::parse(text).is_err(), "{text}");
        }
        let long = "x".repeat(MAX_PART + 1);
        assert!(HubId::parse(&format!("a/{long}")).is_err());
    }

    #[test]
    fn an_id_prints_as_it_was_written() {
        for text in ["google/medgemma-4b-it", "a/b@v1.0", "a/b@refs/pr/3:Q8_0", "a/b_c.d:mmproj-F16.gguf"] {
            assert_eq!(HubId::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn the_cache_is_where_the_environment_says() {
        let root = |vars: &[(&str, &str)]| {
            let get = |name: &str| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
            Cache::from_vars(get).root().to_owned()
        };
        let home = ("HOME", "/home/u");
        assert_eq!(root(&[home]), Path::new("/home/u/.cache/huggingface/hub"));
        assert_eq!(root(&[home, ("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
        assert_eq!(root(&[home, ("HF_HOME", "/h")]), Path::new("/h/hub"));
        assert_eq!(root(&[home, ("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c")]), Path::new("/c"));
        assert_eq!(root(&[home, ("HF_HUB_CACHE", "")]), Path::new("/home/u/.cache/huggingface/hub"));
    }

    #[test]
    fn a_ref_that_points_out_of_the_snapshots_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path());
        let id = HubId::parse("a/b").unwrap();
        std::fs::create_dir_all(cache.repo(&id).join("refs")).unwrap();
        std::fs::create_dir_all(cache.repo(&id).join("snapshots")).unwrap();
        std::fs::write(cache.repo(&id).join("refs/main"), "../refs").unwrap();
        assert_eq!(cache.snapshot(&id), None);
    }
}
