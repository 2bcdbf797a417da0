//! What the server counts, as Prometheus reads it. Nothing of a request's content is in it.

use medgemma_engine::scheduler::Occupancy;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Upper bounds of the times, in seconds.
const BOUNDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

#[derive(Default)]
struct Histogram {
    counts: [u64; BOUNDS.len()],
    total: u64,
    sum: f64,
}

impl Histogram {
    fn add(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        self.total += 1;
        self.sum += seconds;
        if let Some(at) = BOUNDS.iter().position(|bound| seconds <= *bound) {
            self.counts[at] += 1;
        }
    }

    fn write(&self, name: &str, help: &str, out: &mut String) {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        let mut sum = 0;
        for (bound, count) in BOUNDS.iter().zip(&self.counts) {
            sum += count;
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {sum}");
        }
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {}", self.total);
        let _ = writeln!(out, "{name}_sum {}\n{name}_count {}", self.sum, self.total);
    }
}

#[derive(Default)]
struct Counted {
    occupancy: Occupancy,
    /// Requests that the engine hasn't taken yet.
    sent: u64,
    prompt_tokens: u64,
    cached_tokens: u64,
    new_tokens: u64,
    ended: BTreeMap<&'static str, u64>,
    responses: BTreeMap<u16, u64>,
    audit_failures: u64,
    first: Histogram,
    between: Histogram,
    steps: Histogram,
}

/// Counters of one server.
#[derive(Default)]
pub(crate) struct Metrics(Mutex<Counted>);

impl Metrics {
    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn occupancy(&self, occupancy: Occupancy) {
        self.counted().occupancy = occupancy;
    }

    /// A request is on its way to the engine.
    pub(crate) fn sent(&self) {
        self.counted().sent += 1;
    }

    /// The engine has taken one.
    pub(crate) fn taken(&self) {
        let mut counted = self.counted();
        counted.sent = counted.sent.saturating_sub(1);
    }

    pub(crate) fn prompt(&self, tokens: usize, cached: usize) {
        let mut counted = self.counted();
        counted.prompt_tokens += tokens as u64;
        counted.cached_tokens += cached as u64;
    }

    pub(crate) fn first_token(&self, time: Duration) {
        let mut counted = self.counted();
        counted.new_tokens += 1;
        counted.first.add(time);
    }

    pub(crate) fn next_token(&self, time: Duration) {
        let mut counted = self.counted();
        counted.new_tokens += 1;
        counted.between.add(time);
    }

    pub(crate) fn step(&self, time: Duration) {
        self.counted().steps.add(time);
    }

    pub(crate) fn ended(&self, reason: &'static str) {
        *self.counted().ended.entry(reason).or_default() += 1;
    }

    pub(crate) fn response(&self, status: u16) {
        *self.counted().responses.entry(status).or_default() += 1;
    }

    pub(crate) fn audit_failed(&self) {
        self.counted().audit_failures += 1;
    }

    /// Everything, in Prometheus' text format; `in_flight` requests have a place.
    pub(crate) fn text(&self, in_flight: usize) -> String {
        let counted = self.counted();
        let mut out = String::new();
        let mut one = |name: &str, kind: &str, help: &str, values: &[(String, u64)]| {
            let _ = writeln!(out, "# HELP medgemma_{name} {help}\n# TYPE medgemma_{name} {kind}");
            for (labels, value) in values {
                let _ = writeln!(out, "medgemma_{name}{labels} {value}");
            }
        };
        let plain = |value: u64| [(String::new(), value)];
        let o = counted.occupancy;
        let pools = |(global, local): (usize, usize)| {
            [("{pool=\"global\"}".to_owned(), global as u64), ("{pool=\"local\"}".to_owned(), local as u64)]
        };
        let help = "Requests that have a place: those being prepared, waiting, running, or read by their clients.";
        one("requests_in_flight", "gauge", help, &plain(in_flight as u64));
        one("requests_waiting", "gauge", "Requests in the queue.", &plain(o.waiting as u64 + counted.sent));
        one("requests_running", "gauge", "Requests that are computed together.", &plain(o.running as u64));
        one("sequences_kept", "gauge", "Finished sequences kept for prompts that begin so.", &plain(o.kept as u64));
        one("kv_blocks_held", "gauge", "KV blocks that running requests hold.", &pools(o.held_blocks));
        one("kv_blocks_free", "gauge", "KV blocks that nobody holds.", &pools(o.free_blocks));
        one("kv_blocks_total", "gauge", "KV blocks.", &pools(o.total_blocks));
        one("preemptions_total", "counter", "Times that a request was put back.", &plain(o.preempted));
        one("prompt_tokens_total", "counter", "Tokens of prompts.", &plain(counted.prompt_tokens));
        one("cached_tokens_total", "counter", "Tokens of prompts known from before.", &plain(counted.cached_tokens));
        one("generated_tokens_total", "counter", "Tokens written.", &plain(counted.new_tokens));
        let by = |name: &str, key: &dyn std::fmt::Display| format!("{{{name}=\"{key}\"}}");
        let ended: Vec<_> = counted.ended.iter().map(|(reason, count)| (by("reason", reason), *count)).collect();
        one("requests_ended_total", "counter", "Requests that ended, by reason.", &ended);
        let responses: Vec<_> = counted.responses.iter().map(|(code, count)| (by("code", code), *count)).collect();
        one("http_responses_total", "counter", "HTTP responses, by status.", &responses);
        let failures = plain(counted.audit_failures);
        one("audit_failures_total", "counter", "Times that the audit log couldn't be written.", &failures);
        counted.first.write(
            "medgemma_time_to_first_token_seconds",
            "From a request to its first token, pictures and waiting included.",
            &mut out,
        );
        counted.between.write("medgemma_time_between_tokens_seconds", "From a token to the next.", &mut out);
        counted.steps.write("medgemma_step_seconds", "One step of the engine.", &mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_add_up() {
        let metrics = Metrics::default();
        metrics.first_token(Duration::from_millis(7));
        metrics.first_token(Duration::from_secs(1000));
        metrics.ended("stop");
        let text = metrics.text(3);
        assert!(text.contains("medgemma_time_to_first_token_seconds_bucket{le=\"0.01\"} 1\n"));
        assert!(text.contains("medgemma_time_to_first_token_seconds_bucket{le=\"+Inf\"} 2\n"));
        assert!(text.contains("medgemma_requests_in_flight 3\n"));
        assert!(text.contains("medgemma_requests_ended_total{reason=\"stop\"} 1\n"));
    }
}
