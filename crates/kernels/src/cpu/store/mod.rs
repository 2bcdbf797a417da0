//! Packed weights on disk: packed once, mapped read-only at every later start.
//!
//! A file holds one part of a model (the decoder or the image encoder) as the kernels read it. Mapping it takes no memory
//! of the process's own, computes nothing, and processes that run the same model share it.
//!
//! A file is used only when its head is whole and its key is the one looked for: the files that the weights came from
//! with their sizes, times and inodes, the formats, the instruction set, and the version of the layouts. Each segment is
//! then compared with what would be packed (names, types, shapes, layout). Whatever doesn't match is made anew.
//!
//! A new file is written under a name of its own and renamed when it is complete, so processes that start together don't
//! disturb each other. It is written, not mapped, while it grows: a full disk is an error then, upon which weights are
//! packed into memory instead, and not a signal that ends the process. Until it has reached the disk it counts only
//! during the same boot of the system: after a power failure its pages might be missing.

mod head;

use super::Error;
use crate::backend::Part;
use head::{ALIGN, Entry, HEAD, Head, SEAL, SEAL_AT, fnv};
use medgemma_formats::Bytes;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

/// Raise it whenever the bytes of a packed weight change for the same tensor: files of other versions are made anew.
/// A test in `pack/tests.rs` fails when that was forgotten.
pub(crate) const VERSION: u32 = 2;

/// Bytes of source files below which nothing is kept: packing so little takes no time.
const LARGE: u64 = 64 << 20;
/// How old an unfinished file must be before it counts as left behind.
const ABANDONED: Duration = Duration::from_secs(60 * 60);

/// A folder of packed weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackCache {
    folder: PathBuf,
    most: u64,
    large: u64,
}

/// A file of packed weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// The file.
    pub path: PathBuf,
    /// Bytes it takes.
    pub bytes: u64,
    /// `decoder` or `vision`; empty when the file can't be used any more.
    pub part: String,
    /// The files it was packed from; none when it can't be used any more.
    pub files: Vec<PathBuf>,
}

impl PackCache {
    /// A folder, which is made when something is put into it, with mode 0700 where the system has modes. A file may take
    /// at most `most` bytes: the caller knows how full the disk may become.
    pub fn new(folder: impl Into<PathBuf>, most: u64) -> Self {
        Self { folder: folder.into(), most, large: LARGE }
    }

    /// Also keeps what comes from files that are smaller than 64 MiB, for tests.
    #[must_use]
    pub fn of_any_size(self) -> Self {
        Self { large: 0, ..self }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The files in it, those that can't be used any more included.
    pub fn list(&self) -> Vec<Packed> {
        self.entries("pack")
            .filter_map(|path| {
                let bytes = fs::metadata(&path).ok()?.len();
                let usable = head_of(&path).filter(|head| is_current(&head.key));
                let key = usable.map(|head| head.key).unwrap_or_default();
                let part = key.lines().find_map(|line| line.strip_prefix("part ")).unwrap_or_default().to_owned();
                let files = sources(&key).map(|(_, path)| path.to_owned()).collect();
                Some(Packed { path, bytes, part, files })
            })
            .collect()
    }

    /// The store of a part: its file when there is a good one, else a new one.
    pub(crate) fn begin(&self, part: &Part<'_>, isa: &str) -> Store {
        let Some(key) = self.key(part, isa) else { return Store::Off };
        let path = self.folder.join(format!("{}-{:016x}.pack", part.name, fnv(key.as_bytes())));
        if let Some(reader) = Reader::open(&path, &key) {
            return Store::Reading(reader);
        }
        self.sweep();
        self.create(path, key).map_or(Store::Off, Store::Writing)
    }

    /// Puts a file that is complete in its place. What fails costs the next start time, nothing else.
    pub(crate) fn finish(&self, store: Store) {
        match store {
            Store::Writing(file) => drop(file.publish()),
            Store::Reading(reader) if !reader.head.sealed => {
                if let Ok(file) = OpenOptions::new().write(true).open(&reader.path) {
                    seal(file);
                }
            }
            Store::Reading(_) | Store::Off => {}
        }
    }

    /// What a part's file must be of; `None` when it isn't kept.
    fn key(&self, part: &Part<'_>, isa: &str) -> Option<String> {
        let mut key = format!(
            "{} {}\nisa {isa}\npart {}\nformat {:?}\n",
            std::env::consts::ARCH,
            if cfg!(target_endian = "little") { "little-endian" } else { "big-endian" },
            part.name,
            part.format
        );
        let mut bytes = 0;
        for file in part.files {
            let path = fs::canonicalize(file).ok()?;
            bytes += fs::metadata(&path).ok()?.len();
            key += &format!("{}\n", source(&path)?);
        }
        (cfg!(unix) && bytes > 0 && bytes >= self.large).then_some(key)
    }

    fn create(&self, path: PathBuf, key: String) -> Option<Growing> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let mut folders = fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut folders, 0o700);
        folders.recursive(true).create(&self.folder).ok()?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let temporary = path.with_extension(format!("{}-{count}.part", std::process::id()));
        let file = options.open(&temporary).ok()?;
        let head = Head { key, boot: boot().unwrap_or_default(), len: HEAD as u64, ..Head::default() };
        Some(Growing { file, temporary, path, head, most: self.most })
    }

    /// Removes files that can't be used any more: of sources that are gone or have changed, of other versions, or left
    /// behind half-written.
    fn sweep(&self) {
        for path in self.entries("pack") {
            if !head_of(&path).is_some_and(|head| is_current(&head.key)) {
                let _ = fs::remove_file(path);
            }
        }
        for path in self.entries("part") {
            let age = fs::metadata(&path).and_then(|meta| meta.modified()).ok().and_then(|time| time.elapsed().ok());
            if age.is_some_and(|age| age > ABANDONED) {
                let _ = fs::remove_file(path);
            }
        }
    }

    fn entries(&self, extension: &'static str) -> impl Iterator<Item = PathBuf> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(move |path| path.extension().is_some_and(|found| found == extension))
    }
}

/// The line of a key that identifies a file as it is now; `None` for one that isn't there or whose path isn't a line.
fn source(path: &Path) -> Option<String> {
    let meta = fs::metadata(path).ok()?;
    let time = meta.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_nanos();
    #[cfg(unix)]
    let inode = std::os::unix::fs::MetadataExt::ino(&meta);
    #[cfg(not(unix))]
    let inode = 0;
    let path = path.to_str().filter(|path| !path.contains(['\n', '\r']))?;
    Some(format!("file {} {time} {inode} {path}", meta.len()))
}

/// The lines of a key that identify files, and their paths.
fn sources(key: &str) -> impl Iterator<Item = (&str, &Path)> {
    key.lines().filter_map(|line| {
        let path = line.strip_prefix("file ")?.splitn(4, ' ').nth(3)?;
        Some((line, Path::new(path)))
    })
}

/// Whether the files that a key names are as they were.
fn is_current(key: &str) -> bool {
    sources(key).all(|(line, path)| source(path).is_some_and(|now| now == line))
}

/// The head of a file, if it is one of this version and as long as it says.
fn head_of(path: &Path) -> Option<Head> {
    let file = File::open(path).ok()?;
    let head = Head::read(&Bytes::map_part(&file, path, 0, HEAD).ok()?, VERSION)?;
    (head.len == file.metadata().ok()?.len()).then_some(head)
}

/// What names this boot of the system.
fn boot() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}

/// What was packed and how, as a number.
pub(crate) fn tag(describe: impl FnOnce(&mut String) -> fmt::Result) -> u64 {
    let mut text = String::new();
    // Writing to a string doesn't fail.
    let _ = describe(&mut text);
    fnv(text.as_bytes())
}

/// Where the packed segments of a part are taken from or put to.
pub(crate) enum Store {
    /// They stay in memory.
    Off,
    /// They were packed before.
    Reading(Reader),
    /// They are kept for the next time.
    Writing(Growing),
}

impl Store {
    /// The next segment, if it was packed before.
    pub(crate) fn take(&mut self, tag: u64, len: usize) -> Option<Bytes> {
        let Self::Reading(reader) = self else { return None };
        let taken = reader.take(tag, len);
        if taken.is_none() {
            // Another file than its key says: the next start makes it anew.
            let _ = fs::remove_file(&reader.path);
            *self = Self::Off;
        }
        taken
    }

    /// Keeps the next segment, which `write` writes, and maps it; `None` when it isn't kept and must be packed into memory.
    ///
    /// # Errors
    /// When it can't be packed. That it can't be kept is no error.
    pub(crate) fn put(
        &mut self,
        tag: u64,
        len: usize,
        write: impl FnOnce(&Writer<'_>) -> Result<(), WriteError>,
    ) -> Result<Option<Bytes>, Error> {
        let Self::Writing(file) = self else { return Ok(None) };
        match file.put(tag, len, write) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(WriteError::Pack(error)) => Err(error),
            Err(WriteError::Io) => {
                *self = Self::Off;
                Ok(None)
            }
        }
    }
}

/// A file that is complete.
pub(crate) struct Reader {
    path: PathBuf,
    head: Head,
    map: Bytes,
    next: usize,
}

impl Reader {
    /// Opens a file if it is whole, has this key and may be trusted.
    fn open(path: &Path, key: &str) -> Option<Self> {
        let file = File::open(path).ok()?;
        let meta = file.metadata().ok()?;
        // What others may write is not what this program packed.
        #[cfg(unix)]
        if std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o022 != 0 {
            return None;
        }
        let map = Bytes::map_part(&file, path, 0, usize::try_from(meta.len()).ok()?).ok()?;
        let head = Head::read(map.get(..HEAD)?, VERSION)?;
        let durable = head.sealed || boot().is_some_and(|boot| boot == head.boot);
        if !meta.is_file() || head.key != key || head.len != meta.len() || !durable {
            return None;
        }
        let ahead = map.clone();
        // Without the thread, pages are found as they are read.
        let _ = std::thread::Builder::new().name("populate".into()).spawn(move || ahead.populate());
        Some(Self { path: path.to_owned(), head, map, next: 0 })
    }

    fn take(&mut self, tag: u64, len: usize) -> Option<Bytes> {
        let entry = self.head.entries.get(self.next)?;
        if entry.tag != tag || entry.len != len as u64 {
            return None;
        }
        self.next += 1;
        let start = usize::try_from(entry.offset).ok()?;
        self.map.slice(start..start.checked_add(len)?)
    }
}

/// A file that is being written. Dropped before it is published, it is removed.
pub(crate) struct Growing {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
    head: Head,
    most: u64,
}

/// Why a segment wasn't written.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// It can't be packed.
    Pack(Error),
    /// The file can't be written.
    Io,
}

impl From<Error> for WriteError {
    fn from(error: Error) -> Self {
        Self::Pack(error)
    }
}

impl From<io::Error> for WriteError {
    fn from(_: io::Error) -> Self {
        Self::Io
    }
}

/// Writes one segment.
pub(crate) struct Writer<'a> {
    file: &'a File,
    offset: u64,
}

impl Writer<'_> {
    /// Bytes of the file between the last multiple of `size` and the segment.
    pub(crate) fn within(&self, size: usize) -> usize {
        (self.offset % size as u64) as usize
    }

    /// Writes bytes of the segment from `at` on.
    pub(crate) fn write_at(&self, bytes: &[u8], at: usize) -> Result<(), WriteError> {
        Ok(write_all_at(self.file, bytes, self.offset + at as u64)?)
    }
}

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

#[cfg(not(unix))]
fn write_all_at(_: &File, _: &[u8], _: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

impl Growing {
    fn put(
        &mut self,
        tag: u64,
        len: usize,
        write: impl FnOnce(&Writer<'_>) -> Result<(), WriteError>,
    ) -> Result<Bytes, WriteError> {
        let offset = self.head.len.next_multiple_of(ALIGN);
        let end = offset.checked_add(len as u64).filter(|end| *end <= self.most).ok_or(WriteError::Io)?;
        write(&Writer { file: &self.file, offset })?;
        let bytes = Bytes::map_part(&self.file, &self.temporary, offset, len).map_err(|_| WriteError::Io)?;
        self.head.entries.push(Entry { tag, offset, len: len as u64 });
        self.head.len = end;
        Ok(bytes)
    }

    fn publish(self) -> io::Result<()> {
        // Where the system doesn't say which boot this is, the file must be on the disk before it is used.
        let sealed = self.head.boot.is_empty();
        if sealed {
            self.file.sync_all()?;
        }
        let head = Head { sealed, ..self.head.clone() }.to_bytes(VERSION).ok_or(io::ErrorKind::InvalidData)?;
        write_all_at(&self.file, &head, 0)?;
        fs::rename(&self.temporary, &self.path)?;
        if !sealed {
            seal(self.file.try_clone()?);
        }
        Ok(())
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        // Renamed, it isn't there any more.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Says in a file that it has reached the disk, once it has. Nobody waits for it: a process that ends before leaves the
/// seal to the next one.
fn seal(file: File) {
    let _ = std::thread::Builder::new().name("seal".into()).spawn(move || {
        if file.sync_all().is_ok() {
            let _ = write_all_at(&file, SEAL, SEAL_AT as u64);
        }
    });
}

#[cfg(test)]
mod tests;
