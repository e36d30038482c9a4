//! From a model's name to a running engine: find the files, pack the weights, size the context to the machine, start.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use qern_engine::{Engine, EngineConfig, EngineHandle, ModelText, PAGE_LEN, Runner, TokenId};
use qern_kernels::isa::Isa;
use qern_kernels::kv::{self, KvGeometry};
use qern_kernels::memory_limits::available_memory;
use qern_kernels::pool::Pool;
use qern_model::checkpoint::Checkpoint;
use qern_model::config::ModelConfig;
use qern_model::generation::GenerationDefaults;
use qern_model::lora::{Adapter, FitOptions};
use qern_model::template::ChatTemplate;
use qern_model::tokenizer::Tokenizer;
use qern_model::transformer::Transformer;
use qern_model::weights::Weights;

use qern_server::{OpenAdapter, Opened};

use crate::cli::{ContextArgs, KvFormat, LogArgs, MachineArgs};
use crate::hub::Progress;
use crate::output;
use crate::store;

/// A model that is ready to answer.
pub struct LoadedModel {
    /// Its engine.
    pub engine: EngineHandle,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its chat template; base models may have none.
    pub template: Option<ChatTemplate>,
    /// The Jinja source of the template, where it came with the model.
    pub template_source: Option<String>,
    /// How its authors want it sampled.
    pub defaults: GenerationDefaults,
    /// Tokens that end its answers.
    pub eos: Vec<TokenId>,
    /// Its configuration.
    pub config: ModelConfig,
    /// Tokens that prompt and answer may have together.
    pub context_len: usize,
    /// Opens adapters for it.
    pub open_adapter: Option<OpenAdapter>,
    /// What was loaded, in which formats, how much memory, which instruction set.
    pub summary: String,
}

/// A model's weights in memory, without an engine.
pub struct PackedModel {
    /// The transformer.
    pub transformer: Arc<Transformer>,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The Jinja source of its chat template.
    pub template_source: Option<String>,
    /// How its authors want it sampled.
    pub defaults: GenerationDefaults,
    /// What was loaded, in which formats, how much memory, which instruction set.
    pub summary: String,
}

/// Memory left for everything that is neither weights nor context.
const RESERVE: usize = 512 << 20;
/// The context that a model gets unless more is asked for: longer ones are rare, and their memory is better left free.
const DEFAULT_CONTEXT: usize = 32_768;
/// The least context that is of any use.
const MIN_CONTEXT: usize = 512;

/// Loads the model called `name`, fetching it first if it is not here, and starts its engine.
pub fn load(name: &str, machine: &MachineArgs, context: &ContextArgs, log: &LogArgs) -> anyhow::Result<LoadedModel> {
    let PackedModel { transformer, tokenizer, template_source, defaults, mut summary } = pack(name, machine, log)?;
    let config = transformer.config().clone();
    let format = kv_format(machine.kv);
    let context_len = context_len(&transformer, format, context.ctx.map(|ctx| ctx as usize))?;
    let runner = Runner::new(Arc::clone(&transformer), format, context_len)?;
    let kv_bytes = transformer.kv_geometry(format).page_bytes() * context_len.div_ceil(PAGE_LEN);
    summary.push_str(&format!("; context {context_len} ({} when full)", output::bytes(kv_bytes as u64)));
    let mut eos = defaults.eos_token_ids.clone();
    if eos.is_empty() {
        eos.extend(tokenizer.eos_id());
    }
    let text = Arc::new(ModelText::new(tokenizer.clone(), eos.clone()));
    let engine = Engine::start(runner, text, EngineConfig::default())?;
    let template = match ChatTemplate::of_model(template_source.as_deref(), &tokenizer) {
        Ok(template) => Some(template),
        Err(_) if template_source.is_none() => None,
        Err(error) => return Err(error).context("the model's chat template cannot be used; give one by --chat-template FILE"),
    };
    let open_adapter = Some(adapter_opener(transformer));
    Ok(LoadedModel { engine, tokenizer, template, template_source, defaults, eos, config, context_len, open_adapter, summary })
}

/// Opens adapters for a model, and computes what they need of its weights, without making its requests wait.
fn adapter_opener(transformer: Arc<Transformer>) -> OpenAdapter {
    Arc::new(move |path| {
        let adapter = Adapter::open(path, transformer.config())?;
        let mut notes = adapter.notes().to_vec();
        notes.extend(adapter.fit(&transformer, FitOptions::default())?);
        Ok(Opened { adapter: Arc::new(adapter), notes })
    })
}

/// Finds the model called `name`, fetching it first if it is not here, and packs its weights.
pub fn pack(name: &str, machine: &MachineArgs, log: &LogArgs) -> anyhow::Result<PackedModel> {
    let isa = Isa::from_env()?;
    let progress = Progress::unless(log.quiet);
    let path = store::locate_or_fetch(&store::resolve(name)?, progress)?;
    let started = Instant::now();
    let checkpoint = Checkpoint::open(&path)?;
    check_memory(&checkpoint, name)?;
    let pool = Arc::new(Pool::new(machine.threads.unwrap_or(0).into()));
    let bar = LoadingBar::new(checkpoint.num_bytes(), progress);
    let weights = Weights::load(&checkpoint, &pool, &mut |done| bar.set(done))?;
    bar.finish();
    let tokenizer = Tokenizer::new(&checkpoint.tokenizer_source()?)?;
    let config = checkpoint.config().clone();
    let summary = format!(
        "{name}: {} {}, {} ({}) in {:.1} s; {} on {} thread{}",
        config.architecture,
        parameters(checkpoint.num_parameters()),
        output::bytes(weights.bytes() as u64),
        checkpoint.format_summary(),
        started.elapsed().as_secs_f64(),
        isa,
        pool.num_threads(),
        if pool.num_threads() == 1 { "" } else { "s" },
    );
    let transformer = Arc::new(Transformer::new(config, weights, pool, isa)?);
    let template_source = checkpoint.chat_template().map(str::to_owned);
    let defaults = checkpoint.generation_defaults().clone();
    Ok(PackedModel { transformer, tokenizer, template_source, defaults, summary })
}

/// The kernels' name of a KV format.
pub fn kv_format(format: KvFormat) -> kv::KvFormat {
    match format {
        KvFormat::F16 => kv::KvFormat::F16,
        KvFormat::Q8 => kv::KvFormat::Q8,
    }
}

fn parameters(count: u64) -> String {
    let count = count as f64;
    if count < 1e9 { format!("{:.0}M", count / 1e6) } else { format!("{:.1}B", count / 1e9) }
}

/// Refuses what cannot fit before minutes go by.
fn check_memory(checkpoint: &Checkpoint, name: &str) -> anyhow::Result<()> {
    let Some(available) = available_memory() else { return Ok(()) };
    let needed = checkpoint.num_bytes() + RESERVE as u64;
    if needed > available {
        bail!(
            "`{name}` needs about {} of memory and {} are available; free some, or use a smaller model or quantization (at most \
             about {} of weights)",
            output::bytes(needed),
            output::bytes(available),
            output::bytes(available.saturating_sub(RESERVE as u64))
        );
    }
    Ok(())
}

/// Positions whose keys and values fit in the memory that is left.
fn fitting_positions(geometry: &KvGeometry) -> Option<usize> {
    let free = (available_memory()? as usize).saturating_sub(RESERVE);
    Some(free / geometry.page_bytes() * PAGE_LEN)
}

/// Refuses keys and values that do not fit; `fix` says what to change.
pub fn check_context_memory(geometry: &KvGeometry, num_positions: usize, fix: &str) -> anyhow::Result<()> {
    let show = |positions: usize| output::bytes((positions.div_ceil(PAGE_LEN) * geometry.page_bytes()) as u64);
    match fitting_positions(geometry) {
        Some(fitting) if num_positions > fitting => bail!(
            "a context of {num_positions} needs {} and {fitting} positions ({}) fit; {fix}, or halve its memory by --kv q8",
            show(num_positions),
            show(fitting)
        ),
        _ => Ok(()),
    }
}

/// How many positions to make pages for: what was asked for if it fits, else as many as the model and the memory allow.
fn context_len(transformer: &Transformer, format: kv::KvFormat, asked: Option<usize>) -> anyhow::Result<usize> {
    let max_positions = transformer.config().max_positions;
    let geometry = transformer.kv_geometry(format);
    if let Some(asked) = asked {
        ensure!(asked <= max_positions, "--ctx must be at most the model's {max_positions} positions; given {asked}");
        check_context_memory(&geometry, asked, "lower --ctx")?;
        return Ok(asked);
    }
    check_context_memory(&geometry, MIN_CONTEXT.min(max_positions), "free memory, use a smaller model")?;
    Ok(max_positions.min(DEFAULT_CONTEXT).min(fitting_positions(&geometry).unwrap_or(DEFAULT_CONTEXT)))
}

/// A progress bar that appears when loading takes over a second.
struct LoadingBar {
    bar: ProgressBar,
    /// `None`: never.
    shown_after: Option<Instant>,
}

impl LoadingBar {
    fn new(total: u64, progress: Progress) -> Self {
        let style = "loading {bar:30} {bytes}/{total_bytes} {eta}";
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden())
            .with_style(ProgressStyle::with_template(style).expect("the template is valid"));
        Self { bar, shown_after: matches!(progress, Progress::Bar).then(|| Instant::now() + Duration::from_secs(1)) }
    }

    fn set(&self, done: u64) {
        self.bar.set_position(done);
        if self.bar.is_hidden() && self.shown_after.is_some_and(|at| Instant::now() > at) {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
