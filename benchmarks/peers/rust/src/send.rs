//! Sending batches of datagrams, as few trains as may be.

use std::net::SocketAddr;
use std::time::Duration;

use crate::protocol::{
    BEFORE_MARK, CALLS_A_LOOK, Clocks, Record, append, commands, say_ports, wrong,
};
use crate::socket::{PAYLOAD, Socket};

struct Train {
    block: Vec<u8>,
    segment_size: Option<usize>,
    to: SocketAddr,
}

/// Returns trains of the datagrams `first..` that go to one destination, of patterns as numbered.
///
/// A train has datagrams of one size; only its last may be shorter.
fn trains(
    socket: &Socket,
    sizes: &[usize],
    first: usize,
    count: usize,
    to: SocketAddr,
) -> Vec<Train> {
    let mut all = vec![];
    let (mut i, end) = (first, first + count);
    while i < end {
        let segment = sizes[i % sizes.len()];
        let (mut block, mut datagrams) = (vec![], 0);
        while i < end && datagrams < socket.longest_train(segment) {
            let size = sizes[i % sizes.len()];
            if size > segment || block.len() + size > PAYLOAD {
                break;
            }
            append(&mut block, i, size);
            datagrams += 1;
            i += 1;
            if size < segment {
                break;
            }
        }
        all.push(Train { block, segment_size: (datagrams > 1).then_some(segment), to });
    }
    all
}

/// Deals a batch out to the destinations; `firsts` numbers the datagrams of each.
fn lay(
    socket: &Socket,
    sizes: &[usize],
    count: usize,
    to: &[SocketAddr],
    firsts: &[usize],
) -> Vec<Train> {
    let share = |index| count / to.len() + usize::from(index < count % to.len());
    let each = to.iter().zip(firsts).enumerate();
    each.flat_map(|(index, (&to, &first))| trains(socket, sizes, first, share(index), to)).collect()
}

pub fn main(sizes: &[usize], count: usize, to: &[SocketAddr]) {
    let socket = Socket::sender(to[0]);
    let marker = Socket::sender(to[0]);
    let batch = lay(&socket, sizes, count, to, &vec![0; to.len()]);
    say_ports(&[]);
    commands(|words| {
        let mut record = Record::default();
        let mark = match *words {
            ["check", total, ref mark @ ..] => {
                check(&socket, sizes, count, to, crate::number(total), &mut record);
                mark
            }
            [seconds, calls, ref mark @ ..] => {
                let Ok(seconds) = seconds.parse() else { wrong(seconds) };
                let Ok(calls) = calls.parse() else { wrong(calls) };
                run(|| send(&socket, &batch), seconds, calls, &mut record);
                record.measured = record.calls * count;
                mark
            }
            _ => wrong("SECONDS CALLS [MARK]"),
        };
        let mark = usize::from(mark.first() == Some(&"1"));
        record.datagrams = record.measured;
        // Behind all that may still be merged on its way: another flow could overtake.
        std::thread::sleep(BEFORE_MARK);
        for &to in to {
            marker.send_to(&b"."[..mark], None, to);
        }
        record.say();
    });
}

fn send(socket: &Socket, batch: &[Train]) {
    for train in batch {
        socket.send_to(&train.block, train.segment_size, train.to);
    }
}

/// Calls for so many seconds, or, where these are 0, so many times.
fn run(call: impl Fn(), seconds: f64, calls: usize, record: &mut Record) {
    let clocks = Clocks::start();
    let end = Duration::from_secs_f64(seconds);
    if seconds > 0.0 {
        while clocks.wall.elapsed() < end {
            (0..CALLS_A_LOOK).for_each(|_| call());
            record.calls += CALLS_A_LOOK;
        }
    } else {
        (0..calls).for_each(|_| call());
        record.calls = calls;
    }
    clocks.stop(record);
}

/// Sends `total` patterns; each destination sees its own, from 0.
fn check(
    socket: &Socket,
    sizes: &[usize],
    count: usize,
    to: &[SocketAddr],
    total: usize,
    record: &mut Record,
) {
    let mut firsts = vec![0; to.len()];
    let clocks = Clocks::start();
    while record.measured < total {
        let now = count.min(total - record.measured);
        send(socket, &lay(socket, sizes, now, to, &firsts));
        for (index, first) in firsts.iter_mut().enumerate() {
            *first += now / to.len() + usize::from(index < now % to.len());
        }
        record.calls += 1;
        record.measured += now;
    }
    clocks.stop(record);
}
