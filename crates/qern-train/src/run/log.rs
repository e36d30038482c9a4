//! `train.jsonl`: a line for every step and evaluation. Appended to as training goes; cut back to the checkpoint when a run goes
//! on, so that every step stands in it once.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Progress, Score};
use crate::checkpoint::RunFolder;
use crate::{Error, Result};

/// The name of the file.
pub const LOG: &str = "train.jsonl";

/// The log of a run.
pub struct Log {
    path: PathBuf,
    file: Option<File>,
    len: u64,
}

impl Log {
    /// The log of a folder; nothing is opened yet.
    pub fn at(folder: &RunFolder) -> Self {
        Self { path: folder.path().join(LOG), file: None, len: 0 }
    }

    /// Opens the log, cut to the lines that belong to the steps taken.
    pub fn begin(&mut self, len: u64) -> Result<()> {
        let opened = File::options().create(true).truncate(false).write(true).open(&self.path).and_then(|mut file| {
            // A log that is shorter than it was when the checkpoint was written was changed by someone: what is there is kept.
            let len = len.min(file.metadata()?.len());
            file.set_len(len)?;
            file.seek(SeekFrom::Start(len))?;
            Ok((file, len))
        });
        let (file, len) = opened.map_err(|source| Error::io("write", &self.path, source))?;
        (self.file, self.len) = (Some(file), len);
        Ok(())
    }

    /// Appends a step; returns the log's length.
    pub fn step(&mut self, progress: &Progress) -> Result<u64> {
        let Progress { step, epoch, loss, norm, rate, num_tokens, seconds, memory_bytes, .. } = *progress;
        self.append(&json!({
            "step": step,
            "epoch": epoch,
            "loss": loss,
            "norm": norm,
            "rate": rate,
            "tokens": num_tokens,
            "seconds": seconds,
            "tokens_per_second": num_tokens as f64 / seconds.max(1e-9),
            "memory_bytes": memory_bytes,
        }))
    }

    /// Appends an evaluation; returns the log's length.
    pub fn evaluation(&mut self, step: u64, score: &Score) -> Result<u64> {
        let mut line = json!({"step": step, "held_out_loss": score.loss()});
        if let Some(accuracy) = score.preference_accuracy() {
            line["held_out_preference_accuracy"] = accuracy.into();
        }
        self.append(&line)
    }

    /// Makes what was appended last.
    pub fn sync(&self) -> Result<()> {
        self.file.as_ref().map_or(Ok(()), File::sync_all).map_err(|source| Error::io("write", &self.path, source))
    }

    fn append(&mut self, line: &Value) -> Result<u64> {
        let line = format!("{line}\n");
        if let Some(file) = &mut self.file {
            file.write_all(line.as_bytes()).map_err(|source| Error::io("write", &self.path, source))?;
            self.len += line.len() as u64;
        }
        Ok(self.len)
    }
}
