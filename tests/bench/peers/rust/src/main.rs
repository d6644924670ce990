//! W1 as one would write it by hand in Rust: rdkafka's BaseConsumer, serde_json on borrowed bytes, and a hash map.
//! usage: rust-peer BOOTSTRAP TOPIC COUNT

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::Message;
use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const ALPHA: f64 = 0.05;
const IDLE_UTIL_MAX: f64 = 5.0;
const IDLE_AFTER_MS: i64 = 600_000;
const WINDOW_MS: i64 = 300_000;

#[derive(serde::Deserialize)]
struct Event<'a> {
    ts: i64,
    gpu: &'a str,
    util: f64,
    power: f64,
}

#[derive(Default)]
struct Reading {
    mean_util: f64,
    variance_util: f64,
    mean_power: f64,
    variance_power: f64,
    window_sum: f64,
    window_count: i64,
    window: i64,
    last_busy_ms: i64,
    alerted: bool,
}

impl Reading {
    /// Folds one reading; tells whether it raises the idle alert.
    fn step(&mut self, event: &Event) -> bool {
        let d = event.util - self.mean_util;
        self.mean_util += ALPHA * d;
        self.variance_util = (1.0 - ALPHA) * (self.variance_util + ALPHA * d * d);
        let d = event.power - self.mean_power;
        self.mean_power += ALPHA * d;
        self.variance_power = (1.0 - ALPHA) * (self.variance_power + ALPHA * d * d);
        let window = event.ts / WINDOW_MS;
        if window != self.window {
            (self.window, self.window_sum, self.window_count) = (window, 0.0, 0);
        }
        self.window_sum += event.util;
        self.window_count += 1;
        if event.util > IDLE_UTIL_MAX || self.last_busy_ms == 0 {
            (self.last_busy_ms, self.alerted) = (event.ts, false);
            return false;
        }
        if self.alerted || event.ts - self.last_busy_ms < IDLE_AFTER_MS {
            return false;
        }
        self.alerted = true;
        true
    }
}

fn consumer(bootstrap: &str, topic: &str) -> BaseConsumer {
    let group = format!("peer-{}", SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos());
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", group)
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .set("fetch.max.bytes", "52428800")
        .set("max.partition.fetch.bytes", "8388608")
        .set("queued.min.messages", "1000000")
        .set("queued.max.messages.kbytes", "1000000")
        .create()
        .unwrap();
    consumer.subscribe(&[topic]).unwrap();
    consumer
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let count: u64 = args[3].parse().unwrap();
    let consumer = consumer(&args[1], &args[2]);
    let mut states: HashMap<String, Reading, ahash::RandomState> = HashMap::default();
    let (mut seen, mut alerts, mut started) = (0u64, 0u64, None);
    while seen < count {
        let Some(Ok(message)) = consumer.poll(Duration::from_secs(1)) else {
            continue;
        };
        started.get_or_insert_with(Instant::now);
        let event: Event = serde_json::from_slice(message.payload().unwrap()).unwrap();
        if !states.contains_key(event.gpu) {
            states.insert(event.gpu.to_string(), Reading::default());
        }
        alerts += states.get_mut(event.gpu).unwrap().step(&event) as u64;
        seen += 1;
        if seen % 10_000 == 0 {
            let _ = consumer.commit_consumer_state(CommitMode::Async);
        }
    }
    let rate = seen as f64 / started.unwrap().elapsed().as_secs_f64();
    println!("{{\"messages_per_s\": {rate:.1}, \"messages\": {seen}, \"alerts\": {alerts}}}");
}
