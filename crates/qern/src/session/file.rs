//! A chat in a file: versioned JSON, written atomically, read with every field checked.
//!
//! ```json
//! {
//!   "format": "qern-chat", "version": 1, "model": "smollm2", "system": "Be brief.",
//!   "settings": { "temperature": ["0.7"], "stop": ["###"] }, "thinking": null,
//!   "messages": [{ "role": "user", "content": "Hi" }, { "role": "assistant", "content": "Hel", "stopped": true }]
//! }
//! ```
//! `settings` holds the flags that were given, by name, as the command line takes them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

use super::conversation::{Speaker, State, Turn};
use super::settings::Settings;

const FORMAT: &str = "qern-chat";
const VERSION: u32 = 1;
/// A conversation of a 262,144 token context is about 1 MB.
const MAX_BYTES: u64 = 64 << 20;

/// What a file holds.
#[derive(Debug)]
pub struct SavedChat {
    /// The model that was talked to.
    pub model: String,
    /// What was said.
    pub state: State,
    /// The settings that were given.
    pub settings: Settings,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: String,
    version: u32,
    model: String,
    system: Option<String>,
    #[serde(default)]
    settings: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    thinking: Option<bool>,
    messages: Vec<Turn>,
}

/// Writes the chat to `path`: a reader sees the old file or the whole new one.
pub fn save(path: &Path, chat: &SavedChat) -> anyhow::Result<()> {
    let document = Document {
        format: FORMAT.into(),
        version: VERSION,
        model: chat.model.clone(),
        system: chat.state.system.clone(),
        settings: chat.settings.given(),
        thinking: chat.settings.thinking,
        messages: chat.state.turns.iter().map(|turn| Turn::clone(turn)).collect(),
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        serde_json::to_writer_pretty(&mut file, &document)?;
        file.write_all(b"\n")?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("cannot save the chat to {}", path.display()))
}

/// Reads a chat from `path`.
pub fn load(path: &Path) -> anyhow::Result<SavedChat> {
    let name = path.display();
    let size = fs::metadata(path).with_context(|| format!("cannot load a chat from {name}"))?.len();
    ensure!(size <= MAX_BYTES, "a saved chat must be at most {MAX_BYTES} bytes; {name} has {size}");
    let text = fs::read_to_string(path).with_context(|| format!("cannot load a chat from {name}"))?;
    let document = parse(&text).with_context(|| format!("{name} is not a chat saved by `/save`"))?;
    let settings = Settings::from_given(&document.settings, document.thinking)
        .map_err(|error| anyhow::anyhow!("a setting in {name} cannot be used: {error}"))?;
    for (index, turn) in document.messages.iter().enumerate() {
        let expected = if index % 2 == 0 { Speaker::User } else { Speaker::Assistant };
        ensure!(
            turn.speaker == expected,
            "message {} in {name} must be by the {expected:?}; users and the model take turns",
            index + 1
        );
    }
    ensure!(
        document.messages.len().is_multiple_of(2),
        "the last message in {name} must be by the Assistant; remove the unanswered one"
    );
    let turns = document.messages.into_iter().map(Arc::new).collect();
    Ok(SavedChat { model: document.model, state: State { system: document.system, turns }, settings })
}

fn parse(text: &str) -> anyhow::Result<Document> {
    /// Read first, so that a newer file is called newer and not malformed.
    #[derive(Deserialize)]
    struct Header {
        format: String,
        version: u32,
    }
    let header: Header = serde_json::from_str(text)?;
    ensure!(header.format == FORMAT, "`format` must be \"{FORMAT}\"; it is \"{}\"", header.format);
    if header.version != VERSION {
        bail!("its `version` is {}, and this program reads {VERSION}; use the version of Qern that wrote it", header.version);
    }
    Ok(serde_json::from_str(text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat() -> SavedChat {
        let turn = |speaker, text: &str, stopped| Arc::new(Turn { speaker, text: text.into(), stopped });
        let turns = vec![turn(Speaker::User, "Grüße \"😀\"", false), turn(Speaker::Assistant, "<think>\n</think>Hal", true)];
        let mut settings = Settings::default();
        settings.set("temperature", "0.7").unwrap();
        settings.set("think", "on").unwrap();
        SavedChat { model: "smollm2".into(), state: State { system: Some("Be brief.".into()), turns }, settings }
    }

    fn refused(text: &str, expected: &str) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chat.json");
        fs::write(&path, text).unwrap();
        let error = format!("{:#}", load(&path).expect_err("should be refused"));
        assert!(error.contains(expected), "{error:?} should say {expected:?}");
    }

    #[test]
    fn a_saved_chat_is_read_back_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chat.json");
        fs::write(&path, "an older file").unwrap();
        save(&path, &chat()).unwrap();
        let read = load(&path).unwrap();
        assert_eq!(read.state, chat().state);
        assert_eq!(read.model, "smollm2");
        assert_eq!(read.settings.given(), chat().settings.given());
        assert_eq!(read.settings.thinking, Some(true));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays behind");
    }

    #[test]
    fn a_file_that_cannot_be_used_says_why() {
        refused("", "is not a chat saved by `/save`");
        refused("[]", "is not a chat saved by `/save`");
        refused(r#"{"format":"other","version":1}"#, "`format` must be \"qern-chat\"; it is \"other\"");
        refused(r#"{"format":"qern-chat","version":2}"#, "its `version` is 2, and this program reads 1");
        refused(r#"{"format":"qern-chat","version":1,"model":"m","system":null,"messages":[],"x":1}"#, "unknown field `x`");
        let messages = r#"[{"role":"assistant","content":"hi"}]"#;
        let document = |settings: &str, messages: &str| {
            format!(
                r#"{{"format":"qern-chat","version":1,"model":"m","system":null,"settings":{settings},"messages":{messages}}}"#
            )
        };
        refused(&document("{}", messages), "message 1 in ");
        refused(&document(r#"{"top-p":["7"]}"#, "[]"), "must be a number from 0 to 1");
        assert!(save(Path::new("/nowhere/at/all.json"), &chat()).is_err());
    }
}
