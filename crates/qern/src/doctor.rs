//! What this machine can do for a model, what would be slow and what to change: one finding per subject. Looks and
//! advises; measures nothing (`qern bench` does) and changes nothing.

mod system;

use crate::catalogue;
use crate::hub::{Client, HubConfig, free_space};
use crate::output;
use crate::store::{self, Store};
use qern_kernels::isa::{Avx2Fma, Isa};
use qern_kernels::{cores, machine, memory_limits};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// How long the hub may take to answer.
const HUB_PATIENCE: Duration = Duration::from_secs(3);
/// Below this much free disk, the larger models of the catalogue cannot be fetched.
const ROOMY_DISK: u64 = 10_000_000_000;

/// Everything found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The program's version.
    pub version: &'static str,
    /// The numbers behind the findings.
    pub machine: Machine,
    /// What they mean, the most basic first.
    pub findings: Vec<Finding>,
    /// Which models of the catalogue this machine can run.
    pub models: Vec<ModelFit>,
}

/// The machine in numbers; `None` where the system does not say.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// The processor's own name.
    pub cpu: Option<String>,
    /// The instruction set in use.
    pub isa: &'static str,
    /// Every instruction set that could be used.
    pub isas: Vec<&'static str>,
    /// Physical cores: the default number of threads.
    pub physical_cores: usize,
    /// Logical cores this process may run on.
    pub logical_cores: usize,
    /// The largest cache in bytes.
    pub last_level_cache: Option<usize>,
    /// Memory in bytes, or the limit of the container.
    pub memory_total: Option<u64>,
    /// Memory in bytes that a model could take now.
    pub memory_available: Option<u64>,
    /// Transparent large pages: `always`, `madvise` or `never`.
    pub huge_pages: Option<String>,
    /// The clock governor of the first core.
    pub governor: Option<String>,
    /// Where models are kept.
    pub store: PathBuf,
    /// Bytes free there.
    pub disk_free: Option<u64>,
    /// The hub's address.
    pub hub: String,
    /// Whether the hub answered; `None` when not asked.
    pub hub_reachable: Option<bool>,
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Good,
    /// Worth knowing.
    Note,
    /// Works, but slower than it could.
    Warning,
    /// Something will not work.
    Problem,
}

/// One thing found.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// What it is about, in a word or two.
    pub subject: &'static str,
    /// How much it matters.
    pub level: Level,
    /// What was found.
    pub words: String,
    /// What to change, if anything.
    pub advice: Option<String>,
}

/// Whether a model of the catalogue fits.
#[derive(Debug, Serialize)]
pub struct ModelFit {
    /// Its name.
    pub name: &'static str,
    /// Bytes it takes, with a context of 4,096 tokens.
    pub memory: u64,
    /// Whether that much is available now.
    pub fits: bool,
    /// Whether it is on this machine already.
    pub local: bool,
}

impl Report {
    /// Looks at the machine; asks the hub for an answer if `ask_hub`.
    pub fn examine(ask_hub: bool) -> anyhow::Result<Self> {
        let home = store::home()?;
        let store = Store::at(&home);
        let hub = HubConfig::from_env();
        let endpoint = hub.as_ref().map_or_else(|_| String::new(), |hub| hub.endpoint.clone());
        let hub_answer = ask_hub.then(|| {
            let config = hub.map_err(|error| error.to_string())?;
            let client = Client::new(HubConfig { connect_timeout: HUB_PATIENCE, ..config }).map_err(|error| error.to_string())?;
            client.probe()
        });
        let machine = Machine {
            cpu: machine::cpu_name(),
            isa: Isa::active().name(),
            isas: Isa::available().into_iter().map(Isa::name).collect(),
            physical_cores: cores::physical_cores(),
            logical_cores: std::thread::available_parallelism().map_or(1, |count| count.get()),
            last_level_cache: machine::cache_sizes().last(),
            memory_total: memory_limits::total_memory(),
            memory_available: memory_limits::available_memory(),
            huge_pages: system::huge_pages(),
            governor: system::governor(),
            disk_free: free_space(store.models()),
            store: store.models().to_path_buf(),
            hub: endpoint,
            hub_reachable: hub_answer.as_ref().map(Result::is_ok),
        };
        let local = store.list()?;
        let models = catalogue::entries().iter().map(|entry| ModelFit {
            name: &entry.name,
            memory: entry.memory,
            fits: machine.memory_available.is_none_or(|available| entry.memory <= available),
            local: local.iter().any(|model| model.complete && model.name == entry.name),
        });
        let models: Vec<ModelFit> = models.collect();
        let findings = vec![
            Finding::instructions(&machine),
            Finding::cores(&machine),
            Finding::memory(&machine, &models),
            Finding::huge_pages(&machine),
            Finding::clock(&machine),
            Finding::disk(&machine),
            Finding::hub(&machine, hub_answer),
        ];
        Ok(Self { version: env!("CARGO_PKG_VERSION"), findings: findings.into_iter().flatten().collect(), machine, models })
    }
}

impl Finding {
    fn new(subject: &'static str, level: Level, words: impl Into<String>) -> Self {
        Self { subject, level, words: words.into(), advice: None }
    }

    fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    fn instructions(machine: &Machine) -> Option<Self> {
        let cpu = machine.cpu.as_deref().unwrap_or("a processor without a name");
        let words = format!("{cpu}, using {} (has {})", machine.isa, machine.isas.join(", "));
        if let Err(error) = Isa::from_env() {
            return Some(
                Self::new("instructions", Level::Problem, format!("{words}; {error}")).advise("correct or unset QERN_ISA"),
            );
        }
        let best = machine.isas.last().copied().unwrap_or(machine.isa);
        Some(match Isa::active() {
            _ if machine.isa != best => {
                Self::new("instructions", Level::Warning, words).advise(format!("unset QERN_ISA to use {best}, which is faster"))
            }
            Isa::Avx512 => Self::new("instructions", Level::Good, words),
            Isa::Avx2 if Avx2Fma::detect().is_some_and(Avx2Fma::has_avx_vnni) => {
                Self::new("instructions", Level::Good, format!("{words}, with 8-bit dot products (AVX-VNNI)"))
            }
            Isa::Avx2 => Self::new("instructions", Level::Note, words)
                .advise("a processor with AVX-VNNI or AVX-512 VNNI reads prompts about twice as fast"),
            Isa::Scalar => Self::new("instructions", Level::Warning, words)
                .advise("this processor has no instruction set that Qern has kernels for: everything works, but slowly; use the smallest models"),
        })
    }

    fn cores(machine: &Machine) -> Option<Self> {
        let Machine { physical_cores, logical_cores, .. } = machine;
        let words = format!("{physical_cores} physical, {logical_cores} logical; {physical_cores} threads by default");
        Some(if *physical_cores == 1 {
            Self::new("cores", Level::Warning, words)
                .advise("more cores read prompts faster in proportion; writing answers needs two or more")
        } else {
            Self::new("cores", Level::Good, words)
        })
    }

    fn memory(machine: &Machine, models: &[ModelFit]) -> Option<Self> {
        let (total, available) = (machine.memory_total?, machine.memory_available?);
        let words = format!("{} available of {}", output::bytes(available), output::bytes(total));
        let largest = models.iter().filter(|model| model.fits).max_by_key(|model| model.memory);
        Some(match largest {
            None => Self::new("memory", Level::Problem, words).advise("no model of the catalogue fits; close other programs"),
            Some(largest) if models.iter().all(|model| model.fits) => {
                Self::new("memory", Level::Good, format!("{words}; {} fits", largest.name))
            }
            Some(largest) => {
                Self::new("memory", Level::Note, format!("{words}; the largest model that fits is {}", largest.name))
                    .advise("`--kv q8` halves the memory that the context takes, `--ctx` limits its length")
            }
        })
    }

    fn huge_pages(machine: &Machine) -> Option<Self> {
        let mode = machine.huge_pages.as_deref()?;
        let words = format!("transparent large pages: {mode}");
        Some(match mode {
            "never" => Self::new("large pages", Level::Warning, words)
                .advise("`echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled` lets weights use them"),
            _ => Self::new("large pages", Level::Good, words),
        })
    }

    fn clock(machine: &Machine) -> Option<Self> {
        let governor = machine.governor.as_deref()?;
        let words = format!("clock governor: {governor}");
        Some(match governor {
            "powersave" if !system::has_active_pstate() => Self::new("clock", Level::Warning, words)
                .advise("`sudo cpupower frequency-set -g performance` lets the processor run at full speed"),
            _ => Self::new("clock", Level::Good, words),
        })
    }

    fn disk(machine: &Machine) -> Option<Self> {
        let store = machine.store.display();
        let Some(free) = machine.disk_free else {
            return Some(Self::new("disk", Level::Note, format!("models are kept in {store}")));
        };
        let words = format!("{} free where models are kept, {store}", output::bytes(free));
        Some(if free < ROOMY_DISK {
            Self::new("disk", Level::Note, words)
                .advise("free some space, or set QERN_HOME to a folder on a larger disk, before fetching larger models")
        } else {
            Self::new("disk", Level::Good, words)
        })
    }

    fn hub(machine: &Machine, answer: Option<Result<(), String>>) -> Option<Self> {
        Some(match answer? {
            Ok(()) => Self::new("hub", Level::Good, format!("{} answers", machine.hub)),
            Err(reason) => Self::new("hub", Level::Note, format!("{} does not answer: {reason}", machine.hub)).advise(format!(
                "models that are here work without it; to fetch others set HF_ENDPOINT or HTTPS_PROXY, or place files in {}",
                machine.store.display()
            )),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_examined_without_a_network() {
        let report = Report::examine(false).unwrap();
        assert!(report.findings.iter().any(|finding| finding.subject == "instructions"));
        assert!(report.findings.iter().all(|finding| finding.subject != "hub"));
        assert_eq!(report.models.len(), catalogue::entries().len());
        assert_eq!(report.machine.hub_reachable, None);
    }
}
