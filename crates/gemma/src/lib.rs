//! Images, text and the model.
