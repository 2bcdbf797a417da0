//! Released pages leave the process's memory. Alone in its file, so that no other test maps anything meanwhile.
#![cfg(target_os = "linux")]

use medgemma_formats::Bytes;

/// Resident bytes that belong to mapped files.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[test]
fn released_pages_leave_memory() {
    const SIZE: usize = 32 << 20;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![1u8; SIZE]).unwrap();
    let bytes = Bytes::map(file.path()).unwrap();
    let half = bytes.slice(0..SIZE / 2).unwrap();

    let before = resident();
    let sum: usize = bytes.iter().map(|&byte| usize::from(byte)).sum();
    assert_eq!(sum, SIZE);
    let read = resident();
    assert!(read > before + SIZE * 9 / 10, "{before} → {read}: all was read");
    half.release();
    let released = resident();
    assert!(released < read - SIZE * 4 / 10, "{read} → {released}: half was released");
    assert!(released > before + SIZE * 4 / 10, "{before} → {released}: the other half stays");
    assert_eq!(half[1000], 1);
}
