//! A request of any route: read, checked and prepared, in bounded time and memory. The first byte names the route.
#![no_main]

use libfuzzer_sys::fuzz_target;
use medgemma_serve::fuzzing::Routes;
use std::sync::LazyLock;

static SERVER: LazyLock<Routes> = LazyLock::new(|| Routes::new().expect("the model is in the program"));

fuzz_target!(|data: &[u8]| SERVER.check(data));
