//! Renders a conversation with the model's own chat template, as transformers does, and marks what in the result came from
//! messages but reads like a special token. Knows no ids.

mod adapt;
mod environment;
mod guard;
mod json;
mod probe;

use std::ops::Range;
use std::sync::OnceLock;

use minijinja::value::Serde;
use minijinja::{Environment, Value};
use serde_json::Map;

use crate::chat::Conversation;
use crate::{Error, Result};
use guard::Guard;
pub use probe::Capabilities;

/// A chat template, compiled. Compiling and rendering are bounded in time and memory, but a hostile template may come close
/// to the bounds (seconds): call them where that blocks nobody.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    tokens: TemplateTokens,
    capabilities: OnceLock<Capabilities>,
}

/// What a template needs to know of a vocabulary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TemplateTokens {
    /// The text of the token that begins a text: `bos_token` in the template.
    pub bos: Option<String>,
    /// The text of the token that ends a text: `eos_token` in the template.
    pub eos: Option<String>,
    /// The texts that a message must not turn into tokens, and whether the token is special (rather than, say, `<think>`).
    pub guarded: Vec<(String, bool)>,
}

/// How to render.
#[derive(Clone, Debug, Default)]
pub struct TemplateOptions {
    /// End with the opening of an assistant's message.
    pub add_generation_prompt: bool,
    /// End within the last message, for the model to go on with it.
    pub continue_final_message: bool,
    /// Further variables of the template, such as `enable_thinking`.
    pub kwargs: Map<String, serde_json::Value>,
    /// The time that the template sees; that of the machine by default.
    pub now: Option<jiff::civil::DateTime>,
    /// Hand the messages to the template just as they are, as transformers does. Otherwise they are first brought into a form
    /// that the template is found to understand: texts instead of text parts (or the reverse), arguments of calls as objects
    /// instead of JSON strings, empty instead of missing contents.
    pub as_given: bool,
}

impl TemplateOptions {
    /// For an answer: ends with the opening of an assistant's message.
    pub fn answer() -> Self {
        Self { add_generation_prompt: true, ..Self::default() }
    }
}

/// A rendered conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RenderedPrompt {
    /// The text.
    pub text: String,
    /// The bytes that came from messages and must not become special tokens though they read like some. In order, disjoint.
    pub plain: Vec<Range<usize>>,
}

/// Templates longer than this are refused.
const MAX_TEMPLATE_BYTES: usize = 256 << 10;
/// What transformers puts behind a message that is to be continued.
const CONTINUE_TAG: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

impl ChatTemplate {
    /// Compiles a template.
    pub fn new(source: &str, tokens: TemplateTokens) -> Result<Self> {
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(error(format!("the template must have at most {MAX_TEMPLATE_BYTES} bytes; given {}", source.len())));
        }
        Ok(Self { environment: environment::compile(source)?, tokens, capabilities: OnceLock::new() })
    }

    /// The template that a model comes with, or ChatML for one whose vocabulary has `<|im_start|>`.
    pub fn of_model(source: Option<&str>, tokenizer: &crate::tokenizer::Tokenizer) -> Result<Self> {
        match source {
            Some(source) => Self::new(source, tokenizer.template_tokens()),
            None if tokenizer.added_tokens().any(|token| token.text == "<|im_start|>") => {
                Self::new(CHATML, tokenizer.template_tokens())
            }
            None => Err(error(
                "the model has no chat template and its vocabulary no `<|im_start|>` to fall back on ChatML; name a template by \
                 `--chat-template FILE`, or complete plain text by `--raw`",
            )),
        }
    }

    /// What the template can show to the model, found by rendering small conversations once.
    pub fn capabilities(&self) -> &Capabilities {
        self.capabilities.get_or_init(|| probe::find(self))
    }

    /// Renders a conversation.
    pub fn render(&self, conversation: &Conversation, options: &TemplateOptions) -> Result<RenderedPrompt> {
        if options.as_given {
            return self.render_values(adapt::as_given(conversation), options);
        }
        let adapted = adapt::adapted(conversation, self.capabilities());
        match self.render_values(adapted.clone(), options) {
            Err(_) if adapt::lacks_content(conversation) => self.render_values(adapt::with_empty_contents(adapted), options),
            result => result,
        }
    }

    fn render_values(&self, mut values: adapt::Values, options: &TemplateOptions) -> Result<RenderedPrompt> {
        if values.messages.is_empty() {
            return Err(error("a conversation must have at least one message; it is empty"));
        }
        if options.continue_final_message {
            if options.add_generation_prompt {
                return Err(error("`continue_final_message` and `add_generation_prompt` exclude each other"));
            }
            adapt::append_to_last(&mut values, CONTINUE_TAG)?;
        }
        let mut kwargs = options.kwargs.clone();
        if let Some(name) = kwargs.keys().find(|name| RESERVED.contains(&name.as_str())) {
            return Err(error(format!("`{name}` must not be among the template's variables: it is set already")));
        }
        let guard = Guard::new(&self.tokens.guarded, &values, &kwargs)?;
        guard.mark(&mut values, &mut kwargs);

        let input = adapt::measure(&values, &kwargs);
        let mut text = environment::render(&self.environment, input, self.context(values, kwargs, options))?;
        if options.continue_final_message {
            cut_at_tag(&mut text)?;
        }
        Ok(guard.unmark(&text))
    }

    fn context(&self, values: adapt::Values, kwargs: Map<String, serde_json::Value>, options: &TemplateOptions) -> Value {
        let mut context: Vec<(String, Value)> = vec![
            ("messages".into(), Value::from(Serde(values.messages))),
            ("tools".into(), if values.tools.is_empty() { Value::from(()) } else { Value::from(Serde(values.tools)) }),
            ("documents".into(), Value::from(())),
            ("add_generation_prompt".into(), options.add_generation_prompt.into()),
            ("strftime_now".into(), environment::strftime_now(options.now)),
        ];
        let tokens = [("bos_token", &self.tokens.bos), ("eos_token", &self.tokens.eos)];
        context.extend(tokens.into_iter().filter_map(|(name, text)| Some((name.into(), text.clone()?.into()))));
        context.extend(kwargs.into_iter().map(|(name, value)| (name, Value::from(Serde(value)))));
        Value::from_pairs(context)
    }
}

const RESERVED: [&str; 4] = ["messages", "tools", "add_generation_prompt", "strftime_now"];

/// The template of models that name none but have its tokens.
const CHATML: &str = "{% for message in messages %}\
    {{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}\
    {% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// Ends the text where the last message did. A template that trims contents has trimmed the tag's space too.
fn cut_at_tag(text: &mut String) -> Result<()> {
    let bare = CONTINUE_TAG.trim_end();
    let Some(at) = text.rfind(bare) else {
        return Err(error("the last message cannot be continued: the template leaves it out"));
    };
    let is_trimmed = !text[at..].starts_with(CONTINUE_TAG);
    text.truncate(at);
    if is_trimmed {
        text.truncate(text.trim_end().len());
    }
    Ok(())
}

/// An error in a template or of rendering.
fn error(message: impl Into<String>) -> Error {
    Error::Template(message.into())
}
