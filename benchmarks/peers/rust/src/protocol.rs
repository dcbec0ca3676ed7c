//! What benchmarks/process.py says to a contender, and how that answers.

use std::time::{Duration, Instant};

const LIMIT_S: u32 = 120; // for one command
const IDLE_LIMIT_S: u32 = 900; // waiting for a command
pub const CALLS_A_LOOK: usize = 16; // calls between two looks at the clock
pub const LONGEST_MARK: usize = 1; // bytes: a datagram of so many, or of none, is the mark of the end
pub const BEFORE_MARK: Duration = Duration::from_millis(2);

pub fn wrong(text: &str) -> ! {
    eprintln!("peers (Rust): {text}: wrong argument");
    std::process::exit(2)
}

pub fn die(what: &str, error: &std::io::Error) -> ! {
    eprintln!("peers (Rust): {what}: {error}");
    std::process::exit(1)
}

/// Calls `answer` with the words of each line of stdin; who is left alone ends by an alarm.
pub fn commands(mut answer: impl FnMut(&[&str])) {
    let alarm = |seconds| unsafe { libc::alarm(seconds) };
    alarm(IDLE_LIMIT_S);
    for line in std::io::stdin().lines() {
        let Ok(line) = line else { return };
        alarm(LIMIT_S);
        answer(&line.split_whitespace().collect::<Vec<_>>());
        alarm(IDLE_LIMIT_S);
    }
}

pub fn say_ports(ports: &[u16]) {
    println!("{{\"ports\": {ports:?}}}");
}

/// The answer to a command.
#[derive(Default)]
pub struct Record {
    pub datagrams: usize,
    pub calls: usize,
    pub measured: usize,
    pub wrong: usize,
    pub seconds: f64,
    pub cpu: f64,
}

impl Record {
    pub fn say(&self) {
        let Record { datagrams, calls, measured, wrong, seconds, cpu } = self;
        println!(
            "{{\"datagrams\": {datagrams}, \"calls\": {calls}, \"measured\": {measured}, \
             \"wrong\": {wrong}, \"seconds\": {seconds:.9}, \"cpu\": {cpu:.9}}}"
        );
    }
}

/// User and system time of the process, as getrusage tells it, but in ns.
pub fn cpu_seconds() -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut t) };
    t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
}

/// Clocks that measure from their start.
pub struct Clocks {
    pub wall: Instant,
    cpu: f64,
}

impl Clocks {
    pub fn start() -> Self {
        let cpu = cpu_seconds();
        Self { wall: Instant::now(), cpu }
    }

    pub fn stop(&self, record: &mut Record) {
        record.seconds = self.wall.elapsed().as_secs_f64();
        record.cpu = self.cpu();
    }

    pub fn cpu(&self) -> f64 {
        cpu_seconds() - self.cpu
    }
}

/// Byte j of pattern(i).
fn byte(i: usize, j: usize) -> u8 {
    (7 * i + 13 * j + (j >> 8)) as u8
}

/// Appends pattern(i), `size` bytes long, to `block`.
pub fn append(block: &mut Vec<u8>, i: usize, size: usize) {
    block.extend((0..size).map(|j| byte(i, j)));
}

/// Tells whether `data` is not pattern(i) of the length that it ought to have.
pub fn differs(data: &[u8], i: usize, sizes: &[usize]) -> bool {
    data.len() != sizes[i % sizes.len()] || data.iter().enumerate().any(|(j, &b)| b != byte(i, j))
}
