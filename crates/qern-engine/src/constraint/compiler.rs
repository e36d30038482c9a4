//! Constraints to compiled ones, under limits, through the cache. What a constraint's text means is the business of the files for each
//! kind; here it has become a grammar.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher as Parser, TokenParser};

use super::cache::Cache;
use super::grammar::json_grammar;
use super::schema;
use super::{Constraint, ConstraintError, ConstraintLimits, JsonLayout, Vocabulary};

/// Makes constraints ready for use. Cheap to share; compiles on threads of its own, never on the caller's.
#[derive(Clone)]
pub struct ConstraintCompiler(Arc<Inner>);

struct Inner {
    vocabulary: Vocabulary,
    limits: ConstraintLimits,
    cache: Mutex<Cache>,
}

/// A constraint that answers can be held to, for any number of them at once.
pub struct Compiled {
    vocabulary: Vocabulary,
    tables: Mutex<Tables>,
    /// Answers share their tables; beyond this they are begun anew.
    warm_bytes: usize,
    source_bytes: usize,
    notes: Vec<String>,
    fingerprint: u64,
}

/// The automata of a constraint: as compiled, and as grown by the answers so far, which the next ones profit from.
struct Tables {
    pristine: TokenParser,
    warm: TokenParser,
}

/// Compilation recurses over nested grammars; the depth of those is limited so that this is ample.
const STACK_BYTES: usize = 256 << 20;

impl ConstraintCompiler {
    /// For one vocabulary.
    pub fn new(vocabulary: Vocabulary, limits: ConstraintLimits) -> Self {
        Self(Arc::new(Inner { vocabulary, limits, cache: Mutex::default() }))
    }

    /// The vocabulary it compiles for.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.0.vocabulary
    }

    /// Compiles a constraint, or finds it in the cache. Blocks for as long as that takes (at most `compile_time`): call it from a
    /// thread that may wait, not from the engine's.
    pub fn compile(&self, constraint: &Constraint, layout: JsonLayout) -> Result<Arc<Compiled>, ConstraintError> {
        constraint.check(&self.0.limits)?;
        let key = format!("{layout:?} {} {}", constraint.kind(), constraint.text());
        if let Some(compiled) = lock(&self.0.cache).get(&key) {
            return Ok(compiled);
        }
        let compiled = Arc::new(self.compile_apart(constraint.clone(), layout, &key)?);
        lock(&self.0.cache).insert(&key, &compiled, self.0.limits.cache_bytes);
        Ok(compiled)
    }

    /// Compiled constraints in the cache, and the bytes they take.
    pub fn cached(&self) -> (usize, usize) {
        let cache = lock(&self.0.cache);
        (cache.len(), cache.num_bytes())
    }

    /// On a thread with a stack of its own; given up on (it ends by its fuel) when the time is over.
    fn compile_apart(&self, constraint: Constraint, layout: JsonLayout, key: &str) -> Result<Compiled, ConstraintError> {
        let (kind, compile_time) = (constraint.kind(), self.0.limits.compile_time);
        let (sender, receiver) = mpsc::channel();
        let (inner, key) = (self.0.clone(), key.to_string());
        let work = move || _ = sender.send(compile(&inner, &constraint, layout, &key));
        let thread = std::thread::Builder::new().name("qern-constraint".into()).stack_size(STACK_BYTES).spawn(work);
        thread.map_err(|error| ConstraintError::Refused {
            kind,
            reason: format!("no thread can be started to compile it ({error})"),
            fix: "try again when the machine has room".into(),
        })?;
        match receiver.recv_timeout(compile_time) {
            Ok(compiled) => compiled,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                Err(ConstraintError::Limit { kind, what: "a time", limit: format!("{} s", compile_time.as_secs_f32()) })
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(ConstraintError::Refused {
                kind,
                reason: "its compilation broke off".into(),
                fix: "this is an error of Qern: please report it with the constraint".into(),
            }),
        }
    }
}

fn compile(inner: &Inner, constraint: &Constraint, layout: JsonLayout, key: &str) -> Result<Compiled, ConstraintError> {
    let grammar = constraint.grammar(layout)?;
    let kind = constraint.kind();
    let mut pristine = parse(inner, grammar.grammar).map_err(|reason| match constraint {
        Constraint::JsonSchema(schema) => {
            let try_out = |part| parse(inner, json_grammar(part, layout, Vec::new()).grammar).err().map(|reason| brief(&reason));
            ConstraintError::Schema(vec![schema::locate(schema, &brief(&reason), &try_out)])
        }
        _ => ConstraintError::Refused { kind, reason: brief(&reason), fix: "change or simplify that part".into() },
    })?;
    let mut notes = grammar.notes;
    notes.extend(pristine.grammar_warnings());
    let mut hasher = std::hash::DefaultHasher::new();
    key.hash(&mut hasher);
    Ok(Compiled {
        vocabulary: inner.vocabulary.clone(),
        tables: Mutex::new(Tables { warm: pristine.deep_clone(), pristine }),
        warm_bytes: inner.limits.warm_bytes,
        source_bytes: key.len(),
        notes,
        fingerprint: hasher.finish(),
    })
}

fn parse(inner: &Inner, grammar: TopLevelGrammar) -> Result<TokenParser, String> {
    let factory = inner.vocabulary.factory();
    let logger = llguidance::Logger::new(0, 0);
    let capabilities = toktrie::InferenceCapabilities { ff_tokens: true, ..Default::default() };
    let init = llguidance::api::GrammarInit::Serialized(grammar);
    let parser = factory.create_parser_from_init_ext(init, logger, capabilities, inner.limits.parser());
    parser.map_err(|error| format!("{error:#}"))
}

/// Whether a constraint can be kept, without a model: what it would be noted for, or why it is refused.
pub fn check(constraint: &Constraint, limits: ConstraintLimits) -> Result<Vec<String>, ConstraintError> {
    // Every byte by itself: whatever a grammar asks can be spelled.
    let compiler = ConstraintCompiler::new(Vocabulary::of_bytes()?, limits);
    Ok(compiler.compile(constraint, JsonLayout::Free)?.notes().to_vec())
}

/// The engine's own words, without its traces and its options.
fn brief(reason: &str) -> String {
    let lines = || reason.lines().map(str::trim).filter(|line| !line.is_empty());
    // A regular expression's error ends with what is wrong, after pictures; others begin with it.
    let last = lines().rev().find(|line| line.starts_with("error: "));
    let line = last.or_else(|| lines().next()).unwrap_or_default();
    line.split(". Enable").next().unwrap_or_default().trim_start_matches("error: ").trim_end_matches('.').to_string()
}

impl Compiled {
    /// What was done to the constraint that changes nothing of its meaning, and what of it was taken as mere description.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Bytes in use, roughly.
    pub fn num_bytes(&self) -> usize {
        let tables = lock(&self.tables);
        self.source_bytes + table_bytes(&tables.pristine) + table_bytes(&tables.warm)
    }

    /// Tokens of the vocabulary that it is compiled for.
    pub fn num_tokens(&self) -> usize {
        self.vocabulary.len()
    }

    pub(super) fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// A parser at the beginning, on the shared tables.
    pub(super) fn start(&self) -> Parser {
        let mut tables = lock(&self.tables);
        if table_bytes(&tables.warm) > self.warm_bytes {
            tables.warm = tables.pristine.deep_clone();
        }
        Parser::new(Ok(tables.warm.clone()))
    }
}

fn table_bytes(parser: &TokenParser) -> usize {
    parser.parser.lexer_stats().num_bytes
}

impl PartialEq for Compiled {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint && self.source_bytes == other.source_bytes
    }
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Compiled({:016x})", self.fingerprint)
    }
}

/// A panic while the lock was held left nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
