//! `medgemma pull`: from the hub into its cache.

use super::{print_json, print_lines};
use crate::args;
use crate::catalog::Variant;
use crate::hub::{self, Client, Pull, Repo};
use crate::interrupt;
use crate::terminal::{Download, bytes};
use anyhow::{Context, Result, bail};
use medgemma_gemma::locate::{Cache, HubId, locate_in};
use serde::Serialize;
use std::path::PathBuf;

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
    let name = match (&args.file, id.quant()) {
        (Some(file), None) => format!("{id}:{file}"),
        _ => id.to_string(),
    };
    locate_in(&name, &cache).with_context(|| format!("{id} was pulled, but"))?;
    print_lines([format!("{name} is here ({}).", bytes(total)), format!("Try it: medgemma run {name}")])
}
