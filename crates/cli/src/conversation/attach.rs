//! Pictures named in what was typed: a file dropped on a terminal arrives as its path.

use std::path::{Path, PathBuf};

/// File names that a picture ends in.
const ENDINGS: [&str; 8] = [".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".dcm"];

/// A line taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Typed {
    /// Paths of files that exist and look like pictures, in order.
    pub(crate) pictures: Vec<PathBuf>,
    /// The words around them.
    pub(crate) text: String,
}

/// Finds paths of pictures in a line: bare, quoted, with `\ ` for spaces, or as `file://`, as terminals write them.
/// Only paths for which `exists` holds are taken out; anything else stays text.
pub(crate) fn attach(line: &str, exists: impl Fn(&Path) -> bool) -> Typed {
    let mut typed = Typed { pictures: Vec::new(), text: String::new() };
    let mut rest = line;
    while !rest.is_empty() {
        let at_word = typed.text.is_empty() || typed.text.ends_with(char::is_whitespace);
        let word = if at_word { word(rest) } else { None };
        if let Some((path, length)) = word.filter(|(path, _)| looks_like_picture(path) && exists(path)) {
            typed.pictures.push(path);
            rest = rest[length..].trim_start_matches(' ');
            continue;
        }
        let next = rest.chars().next().map_or(0, char::len_utf8);
        typed.text.push_str(&rest[..next]);
        rest = &rest[next..];
    }
    typed.text = typed.text.trim().to_owned();
    typed
}

fn looks_like_picture(path: &Path) -> bool {
    let name = path.to_string_lossy().to_lowercase();
    ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// The first word as a shell would read it, and its length in the source.
fn word(text: &str) -> Option<(PathBuf, usize)> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''));
    let mut path = String::new();
    let mut chars = text.char_indices().skip(usize::from(quote.is_some()));
    let mut length = text.len();
    while let Some((at, c)) = chars.next() {
        match c {
            _ if Some(c) == quote => {
                length = at + c.len_utf8();
                break;
            }
            '\\' if quote.is_none() && cfg!(unix) => path.push(chars.next()?.1),
            c if quote.is_none() && c.is_whitespace() => {
                length = at;
                break;
            }
            c => path.push(c),
        }
    }
    let path = match path.strip_prefix("file://") {
        Some(url) => percent_decoded(url)?,
        None => path,
    };
    (!path.is_empty()).then(|| (expand_home(&path), length))
}

/// A path with `~` as a shell reads it.
fn expand_home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => Path::new(&home).join(rest),
        _ => PathBuf::from(path),
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let hex = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(hex, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attached(line: &str, files: &[&str]) -> (Vec<String>, String) {
        let typed = attach(line, |path| files.iter().any(|file| Path::new(file) == path));
        (typed.pictures.iter().map(|path| path.to_str().unwrap().to_owned()).collect(), typed.text)
    }

    #[test]
    fn paths_are_found_as_terminals_write_them() {
        let files = ["/a/x.png", "/a/my scan.JPG", "b.tiff"];
        assert_eq!(attached("what is /a/x.png here?", &files), (vec!["/a/x.png".into()], "what is here?".into()));
        assert_eq!(attached("'/a/my scan.JPG' report", &files), (vec!["/a/my scan.JPG".into()], "report".into()));
        assert_eq!(attached(r"/a/my\ scan.JPG report", &files), (vec!["/a/my scan.JPG".into()], "report".into()));
        assert_eq!(attached("file:///a/my%20scan.JPG x", &files), (vec!["/a/my scan.JPG".into()], "x".into()));
        let both = vec!["/a/x.png".to_owned(), "b.tiff".into()];
        assert_eq!(attached("/a/x.png b.tiff compare", &files), (both, "compare".into()));
    }

    #[test]
    fn what_is_no_picture_stays() {
        for line in ["see notes.txt", "is /a/x.png.", "no.png \"quoted\" it's", r"a\b \", "50 % of", "file://%zz.png"] {
            assert_eq!(attached(line, &["/a/x.png", "notes.txt"]), (vec![], line.into()));
        }
    }
}
