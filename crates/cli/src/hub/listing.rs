//! A repository's files as the hub lists them, and what it means when it doesn't.

use super::client::{Client, Failure};
use super::download::Watch;
use anyhow::{Result, anyhow, bail};
use medgemma_gemma::locate::HubId;
use serde::Deserialize;

/// The longest list of files that is read.
const MAX_LISTING: u64 = 16 << 20;

/// A repository at one commit.
#[derive(Debug)]
pub(crate) struct Repo {
    /// The commit, 40 hexadecimal digits.
    pub(crate) commit: String,
    /// Its files.
    pub(crate) files: Vec<Entry>,
}

/// One file of a repository.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Path in the repository, `/` between its parts.
    pub(crate) name: String,
    /// Bytes.
    pub(crate) size: u64,
    /// Checksum of its bytes, which also names the blob in the cache.
    pub(crate) sum: Checksum,
}

/// What the hub knows of a file's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Checksum {
    /// SHA-256 of a file in large-file storage.
    Sha256(String),
    /// git's blob id: SHA-1 over `blob SIZE\0` and the bytes.
    Git(String),
}

impl Checksum {
    /// Hexadecimal digits.
    pub(crate) fn hex(&self) -> &str {
        match self {
            Self::Sha256(hex) | Self::Git(hex) => hex,
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

impl Repo {
    /// Asks the hub.
    pub(crate) fn ask(client: &Client, id: &HubId, watch: &mut dyn Watch) -> Result<Self> {
        let path = format!("/api/models/{}/revision/{}?blobs=true", id.repo(), id.revision().replace('/', "%2F"));
        let response = client.get_patiently(&path, watch).map_err(|failure| explain(failure, client, id))?;
        let body = response.into_body().into_with_config().limit(MAX_LISTING).read_to_vec()?;
        Self::parse(&body)
    }

    /// Reads the hub's answer. Commit and checksums become file names, so they must be what they claim to be.
    pub(crate) fn parse(body: &[u8]) -> Result<Self> {
        let answer: Answer =
            serde_json::from_slice(body).map_err(|error| anyhow!("the hub's list of files can't be read: {error}"))?;
        if !is_hex(&answer.sha, 40) {
            bail!("the hub names a commit that is none: {:?}", answer.sha);
        }
        let files = answer.siblings.into_iter().map(Sibling::entry).collect::<Result<_>>()?;
        Ok(Self { commit: answer.sha, files })
    }
}

impl Sibling {
    fn entry(self) -> Result<Entry> {
        let name = self.rfilename;
        if !name_is_safe(&name) {
            bail!("the hub lists a file named {name:?}, which could be written outside the cache: nothing was pulled");
        }
        let (size, sum) = match (self.lfs, self.size, self.blob_id) {
            (Some(lfs), _, _) if is_hex(&lfs.sha256, 64) => (lfs.size, Checksum::Sha256(lfs.sha256)),
            (None, Some(size), Some(id)) if is_hex(&id, 40) => (size, Checksum::Git(id)),
            _ => bail!("the hub gives no size or checksum of {name}"),
        };
        Ok(Entry { name, size, sum })
    }
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a name stays under the folder it is joined to, on every system.
fn name_is_safe(name: &str) -> bool {
    let part = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', ':', '\0']);
    name.split('/').all(part) && !name.chars().any(char::is_control)
}

/// One clear message for a hub that says no.
pub(crate) fn explain(failure: Failure, client: &Client, id: &HubId) -> anyhow::Error {
    let (page, status) = (format!("{}/{}", client.endpoint(), id.repo()), failure.status.map(|status| status.as_u16()));
    let pass = format!("pass it with `medgemma pull {id} --token hf_…` or in HF_TOKEN");
    match (failure.code.as_deref(), status) {
        (Some("GatedRepo"), Some(401)) => anyhow!(
            "{} is gated: accept its licence at {page}, make a token at {}/settings/tokens and {pass}",
            id.repo(),
            client.endpoint()
        ),
        (Some("GatedRepo"), _) | (None, Some(403)) => anyhow!(
            "{} is gated and this token may not read it: accept its licence at {page} with the token's account (a \
             fine-grained token also needs access to public gated repositories)",
            id.repo()
        ),
        (Some("RevisionNotFound"), _) => anyhow!("{} has no revision {:?}: see {page}", id.repo(), id.revision()),
        (Some("RepoNotFound"), _) | (None, Some(404)) if !client.has_token() => {
            anyhow!(
                "the hub has no {}: check the name at {page} (a private or gated one needs a token: {pass})",
                id.repo()
            )
        }
        (Some("RepoNotFound"), _) | (None, Some(404)) => {
            anyhow!("the hub has no {} that this token may see: check the name at {page}", id.repo())
        }
        (_, Some(401)) if client.has_token() => {
            anyhow!("the hub refuses the token: make a new one at {}/settings/tokens and {pass}", client.endpoint())
        }
        (_, Some(401)) => anyhow!("{} needs a token: accept its licence at {page}, then {pass}", id.repo()),
        _ if failure.passing => failure.error.context("the hub can't be reached: check the network and try again"),
        _ => failure.error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(name: &str, rest: &str) -> String {
        format!(r#"{{"sha": "{}", "siblings": [{{"rfilename": "{name}"{rest}}}]}}"#, "a".repeat(40))
    }

    #[test]
    fn names_that_leave_the_cache_are_refused() {
        let rest = format!(r#", "size": 1, "blobId": "{}""#, "b".repeat(40));
        for name in ["../x", "a/../../x", "/etc/x", "a//b", "..\\\\x", "C:x", "a/./b", "x\\u0000", "x\\n", ""] {
            let error = Repo::parse(listing(name, &rest).as_bytes()).unwrap_err().to_string();
            assert!(error.contains("outside the cache"), "{name}: {error}");
        }
        assert!(Repo::parse(listing("a/b..c", &rest).as_bytes()).is_ok());
    }

    #[test]
    fn commits_and_checksums_that_leave_the_cache_are_refused() {
        assert!(Repo::parse(br#"{"sha": "../../x", "siblings": []}"#).is_err());
        for id in ["../x", "", &"B".repeat(40)] {
            assert!(Repo::parse(listing("x", &format!(r#", "size": 1, "blobId": "{id}""#)).as_bytes()).is_err());
        }
        let lfs = r#", "size": 1, "lfs": {"sha256": "../x", "size": 1}"#;
        assert!(Repo::parse(listing("x", lfs).as_bytes()).is_err());
        assert!(Repo::parse(listing("x", "").as_bytes()).unwrap_err().to_string().contains("no size or checksum"));
        assert!(Repo::parse(b"<html>").unwrap_err().to_string().contains("can't be read"));
    }
}
