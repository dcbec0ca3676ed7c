//! Sending back what comes, and forwarding it: whole trains, as they came.

use std::net::SocketAddr;
use std::sync::Arc;

use quinn_udp::RecvMeta;

use crate::protocol::{commands, cpu_seconds, say_ports};
use crate::socket::{Slots, Socket};

fn pass(out: &Socket, data: &[u8], meta: &RecvMeta, to: SocketAddr) {
    out.send_to(data, (meta.stride < data.len()).then_some(meta.stride), to);
}

fn run(port: u16, mut step: impl FnMut() + Send + 'static) {
    say_ports(&[port]);
    std::thread::spawn(move || {
        loop {
            step();
        }
    });
    commands(|_| println!("{{\"cpu\": {:.9}}}", cpu_seconds()));
}

pub fn echo(count: usize) {
    let socket = Arc::new(Socket::receiver());
    let mut slots = Slots::new(count);
    run(socket.port(), move || {
        for (data, meta) in slots.fill(&socket) {
            pass(&socket, data, meta, meta.addr);
        }
    });
}

pub fn forward(count: usize, to: SocketAddr) {
    let (socket, out) = (Socket::receiver(), Socket::sender(to));
    let mut slots = Slots::new(count);
    run(socket.port(), move || {
        for (data, meta) in slots.fill(&socket) {
            pass(&out, data, meta, to);
        }
    });
}
