//! GGUF files, versions 2 and 3, in one part or several: metadata and tensors, borrowed from the mapped files. Knows the
//! format, not what the keys and names mean; that is in `config/gguf.rs` and `checkpoint`.

mod header;
mod metadata;
mod split;
mod tensor_type;
mod value;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use header::Header;
use split::Split;

pub use header::TensorInfo;
pub use metadata::Metadata;
pub(crate) use split::split_prefix;
pub use tensor_type::{TensorType, UnsupportedType};
pub use value::{Array, Value, ValueType};

use crate::error::{Error, Result, shorten};
use crate::tensor::{FileBytes, TensorView};

/// A model in GGUF files. Every extent has been checked when it is opened.
#[derive(Debug)]
pub struct GgufFile {
    parts: Vec<Part>,
    tensors: Vec<TensorInfo>,
    /// Name to index in `tensors`.
    by_name: HashMap<String, usize>,
}

/// One of the files.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    file: FileBytes,
    header: Header,
}

impl GgufFile {
    /// Opens a file; for any part of a split model, all its parts.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let opened = Part::open(path)?;
        let Some(split) = opened.split()? else { return Self::from_parts(vec![opened]) };
        let paths = split.paths(path).map_err(|error| error.in_file(path))?;
        let mut opened = Some(opened);
        let mut parts = Vec::with_capacity(paths.len());
        for (index, part_path) in paths.into_iter().enumerate() {
            let part = match opened.take_if(|_| index == split.part) {
                Some(part) => part,
                None if !part_path.exists() => {
                    return Err(Error::Gguf(format!(
                        "part {} of {} is missing; put it at `{}`",
                        index + 1,
                        split.num_parts,
                        part_path.display()
                    ))
                    .in_file(path));
                }
                None => Part::open(&part_path)?,
            };
            let place = part.split()?.map(|found| (found.part, found.num_parts));
            if place != Some((index, split.num_parts)) {
                let found = place.map_or("a whole model".to_owned(), |(part, of)| format!("part {} of {of}", part + 1));
                return Err(
                    Error::Gguf(format!("must be part {} of {}; it is {found}", index + 1, split.num_parts)).in_file(&part.path)
                );
            }
            parts.push(part);
        }
        let this = Self::from_parts(parts)?;
        match split.num_tensors {
            Some(expected) if expected != this.tensors.len() => Err(Error::Gguf(format!(
                "the parts must have {expected} tensors together, by split.tensors.count; they have {}",
                this.tensors.len()
            ))
            .in_file(path)),
            _ => Ok(this),
        }
    }

    /// Reads a model in one part from memory.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        let header = Header::parse(&bytes)?;
        Self::from_parts(vec![Part { path: PathBuf::new(), file: FileBytes::Owned(bytes), header }])
    }

    fn from_parts(mut parts: Vec<Part>) -> Result<Self> {
        let mut tensors = Vec::new();
        let mut by_name = HashMap::new();
        for (index, part) in parts.iter_mut().enumerate() {
            for mut tensor in part.header.tensors.drain(..) {
                tensor.part = index;
                if by_name.insert(tensor.name.clone(), tensors.len()).is_some() {
                    let name = shorten(&tensor.name);
                    return Err(Error::Gguf(format!("the tensor `{name}` must be in one part; it is in two")).in_file(&part.path));
                }
                tensors.push(tensor);
            }
        }
        Ok(Self { parts, tensors, by_name })
    }

    /// The version of the format: 2 or 3.
    pub fn version(&self) -> u32 {
        self.parts[0].header.version
    }

    /// The files, in order. One empty path for a model read from memory.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.parts.iter().map(|part| part.path.as_path())
    }

    /// The metadata (of the first part, which is where a split model has it).
    pub fn metadata(&self) -> Metadata<'_> {
        self.parts[0].metadata()
    }

    /// All tensors, in the order of the file.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// What the file says about the tensor called `name`.
    pub fn tensor_info(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&index| &self.tensors[index])
    }

    /// The tensor called `name`; an error when there is none or its type is not read.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>> {
        let info = self
            .tensor_info(name)
            .ok_or_else(|| Error::Gguf(format!("the tensor `{}` is missing from the file", shorten(name))))?;
        let TensorType::Weights(format) = info.tensor_type else {
            let name = shorten(name);
            let (found, advice) = (info.tensor_type.name(), info.tensor_type.advice());
            return Err(Error::Gguf(format!("the tensor `{name}` is stored as {found}, which is not supported; {advice}")));
        };
        let file = &self.parts[info.part].file;
        TensorView::new(&info.name, format, (info.rows(), info.cols()), file, info.range.clone())
            .ok_or_else(|| Error::Gguf(format!("the tensor `{}` does not fit its file", shorten(name))))
    }
}

impl Part {
    fn open(path: &Path) -> Result<Self> {
        let file = FileBytes::open(path)?;
        let header = Header::parse(file.bytes()).map_err(|error| error.in_file(path))?;
        Ok(Self { path: path.to_owned(), file, header })
    }

    fn metadata(&self) -> Metadata<'_> {
        Metadata { header: &self.header, bytes: self.file.bytes() }
    }

    fn split(&self) -> Result<Option<Split>> {
        Split::from_metadata(self.metadata()).map_err(|error| error.in_file(&self.path))
    }
}
