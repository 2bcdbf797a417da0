//! Lists the workbench's built files, so that they are embedded; without them the list is empty.

use std::fmt::Write;
use std::path::{Path, PathBuf};

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

fn main() -> std::io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../web/dist");
    println!("cargo:rerun-if-changed={}", root.display());
    let mut found = Vec::new();
    files(&root, &mut found);
    found.sort();
    let mut list = String::from("&[\n");
    for path in &found {
        let name = path.strip_prefix(&root).unwrap_or(path).display().to_string().replace('\\', "/");
        println!("cargo:rerun-if-changed={}", path.display());
        let full = path.display().to_string();
        let _ = writeln!(list, "(\"/{}\", include_bytes!(\"{}\")),", name.escape_default(), full.escape_default());
    }
    list.push(']');
    let out = std::env::var_os("OUT_DIR").map(PathBuf::from).unwrap_or_default();
    std::fs::write(out.join("assets.rs"), list)
}
