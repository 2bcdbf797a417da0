//! `medgemma image`, as a person or a script runs it.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn picture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/images").join(name)
}

fn medgemma(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_medgemma")).arg("image").args(args).output().unwrap()
}

#[test]
fn json_tells_what_was_done_and_the_files_hold_it() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let file = picture("wide-700x300.png");
    let args = [file.to_str().unwrap(), "--pan-and-scan", "--json", "--out", out.to_str().unwrap()];
    let output = medgemma(&args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let seen = &report["images"][0];
    assert_eq!(seen["stored"], json!({"width": 700, "height": 300}));
    assert_eq!(seen["resized"], json!({"width": 896, "height": 896}));
    assert_eq!(seen["crops"][1], json!({"x": 350, "y": 0, "width": 350, "height": 300}));
    assert_eq!((&seen["tokens"], &report["tokens"]), (&json!(768), &json!(768)));
    let again = medgemma(&args);
    let text = String::from_utf8(again.stderr).unwrap();
    assert!(again.status.code() == Some(1) && text.contains("is not replaced"), "{text}");
    for written in seen["written"].as_array().unwrap() {
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(written.as_str().unwrap()).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "it may show a patient");
        }
        let png = std::fs::read(written.as_str().unwrap()).unwrap();
        assert_eq!(png[16..24], [0, 0, 3, 128, 0, 0, 3, 128], "896 × 896 in the PNG's header");
    }
}

#[test]
fn people_get_lines_and_no_control_characters_in_a_pipe() {
    let files = [picture("rgba-70x45.png"), picture("grey-120x80.png")];
    let output = medgemma(&["--pad", files[0].to_str().unwrap(), files[1].to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("PNG of 70×45, 8-bit RGB with alpha\n  alpha dropped\n"), "{text}");
    assert!(text.contains("  padded to a black square of 120×120, the picture at 0, 20\n"), "{text}");
    assert!(text.contains("  resized to 896×896: 256 tokens\n"), "{text}");
    assert!(!text.contains('\x1b') && output.stderr.is_empty());
}

#[test]
fn what_is_no_picture_is_one_line_on_stderr() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("scan.png");
    std::fs::write(&file, [vec![0; 128], b"DICM".to_vec()].concat()).unwrap();
    let output = medgemma(&[file.to_str().unwrap(), "--json"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    assert!(text.contains("scan.png: DICOM isn't read") && text.lines().count() == 1, "{text}");
    assert_eq!(medgemma(&["nowhere.png"]).status.code(), Some(1));
    assert_eq!(medgemma(&[]).status.code(), Some(2));
}
