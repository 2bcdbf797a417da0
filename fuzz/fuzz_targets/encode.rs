//! Any text to token ids and back, and any token ids to text: whole, streamed, split at thoughts and stop strings.
#![no_main]

use libfuzzer_sys::fuzz_target;
use medgemma_gemma::text::{DecodeStream, Event, Special, StopMatcher, ThoughtParser, Tokenizer};
use std::sync::LazyLock;

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    Tokenizer::from_json("tiny", include_bytes!("../../testdata/tiny-mm/tokenizer.json")).expect("it is a good one")
});

fuzz_target!(|data: &[u8]| {
    let tokenizer = &*TOKENIZER;
    let text = String::from_utf8_lossy(data).replace('▁', " ");
    for special in [Special::Plain, Special::Parse] {
        let ids = tokenizer.encode(&text, special);
        assert_eq!(tokenizer.decode(&ids, false), text);
        assert!(special == Special::Parse || ids.iter().all(|&id| !tokenizer.is_control(id)));
    }

    let ids: Vec<u32> =
        data.chunks(2).map(|pair| pair.iter().fold(0, |id, &b| id << 8 | u32::from(b)) % 1010).collect();
    let whole = tokenizer.decode(&ids, true);
    let mut stream = DecodeStream::new(tokenizer, true);
    let mut streamed: String = ids.iter().map(|&id| stream.push(id)).collect();
    streamed += &stream.finish();
    assert_eq!(streamed, whole);

    let mut parser = ThoughtParser::new(tokenizer, true);
    let mut events: Vec<Event> = ids.iter().flat_map(|&id| parser.push(id)).collect();
    events.extend(parser.finish());
    assert!(events.iter().all(|(Event::Thought(text) | Event::Answer(text))| !text.is_empty()));

    let (stop, rest) = text.split_at(text.char_indices().nth(3).map_or(text.len(), |(at, _)| at));
    let mut matcher = StopMatcher::new(&[stop]);
    let mut shown: String = rest.split_inclusive(' ').map(|piece| matcher.push(piece)).collect();
    shown += &matcher.finish();
    let end = if stop.is_empty() { None } else { rest.find(stop) };
    assert_eq!(shown, rest[..end.unwrap_or(rest.len())]);
});
