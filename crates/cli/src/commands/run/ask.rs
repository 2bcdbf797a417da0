//! What is asked, from the arguments, a file or stdin.

use crate::args::{self, NothingAsked};
use crate::conversation::{Picture, Role, Turn, parse_messages};
use anyhow::{Context, Result, bail};
use std::io::{IsTerminal, Read};
use std::path::Path;

/// The longest text that is read from stdin or a file of messages.
const MAX_TEXT: u64 = 256 << 20;

/// What to do.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Answer once.
    Once(Vec<Turn>),
    /// Talk.
    Chat,
}

/// Puts the question together. Pictures are read here, before the model is loaded: a mistake shows at once.
///
/// # Errors
/// When a file can't be read or nothing is asked.
pub(crate) fn read(args: &args::Run) -> Result<Ask> {
    if let Some(path) = &args.messages {
        return messages(path, args.pad).map(Ask::Once);
    }
    let piped = !std::io::stdin().is_terminal();
    let text = match args.prompt.as_deref() {
        Some("-") => stdin()?,
        Some(prompt) if piped => joined(prompt, &stdin()?),
        Some(prompt) => prompt.to_owned(),
        None if piped => stdin()?,
        None if std::io::stdout().is_terminal() && !args.json => return Ok(Ask::Chat),
        None => return Err(NothingAsked.into()),
    };
    if text.trim().is_empty() {
        return Err(NothingAsked.into());
    }
    let mut turns: Vec<Turn> = args.system.iter().map(|text| Turn::text(Role::System, text.as_str())).collect();
    turns.push(Turn::user(pictures(args)?, text));
    Ok(Ask::Once(turns))
}

/// The pictures of `--image`.
///
/// # Errors
/// When one can't be read.
pub(crate) fn pictures(args: &args::Run) -> Result<Vec<Picture>> {
    args.image.iter().map(|path| Picture::read(path)?.padded(args.pad)).collect()
}

/// A question and the text that it is about.
fn joined(prompt: &str, piped: &str) -> String {
    match piped.trim() {
        "" => prompt.to_owned(),
        piped => format!("{prompt}\n\n{piped}"),
    }
}

/// Paths of pictures are relative to the file; to the working folder where messages come from stdin (`-`).
fn messages(path: &Path, pad: bool) -> Result<Vec<Turn>> {
    let piped = path == Path::new("-");
    let name = || if piped { "stdin".into() } else { path.display().to_string() };
    let text = if piped {
        limited(std::io::stdin().lock())
    } else {
        std::fs::File::open(path).map_err(Into::into).and_then(limited)
    };
    let text = text.with_context(name)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let turns = parse_messages(&text, folder).with_context(name)?;
    turns.into_iter().map(|turn| turn.padded(pad)).collect()
}

fn stdin() -> Result<String> {
    let bytes = limited(std::io::stdin().lock()).context("stdin")?;
    String::from_utf8(bytes).ok().context("stdin is not text in UTF-8")
}

fn limited(source: impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(MAX_TEXT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_TEXT {
        bail!("it is longer than {}", crate::terminal::bytes(MAX_TEXT));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn piped_text_follows_the_question() {
        assert_eq!(joined("Summarise:", " a\nb\n"), "Summarise:\n\na\nb");
        assert_eq!(joined("Hello", "\n"), "Hello");
    }

    #[test]
    fn endless_input_ends() {
        assert!(limited(std::io::repeat(b'x')).unwrap_err().to_string().contains("longer than"));
    }
}
