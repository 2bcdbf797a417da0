//! A checkpoint folder, on disk or embedded in the binary.

use crate::{Bytes, Error};
use std::io::{Error as IoError, ErrorKind};
use std::path::{Component, Path, PathBuf};

/// A file of an embedded folder: name and content.
type Embedded = (&'static str, &'static [u8]);

/// A checkpoint folder: on disk, or embedded in the binary.
///
/// Only files directly inside it are reached: a name with a path in it (`../x`, `/x`, `a/b`) is refused, so that
/// names read from a checkpoint's own index can't lead elsewhere. Symbolic links are followed, since the hub's
/// cache is made of them.
///
/// ```
/// use medgemma_formats::Folder;
/// let folder = Folder::embedded(&[("config.json", b"{}")]);
/// assert!(folder.contains("config.json"));
/// assert_eq!(&*folder.read("config.json")?, b"{}");
/// assert!(folder.read("../config.json").is_err());
/// # Ok::<(), medgemma_formats::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    /// The files, when they are embedded; otherwise they are on disk under `path`.
    files: Option<&'static [Embedded]>,
}

impl Folder {
    /// Opens a folder on disk.
    ///
    /// # Errors
    /// [`Error::Io`] when there is none.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let metadata = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
        if !metadata.is_dir() {
            return Err(Error::io(path, IoError::new(ErrorKind::NotADirectory, "not a folder")));
        }
        Ok(Self { path: path.to_owned(), files: None })
    }

    /// A folder embedded in the binary: names and contents.
    pub fn embedded(files: &'static [Embedded]) -> Self {
        Self { path: PathBuf::from("(embedded)"), files: Some(files) }
    }

    /// The folder's path, for errors and display; `(embedded)` when it is in the binary.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is a file of that name.
    pub fn contains(&self, name: &str) -> bool {
        match self.files {
            _ if !is_plain(name) => false,
            Some(files) => files.iter().any(|(n, _)| *n == name),
            None => self.path.join(name).is_file(),
        }
    }

    /// Names of the files directly inside, sorted. Names that are not UTF-8 are left out.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = match self.files {
            Some(files) => files.iter().map(|(name, _)| (*name).to_owned()).collect(),
            None => std::fs::read_dir(&self.path)
                .into_iter()
                .flatten()
                .filter_map(Result::ok)
                .filter(|entry| entry.path().is_file())
                .filter_map(|entry| entry.file_name().into_string().ok())
                .collect(),
        };
        names.sort_unstable();
        names
    }

    /// The content of a file, mapped when it is on disk.
    ///
    /// # Errors
    /// [`Error::Io`] when it is absent or can't be read, [`Error::Malformed`] when `name` is not a plain file name.
    pub fn read(&self, name: &str) -> Result<Bytes, Error> {
        if !is_plain(name) {
            return Err(Error::malformed(
                &self.path,
                name,
                "not a plain file name: only files directly inside the folder are read",
            ));
        }
        let path = self.path.join(name);
        match self.files {
            Some(files) => files
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, bytes)| Bytes::from_static(bytes))
                .ok_or_else(|| Error::io(&path, IoError::new(ErrorKind::NotFound, "no such file"))),
            None => Bytes::map(&path),
        }
    }
}

/// Whether `name` is one normal path component on every system (so no separator of any, no drive letter) that can be
/// shown on a terminal.
fn is_plain(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(part)), None) if part == name)
        && !name.contains(|c: char| matches!(c, '/' | '\\' | ':') || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_and_embedded_agree() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("b.json"), b"{}").unwrap();
        std::fs::write(dir.path().join("a.bin"), b"abc").unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        let disk = Folder::open(dir.path()).unwrap();
        let embedded = Folder::embedded(&[("b.json", b"{}"), ("a.bin", b"abc")]);
        for folder in [disk, embedded] {
            assert_eq!(folder.names(), ["a.bin", "b.json"]);
            assert!(folder.contains("a.bin"));
            assert!(!folder.contains("absent") && !folder.contains("sub"));
            assert_eq!(&*folder.read("a.bin").unwrap(), b"abc");
            assert!(matches!(folder.read("absent"), Err(Error::Io { .. })));
        }
    }

    #[test]
    fn a_path_is_not_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("inside");
        std::fs::create_dir(&inside).unwrap();
        std::fs::write(dir.path().join("secret"), b"x").unwrap();
        std::fs::write(inside.join("f"), b"x").unwrap();
        let folder = Folder::open(&inside).unwrap();
        let absolute = dir.path().join("secret");
        for name in [
            "../secret",
            absolute.to_str().unwrap(),
            "",
            ".",
            "..",
            "./f",
            "f/",
            "a/../f",
            "..\\secret",
            "c:f",
            "f\0",
            "\u{1b}[2J",
        ] {
            assert!(!folder.contains(name), "{name:?}");
            assert!(matches!(folder.read(name), Err(Error::Malformed { .. })), "{name:?}");
        }
        assert!(folder.contains("f"));
    }

    #[test]
    fn a_file_is_not_a_folder() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(Folder::open(file.path()), Err(Error::Io { .. })));
    }
}
