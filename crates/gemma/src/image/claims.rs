//! What a header claims, against the bytes that are there: the decoders take memory by such claims.

/// Whether the chunks of a WebP file lie inside it, and its frames inside its canvas.
pub(super) fn webp_chunks_fit(file: &[u8]) -> bool {
    file.get(12..).is_some_and(|chunks| chunks_fit(chunks, &mut None))
}

/// As [`webp_chunks_fit`], for chunks one after the other; `canvas` is the size in the extended header, once it was read.
fn chunks_fit(mut rest: &[u8], canvas: &mut Option<(u32, u32)>) -> bool {
    while let Some((head, body)) = rest.split_first_chunk::<8>() {
        let size = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let Some(content) = body.get(..size) else { return false };
        let fits = match (&head[..4], content, *canvas) {
            (b"VP8X", &[_, _, _, _, w0, w1, w2, h0, h1, h2, ..], _) => {
                *canvas = Some((u32::from_le_bytes([w0, w1, w2, 0]) + 1, u32::from_le_bytes([h0, h1, h2, 0]) + 1));
                true
            }
            // A lossy frame says its own size, and the decoder takes memory for it.
            (b"VP8 ", &[_, _, _, _, _, _, w0, w1, h0, h1, ..], Some((width, height))) => {
                let size = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
                size(w0, w1) <= width && size(h0, h1) <= height
            }
            (b"ANMF", frame, _) => frame.get(16..).is_none_or(|chunks| chunks_fit(chunks, canvas)),
            _ => true,
        };
        if !fits {
            return false;
        }
        // A chunk of odd size is padded, but the last one's padding may be missing.
        rest = &body[size.next_multiple_of(2).min(body.len())..];
    }
    true
}

/// Whether rows are run-length coded, so that a few bytes can stand for many pixels.
pub(super) fn bmp_is_run_length_coded(file: &[u8]) -> bool {
    matches!(file.get(30), Some(1 | 2))
}

/// Whether the values of a TIFF's first directory lie inside the file.
pub(super) fn tiff_entries_fit(file: &[u8]) -> bool {
    first_directory(file).is_some_and(|entries| {
        entries.into_iter().all(|Entry { size, start }| start.checked_add(size).is_some_and(|end| end <= file.len()))
    })
}

/// Bytes of a directory entry's values, and where they are.
struct Entry {
    size: usize,
    start: usize,
}

/// The entries of the first directory; `None` when the directory itself reaches out of the file.
fn first_directory(file: &[u8]) -> Option<Vec<Entry>> {
    let little = file.starts_with(b"II");
    let number = |at: usize, bytes: usize| -> Option<usize> {
        let bytes = file.get(at..at.checked_add(bytes)?)?;
        let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        let value = if little { bytes.iter().rev().fold(0, add) } else { bytes.iter().fold(0, add) };
        usize::try_from(value).ok()
    };
    // BigTIFF has 64-bit counts and offsets, the others 32-bit ones; a directory's length has 64 or 16.
    let (word, length, first) = if number(2, 2)? == 43 { (8, 8, 8) } else { (4, 2, 4) };
    let directory = number(first, word)?;
    let count = number(directory, length)?;
    let entry_bytes = 4 + 2 * word;
    if count > file.len() / entry_bytes {
        return None;
    }
    let entry = |i: usize| {
        let at = directory.checked_add(length + i * entry_bytes)?;
        let unit = match number(at + 2, 2)? {
            1 | 2 | 6 | 7 => 1,
            3 | 8 => 2,
            4 | 9 | 11 | 13 => 4,
            5 | 10 | 12 | 16..=18 => 8,
            // The decoder passes over an entry of unknown type, but over too few bytes of it in a BigTIFF.
            _ if word == 8 => return None,
            _ => 0,
        };
        let size = number(at + 4, word)?.checked_mul(unit)?;
        let value = at + 4 + word;
        let start = if size <= word { value } else { number(value, word)? };
        Some(Entry { size, start })
    };
    (0..count).map(entry).collect()
}
