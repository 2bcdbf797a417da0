//! Where the access token is: as Python's `huggingface_hub` looks for it.

use medgemma_gemma::locate::Cache;
use std::ffi::OsString;
use std::path::PathBuf;

/// Where a token was found. The token itself is never printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// `--token`.
    Flag,
    /// An environment variable.
    Variable(&'static str),
    /// The file that `hf auth login` writes.
    File(PathBuf),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag => f.write_str("--token"),
            Self::Variable(name) => f.write_str(name),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The token to use, if there is any, and where it came from. An empty `--token ""` means none.
pub(crate) fn find(flag: Option<&str>, var: impl Fn(&str) -> Option<OsString>) -> Option<(String, Source)> {
    if let Some(token) = flag {
        return clean(token).map(|token| (token, Source::Flag));
    }
    for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
        if let Some(token) = var(name).and_then(|value| clean(&value.into_string().ok()?)) {
            return Some((token, Source::Variable(name)));
        }
    }
    let path = var("HF_TOKEN_PATH").map_or_else(|| Cache::home_from(&var).join("token"), PathBuf::from);
    let token = clean(&std::fs::read_to_string(&path).ok()?)?;
    Some((token, Source::File(path)))
}

/// The token without the spaces and line ends that copying adds; none when it can't stand in a header.
fn clean(token: &str) -> Option<String> {
    let token = token.trim();
    (!token.is_empty() && token.chars().all(|c| c.is_ascii_graphic())).then(|| token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_wins_over_the_environment_and_that_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "hf_file\n").unwrap();
        let with = |hf_token: Option<&'static str>| {
            let path = path.clone();
            move |name: &str| match name {
                "HF_TOKEN" => hf_token.map(OsString::from),
                "HF_TOKEN_PATH" => Some(path.clone().into_os_string()),
                _ => None,
            }
        };
        assert_eq!(find(Some(" hf_a\n"), with(Some("hf_b"))), Some(("hf_a".into(), Source::Flag)));
        assert_eq!(find(None, with(Some("hf_b"))), Some(("hf_b".into(), Source::Variable("HF_TOKEN"))));
        assert_eq!(find(None, with(None)), Some(("hf_file".into(), Source::File(path.clone()))));
        assert_eq!(find(Some(""), with(Some("hf_b"))), None);
        assert_eq!(find(Some("a\r\nX-Evil: 1"), with(None)), None);
    }
}
