//! An example to tokens, and which of them are learnt. For conversations the model's own template is rendered prefix by prefix,
//! so that no template has to mark what the assistant says: what is learnt is exactly what the model would have to say after the
//! prompt that it is served with. Where a prefix does not begin the whole token for token, that is not so, and it is refused.

use qern_model::batch::TokenId;
use qern_model::chat::{Conversation, Message};
use qern_model::template::{ChatTemplate, TemplateOptions};
use qern_model::tokenizer::{Specials, Tokenizer};
use serde::{Deserialize, Serialize};

use super::{Example, Item};

/// Tokens, and which of them are learnt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// All of them, as the model is served with them.
    pub tokens: Vec<TokenId>,
    /// Whether the loss of a token counts. Never that of the first: nothing predicts it. // [tokens.len()]
    pub is_trained: Vec<bool>,
}

impl Sequence {
    fn new(tokens: Vec<TokenId>, mut is_trained: Vec<bool>) -> Self {
        if let Some(first) = is_trained.first_mut() {
            *first = false;
        }
        Self { tokens, is_trained }
    }

    /// Tokens whose loss counts.
    pub fn num_trained(&self) -> usize {
        self.is_trained.iter().filter(|&&is| is).count()
    }
}

/// What of a conversation is learnt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrainOn {
    /// Every message of the assistant, in one sequence.
    #[default]
    Assistant,
    /// The assistant's last message.
    Last,
    /// Every message of the assistant, each in a sequence of its own that ends with it: for templates that show earlier turns in
    /// another form than the last.
    EveryTurn,
    /// Every token.
    All,
}

/// Makes tokens of examples.
#[derive(Debug)]
pub struct Encoder {
    /// The model's tokenizer.
    pub tokenizer: Tokenizer,
    /// The model's chat template; without one, only plain text can be learnt.
    pub template: Option<ChatTemplate>,
    /// The tokens that end an answer.
    pub eos: Vec<TokenId>,
    /// How conversations are rendered; its `add_generation_prompt` does not matter.
    pub options: TemplateOptions,
    /// What of a conversation is learnt.
    pub train_on: TrainOn,
    /// Longer sequences are refused, or cut.
    pub max_tokens: usize,
    /// Cut what is longer, rather than refuse it.
    pub truncate: bool,
}

impl Encoder {
    /// The tokens and masks of an example from this row: several items where every turn is one of its own.
    pub fn encode(&self, example: &Example, row: u64) -> Result<Vec<Item>, String> {
        let item = |sequences| Item { row, sequences };
        match example {
            Example::Preference(pair) => {
                let [chosen, rejected] = [self.sequence(&pair[0], true)?, self.sequence(&pair[1], true)?];
                Ok(vec![item(vec![chosen, rejected])])
            }
            Example::Chat { conversation, first_learnt } if self.train_on == TrainOn::EveryTurn => {
                let ends = (*first_learnt..conversation.messages.len()).filter(|&id| is_learnt(&conversation.messages[id]));
                ends.map(|end| {
                    let messages = conversation.messages[..=end].to_vec();
                    let turn = Conversation { messages, tools: conversation.tools.clone() };
                    Ok(item(vec![self.fitted(self.chat(&turn, end)?)?]))
                })
                .collect()
            }
            example => Ok(vec![item(vec![self.sequence(example, false)?])]),
        }
    }

    fn sequence(&self, example: &Example, is_preference: bool) -> Result<Sequence, String> {
        let sequence = match example {
            Example::Chat { conversation, first_learnt } => {
                let first = match self.train_on {
                    TrainOn::Last if !is_preference => {
                        conversation.messages.iter().rposition(is_learnt).unwrap_or(*first_learnt).max(*first_learnt)
                    }
                    _ => *first_learnt,
                };
                self.chat(conversation, first)?
            }
            Example::Completion { prompt, completion } => self.completion(prompt, completion)?,
            Example::Text(text) => self.completion("", text)?,
            Example::Preference(_) => return Err("a preference cannot be in a preference".into()),
        };
        self.fitted(sequence)
    }

    /// Refuses or cuts what is too long, and refuses what has nothing to learn.
    fn fitted(&self, mut sequence: Sequence) -> Result<Sequence, String> {
        if sequence.tokens.len() > self.max_tokens {
            if !self.truncate {
                return Err(format!(
                    "it has {} tokens, and at most {} fit; shorten it, raise `max_tokens` or cut it by `truncate`",
                    sequence.tokens.len(),
                    self.max_tokens
                ));
            }
            sequence.tokens.truncate(self.max_tokens);
            sequence.is_trained.truncate(self.max_tokens);
        }
        if sequence.num_trained() == 0 {
            return Err("no token of it is learnt".into());
        }
        Ok(sequence)
    }

    /// Plain texts: what the completion adds is learnt, and the end after it.
    fn completion(&self, prompt: &str, completion: &str) -> Result<Sequence, String> {
        let encode = |text: &str| self.tokenizer.encode(text, Specials::AsText).map_err(|error| error.to_string());
        let mut tokens: Vec<TokenId> = self.tokenizer.bos_id().filter(|_| self.tokenizer.add_bos()).into_iter().collect();
        if !prompt.is_empty() {
            tokens.extend(encode(prompt)?);
        }
        let given = tokens.len();
        tokens.extend(encode(completion)?);
        tokens.extend(self.tokenizer.eos_id());
        let is_trained = (0..tokens.len()).map(|index| index >= given || self.train_on == TrainOn::All).collect();
        Ok(Sequence::new(tokens, is_trained))
    }

    /// A conversation whose assistant's messages are learnt from `first_learnt` on.
    fn chat(&self, conversation: &Conversation, first_learnt: usize) -> Result<Sequence, String> {
        let messages = &conversation.messages;
        let whole = self.render(conversation, messages.len(), false)?;
        let mut is_trained = vec![self.train_on == TrainOn::All; whole.len()];
        if self.train_on == TrainOn::All {
            return Ok(Sequence::new(whole, is_trained));
        }
        for (id, message) in messages.iter().enumerate().skip(first_learnt) {
            check_weight(message)?;
            if !is_learnt(message) {
                continue;
            }
            if id == 0 {
                return Err("a conversation must not begin with a message of the assistant, which nothing asks for".into());
            }
            let prompt = self.render(conversation, id, true)?;
            let until = if id + 1 == messages.len() { whole.clone() } else { self.render(conversation, id + 1, false)? };
            if !until.starts_with(&prompt) {
                return Err(format!(
                    "message {} cannot be learnt: the model's chat template does not render it as the prompt for it goes on, so it \
                     would be learnt in a form in which it is never asked for",
                    id + 1
                ));
            }
            let end = self.end_of_turn(&until, prompt.len())?;
            if !whole.starts_with(&until[..end]) {
                return Err(format!(
                    "message {} cannot be learnt along with those behind it: the model's chat template shows earlier turns in \
                     another form than the last; set `train_on` to `every-turn` or `last`",
                    id + 1
                ));
            }
            is_trained[prompt.len()..end].fill(true);
        }
        Ok(Sequence::new(whole, is_trained))
    }

    /// Where what the model says ends: behind the last token of an end. What a template puts behind it is not said by the model.
    fn end_of_turn(&self, until: &[TokenId], start: usize) -> Result<usize, String> {
        let said = until.get(start..).unwrap_or_default();
        match said.iter().rposition(|id| self.eos.contains(id)) {
            Some(at) => Ok(start + at + 1),
            None => Err("the model's chat template does not end the assistant's message with a token of the end; answers would \
                         never end"
                .into()),
        }
    }

    fn render(&self, conversation: &Conversation, num_messages: usize, for_answer: bool) -> Result<Vec<TokenId>, String> {
        let template = self.template.as_ref().ok_or(
            "it is a conversation, and the model has no chat template; give one by `chat_template`, or train on plain text by `raw`",
        )?;
        let messages = conversation.messages[..num_messages].to_vec();
        let conversation = Conversation { messages, tools: conversation.tools.clone() };
        let options = TemplateOptions { add_generation_prompt: for_answer, ..self.options.clone() };
        let prompt = template.render(&conversation, &options).map_err(|error| error.to_string())?;
        self.tokenizer.encode_prompt(&prompt).map_err(|error| error.to_string())
    }
}

/// Whether a message's loss counts: that of the assistant, unless its `weight` is 0 (as in OpenAI's format).
fn is_learnt(message: &Message) -> bool {
    message.role == "assistant" && message.extra.get("weight").and_then(serde_json::Value::as_f64) != Some(0.0)
}

fn check_weight(message: &Message) -> Result<(), String> {
    match message.extra.get("weight") {
        None | Some(serde_json::Value::Null) => Ok(()),
        Some(weight) if matches!(weight.as_f64(), Some(0.0 | 1.0)) => Ok(()),
        Some(weight) => Err(format!("the `weight` of a message must be 0 or 1; given {weight}")),
    }
}
