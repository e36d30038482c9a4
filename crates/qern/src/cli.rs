//! The command line: every command, every flag, its default and its help. Only the contract: what a command does with
//! its arguments is in `commands`.

mod sampling;
mod serve;

pub use sampling::SamplingArgs;
pub use serve::{LogFormat, ServeArgs};

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "qern",
    version,
    about = "Run instruction models of the Qwen3 class on the machine you already have, CPU first."
)]
#[command(subcommand_required = true, arg_required_else_help = true, max_term_width = 110)]
#[command(after_help = "\
Examples:
  qern chat                                       talk to the small default model
  qern run -m qwen3:4b \"Why is the sky blue?\"     one answer
  cat notes.txt | qern run \"Summarize:\" -         text from a pipe is added to the prompt
  qern serve -m qwen3:4b                          an OpenAI-compatible server on port 8420
  qern list                                       what is on this machine, what can be fetched

Models are named by a path (GGUF file or safetensors folder), a catalogue name (qwen3:4b) or a hub name
(hf:owner/repo[@revision][:file]). Files live under QERN_HOME, else under the XDG data directory.
Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Talk with a model in the terminal, turn after turn.
    Chat(ChatArgs),
    /// Print one answer to stdout.
    Run(RunArgs),
    /// Serve models to OpenAI's clients, and a chat page to browsers.
    Serve(Box<ServeArgs>),
    /// Fetch a model, or finish an interrupted fetch.
    Pull(PullArgs),
    /// List the models on this machine and in the catalogue.
    List(ListArgs),
    /// Say what a model is: architecture, formats, context, licence.
    Show(ShowArgs),
    /// Remove a fetched model from this machine.
    Rm(RmArgs),
    /// Measure prompt processing and generation on this machine.
    Bench(BenchArgs),
    /// Measure a model's quality: perplexity, or divergence from a reference.
    #[command(subcommand)]
    Eval(EvalCommand),
    /// Say what this machine can do, what would be slow and what to change.
    Doctor(DoctorArgs),
    /// Print a completion script for a shell.
    Completions(CompletionsArgs),
    /// Write the manual pages into a folder.
    Man(ManArgs),
}

/// Which model.
#[derive(Debug, Clone, Args)]
pub struct ModelArgs {
    /// The model: a path, a catalogue name, or hf:owner/repo[@revision][:file] [default: smollm2]
    #[arg(short, long, value_name = "MODEL", env = "QERN_MODEL")]
    pub model: Option<String>,
}

impl ModelArgs {
    /// The model asked for, or the default one.
    pub fn name(&self) -> &str {
        self.model.as_deref().unwrap_or(crate::catalogue::DEFAULT_MODEL)
    }
}

/// How the machine is used: the same for every command that runs a model.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Machine")]
pub struct MachineArgs {
    /// Number of threads to compute with [default: one per physical core]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// How keys and values are kept in memory: f16 is exact enough for everything, q8 takes half the space
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = KvFormat::F16)]
    pub kv: KvFormat,
}

/// How keys and values of the context are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvFormat {
    /// 16-bit floats.
    F16,
    /// 8-bit integers in blocks, with a scale.
    Q8,
}

/// How much the model can keep in view.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Context")]
pub struct ContextArgs {
    /// Context length in tokens [default: what the model was trained for, as far as memory allows]
    #[arg(short, long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(16..))]
    pub ctx: Option<u32>,
    /// Refuse a conversation that does not fit, where the oldest turns would be dropped (and said to be dropped)
    #[arg(long)]
    pub strict_context: bool,
}

/// How a conversation becomes a prompt.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Prompt")]
pub struct PromptArgs {
    /// System message: who the model should be, what it should do
    #[arg(short, long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Use this Jinja chat template, not the model's own
    #[arg(long, value_name = "FILE")]
    pub chat_template: Option<PathBuf>,
    /// Let a model that can think do so before it answers [default: as the model's template says]
    #[arg(long, overrides_with = "no_think")]
    pub think: bool,
    /// Keep a model that can think from doing so
    #[arg(long)]
    pub no_think: bool,
}

impl PromptArgs {
    /// `Some(true)` for `--think`, `Some(false)` for `--no-think`, `None` when neither was given.
    pub fn thinking(&self) -> Option<bool> {
        match (self.think, self.no_think) {
            (true, _) => Some(true),
            (false, true) => Some(false),
            (false, false) => None,
        }
    }
}

/// How much is said on stderr.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Output")]
pub struct LogArgs {
    /// Say more on stderr: what was loaded and how; twice for details
    #[arg(short, long, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// Say nothing on stderr but errors
    #[arg(short, long)]
    pub quiet: bool,
}

/// `qern chat`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qern chat
  qern chat qwen3:4b --system \"You are a patient teacher.\"
  qern chat ./model.gguf --temperature 0.2 --seed 1

In the chat, /help lists its commands, Ctrl-C stops the answer, Ctrl-D ends the chat.")]
pub struct ChatArgs {
    /// The model, as with -m
    #[arg(value_name = "MODEL", conflicts_with = "model")]
    pub model_name: Option<String>,
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The conversation.
    #[command(flatten)]
    pub prompt: PromptArgs,
    /// Print answers as they come, without rendering markdown
    #[arg(long, help_heading = "Output")]
    pub plain: bool,
    /// Sampling.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Context.
    #[command(flatten)]
    pub context: ContextArgs,
    /// The machine.
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Messages.
    #[command(flatten)]
    pub log: LogArgs,
}

impl ChatArgs {
    /// The model asked for, either way, or the default one.
    pub fn model_name(&self) -> &str {
        self.model_name.as_deref().unwrap_or_else(|| self.model.name())
    }
}

/// `qern run`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qern run \"Name three rivers of France.\"
  echo \"Translate to French: good morning\" | qern run -m smollm2 -
  git diff | qern run -m qwen3:4b \"Write a commit message for:\" - --max-tokens 100
  qern run --raw \"Once upon a time\" --temperature 0 --stop \"\\n\\n\"
  qern run --json --logprobs=5 \"Yes or no: is water wet?\"

The answer goes to stdout as it is made; everything else goes to stderr.")]
pub struct RunArgs {
    /// The prompt; `-` reads it from stdin, and a prompt followed by `-` has stdin appended. Without a prompt, stdin is read
    #[arg(value_name = "PROMPT", num_args = 0..=2)]
    pub prompt_parts: Vec<String>,
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Complete the prompt as plain text, without the chat template
    #[arg(long, help_heading = "Prompt", conflicts_with_all = ["system", "chat_template", "think", "no_think"])]
    pub raw: bool,
    /// The conversation.
    #[command(flatten)]
    pub prompt: PromptArgs,
    /// Print one JSON object: the texts, why each ended, token counts, timings, log-probabilities if asked for
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// Sampling.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Context.
    #[command(flatten)]
    pub context: ContextArgs,
    /// The machine.
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Messages.
    #[command(flatten)]
    pub log: LogArgs,
}

/// `qern pull`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qern pull qwen3:4b
  qern pull hf:Qwen/Qwen3-0.6B                          a safetensors repository: the whole model folder
  qern pull hf:unsloth/Qwen3-1.7B-GGUF:Q8_0             one GGUF file, by its format or its name
  HF_ENDPOINT=https://mirror.example qern pull qwen3:4b

An interrupted fetch is resumed where it stopped. HF_TOKEN is sent to the hub itself and to no other host.")]
pub struct PullArgs {
    /// The model: a catalogue name, or hf:owner/repo[@revision][:file]
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// Print one JSON object: name, path, size
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// Messages.
    #[command(flatten)]
    pub log: LogArgs,
}

/// `qern list`
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only the models that are on this machine
    #[arg(long)]
    pub local: bool,
    /// Print one JSON object with `models` and `catalogue`
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// `qern show`
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The model: a path, a catalogue name or a hub name
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// Print one JSON object
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// `qern rm`
#[derive(Debug, Args)]
pub struct RmArgs {
    /// The model: its name in `qern list`
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Print one JSON object: name, path, freed bytes
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// `qern bench`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qern bench -m smollm2
  qern bench -m qwen3:4b --prompt 512 --gen 64 --batch 1,8,16
  qern bench -m qwen3:0.6b --depth 4096 --kv q8 --json")]
pub struct BenchArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Tokens in the prompt; 0 leaves prompt processing out
    #[arg(short, long, value_name = "TOKENS", default_value_t = 512)]
    pub prompt: u32,
    /// Tokens to generate; 0 leaves generation out
    #[arg(short, long, value_name = "TOKENS", default_value_t = 64)]
    pub r#gen: u32,
    /// How many sequences are generated at once; a list measures each
    #[arg(short, long, value_name = "N,...", value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub batch: Vec<u32>,
    /// Tokens already in the context when measuring starts
    #[arg(short, long, value_name = "TOKENS", default_value_t = 0)]
    pub depth: u32,
    /// Measure each figure this often and give the median
    #[arg(short, long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repeat: u32,
    /// Print one JSON object
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// The machine.
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Messages.
    #[command(flatten)]
    pub log: LogArgs,
}

/// `qern eval ...`
#[derive(Debug, Subcommand)]
pub enum EvalCommand {
    /// Perplexity of a text under the model; lower is better.
    ///
    /// The text is cut as llama-perplexity cuts it, so that the numbers can be compared: windows of --context tokens, of which
    /// the second half is scored. What is left after the last whole window is not scored; the result says how much that is.
    Perplexity(PerplexityArgs),
    /// Divergence (KL) of the model's predictions from a reference model's saved logits; lower is better.
    ///
    /// KL(reference || model) in nats at the positions that `qern eval perplexity` scores, how often both find the same token
    /// likeliest, and how far apart the probabilities of the text's own tokens are.
    Kl(KlArgs),
}

/// `qern eval perplexity`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qern eval perplexity -m qwen3:4b --file wiki.test.txt
  qern eval perplexity -m ./model-bf16 --file wiki.test.txt --save-logits reference.logits")]
pub struct PerplexityArgs {
    /// The text and how it is read.
    #[command(flatten)]
    pub text: EvalTextArgs,
    /// Also save the predictions at every scored position, for `qern eval kl`: 4 bytes for every token of the vocabulary
    #[arg(long, value_name = "LOGITS")]
    pub save_logits: Option<PathBuf>,
    /// Everything else.
    #[command(flatten)]
    pub common: EvalCommonArgs,
}

/// `qern eval kl`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qern eval perplexity -m ./model-bf16 --file wiki.test.txt --save-logits reference.logits
  qern eval kl -m ./model-q4_k_m.gguf --file wiki.test.txt --reference reference.logits")]
pub struct KlArgs {
    /// The text and how it is read.
    #[command(flatten)]
    pub text: EvalTextArgs,
    /// The reference model's logits for the same text, saved by `qern eval perplexity --save-logits`
    #[arg(long, value_name = "LOGITS")]
    pub reference: PathBuf,
    /// Everything else.
    #[command(flatten)]
    pub common: EvalCommonArgs,
}

/// The text of an evaluation.
#[derive(Debug, Clone, Args)]
pub struct EvalTextArgs {
    /// The text to score, UTF-8
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// Tokens in a window; the second half of each is scored
    #[arg(short, long, value_name = "TOKENS", default_value_t = 512, value_parser = clap::value_parser!(u32).range(3..))]
    pub context: u32,
}

/// What every evaluation shares.
#[derive(Debug, Clone, Args)]
pub struct EvalCommonArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Print one JSON object
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// The machine.
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Messages.
    #[command(flatten)]
    pub log: LogArgs,
}

/// `qern doctor`
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Do not try to reach the hub
    #[arg(long)]
    pub offline: bool,
    /// Print one JSON object
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// `qern completions`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qern completions bash > ~/.local/share/bash-completion/completions/qern
  qern completions zsh > ~/.zfunc/_qern
  qern completions fish > ~/.config/fish/completions/qern.fish")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

/// `qern man`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qern man ~/.local/share/man/man1")]
pub struct ManArgs {
    /// The folder to write `qern.1`, `qern-chat.1`, ... into; created when it does not exist
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

impl Command {
    /// How much the command should say; commands without these flags say what they always say.
    pub fn log(&self) -> LogArgs {
        match self {
            Command::Chat(args) => args.log.clone(),
            Command::Run(args) => args.log.clone(),
            Command::Pull(args) => args.log.clone(),
            Command::Bench(args) => args.log.clone(),
            Command::Eval(EvalCommand::Perplexity(args)) => args.common.log.clone(),
            Command::Eval(EvalCommand::Kl(args)) => args.common.log.clone(),
            _ => LogArgs::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn thinking_flags_override_each_other() {
        let thinking = |line: &str| match Cli::parse_from(line.split(' ')).command {
            Command::Run(args) => args.prompt.thinking(),
            _ => unreachable!(),
        };
        assert_eq!(thinking("qern run hi"), None);
        assert_eq!(thinking("qern run hi --think"), Some(true));
        assert_eq!(thinking("qern run hi --no-think"), Some(false));
        assert_eq!(thinking("qern run hi --think --no-think"), Some(false));
        assert_eq!(thinking("qern run hi --no-think --think"), Some(true));
    }
}
