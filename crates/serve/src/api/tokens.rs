//! Text to token ids and back.

use super::options::Hold;
use super::{Ask, check_model, prepare, read, respond};
use crate::failure::Failure;
use crate::server::Shared;
use crate::tools;
use axum::extract::{Request, State};
use axum::response::Response;
use medgemma_engine::Options;
use medgemma_engine::pipeline::Frontend;
use medgemma_gemma::text::Special;
use serde_json::{Value, json};
use std::sync::Arc;

/// `POST /tokenize`: of a `prompt`, with bos unless `add_special_tokens` is false, or of `messages`.
pub(crate) async fn tokenize(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Failure> {
    let (fields, mut owner) = read(&shared, request).await?;
    check_model(&shared, &fields, "model")?;
    let ask = match fields.get("messages") {
        None => None,
        Some(messages) => {
            let messages = tools::conversation(messages)?;
            let ask = Ask { messages, within: None, images: None, options: Options::default(), hold: Hold::default() };
            Some(ask.fetched(&shared).await?)
        }
    };
    let ids = move |frontend: &Frontend, shared: &Shared| {
        let ids = match ask {
            Some(ask) => ask.prepare(frontend, shared)?.ids().to_vec(),
            None => {
                let text = fields.text("prompt")?.or(fields.text("content")?);
                let text = text.ok_or_else(|| fields.wrong("prompt", "it must be a text"))?;
                let tokenizer = frontend.tokenizer();
                let mut ids = match fields.flag("add_special_tokens")?.unwrap_or(true) {
                    true => tokenizer.prefix().to_vec(),
                    false => Vec::new(),
                };
                tokenizer.encode_into(text, Special::Plain, &mut ids);
                ids
            }
        };
        Ok((ids, fields.ignored()))
    };
    let ((ids, ignored), ..) = prepare(&shared, &mut owner, 1, ids).await?;
    let most = shared.ready()?.frontend.context();
    Ok(respond(&json!({"tokens": ids, "count": ids.len(), "max_model_len": most}), &ignored))
}

/// `POST /detokenize`: of `tokens`.
pub(crate) async fn detokenize(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Failure> {
    let (fields, mut owner) = read(&shared, request).await?;
    check_model(&shared, &fields, "model")?;
    let text = move |frontend: &Frontend, _: &Shared| {
        let tokenizer = frontend.tokenizer();
        let id = |value: &Value| u32::try_from(value.as_u64()?).ok().filter(|id| tokenizer.token(*id).is_some());
        let list = fields.get("tokens").and_then(Value::as_array);
        let ids: Option<Vec<u32>> = list.and_then(|list| list.iter().map(id).collect());
        let ids = ids.ok_or_else(|| fields.wrong("tokens", "it must be a list of token ids of the vocabulary"))?;
        Ok((tokenizer.decode(&ids, false), fields.ignored()))
    };
    let ((text, ignored), ..) = prepare(&shared, &mut owner, 1, text).await?;
    Ok(respond(&json!({"prompt": text}), &ignored))
}

/// `GET /tokenizer_info`: what a client needs to write prompts itself.
pub(crate) async fn info(State(shared): State<Arc<Shared>>) -> Result<Response, Failure> {
    let frontend = &shared.ready()?.frontend;
    let tokenizer = frontend.tokenizer();
    let named = |name: &str| tokenizer.id(name).map(|_| name.to_owned());
    let eos = frontend.config().tokens.eos.first().and_then(|id| tokenizer.token(*id));
    let body = json!({
        "tokenizer_class": "GemmaTokenizer", "vocab_size": tokenizer.vocab_size(),
        "model_max_length": frontend.context(), "bos_token": named("<bos>"), "eos_token": eos,
        "pad_token": named("<pad>"), "unk_token": named("<unk>"), "chat_template": frontend.chat_template(),
    });
    Ok(respond(&body, &[]))
}
