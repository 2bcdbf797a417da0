//! Files that may show or tell of a patient.

use anyhow::{Context, Result, bail};
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;

/// Writes a new file that its owner alone may read. Nothing that is there is replaced or followed, a link neither.
///
/// # Errors
/// When it exists or can't be written.
pub(crate) fn write(path: &Path, contents: &[u8]) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let name = || path.display().to_string();
    match options.open(path) {
        Ok(mut file) => file.write_all(contents).with_context(name),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("{} exists and is not replaced: give another name, or remove it", name())
        }
        Err(error) => Err(error).with_context(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_replaced_and_nobody_else_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        write(&path, b"first").unwrap();
        let error = write(&path, b"second").unwrap_err().to_string();
        assert!(error.contains("exists and is not replaced"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        #[cfg(unix)]
        {
            use std::os::unix::fs::{PermissionsExt, symlink};
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            let link = folder.path().join("link");
            symlink(folder.path().join("elsewhere"), &link).unwrap();
            assert!(write(&link, b"third").is_err() && !folder.path().join("elsewhere").exists());
        }
    }
}
