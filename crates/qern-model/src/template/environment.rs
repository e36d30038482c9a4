//! Jinja as transformers sets it up (`_compile_jinja_template` in `chat_template_utils.py`): its filters and functions,
//! Python's methods, whitespace control, and bounds on what a template may cost. Knows nothing of chats.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, ValueKind, from_args};
use minijinja::{AutoEscape, Environment, ErrorKind, State, Value};

use super::{error, json};
use crate::Result;
use crate::error::shorten;

/// Steps that any template may take, and further ones for each value and byte that it is given. A step is an instruction or
/// 64 bytes produced; real templates take less than 300 for a value and pass over each byte a few times.
const FUEL: u64 = 100_000;
const FUEL_PER_VALUE: u64 = 500;
const FUEL_PER_BYTE: u64 = 1;
/// Bytes that any template may write, and further ones for each byte that it is given.
const OUTPUT: usize = 4 << 20;
const OUTPUT_PER_BYTE: usize = 8;
/// Templates and values may be nested as deep as their bytes and the fuel allow, and the engine recurses over them: these are
/// what a level takes of the stack at most, measured and doubled. A stack is only reserved until it is used.
const STACK: usize = 16 << 20;
const STACK_PER_TEMPLATE_BYTE: usize = 1 << 10;
const STACK_PER_FUEL: usize = 1 << 10;
const MAX_STACK: usize = 8 << 30;
/// Some operations of the engine take time that their fuel does not pay for (slices of slices of slices ...).
const TIME: Duration = Duration::from_secs(10);

/// The only template of an environment.
const NAME: &str = "chat";

/// An environment with a template in it.
pub fn compile(source: &str) -> Result<Environment<'static>> {
    let source = accept_generation_tags(source);
    with_stack(STACK_PER_TEMPLATE_BYTE.saturating_mul(source.len()), move || {
        let mut environment = new();
        let compiled = environment.add_template_owned(NAME, source);
        compiled.map_err(|cause| error(format!("the template does not compile: {}", describe(&cause))))?;
        Ok(environment)
    })
}

fn new() -> Environment<'static> {
    let mut environment = Environment::new();
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        environment.set_syntax(syntax);
    }
    environment.set_debug(false);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(method);
    environment.set_formatter(|output, state, value| match json::python_float_of(value) {
        Some(float) => output.write_str(&float).map_err(minijinja::Error::from),
        None => minijinja::escape_formatter(output, state, value),
    });
    environment.add_filter("tojson", tojson);
    environment.add_filter("string", |value: &Value| match json::python_float_of(value) {
        Some(float) => float,
        None => value.to_string(),
    });
    environment
        .add_test("iterable", |value: &Value| value.is_undefined() || is_sized(value) || value.kind() == ValueKind::Iterable);
    environment.add_test("sequence", |value: &Value| value.is_undefined() || is_sized(value));
    environment.add_test("number", |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool));
    environment.add_function("raise_exception", raise_exception);
    environment
}

/// How much a template is given.
#[derive(Clone, Copy, Debug, Default)]
pub struct Input {
    pub num_values: usize,
    pub num_bytes: usize,
}

/// Renders the template within the bounds for its input.
pub fn render(environment: &Environment<'static>, input: Input, context: Value) -> Result<String> {
    let fuel =
        FUEL + FUEL_PER_VALUE.saturating_mul(input.num_values as u64) + FUEL_PER_BYTE.saturating_mul(input.num_bytes as u64);
    let mut environment = environment.clone(); // shares the compiled template
    environment.set_fuel(Some(fuel));
    with_stack(STACK_PER_FUEL.saturating_mul(fuel as usize), move || {
        let template = environment.get_template(NAME).map_err(|cause| error(describe(&cause)))?;
        let limit = OUTPUT.saturating_add(OUTPUT_PER_BYTE.saturating_mul(input.num_bytes));
        let mut output = Bounded { text: Vec::new(), limit, exceeded: false };
        let result = template.render_captured_to(context, &mut output).map(drop);
        if output.exceeded {
            return Err(error(format!("the template must write at most {limit} bytes for this conversation; it writes more")));
        }
        result.map_err(|cause| match refusal(&cause) {
            Some(message) => error(format!("the template refuses the conversation: {message}")),
            None => error(format!("the template fails: {}", describe(&cause))),
        })?;
        String::from_utf8(output.text).map_err(|_| error("the template must write text"))
    })
}

/// Runs `work` on a thread with a stack of its own, and leaves it to itself when it takes too long.
fn with_stack<T: Send + 'static>(num_bytes: usize, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let num_bytes = num_bytes.saturating_add(STACK).min(MAX_STACK);
    let (sender, receiver) = mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name("template".into()).stack_size(num_bytes).spawn(move || sender.send(work()));
    let thread = thread.map_err(|cause| error(format!("no thread for the template: {cause}")))?;
    let result = match receiver.recv_timeout(TIME) {
        Err(RecvTimeoutError::Timeout) => {
            return Err(error(format!("the template takes longer than {} seconds", TIME.as_secs())));
        }
        Ok(result) => result,
        Err(RecvTimeoutError::Disconnected) => Err(error("the template engine failed")),
    };
    thread.join().ok(); // it has sent its result, or panicked
    result
}

/// What an error of the template engine says, in a line.
fn describe(cause: &minijinja::Error) -> String {
    if cause.kind() == ErrorKind::OutOfFuel {
        return "it takes more steps than this conversation can need; a loop in it is too long".into();
    }
    let line = cause.line().map_or(String::new(), |line| format!(" (line {line})"));
    let detail = cause.detail().map_or(String::new(), |detail| format!(": {}", shorten(detail)));
    format!("{}{detail}{line}", cause.kind())
}

/// `{% generation %}` marks what an assistant said, for training; here it is a block like another.
fn accept_generation_tags(source: &str) -> String {
    let mut result = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        result.push_str(before);
        // Not in `{%}`: the percent sign of the end is another than that of the start.
        let Some(end) = tag[2..].find("%}").map(|at| at + 2) else {
            rest = tag;
            break;
        };
        let inner = &tag[2..end];
        let name = inner.trim_matches(['-', '+']).trim();
        match name {
            "generation" => result.push_str(&format!("{{%{}%}}", inner.replace(name, "with"))),
            "endgeneration" => result.push_str(&format!("{{%{}%}}", inner.replace(name, "endwith"))),
            _ => result.push_str(&tag[..end + 2]),
        }
        rest = &tag[end + 2..];
    }
    result + rest
}

/// The function `strftime_now(format)`, at a fixed time or at that of the machine.
pub fn strftime_now(now: Option<jiff::civil::DateTime>) -> Value {
    Value::from_function(move |format: &str| {
        let now = now.unwrap_or_else(|| jiff::ZonedDateTime::now().datetime());
        jiff::fmt::strtime::format(format, now).map_err(|cause| invalid(format!("strftime_now: {cause}")))
    })
}

/// What a template said by `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

fn raise_exception(message: &Value) -> Result<Value, minijinja::Error> {
    Err(invalid("raise_exception").with_source(Refusal(message.to_string())))
}

fn refusal(cause: &minijinja::Error) -> Option<String> {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(cause);
    while let Some(cause) = source {
        if let Some(Refusal(message)) = cause.downcast_ref() {
            return Some(message.clone());
        }
        source = cause.source();
    }
    None
}

fn tojson(state: &State, value: &Value, positional: Rest<Value>, kwargs: Kwargs) -> Result<Value, minijinja::Error> {
    let given = |index: usize, name| -> Result<Option<Value>, minijinja::Error> {
        let value = positional.get(index).cloned().map_or_else(|| kwargs.get(name), |value| Ok(Some(value)))?;
        Ok(value.filter(|value: &Value| !value.is_none()))
    };
    let is_true = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let (ensure_ascii, indent) = (is_true(given(0, "ensure_ascii")?), given(1, "indent")?);
    let (separators, sort_keys) = (given(2, "separators")?, is_true(given(3, "sort_keys")?));
    let mut style = json::Style::new(ensure_ascii, sort_keys);
    if let Some(indent) = indent {
        style.indent(&indent)?;
    }
    if let Some(both) = separators {
        let both: Vec<String> = both.try_iter()?.take(3).map(|separator| separator.to_string()).collect();
        let [item, key] = <[String; 2]>::try_from(both).map_err(|_| invalid("tojson: there must be two separators"))?;
        style.separators(item, key);
    }
    kwargs.assert_all_used()?;
    json::write(state, value, &style).map(Value::from)
}

/// Whether Python has a `len` of it.
fn is_sized(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map)
}

/// Python's methods that minijinja's own set of them lacks.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, minijinja::Error> {
    let Some(text) = value.as_str() else {
        return minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args);
    };
    match name {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(text.strip_prefix(prefix).unwrap_or(text).into())
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(text.strip_suffix(suffix).unwrap_or(text).into())
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            if separator.is_empty() {
                return Err(invalid(format!("{name}: empty separator")));
            }
            let parts = if name == "partition" { text.split_once(separator) } else { text.rsplit_once(separator) };
            let parts = match (parts, name) {
                (Some((before, after)), _) => [before, separator, after],
                (None, "partition") => [text, "", ""],
                (None, _) => ["", "", text],
            };
            Ok(parts.into_iter().map(Value::from).collect())
        }
        "rsplit" => {
            let (separator, max): (Option<&str>, Option<i64>) = from_args(args)?;
            let num_parts = max.and_then(|max| usize::try_from(max).ok()).map_or(usize::MAX, |max| max.saturating_add(1));
            let mut parts: Vec<&str> = match separator {
                Some("") => return Err(invalid("rsplit: empty separator")),
                Some(separator) => text.rsplitn(num_parts, separator).collect(),
                None if num_parts == usize::MAX => text.split_whitespace().rev().collect(),
                None => return Err(invalid("rsplit: a maximum needs a separator")),
            };
            parts.reverse();
            Ok(parts.into_iter().map(Value::from).collect())
        }
        "swapcase" => {
            let () = from_args(args)?;
            let swap = |c: char| if c.is_uppercase() { c.to_lowercase().to_string() } else { c.to_uppercase().to_string() };
            Ok(text.chars().map(swap).collect::<String>().into())
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

fn invalid(message: impl Into<String>) -> minijinja::Error {
    minijinja::Error::new(ErrorKind::InvalidOperation, message.into())
}

/// Takes output up to a limit.
struct Bounded {
    text: Vec<u8>,
    limit: usize,
    exceeded: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.limit - self.text.len() {
            self.exceeded = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
