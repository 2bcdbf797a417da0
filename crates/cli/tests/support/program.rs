//! Running the program in a test.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The program with an empty home, so that nothing of the user's is read or written.
pub(crate) fn medgemma(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_medgemma"));
    for name in [
        "HF_TOKEN",
        "HF_HOME",
        "HF_HUB_CACHE",
        "HF_ENDPOINT",
        "HF_HUB_OFFLINE",
        "XDG_CACHE_HOME",
        "MEDGEMMA_PACK_CACHE",
    ] {
        command.env_remove(name);
    }
    command.env("HOME", home).stdin(Stdio::null());
    command
}

/// Runs it to its end.
pub(crate) fn run(home: &Path, args: &[&str]) -> Output {
    medgemma(home).args(args).output().unwrap()
}

/// Runs it with a text on stdin.
pub(crate) fn run_with(home: &Path, args: &[&str], stdin: &str) -> Output {
    let mut command = medgemma(home);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may end, and close its end, before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// What it printed, which must be one JSON object.
pub(crate) fn json(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).expect("one JSON object and nothing else")
}

/// A file or folder of the repository's test data.
pub(crate) fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(name)
}

/// A picture of the test data.
pub(crate) fn picture() -> String {
    let images = std::fs::read_dir(testdata("images")).unwrap();
    let mut pictures: Vec<String> = images.map(|entry| entry.unwrap().path().to_str().unwrap().to_owned()).collect();
    pictures.sort();
    pictures.into_iter().find(|name| name.ends_with(".png")).expect("the test data has pictures")
}
