//! Requests, each of which waits for its response.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::protocol::{Clocks, append, commands, say_ports};
use crate::socket::{Slots, Socket};

pub fn main(size: usize, to: SocketAddr) {
    let socket = Socket::sender(to);
    let mut slots = Slots::new(1);
    let mut data = vec![];
    append(&mut data, 0, size);
    say_ports(&[]);
    commands(|words| {
        let rate = words.get(1).map_or(0.0, |text| text.parse().unwrap_or(0.0));
        measure(crate::number(words[0]), rate, || {
            socket.send_to(&data, None, to);
            for (answer, _) in slots.fill(&socket) {
                assert!(answer == data, "another answer than the request");
            }
        });
    });
}

/// Times exchanges, started at a rate if that is not 0.
///
/// One that starts late, because that before took too long, is timed from when it was due.
fn measure(count: usize, rate: f64, mut exchange: impl FnMut()) {
    let mut times = Vec::with_capacity(count);
    let clocks = Clocks::start();
    for i in 0..count {
        let mut begin = Instant::now();
        if rate > 0.0 {
            let due = clocks.wall + Duration::from_secs_f64(i as f64 / rate);
            if due > begin {
                std::thread::sleep(due - begin);
                begin = Instant::now();
            } else {
                begin = due;
            }
        }
        exchange();
        times.push(begin.elapsed().as_nanos());
    }
    let cpu = clocks.cpu() * 1e9 / count as f64;
    times.sort_unstable();
    let at = |thousandths: usize| times[(count * thousandths / 1000).min(count - 1)];
    let (p50, p99, p999) = (at(500), at(990), at(999));
    println!("{{\"p50\": {p50}, \"p99\": {p99}, \"p999\": {p999}, \"cpu\": {cpu:.1}}}");
}
