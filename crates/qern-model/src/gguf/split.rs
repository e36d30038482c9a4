//! Models in several GGUF files: which files belong together. Names are `NAME-00001-of-00003.gguf`; what the files say of
//! themselves (`split.no`, `split.count`, `split.tensors.count`) must agree with their names.

use std::path::{Path, PathBuf};

use super::metadata::Metadata;
use crate::error::{Error, Result};

/// The place of a file in a split model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Split {
    /// From 0.
    pub part: usize,
    pub num_parts: usize,
    /// Tensors of all parts together, where the file says it.
    pub num_tensors: Option<usize>,
}

/// More parts than any model has.
const MAX_PARTS: usize = 10_000;

impl Split {
    /// What a file's metadata says; `None` for a model in one file.
    pub fn from_metadata(metadata: Metadata<'_>) -> Result<Option<Self>> {
        let Some(num_parts) = metadata.count("split.count")?.filter(|&count| count > 1) else { return Ok(None) };
        if num_parts > MAX_PARTS {
            return Err(Error::Gguf(format!("split.count must be at most {MAX_PARTS}; given {num_parts}")));
        }
        let part = metadata.count("split.no")?.unwrap_or(0);
        if part >= num_parts {
            return Err(Error::Gguf(format!("split.no must be below split.count {num_parts}; given {part}")));
        }
        Ok(Some(Self { part, num_parts, num_tensors: metadata.count("split.tensors.count")? }))
    }

    /// The files of the model to which the part at `path` belongs, in order.
    pub fn paths(self, path: &Path) -> Result<Vec<PathBuf>> {
        let Self { part, num_parts, .. } = self;
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let prefix = name.strip_suffix(&suffix(part, num_parts)).ok_or_else(|| {
            Error::Gguf(format!(
                "part {} of {num_parts} must be named `NAME{}`, so that the other parts can be found; rename it",
                part + 1,
                suffix(part, num_parts)
            ))
        })?;
        Ok((0..num_parts).map(|part| path.with_file_name(format!("{prefix}{}", suffix(part, num_parts)))).collect())
    }
}

/// The end of the name of part `part` (from 0).
fn suffix(part: usize, num_parts: usize) -> String {
    format!("-{:05}-of-{num_parts:05}.gguf", part + 1)
}

/// The name before `-00001-of-0000N.gguf`, for a file name of that form.
pub(crate) fn split_prefix(file_name: &str) -> Option<&str> {
    let (rest, num_parts) = file_name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (prefix, part) = rest.rsplit_once('-')?;
    let number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    (number(part) && number(num_parts)).then_some(prefix)
}
