//! Safetensors files, single or sharded: names, shapes and bytes of tensors, borrowed from the mapped files. Knows the
//! format, not what the names mean; that is in `checkpoint`. Which file of a folder to open is decided here.

mod header;
mod index;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use header::Header;
use index::Index;

pub use header::{Dtype, TensorInfo};

use crate::error::{Error, Result, shorten};
use crate::tensor::{FileBytes, TensorView};

/// The name of the index of a sharded model.
pub const INDEX_NAME: &str = "model.safetensors.index.json";

/// Tensors in one or several safetensors files. Every extent has been checked when they are opened.
#[derive(Debug)]
pub struct SafetensorsFile {
    shards: Vec<Shard>,
    tensors: Vec<TensorInfo>,
    /// Name to index in `tensors`.
    by_name: HashMap<String, usize>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    file: FileBytes,
    metadata: HashMap<String, String>,
}

impl SafetensorsFile {
    /// Opens one file, or all files that an index (`*.safetensors.index.json`) names.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        refuse_pickle(path)?;
        if path.extension().is_some_and(|extension| extension == "json") {
            return Self::open_index(path);
        }
        let mut this = Self::empty();
        let tensors = this.add_shard(path)?;
        tensors.into_iter().try_for_each(|tensor| this.add_tensor(tensor))?;
        Ok(this)
    }

    /// Reads one file from memory.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        let mut this = Self::empty();
        let header = Header::parse(&bytes)?;
        this.shards.push(Shard { path: PathBuf::new(), file: FileBytes::Owned(bytes), metadata: header.metadata });
        header.tensors.into_iter().try_for_each(|tensor| this.add_tensor(tensor))?;
        Ok(this)
    }

    /// The index is the authority: a tensor counts only in the shard that the index names for it.
    fn open_index(path: &Path) -> Result<Self> {
        let index = Index::open(path)?;
        let mut this = Self::empty();
        for shard in &index.shards {
            let shard_path = path.with_file_name(shard);
            if !shard_path.exists() {
                let message = format!("the shard `{}` is missing; fetch it to `{}`", shorten(shard), shard_path.display());
                return Err(Error::Safetensors(message).in_file(path));
            }
            for tensor in this.add_shard(&shard_path)? {
                if index.weight_map.get(&tensor.name).is_some_and(|home| home == shard) {
                    this.add_tensor(tensor)?;
                } else {
                    tracing::warn!(
                        "`{}`: the tensor `{}` is not used: the index does not place it in this shard",
                        shard_path.display(),
                        shorten(&tensor.name)
                    );
                }
            }
        }
        match index.weight_map.iter().find(|(name, _)| !this.by_name.contains_key(*name)) {
            Some((name, shard)) => Err(Error::Safetensors(format!(
                "the tensor `{}` must be in the shard `{}`, by the index; it is not",
                shorten(name),
                shorten(shard)
            ))
            .in_file(path)),
            None => Ok(this),
        }
    }

    fn empty() -> Self {
        Self { shards: Vec::new(), tensors: Vec::new(), by_name: HashMap::new() }
    }

    fn add_shard(&mut self, path: &Path) -> Result<Vec<TensorInfo>> {
        let file = FileBytes::open(path)?;
        let header = Header::parse(file.bytes()).map_err(|error| error.in_file(path))?;
        let mut tensors = header.tensors;
        tensors.iter_mut().for_each(|tensor| tensor.shard = self.shards.len());
        self.shards.push(Shard { path: path.to_owned(), file, metadata: header.metadata });
        Ok(tensors)
    }

    fn add_tensor(&mut self, tensor: TensorInfo) -> Result<()> {
        if self.by_name.insert(tensor.name.clone(), self.tensors.len()).is_some() {
            return Err(Error::Safetensors(format!("the tensor `{}` must be listed once; it is twice", shorten(&tensor.name))));
        }
        self.tensors.push(tensor);
        Ok(())
    }

    /// The files, in order. One empty path for a file read from memory.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.shards.iter().map(|shard| shard.path.as_path())
    }

    /// The value of `key` in the `__metadata__` of the first file that has it.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.shards.iter().find_map(|shard| shard.metadata.get(key)).map(String::as_str)
    }

    /// All tensors, by their place in the files.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// What the file says about the tensor called `name`.
    pub fn tensor_info(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&index| &self.tensors[index])
    }

    /// The tensor called `name`; an error when there is none, its type is not read, or it holds nothing.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>> {
        let shown = || shorten(name);
        let info = self
            .tensor_info(name)
            .ok_or_else(|| Error::Safetensors(format!("the tensor `{}` is missing from the file", shown())))?;
        let format = info.dtype.weight_format().ok_or_else(|| {
            Error::Safetensors(format!(
                "the tensor `{}` is stored as {}, which is not supported; use a checkpoint in F32, F16 or BF16",
                shown(),
                info.dtype.name()
            ))
        })?;
        if info.range.is_empty() {
            return Err(Error::Safetensors(format!(
                "the tensor `{}` of shape {:?} must hold values; it is empty",
                shown(),
                info.shape
            )));
        }
        TensorView::new(&info.name, format, (info.rows(), info.cols()), &self.shards[info.shard].file, info.range.clone())
            .ok_or_else(|| Error::Safetensors(format!("the tensor `{}` does not fit its file", shown())))
    }
}

/// Pickles run code when they are loaded, so they are never opened.
pub(crate) fn refuse_pickle(path: &Path) -> Result<()> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    if !["bin", "pt", "pth", "ckpt", "pkl", "pickle"].contains(&extension) {
        return Ok(());
    }
    Err(Error::Safetensors(format!(
        "`.{extension}` files are pickles, which run code when they are loaded, and are never opened; use the model's \
         safetensors or gguf files, or convert it with `save_pretrained(..., safe_serialization=True)`"
    ))
    .in_file(path))
}
