//! Embeddings, which these models don't make.

use crate::failure::Failure;
use axum::http::StatusCode;

/// `POST /v1/embeddings`
pub(crate) async fn handle() -> Failure {
    refused()
}

/// Why there are none: a vector could be read from the model's last layer, but nobody trained or measured it to say
/// what is alike, and a search that rests on it would fail without anybody noticing.
pub(crate) fn refused() -> Failure {
    let message = "this model makes no embeddings: it was trained to write text, and its hidden states weren't trained \
                   or measured to say which texts are alike. Use a model made for it (such as MedSigLIP or \
                   EmbeddingGemma) beside this server";
    Failure { status: StatusCode::NOT_IMPLEMENTED, ..Failure::bad(message) }.code("unsupported")
}
