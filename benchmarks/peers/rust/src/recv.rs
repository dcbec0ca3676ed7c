//! Receiving whole trains.

use crate::protocol::{Clocks, LONGEST_MARK, Record, commands, differs, say_ports};
use crate::socket::{Slots, Socket};

/// Is shown each datagram.
type Look<'a> = &'a mut dyn FnMut(&[u8]);

/// Receives once; returns the datagrams before the mark of the end, and whether that was there.
///
/// `look` sees each datagram, if there is one.
fn step(socket: &Socket, slots: &mut Slots, mut look: Option<Look>) -> (usize, bool) {
    let (mut datagrams, mut ended) = (0, false);
    for (data, meta) in slots.fill(socket) {
        datagrams += data.len().div_ceil(meta.stride.max(1));
        // A forwarder may send the mark as the end of a train.
        if data.len() <= LONGEST_MARK || (1..=LONGEST_MARK).contains(&(data.len() % meta.stride)) {
            ended = true;
            datagrams -= usize::from(!data.is_empty());
        }
        if let Some(look) = &mut look {
            let datagrams = data.chunks(meta.stride.max(1));
            datagrams.filter(|datagram| datagram.len() > LONGEST_MARK).for_each(look);
        }
    }
    (datagrams, ended)
}

pub fn main(sizes: &[usize], count: usize) {
    let socket = Socket::receiver();
    let mut slots = Slots::new(count);
    say_ports(&[socket.port()]);
    commands(|words| {
        let mut record = Record::default();
        match *words {
            ["flush"] => socket.flush(),
            ["check"] => {
                let (mut i, mut wrong) = (0, 0);
                up_to_mark(false, &mut record, || {
                    step(
                        &socket,
                        &mut slots,
                        Some(&mut |data| {
                            wrong += usize::from(differs(data, i, sizes));
                            i += 1;
                        }),
                    )
                });
                record.wrong = wrong;
            }
            _ => up_to_mark(*words == ["live"], &mut record, || step(&socket, &mut slots, None)),
        }
        record.say();
    });
}

/// Receives up to the mark; live: the clocks start behind what came first.
fn up_to_mark(live: bool, record: &mut Record, mut step: impl FnMut() -> (usize, bool)) {
    let (total, mut ended) = if live { step() } else { (0, false) };
    let clocks = Clocks::start();
    while !ended {
        let datagrams;
        (datagrams, ended) = step();
        record.measured += datagrams;
        record.calls += 1;
    }
    clocks.stop(record);
    record.datagrams = total + record.measured;
}
