//! The Rust peer: quinn-udp, driven as its users drive it.
//!
//!     peers send    quinn SIZE COUNT DEST...
//!     peers recv    quinn SIZE COUNT
//!     peers echo    quinn SIZE COUNT
//!     peers forward quinn SIZE COUNT DEST
//!     peers ping    quinn SIZE DEST
//!
//! SIZE may be a list that is cycled through, separated by commas.  It speaks the protocol of
//! benchmarks/peers/README.md.  A socket of quinn-udp does not block: `poll` waits, as an event
//! loop would, and only when there is nothing to do.

mod ping;
mod protocol;
mod recv;
mod relay;
mod send;
mod socket;

use std::net::SocketAddr;

fn destination(text: &str) -> SocketAddr {
    let full = if text.contains(':') { text.to_owned() } else { format!("127.0.0.1:{text}") };
    full.parse().unwrap_or_else(|_| protocol::wrong(text))
}

fn number(text: &str) -> usize {
    match text.parse() {
        Ok(value) if (1..=65507).contains(&value) => value,
        _ => protocol::wrong(text),
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [role, "quinn", sizes, rest @ ..] = words.as_slice() else {
        protocol::wrong("send|recv|echo|forward|ping quinn SIZE ..., see the top of main.rs")
    };
    let sizes: Vec<usize> = sizes.split(',').map(number).collect();
    match (*role, rest) {
        ("send", [count, to @ ..]) if !to.is_empty() => {
            let to: Vec<_> = to.iter().map(|text| destination(text)).collect();
            send::main(&sizes, number(count), &to)
        }
        ("recv", [count]) => recv::main(&sizes, number(count)),
        ("echo", [count]) => relay::echo(number(count)),
        ("forward", [count, to]) => relay::forward(number(count), destination(to)),
        ("ping", [to]) => ping::main(sizes[0], destination(to)),
        _ => protocol::wrong(role),
    }
}
