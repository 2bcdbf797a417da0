//! A request's messages: read, rendered and encoded. Whatever they say, only the template's control tokens come out.
#![no_main]

use libfuzzer_sys::fuzz_target;
use medgemma_gemma::text::{ChatTemplate, ImageLayout, ImageTokens, Message, RenderOptions, Role, Tokenizer};
use std::sync::LazyLock;

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    Tokenizer::from_json("tiny", include_bytes!("../../testdata/tiny-mm/tokenizer.json")).expect("it is a good one")
});
static TEMPLATE: LazyLock<ChatTemplate> = LazyLock::new(ChatTemplate::built_in);

fuzz_target!(|data: &[u8]| {
    let Ok(messages) = Message::from_json(data) else { return };
    let again = serde_json::to_vec(&messages).expect("messages are JSON");
    assert_eq!(Message::from_json(&again).expect("what was written can be read"), messages);
    let Ok(prompt) = TEMPLATE.render(&messages, &TOKENIZER, RenderOptions::default()) else { return };
    let images: usize = messages.iter().map(Message::images).sum();
    let tokens = ImageTokens::of(&TOKENIZER).expect("it has them");
    let crops = vec![0; images];
    let layout = ImageLayout { tokens, per_image: 1, crops: &crops };
    let ids = prompt.encode_with_images(&TOKENIZER, layout).expect("one place for each image").ids;
    // bos, two for each turn, the generation prompt's; three for each image.
    let turns = messages.len() - usize::from(messages[0].role == Role::System);
    let controls = ids.iter().filter(|&&id| TOKENIZER.is_control(id)).count();
    assert_eq!(controls, 2 + 2 * turns + 3 * images);
});
