//! A request of any route: read, checked and prepared, in bounded time and memory. The first byte names the route.
#![no_main]

use libfuzzer_sys::fuzz_target;
use medgemma_engine::{LoadOptions, Pipeline, ServingOptions};
use medgemma_serve::Config;
use medgemma_serve::fuzzing::{ROUTES, Routes};
use std::sync::LazyLock;

static SERVER: LazyLock<Routes> = LazyLock::new(|| {
    let options = LoadOptions { threads: Some(1), context: Some(512), ..LoadOptions::default() };
    let serving = ServingOptions { conversations: 1, running: 1, ..ServingOptions::default() };
    let model = Pipeline::load_with("demo", &options, |_| {}).expect("it is in the program");
    let model = model.into_serving(&serving).expect("it fits");
    let config = Config { body: 1 << 16, pixels: 1 << 20, images: 4, in_flight: 4, ..Config::new("demo") };
    Routes::new(model.frontend(), config).expect("there are threads")
});

fuzz_target!(|data: &[u8]| {
    let Some((&route, body)) = data.split_first() else { return };
    let route = ROUTES[usize::from(route) % ROUTES.len()];
    let (status, answer) = SERVER.post(route, body);
    // 503 is what is prepared and would be computed.
    assert!(matches!(status, 200 | 400 | 404 | 413 | 503), "{route}: {status} {answer}");
    assert!(status == 200 || !answer.contains("Smith"), "{route}: a refusal repeats what was said");
});
