//! `medgemma pull`: from the hub into its cache.

use super::{print_json, print_lines};
use crate::args;
use crate::catalog::Variant;
use crate::hub::{self, Client, File, Pull, Repo};
use crate::interrupt;
use crate::terminal::{Download, bytes};
use anyhow::{Context, Result, bail};
use medgemma_gemma::locate::{Cache, HubId, Located, is_mmproj, locate_in};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    model: String,
    commit: String,
    path: PathBuf,
    files: Vec<String>,
    bytes: u64,
}

pub(crate) fn run(args: &args::Pull, quiet: bool) -> Result<()> {
    let mut id = HubId::parse(Variant::meant_by(&args.model).unwrap_or(&args.model))?;
    if args.revision != "main" {
        id = id.at(&args.revision)?;
    }
    if hub::offline() {
        bail!("HF_HUB_OFFLINE forbids the network: unset it to pull {id}");
    }
    let token = hub::find_token(args.token.as_deref(), |name| std::env::var_os(name)).map(|(token, _)| token);
    let client = Client::new(&args.endpoint, token)?;
    let cache = Cache::from_env();
    let _polite = interrupt::guard();
    let mut watch = Download::new(quiet);
    let repo = Repo::ask(&client, &id, &mut watch)?;
    let files = hub::plan(&id, &repo, args.file.as_deref())?;
    let total = files.iter().map(|file| file.size).sum();
    watch.begin(total);
    let pull = Pull { client: &client, cache: &cache, id: &id, repo: &repo, verify: args.verify };
    let result = pull.run(&files, &mut watch);
    watch.finish();
    let path = result?;
    if args.json {
        let files = files.into_iter().map(|file| file.name).collect();
        return print_json(&Report { model: id.to_string(), commit: repo.commit, path, files, bytes: total });
    }
    let name = name_of(&id, &files, &path, &cache)?;
    print_lines([format!("{name} is here ({}).", bytes(total)), format!("Try it: medgemma run {name}")])
}

/// What `run` finds the pulled files by: the id as it was given, else with the GGUF's name after a colon (another of the
/// repository's GGUFs is here, too), else the file's path (two of them bear the same name).
///
/// # Errors
/// When nothing finds them.
fn name_of(id: &HubId, files: &[File], snapshot: &Path, cache: &Cache) -> Result<String> {
    let given = id.to_string();
    let located = locate_in(&given, cache);
    let Some(gguf) = files.iter().find(|file| file.name.to_lowercase().ends_with(".gguf") && !is_mmproj(&file.name))
    else {
        located.with_context(|| format!("{id} was pulled, but"))?;
        return Ok(given);
    };
    let model = snapshot.join(&gguf.name);
    let is_it = |located: &Located| matches!(located, Located::Gguf { model: found, .. } if *found == model);
    if located.is_ok_and(|located| is_it(&located)) {
        return Ok(given);
    }
    let whole = given.split(':').next().unwrap_or(&given);
    let named = format!("{whole}:{}", gguf.name.rsplit('/').next().unwrap_or(&gguf.name));
    if locate_in(&named, cache).is_ok_and(|located| is_it(&located)) {
        return Ok(named);
    }
    let path = model.display().to_string();
    locate_in(&path, cache).with_context(|| format!("{id} was pulled, but"))?;
    Ok(path)
}
