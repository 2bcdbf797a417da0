//! Which of a repository's files a model needs.

use super::listing::{Entry, Repo};
use anyhow::{Result, bail};
use medgemma_gemma::locate::{HubId, best_mmproj, is_mmproj, quant_matches};
use std::collections::BTreeSet;

/// A file to have.
pub(crate) type File = Entry;

/// Files beside the weights that a folder in Hugging Face layout is read with.
const BESIDE: [&str; 12] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "adapter_config.json",
    "model.safetensors.index.json",
];

/// GGUFs taken when a repository has several and none was named: the first that is there.
const USUAL: [&str; 4] = ["Q4_K_M", "Q4_0", "Q8_0", "BF16"];

/// The files of the model: its safetensors, or one GGUF with its image encoder.
pub(crate) fn plan(id: &HubId, repo: &Repo, file: Option<&str>) -> Result<Vec<File>> {
    let named = file.or(id.quant());
    let weights: Vec<&Entry> = repo.files.iter().filter(|entry| is_weights(&entry.name)).collect();
    if named.is_some() || weights.is_empty() {
        return gguf(id, repo, named);
    }
    let beside = repo.files.iter().filter(|entry| BESIDE.contains(&entry.name.as_str()));
    Ok(beside.chain(weights).cloned().collect())
}

/// `model.safetensors`, its shards, or an adapter.
fn is_weights(name: &str) -> bool {
    let stem = name.strip_suffix(".safetensors").filter(|stem| !stem.contains('/'));
    stem.is_some_and(|stem| stem == "model" || stem == "adapter_model" || stem.starts_with("model-"))
}

fn gguf(id: &HubId, repo: &Repo, named: Option<&str>) -> Result<Vec<File>> {
    let names: BTreeSet<String> = repo
        .files
        .iter()
        .map(|entry| entry.name.clone())
        .filter(|name| name.to_lowercase().ends_with(".gguf"))
        .collect();
    let models: Vec<&str> = names.iter().map(String::as_str).filter(|name| !is_mmproj(name)).collect();
    let matching = |quant: &str| -> Vec<&str> {
        match models.iter().find(|name| **name == quant) {
            Some(exact) => vec![*exact],
            None => models.iter().copied().filter(|name| quant_matches(name, Some(quant))).collect(),
        }
    };
    let list = models.join(", ");
    let found = match named {
        Some(quant) => matching(quant),
        None if models.len() == 1 => models.clone(),
        None => USUAL.iter().map(|quant| matching(quant)).find(|found| !found.is_empty()).unwrap_or_default(),
    };
    let model = match found.as_slice() {
        [one] => *one,
        [] if models.is_empty() => bail!("{} holds no model: neither safetensors nor GGUF", id.repo()),
        [] => {
            bail!("{} has no such GGUF; it has {list}: name one after a colon, as in {}:Q4_K_M", id.repo(), id.repo())
        }
        several if several.iter().all(|name| name.contains("-of-")) => {
            bail!("{}: a GGUF in several parts can't be read: choose another of {list}", several[0])
        }
        several => bail!("{} has several: {}: name one with --file", id.repo(), several.join(", ")),
    };
    let mmproj = best_mmproj(model, &names).map(String::as_str);
    Ok(repo.files.iter().filter(|entry| entry.name == model || Some(entry.name.as_str()) == mmproj).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::super::listing::Checksum;
    use super::*;

    fn planned(id: &str, names: &[&str], file: Option<&str>) -> Result<Vec<String>> {
        let entry = |name: &&str| Entry { name: (*name).into(), size: 1, sum: Checksum::Git("0".repeat(40)) };
        let repo = Repo { commit: "0".repeat(40), files: names.iter().map(entry).collect() };
        Ok(plan(&HubId::parse(id)?, &repo, file)?.into_iter().map(|file| file.name).collect())
    }

    #[test]
    fn only_what_the_model_is_read_from() {
        let names = [
            "README.md",
            "config.json",
            "tokenizer.json",
            "chat_template.jinja",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "original/model.safetensors",
            "pytorch_model.bin",
            "consolidated.safetensors",
        ];
        let mut files = planned("a/b", &names, None).unwrap();
        files.sort();
        let mut expected = names[1..7].to_vec();
        expected.sort_unstable();
        assert_eq!(files, expected);
    }

    #[test]
    fn one_gguf_and_its_image_encoder() {
        let names = ["b-Q4_K_M.gguf", "b-Q8_0.gguf", "mmproj-b-F16.gguf", "mmproj-b-BF16.gguf", "config.json"];
        assert_eq!(planned("a/b", &names, None).unwrap(), ["b-Q4_K_M.gguf", "mmproj-b-BF16.gguf"]);
        assert_eq!(planned("a/b:Q8_0", &names, None).unwrap(), ["b-Q8_0.gguf", "mmproj-b-BF16.gguf"]);
        assert_eq!(planned("a/b", &names, Some("b-Q8_0.gguf")).unwrap()[0], "b-Q8_0.gguf");
        let twice = ["b.gguf", "small/b.gguf"];
        for name in twice {
            assert_eq!(planned("a/b", &twice, Some(name)).unwrap(), [name]);
        }
        let error = planned("a/b:Q5_K_M", &names, None).unwrap_err().to_string();
        assert!(error.contains("b-Q4_K_M.gguf, b-Q8_0.gguf"), "{error}");
    }

    #[test]
    fn what_cannot_be_chosen_is_said() {
        let error = |names: &[&str], id: &str| planned(id, names, None).unwrap_err().to_string();
        assert!(error(&["README.md"], "a/b").contains("holds no model"));
        let parts = ["BF16/m-BF16-00001-of-00002.gguf", "BF16/m-BF16-00002-of-00002.gguf"];
        assert!(error(&parts, "a/b:BF16").contains("several parts"));
        assert!(error(&["x-Q4_0.gguf", "y-Q4_0.gguf"], "a/b:Q4_0").contains("--file"));
    }
}
