//! Which files a path means: a file of weights, or a folder with one model in it. Opens nothing but folders.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result, shorten};
use crate::gguf::split_prefix;
use crate::safetensors::{self, INDEX_NAME};

/// The files that a path stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Files {
    /// A GGUF file, or a part of one.
    Gguf(PathBuf),
    /// Weights (a `.safetensors` file or an index), and the folder with `config.json` and the tokenizer.
    Safetensors { weights: PathBuf, folder: PathBuf },
}

pub(super) fn locate(path: &Path) -> Result<Files> {
    let metadata = path.metadata().map_err(|source| Error::io(path, source))?;
    if metadata.is_dir() {
        return in_folder(path).map_err(|error| error.in_file(path));
    }
    safetensors::refuse_pickle(path)?;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    if name.ends_with(".gguf") {
        return Ok(Files::Gguf(path.to_owned()));
    }
    if name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json") {
        return Ok(Files::Safetensors { weights: path.to_owned(), folder });
    }
    // Caches of other programs store GGUF files under names without an ending.
    if starts_with_magic(path)? {
        return Ok(Files::Gguf(path.to_owned()));
    }
    if name.ends_with(".json") {
        return locate(&folder);
    }
    Err(Error::Checkpoint("a model must be a `.gguf` file, a `.safetensors` file, or a folder with one of them".into())
        .in_file(path))
}

fn starts_with_magic(path: &Path) -> Result<bool> {
    use std::io::Read;
    let mut magic = Vec::new();
    let file = std::fs::File::open(path).map_err(|source| Error::io(path, source))?;
    file.take(4).read_to_end(&mut magic).map_err(|source| Error::io(path, source))?;
    Ok(magic == b"GGUF")
}

fn in_folder(folder: &Path) -> Result<Files> {
    let names = file_names(folder)?;
    let has = |name: &str| names.iter().any(|other| other == name);
    let ending = |ending: &str| names.iter().filter(|name| name.ends_with(ending)).map(String::as_str).collect::<Vec<_>>();
    let safetensors = |name: &str| Files::Safetensors { weights: folder.join(name), folder: folder.to_owned() };

    let tensors = ending(".safetensors");
    if has("config.json") {
        match tensors[..] {
            _ if has(INDEX_NAME) => return Ok(safetensors(INDEX_NAME)),
            _ if has("model.safetensors") => return Ok(safetensors("model.safetensors")),
            [only] => return Ok(safetensors(only)),
            [] => {}
            _ => {
                return Err(Error::Checkpoint(format!(
                    "several safetensors files need `{INDEX_NAME}` beside them, or one of them must be named; found {}",
                    list(&tensors)
                )));
            }
        }
    }
    let ggufs = ending(".gguf");
    // All parts of one split model count as one.
    let mut models: Vec<&str> = ggufs.iter().map(|name| split_prefix(name).unwrap_or(name)).collect();
    models.sort_unstable();
    models.dedup();
    if let [_] = models[..] {
        return Ok(Files::Gguf(folder.join(ggufs[0])));
    }
    Err(Error::Checkpoint(if ggufs.len() > 1 {
        format!("the folder holds several gguf models; name one of them: {}", list(&ggufs))
    } else if has("adapter_config.json") {
        "the folder holds an adapter, not a model; name its base model, and give it with `--adapter`".into()
    } else if !tensors.is_empty() {
        format!("`config.json` is missing beside {}; fetch it too", list(&tensors))
    } else if let Some(pickle) = [".bin", ".pt", ".pth", ".ckpt"].iter().find_map(|end| ending(end).first().copied()) {
        return Err(safetensors::refuse_pickle(Path::new(pickle)).err().unwrap_or_else(|| Error::Checkpoint(pickle.into())));
    } else if names.is_empty() {
        "the folder is empty; it must hold a gguf file, or safetensors files with `config.json`".into()
    } else {
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        format!("the folder must hold a gguf file, or safetensors files with `config.json`; found {}", list(&names))
    }))
}

/// The plain files of a folder, sorted.
fn file_names(folder: &Path) -> Result<Vec<String>> {
    let io = |source| Error::io(folder, source);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        // Not the entry's own type: caches of the hub hold links.
        if entry.path().is_file() {
            names.extend(entry.file_name().into_string());
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn list(names: &[&str]) -> String {
    const SHOWN: usize = 8;
    let mut shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{}`", shorten(name))).collect();
    if names.len() > SHOWN {
        shown.push(format!("{} more", names.len() - SHOWN));
    }
    shown.join(", ")
}
