//! Bringing files into the cache: resumed, checked, and in place only when whole.

use super::client::{Client, Failure};
use super::listing::{Checksum, Repo, explain};
use super::plan::File;
use crate::machine;
use crate::terminal::bytes;
use anyhow::{Context, Result, anyhow, bail};
use medgemma_gemma::locate::{Cache, HubId};
use sha2::Digest;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use ureq::Body;
use ureq::http::{Response, StatusCode};

/// Bytes read at a time.
const CHUNK: usize = 256 << 10;

/// Time between two looks whether another pull is done with a file.
const LOCK_POLL: Duration = Duration::from_millis(50);

/// Who watches a pull, and may stop it.
pub(crate) trait Watch {
    /// A file is looked at next.
    fn file(&mut self, file: &File);
    /// So many of its bytes are here. Fewer than before when it begins anew.
    fn have(&mut self, bytes: u64);
    /// A file is whole.
    fn done(&mut self, file: &File);
    /// Something to tell, such as that it tries again.
    fn note(&mut self, text: &str);
    /// Whether to stop.
    fn stopped(&self) -> bool;
}

/// Everything a pull of one model needs.
pub(crate) struct Pull<'a> {
    /// The hub.
    pub(crate) client: &'a Client,
    /// Where files go.
    pub(crate) cache: &'a Cache,
    /// The model.
    pub(crate) id: &'a HubId,
    /// Its files and commit.
    pub(crate) repo: &'a Repo,
    /// Whether files that are here are read again and checked.
    pub(crate) verify: bool,
}

impl Pull<'_> {
    /// Brings `files` here and returns the folder of the snapshot. What is here already stays; what was begun goes on.
    pub(crate) fn run(&self, files: &[File], watch: &mut dyn Watch) -> Result<PathBuf> {
        let folder = self.cache.repo(self.id);
        let blobs = folder.join("blobs");
        make_folder(&blobs)?;
        self.check_space(files, &blobs)?;
        let snapshot = folder.join("snapshots").join(&self.repo.commit);
        for file in files {
            watch.file(file);
            let blob = blobs.join(file.sum.hex());
            self.fetch(file, &blob, watch)?;
            link(&blob, &snapshot, &file.name)?;
            watch.done(file);
        }
        if self.id.revision() != self.repo.commit {
            // Last, so that the revision never names a snapshot that isn't whole.
            replace(&folder.join("refs").join(self.id.revision()), &self.repo.commit)?;
        }
        Ok(snapshot)
    }

    fn check_space(&self, files: &[File], blobs: &Path) -> Result<()> {
        let size = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.len());
        let here = |file: &File| {
            let blob = blobs.join(file.sum.hex());
            size(&blob).max(size(&incomplete(&blob))).min(file.size)
        };
        let needed: u64 = files.iter().map(|file| file.size - here(file)).sum();
        match machine::free_disk(self.cache.root()) {
            Some(free) if free < needed => bail!(
                "{} needs {} more in {}, where {} is free: make room, or put the cache elsewhere with HF_HUB_CACHE",
                self.id,
                bytes(needed),
                self.cache.root().display(),
                bytes(free)
            ),
            _ => Ok(()),
        }
    }

    /// Makes `blob` whole.
    fn fetch(&self, file: &File, blob: &Path, watch: &mut dyn Watch) -> Result<()> {
        let _lock = self.lock(blob, watch)?;
        if fs::metadata(blob).is_ok_and(|meta| meta.len() == file.size) {
            if !self.verify || digest_of(blob, file)? == file.sum.hex() {
                watch.have(file.size);
                return Ok(());
            }
            watch.note(&format!("{} is damaged: getting it again", file.name));
        }
        let mut part = Part::open(&incomplete(blob), file)?;
        let resumed = part.len > 0;
        watch.have(part.len);
        self.complete(&mut part, watch)?;
        let mut right = part.digest() == file.sum.hex();
        if !right && resumed {
            // What an earlier pull left may be at fault.
            watch.note(&format!("{}: what was here of it is damaged: getting it again", file.name));
            part.restart()?;
            self.complete(&mut part, watch)?;
            right = part.digest() == file.sum.hex();
        }
        if !right {
            part.remove()?;
            bail!("{}: its checksum is not the hub's; it was removed: pull again", file.name);
        }
        part.finish(blob)
    }

    /// Keeps two pulls, ours or Python's, from writing one blob.
    fn lock(&self, blob: &Path, watch: &mut dyn Watch) -> Result<fs::File> {
        let repo = self.cache.repo(self.id);
        let folder = self.cache.root().join(".locks").join(repo.file_name().unwrap_or_default());
        make_folder(&folder)?;
        let path = folder.join(blob.with_extension("lock").file_name().unwrap_or_default());
        let lock = fs::File::create(&path).with_context(|| path.display().to_string())?;
        let mut told = false;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                // Asked again and again rather than waited for, so that Ctrl-C is heard.
                Err(fs::TryLockError::WouldBlock) if watch.stopped() => bail!("{}", self.stopped()),
                Err(fs::TryLockError::WouldBlock) => {
                    if !std::mem::replace(&mut told, true) {
                        watch.note("another pull is getting this file: waiting for it");
                    }
                    std::thread::sleep(LOCK_POLL);
                }
                Err(fs::TryLockError::Error(error)) if error.kind() == ErrorKind::Interrupted => {}
                // Some network file systems have no locks: there it must do without.
                Err(fs::TryLockError::Error(_)) => return Ok(lock),
            }
        }
    }

    fn stopped(&self) -> String {
        format!("stopped; `medgemma pull {}` goes on from here", self.id)
    }

    /// Asks for the rest of the file until all of it is here. A connection that brought something may break any
    /// number of times.
    fn complete(&self, part: &mut Part, watch: &mut dyn Watch) -> Result<()> {
        let path = format!("/{}/resolve/{}/{}", self.id.repo(), self.repo.commit, percent_encoded(&part.file.name));
        let mut failures = 0;
        while part.len < part.file.size {
            let before = part.len;
            let result = self.client.get(&path, part.len).and_then(|response| part.append(response, watch));
            if watch.stopped() {
                bail!("{}", self.stopped());
            }
            let Err(failure) = result else { continue };
            failures = if part.len > before { 1 } else { failures + 1 };
            if !failure.passing || failures > self.client.tries() {
                let about = part.file.name.clone();
                return Err(explain(failure, self.client, self.id)).context(about);
            }
            self.client.pause(&failure, failures, watch);
        }
        Ok(())
    }
}

/// A file on its way, and the checksum of what is here of it.
struct Part<'a> {
    file: &'a File,
    path: PathBuf,
    out: fs::File,
    len: u64,
    sum: Sum,
}

impl<'a> Part<'a> {
    /// Opens what is here of it and sums it up.
    fn open(path: &Path, file: &'a File) -> Result<Self> {
        let name = || path.display().to_string();
        let out = fs::File::options().read(true).append(true).create(true).open(path).with_context(name)?;
        let mut part = Self { file, path: path.to_owned(), out, len: 0, sum: Sum::new(file) };
        if part.out.metadata().with_context(name)?.len() > file.size {
            part.restart()?;
        }
        part.len = part.sum.read(&mut part.out).with_context(name)?;
        Ok(part)
    }

    fn restart(&mut self) -> Result<()> {
        self.out.set_len(0).with_context(|| self.path.display().to_string())?;
        (self.len, self.sum) = (0, Sum::new(self.file));
        Ok(())
    }

    /// Writes an answer's body behind what is here.
    fn append(&mut self, response: Response<Body>, watch: &mut dyn Watch) -> Result<(), Failure> {
        match starts_at(&response, self.len, self.file.size) {
            Some(start) if start == self.len => {}
            Some(0) => {
                self.restart().map_err(Failure::fatal)?;
                watch.have(0);
            }
            _ => {
                return Err(Failure::fatal(anyhow!("{}: the hub sends another part than asked for", self.file.name)));
            }
        }
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; CHUNK];
        while !watch.stopped() {
            let read = body.read(&mut buffer).map_err(Failure::passing)?;
            if read == 0 {
                break;
            }
            if self.len + read as u64 > self.file.size {
                return Err(Failure::fatal(anyhow!("{}: the hub sends more than it lists", self.file.name)));
            }
            let here = || self.path.display().to_string();
            self.out.write_all(&buffer[..read]).with_context(here).map_err(Failure::fatal)?;
            self.sum.update(&buffer[..read]);
            self.len += read as u64;
            watch.have(self.len);
        }
        match self.len < self.file.size {
            true => Err(Failure::passing(anyhow!("the connection broke"))),
            false => Ok(()),
        }
    }

    fn digest(&self) -> String {
        self.sum.clone().finish()
    }

    fn remove(self) -> Result<()> {
        fs::remove_file(&self.path).with_context(|| self.path.display().to_string())
    }

    /// Puts it in its place. Synced first: after a power cut a file that is there must be whole.
    fn finish(self, blob: &Path) -> Result<()> {
        self.out.sync_all().with_context(|| self.path.display().to_string())?;
        fs::rename(&self.path, blob).with_context(|| blob.display().to_string())
    }
}

/// The byte that an answer begins at, or nothing when it contradicts the listing.
fn starts_at(response: &Response<Body>, asked: u64, size: u64) -> Option<u64> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Some(0);
    }
    let range = response.headers().get("content-range")?.to_str().ok()?;
    let (span, total) = range.strip_prefix("bytes ")?.split_once('/')?;
    let start: u64 = span.split_once('-')?.0.parse().ok()?;
    ((total == "*" || total.parse() == Ok(size)) && start == asked).then_some(start)
}

/// The checksum that the hub uses for a file.
#[derive(Clone)]
enum Sum {
    Sha256(sha2::Sha256),
    Git(sha1::Sha1),
}

impl Sum {
    fn new(file: &File) -> Self {
        match file.sum {
            Checksum::Sha256(_) => Self::Sha256(sha2::Sha256::new()),
            Checksum::Git(_) => Self::Git(sha1::Sha1::new_with_prefix(format!("blob {}\0", file.size))),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(sum) => sum.update(bytes),
            Self::Git(sum) => sum.update(bytes),
        }
    }

    /// Adds all of a file; returns its length.
    fn read(&mut self, file: &mut fs::File) -> std::io::Result<u64> {
        let (mut buffer, mut len) = (vec![0; CHUNK], 0);
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(len),
                read => {
                    self.update(&buffer[..read]);
                    len += read as u64;
                }
            }
        }
    }

    fn finish(self) -> String {
        let digest = match self {
            Self::Sha256(sum) => sum.finalize().to_vec(),
            Self::Git(sum) => sum.finalize().to_vec(),
        };
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn digest_of(path: &Path, file: &File) -> Result<String> {
    let mut sum = Sum::new(file);
    let mut open = fs::File::open(path).with_context(|| path.display().to_string())?;
    sum.read(&mut open).with_context(|| path.display().to_string())?;
    Ok(sum.finish())
}

fn incomplete(blob: &Path) -> PathBuf {
    blob.with_extension("incomplete")
}

/// Makes `snapshot/name` a link to the blob (a copy where links need rights that users lack).
fn link(blob: &Path, snapshot: &Path, name: &str) -> Result<()> {
    let path = snapshot.join(name);
    make_folder(path.parent().unwrap_or(snapshot))?;
    let up = "../".repeat(2 + name.matches('/').count());
    let target = format!("{up}blobs/{}", blob.file_name().unwrap_or_default().to_string_lossy());
    if fs::read_link(&path).is_ok_and(|old| old == Path::new(&target)) {
        return Ok(());
    }
    put(&path, |new| {
        #[cfg(unix)]
        let linked = std::os::unix::fs::symlink(&target, new);
        #[cfg(not(unix))]
        let linked = fs::hard_link(blob, new);
        linked.or_else(|_| fs::copy(blob, new).map(drop))
    })
}

/// Writes a small file.
fn replace(path: &Path, text: &str) -> Result<()> {
    make_folder(path.parent().unwrap_or(Path::new(".")))?;
    put(path, |new| fs::write(new, text))
}

/// Makes a file under a name of its own and moves it into place: a reader, or another pull that does the same, finds
/// the old one or the new one. Writing to the place itself could write through another's link.
fn put(path: &Path, make: impl Fn(&Path) -> std::io::Result<()>) -> Result<()> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".{name}.{}-{count}", std::process::id()));
    make(&new).and_then(|()| fs::rename(&new, path)).with_context(|| path.display().to_string())
}

fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path)
        .with_context(|| format!("{}: can't be made; put the cache elsewhere with HF_HUB_CACHE", path.display()))
}

/// A repository path as it stands in a URL.
fn percent_encoded(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
#[path = "download_tests.rs"]
mod tests;
