//! What Ollama's clients ask of the model.

use super::refusal;
use crate::api::{check_model, embeddings, read, respond};
use crate::audit::digest;
use crate::failure::{Failure, answer};
use crate::server::Shared;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use medgemma_engine::pipeline::Frontend;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// The version of Ollama whose API this is. Some clients ask for one that is new enough.
const OLLAMA: &str = "0.11.0";

/// The only model. What Ollama says of a file isn't known here: the size is 0, and the digest is that of the name, as
/// clients cut it to its first letters.
fn about(shared: &Shared, frontend: &Frontend) -> Value {
    let name = &shared.config.model;
    let digest: String = digest(name.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    json!({
        "name": name, "model": name, "size": 0, "digest": digest, "details": details(), "capabilities": capabilities(shared, frontend),
    })
}

fn details() -> Value {
    json!({
        "parent_model": "", "format": "medgemma", "family": "gemma3", "families": ["gemma3"], "parameter_size": "",
        "quantization_level": "",
    })
}

fn capabilities(shared: &Shared, frontend: &Frontend) -> Vec<&'static str> {
    let all = [
        ("completion", true),
        ("vision", frontend.can_see()),
        ("tools", frontend.can_chat()),
        ("thinking", frontend.can_chat() && shared.config.thinks == Some(true)),
    ];
    all.into_iter().filter(|(_, can)| *can).map(|(name, _)| name).collect()
}

/// `GET /api/tags`
pub(crate) async fn tags(State(shared): State<Arc<Shared>>) -> Response {
    listed(&shared, |frontend| {
        let mut model = about(&shared, frontend);
        model["modified_at"] = json!(time());
        model
    })
}

/// `GET /api/ps`: the model is always loaded.
pub(crate) async fn ps(State(shared): State<Arc<Shared>>) -> Response {
    listed(&shared, |frontend| {
        let mut model = about(&shared, frontend);
        (model["expires_at"], model["size_vram"]) = (json!("9999-12-31T23:59:59Z"), json!(0));
        model["context_length"] = json!(frontend.context());
        model
    })
}

fn listed(shared: &Shared, model: impl Fn(&Frontend) -> Value) -> Response {
    match shared.ready() {
        Ok(ready) => answer(StatusCode::OK, &json!({"models": [model(&ready.frontend)]})),
        Err(failure) => refusal(&failure),
    }
}

/// `POST /api/show`
pub(crate) async fn show(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    shown(&shared, request).await.unwrap_or_else(|failure| refusal(&failure))
}

async fn shown(shared: &Shared, request: Request) -> Result<Response, Failure> {
    let (fields, _) = read(shared, request).await?;
    check_model(shared, &fields, "model")?;
    // Its older word.
    check_model(shared, &fields, "name")?;
    fields.get("verbose");
    let frontend = &shared.ready()?.frontend;
    let text = &frontend.config().text;
    let sampling = frontend.default_sampling();
    let parameters =
        format!("temperature {}\ntop_k {}\ntop_p {}", sampling.temperature, sampling.top_k, sampling.top_p);
    let body = json!({
        "modelfile": "", "parameters": parameters, "template": frontend.chat_template().unwrap_or_default(),
        "details": details(), "capabilities": capabilities(shared, frontend), "modified_at": time(),
        "model_info": {
            "general.architecture": "gemma3", "gemma3.context_length": frontend.context(),
            "gemma3.embedding_length": text.hidden, "gemma3.block_count": text.global.len(),
            "gemma3.vocab_size": text.vocab,
        },
    });
    Ok(respond(&body, &fields.ignored()))
}

/// `POST /api/embed` and `POST /api/embeddings`, which can't be answered.
pub(crate) async fn embed() -> Response {
    refusal(&embeddings::refused())
}

/// `GET /api/version`
pub(crate) async fn version() -> Response {
    answer(StatusCode::OK, &json!({"version": OLLAMA, "medgemma": env!("CARGO_PKG_VERSION")}))
}

/// The time, as RFC 3339 writes it. The date is Howard Hinnant's civil_from_days.
pub(super) fn time() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, second) = (now / 86_400 + 719_468, now % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (day, month) =
        (day_of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}
