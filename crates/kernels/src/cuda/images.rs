//! The compiled kernels that are part of the program.

/// The kernels for one card.
pub(super) struct Images {
    pub(super) binaries: Vec<&'static [u8]>,
    /// Whether they wait for the kernels before them by themselves (Hopper and later).
    pub(super) early: bool,
}

macro_rules! binaries {
    ($arch:literal: $($name:literal),*) => {
        vec![$(include_bytes!(concat!("../../cuda/bin/", $name, ".", $arch)) as &[u8]),*]
    };
}

/// The kernels for a card of this compute capability.
pub(super) fn of(capability: (i32, i32)) -> Images {
    match capability {
        (9, 0) => {
            let binaries =
                binaries!("sm_90a.cubin": "plain", "mm", "many90", "decode", "decode90", "layer90", "flash", "flash90");
            Images { binaries, early: true }
        }
        (10, _) => Images { binaries: binaries!("sm_100.cubin": "plain", "mm", "decode", "flash"), early: true },
        (8, _) => Images { binaries: binaries!("sm_80.cubin": "plain", "mm", "decode", "flash"), early: false },
        // The driver compiles them.
        _ => Images { binaries: binaries!("compute_80.ptx": "plain", "mm", "decode", "flash"), early: false },
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};
    use std::path::{Path, PathBuf};

    /// Files of a folder that end so, by name.
    fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|e| e == end)).collect();
        files.sort();
        files
    }

    /// Whoever changes a kernel compiles it (scripts/kernels.sh).
    #[test]
    fn the_binaries_are_those_of_the_sources() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
        let mut hash = Sha256::new();
        for path in [files(&folder, "cu"), files(&folder, "cuh"), files(&folder.join("plain"), "cuh")].concat() {
            hash.update(std::fs::read(path).unwrap());
        }
        let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let recorded = std::fs::read_to_string(folder.join("bin/sources.sha256")).unwrap();
        assert_eq!(recorded.trim(), found, "run scripts/kernels.sh and commit what it writes");
    }
}
