//! What this machine could reach at most: how fast it reads memory and how many operations it does a second. A benchmark
//! prints its results beside these. Measures with the threads of a pool; judges nothing.

use std::fs::read_to_string;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::arch::probe;
use crate::isa::Isa;
use crate::memory::{AlignedBytes, OutOfMemory};
use crate::memory_limits::available_memory;
use crate::pool::Pool;

/// The limits of this machine for a pool's threads and the active instruction set, all at work at once.
#[derive(Clone, Debug)]
pub struct MachineLimits {
    /// The processor's name, where the system says it.
    pub cpu_name: Option<String>,
    /// The instruction set of the kernels.
    pub isa: Isa,
    /// The threads that measured.
    pub num_threads: usize,
    /// The sizes of the first processor's caches.
    pub caches: CacheSizes,
    /// Bytes a second read from memory.
    pub read_bandwidth: f64,
    /// 8-bit operations a second; a multiply and an add each count one.
    pub integer_peak: f64,
    /// `f32` operations a second; a multiply and an add each count one.
    pub float_peak: f64,
}

impl MachineLimits {
    /// Measures everything, in about a second. Errors when there is no memory to read from.
    pub fn measure(pool: &Pool) -> Result<Self, OutOfMemory> {
        Ok(Self {
            cpu_name: cpu_name(),
            isa: Isa::active(),
            num_threads: pool.num_threads(),
            caches: cache_sizes(),
            read_bandwidth: measure_read_bandwidth(pool)?,
            integer_peak: measure_integer_peak(pool),
            float_peak: measure_float_peak(pool),
        })
    }
}

/// Bytes a second that all threads together read from memory: each streams its own part of a buffer of at least 256 MB and
/// four times the last cache (but no more than 1 GB or a quarter of the available memory). The median of the passes of 0.3
/// seconds, after filling the buffer.
pub fn measure_read_bandwidth(pool: &Pool) -> Result<f64, OutOfMemory> {
    const MIN_BYTES: usize = 256 << 20;
    const MAX_BYTES: usize = 1 << 30;
    let beyond_cache = cache_sizes().last().map_or(MIN_BYTES, |last| last.saturating_mul(4)).clamp(MIN_BYTES, MAX_BYTES);
    let affordable = available_memory().map_or(MAX_BYTES, |bytes| usize::try_from(bytes / 4).unwrap_or(MAX_BYTES));
    let part_len = (beyond_cache.min(affordable) / pool.num_threads()).next_multiple_of(4096);

    let mut buffer = AlignedBytes::try_new(part_len * pool.num_threads())?;
    // Untouched pages would all be the one zero page of the system.
    let parts: Vec<_> = buffer.chunks_exact_mut(part_len).map(Mutex::new).collect();
    pool.run(&|thread_id| parts[thread_id].lock().expect("each part has one thread").fill(0x5a));
    drop(parts);

    let buffer = &buffer[..];
    let isa = Isa::active();
    let started = Instant::now();
    let mut rates = Vec::new();
    while rates.len() < 5 || started.elapsed() < Duration::from_millis(300) {
        let pass = Instant::now();
        pool.run(&|thread_id| probe::read(isa, &buffer[thread_id * part_len..][..part_len]));
        rates.push(buffer.len() as f64 / pass.elapsed().as_secs_f64());
    }
    Ok(median(rates))
}

/// 8-bit operations a second of all threads together, by the dot product that the active instruction set's kernels use
/// (`vpdpbusd`, or `vpmaddubsw` with `vpmaddwd`), on registers alone. A multiply and an add each count one.
pub fn measure_integer_peak(pool: &Pool) -> f64 {
    let isa = Isa::active();
    measure_rate(pool, &|| probe::integer(isa))
}

/// `f32` operations a second of all threads together, by fused multiply-adds on registers alone, counted as two.
pub fn measure_float_peak(pool: &Pool) -> f64 {
    let isa = Isa::active();
    measure_rate(pool, &|| probe::float(isa))
}

/// Operations a second of all threads, the median of five rounds of 40 ms, where `run` does some and says how many.
fn measure_rate(pool: &Pool, run: &(dyn Fn() -> f64 + Sync)) -> f64 {
    const ROUND: Duration = Duration::from_millis(40);
    let round = || {
        let total = Mutex::new(0.0);
        pool.run(&|_| {
            let (started, mut operations) = (Instant::now(), 0.0);
            while started.elapsed() < ROUND {
                operations += run();
            }
            *total.lock().expect("adding does not panic") += operations / started.elapsed().as_secs_f64();
        });
        total.into_inner().expect("adding does not panic")
    };
    // The first round lets the clock settle: cores lower it for wide registers.
    round();
    median((0..5).map(|_| round()).collect())
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_unstable_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// The processor's name as the system tells it, such as `AMD EPYC 9B14`.
pub fn cpu_name() -> Option<String> {
    parse_cpu_name(&read_to_string("/proc/cpuinfo").ok()?)
}

fn parse_cpu_name(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    let name = line.split_once(':')?.1.split_whitespace().collect::<Vec<_>>().join(" ");
    (!name.is_empty()).then_some(name)
}

/// Bytes of the data caches that the first processor uses, as far as the system tells. Shared ones count in full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheSizes {
    /// The first-level data cache.
    pub l1_data: Option<usize>,
    /// The second-level cache.
    pub l2: Option<usize>,
    /// The third-level cache.
    pub l3: Option<usize>,
}

impl CacheSizes {
    /// The cache next to memory.
    pub fn last(&self) -> Option<usize> {
        self.l3.or(self.l2).or(self.l1_data)
    }
}

/// The caches of the first processor, from `/sys`.
pub fn cache_sizes() -> CacheSizes {
    let mut sizes = CacheSizes::default();
    for index in 0..8 {
        let read = |name| read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{name}")).ok();
        let (Some(level), Some(kind), Some(size)) = (read("level"), read("type"), read("size")) else { continue };
        let size = parse_cache_size(&size);
        match (level.trim(), kind.trim()) {
            (_, "Instruction") => {}
            ("1", _) => sizes.l1_data = size,
            ("2", _) => sizes.l2 = size,
            ("3", _) => sizes.l3 = size,
            _ => {}
        }
    }
    sizes
}

/// Bytes of a size such as `32768K`.
fn parse_cache_size(text: &str) -> Option<usize> {
    let text = text.trim();
    let (digits, unit) = match text.strip_suffix(['K', 'M']) {
        Some(digits) if text.ends_with('K') => (digits, 1 << 10),
        Some(digits) => (digits, 1 << 20),
        None => (text, 1),
    };
    digits.parse::<usize>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_has_positive_limits() {
        for isa in Isa::available() {
            probe::read(isa, &[1; 5000]);
            assert!(probe::integer(isa) > 0.0 && probe::float(isa) > 0.0);
        }
    }

    #[test]
    fn sizes_and_names_are_read_as_the_system_writes_them() {
        assert_eq!(parse_cache_size("32K\n"), Some(32 << 10));
        assert_eq!(parse_cache_size("260M"), Some(260 << 20));
        assert_eq!(parse_cache_size("512"), Some(512));
        assert_eq!(parse_cache_size("big"), None);
        let text = "processor\t: 0\nmodel name\t: AMD EPYC  9B14 \nmodel name\t: other\n";
        assert_eq!(parse_cpu_name(text).as_deref(), Some("AMD EPYC 9B14"));
        assert_eq!(parse_cpu_name("model name :\n"), None);
    }

    /// Beside each rate, that of one thread per second on a core: what remains when others use the machine too.
    /// `cargo test --release -p qern-kernels --lib -- --ignored --nocapture measured_limits`
    #[test]
    #[ignore = "a measurement"]
    fn measured_limits() {
        let on_core = || -> f64 {
            let schedstat = read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
            schedstat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(f64::NAN) / 1e9
        };
        let per_core_second = |times: usize, run: &dyn Fn() -> f64| {
            let started = on_core();
            (0..times).map(|_| run()).sum::<f64>() / (on_core() - started) / 1e9
        };
        for num_threads in [1, 2] {
            println!("{:#?}", MachineLimits::measure(&Pool::new(num_threads)).unwrap());
        }
        for isa in Isa::available() {
            let integer = per_core_second(2000, &|| probe::integer(isa));
            let float = per_core_second(2000, &|| probe::float(isa));
            println!("{isa}: {integer:.0} G integer, {float:.0} G float operations per second on a core");
        }
        let buffer = AlignedBytes::try_from_slice(&vec![1; 256 << 20]).unwrap();
        for isa in Isa::available() {
            let read = || {
                probe::read(isa, &buffer);
                buffer.len() as f64
            };
            println!("{isa}: {:.1} GB per second on a core", per_core_second(20, &read));
        }
    }
}
