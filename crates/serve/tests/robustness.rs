//! Clients of all kinds at once: nobody gets another's answer, and nothing is left behind.

#[allow(dead_code)] // shared with other tests
mod support;

use medgemma_serve::Config;
use rusqlite::Connection;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use support::{Answer, Server, ask, config, endless, parsed, receive};

const CHAT: &str = "/v1/chat/completions";
const CLIENTS: u64 = 10;
const EACH: usize = 50;
const QUESTIONS: [&str; 5] = [
    "What is a pleural effusion?",
    "Hello!",
    "Is there a nodule?",
    "A 54-year-old with BP 132/88 mmHg. What is the blood pressure?",
    "Say something.",
];

/// Numbers that are the same in each run (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}

fn question(which: usize, stream: bool) -> String {
    let mut body = ask(QUESTIONS[which]);
    (body["temperature"], body["stream"]) = (json!(0), json!(stream));
    body.to_string()
}

/// What an answer says, however it came.
fn said(answer: &Answer) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match answer.head.contains("text/event-stream") {
        true => {
            assert!(answer.body.ends_with("data: [DONE]\n\n"), "a stream was cut off");
            answer.events().iter().map(|event| text(&event["choices"][0]["delta"]["content"])).collect()
        }
        false => text(&answer.json()["choices"][0]["message"]["content"]),
    }
}

/// Reads a little at a time.
fn read_slowly(mut stream: TcpStream) -> Answer {
    let (mut bytes, mut some) = (Vec::new(), [0; 200]);
    while let Ok(count @ 1..) = stream.read(&mut some) {
        bytes.extend_from_slice(&some[..count]);
        std::thread::sleep(Duration::from_millis(3));
    }
    parsed(bytes)
}

/// Sends the body in pieces.
fn write_slowly(server: &Server, body: &str) -> TcpStream {
    let length = format!("Content-Length: {}\r\n", body.len());
    let mut stream = server.begin("POST", CHAT, &length);
    for piece in body.as_bytes().chunks(40) {
        stream.write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(3));
    }
    stream
}

/// One client that does something; gives whether it got an answer that was compared.
fn act(server: &Server, random: &mut Random, wanted: &[String]) -> bool {
    let which = random.below(QUESTIONS.len());
    let question = question(which, random.below(2) == 0);
    let long = endless().to_string();
    let refused = |answer: Answer| assert!(matches!(answer.status, 400 | 413 | 429), "{}", answer.status);
    let answered = match random.below(12) {
        0 => {
            drop(server.send("POST", CHAT, "", question.as_bytes()));
            return false;
        }
        1 => {
            drop(server.send("POST", "/v1/completions", "", long.as_bytes()));
            return false;
        }
        2 => {
            let mut leaving = server.send("POST", "/v1/completions", "", long.as_bytes());
            let _ = leaving.read(&mut vec![0; 1 + random.below(2000)]);
            return false;
        }
        3 => {
            // A refusal may be lost, as the server closes while the rest comes.
            let answer = receive(server.send("POST", CHAT, "", &vec![b'['; 60_000]));
            assert!(matches!(answer.status, 0 | 413), "{}", answer.status);
            return false;
        }
        4 => {
            let cut = random.below(question.len());
            refused(receive(server.send("POST", CHAT, "", &question.as_bytes()[..cut])));
            return false;
        }
        5 => {
            let mut bytes = question.into_bytes();
            for _ in 0..=random.below(4) {
                let at = random.below(bytes.len());
                bytes[at] = random.below(256) as u8;
            }
            // It may still be a request, of something else.
            let status = receive(server.send("POST", CHAT, "", &bytes)).status;
            assert!(matches!(status, 200 | 400 | 404 | 429), "{status}");
            return false;
        }
        6 => {
            let mut cut = server.begin("POST", CHAT, "Content-Length: 5000\r\n");
            let _ = cut.write_all(question.as_bytes());
            return false;
        }
        7 => read_slowly(server.send("POST", CHAT, "", question.as_bytes())),
        8 => receive(write_slowly(server, &question)),
        _ => receive(server.send("POST", CHAT, "", question.as_bytes())),
    };
    match answered.status {
        200 => assert_eq!(said(&answered), wanted[which]),
        status => assert_eq!(status, 429, "{}", answered.body),
    }
    answered.status == 200
}

#[test]
fn five_hundred_of_all_kinds_leave_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let audit = folder.path().join("audit.db");
    let limits = Config { body: 50_000, in_flight: 12, audit: Some(audit.clone()), ..config() };
    let mut server = Server::start(limits);
    let alone = |which| said(&receive(server.send("POST", CHAT, "", question(which, false).as_bytes())));
    let wanted: Vec<String> = (0..QUESTIONS.len()).map(alone).collect();
    let compared = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (server, wanted, compared) = (&server, &wanted, &compared);
            scope.spawn(move || {
                let mut random = Random(client);
                for _ in 0..EACH {
                    compared.fetch_add(usize::from(act(server, &mut random, wanted)), Ordering::Relaxed);
                }
            });
        }
    });
    assert!(compared.into_inner() > 50, "most were told to come back");
    server.wait_until_idle();
    let again = receive(server.send("POST", CHAT, "", question(3, true).as_bytes()));
    assert_eq!(said(&again), wanted[3]);
    server.ended().unwrap();
    let log = Connection::open(&audit).unwrap();
    let count = |rows: &str| -> i64 {
        log.query_row(&format!("SELECT count(*) FROM request WHERE {rows}"), [], |row| row.get(0)).unwrap()
    };
    assert_eq!(count("ended IS NULL OR finish IS NULL"), 0);
    assert!(count("finish = 'cancelled'") > 50 && count("finish = 'refused'") > 50 && count("finish = 'stop'") > 50);
}
