//! The header of one GGUF file: reads and checks every byte of it before anything is believed. Format:
//! `ggml/docs/gguf.md`. Lookups are in `metadata`, the weights and files of several parts in `gguf`.
//!
//! Nothing here allocates by a number from the file: counts are first compared with the bytes that could hold them.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::tensor_type::TensorType;
use super::value::{ValueType, take_item};
use crate::error::{Error, Result, shorten};

/// Everything before the data of a file, as positions in it.
#[derive(Debug)]
pub(super) struct Header {
    pub version: u32,
    pub entries: Vec<Entry>,
    /// Key to index in `entries`.
    pub by_key: HashMap<String, usize>,
    pub tensors: Vec<TensorInfo>,
}

/// A metadata entry: where its value lies.
#[derive(Debug)]
pub(super) struct Entry {
    pub key: String,
    pub kind: EntryKind,
    /// The bytes of the value: of a string without its length, of an array without its type and count.
    pub range: Range<usize>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum EntryKind {
    Single(ValueType),
    Array { item_type: ValueType, len: usize },
}

/// What a GGUF file says about one of its tensors. Its extent has been checked against the file.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// The name, as in `blk.0.attn_q.weight`.
    pub name: String,
    /// How the values are stored.
    pub tensor_type: TensorType,
    /// The dimensions, the one whose values lie side by side first: `[cols, rows]` for a matrix. One to four.
    pub dims: Vec<usize>,
    /// The bytes in the file of part `part`.
    pub range: Range<usize>,
    /// Which file of a split model holds it; 0 for a single file.
    pub part: usize,
}

impl TensorInfo {
    /// Values that lie side by side.
    pub fn cols(&self) -> usize {
        self.dims[0]
    }

    /// The product of all dimensions but the first.
    pub fn rows(&self) -> usize {
        self.dims[1..].iter().product()
    }
}

const MAGIC: &[u8] = b"GGUF";
const DEFAULT_ALIGNMENT: usize = 32;
const MAX_ALIGNMENT: u32 = 1 << 16;
const MAX_DIMS: u32 = 4;
/// `GGML_MAX_NAME`.
const MAX_TENSOR_NAME: usize = 64;
const MAX_KEY: usize = 65_535;
/// Far above any model; bounds what the tables of names cost.
const MAX_ENTRIES: usize = 1 << 16;
const MAX_TENSORS: usize = 1 << 18;
/// The least that an entry takes: a key's length and one byte of it, a type, a value of one byte.
const MIN_ENTRY_BYTES: usize = 8 + 1 + 4 + 1;
/// The least that a tensor takes: a name's length and one byte of it, one dimension, a type, an offset.
const MIN_TENSOR_BYTES: usize = 8 + 1 + 4 + 8 + 4 + 8;

impl Header {
    /// Reads the header of a file whose whole content is `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut cursor = Cursor { bytes, at: 0 };
        let version = read_version(&mut cursor)?;
        let num_tensors = cursor.count("tensors", MIN_TENSOR_BYTES, MAX_TENSORS)?;
        let num_entries = cursor.count("metadata entries", MIN_ENTRY_BYTES, MAX_ENTRIES)?;

        let mut entries = Vec::with_capacity(num_entries);
        let mut by_key = HashMap::with_capacity(num_entries);
        for index in 0..num_entries {
            let entry = read_entry(&mut cursor, index)?;
            if by_key.insert(entry.key.clone(), index).is_some() {
                return Err(invalid(format!("the key `{}` must be given once; it is given twice", shorten(&entry.key))));
            }
            entries.push(entry);
        }
        let alignment = alignment(bytes, by_key.get("general.alignment").map(|&index| &entries[index]))?;

        let mut infos = Vec::with_capacity(num_tensors);
        let mut names = HashSet::with_capacity(num_tensors);
        for index in 0..num_tensors {
            let info = read_tensor_info(&mut cursor, index)?;
            if !names.insert(info.name) {
                return Err(invalid(format!("the tensor `{}` must be listed once; it is listed twice", shorten(info.name))));
            }
            infos.push(info);
        }
        let data_start = cursor.at.checked_next_multiple_of(alignment).unwrap_or(usize::MAX);
        let data = DataSection { start: data_start, len: bytes.len().saturating_sub(data_start), alignment };
        let tensors = infos.into_iter().map(|info| data.locate(info)).collect::<Result<Vec<_>>>()?;
        no_overlaps(&tensors)?;
        Ok(Self { version, entries, by_key, tensors })
    }
}

fn read_version(cursor: &mut Cursor<'_>) -> Result<u32> {
    let bytes = cursor.bytes;
    let magic = cursor.take(4, "the magic bytes `GGUF`")?;
    if magic != MAGIC {
        let hint = match magic {
            b"vers" if bytes.starts_with(b"version https://git-lfs") => "this is a git-lfs pointer; fetch the file itself",
            b"ggml" | b"lmgg" | b"ggjt" | b"tjgg" | b"ggmf" | b"fmgg" => {
                "this is the format before gguf; convert the model again"
            }
            b"PK\x03\x04" => "this is a zip archive, perhaps a pickled checkpoint; use a gguf or safetensors file",
            _ => "this is no gguf file",
        };
        return Err(invalid(format!("the file must begin with `GGUF`; it begins with {magic:02x?}: {hint}")));
    }
    match cursor.u32("the version")? {
        version @ (2 | 3) => Ok(version),
        // A small number in the upper half is a small number read in the wrong byte order.
        swapped if swapped & 0xffff == 0 && swapped != 0 => Err(invalid(format!(
            "the file is big-endian (version {}); convert the model again without `--bigendian`",
            swapped.swap_bytes()
        ))),
        1 => Err(invalid("version 1 is not supported; convert the model again, to version 3".into())),
        version => Err(invalid(format!("the version must be 2 or 3; given {version}"))),
    }
}

fn read_entry(cursor: &mut Cursor<'_>, index: usize) -> Result<Entry> {
    let key = cursor.name("the key of a metadata entry", index, MAX_KEY)?.to_owned();
    let shown = shorten(&key);
    let type_of = |id| {
        ValueType::from_id(id).ok_or_else(|| invalid(format!("the type of `{shown}` must be a number from 0 to 12; given {id}")))
    };
    let truncated = || invalid(format!("the value of `{shown}` runs past the end of the file"));
    let kind = match type_of(cursor.u32("a value's type")?)? {
        ValueType::Array => {
            let item_type = type_of(cursor.u32("an array's item type")?)?;
            if item_type == ValueType::Array {
                return Err(invalid(format!("`{shown}` is an array of arrays, which is not supported; no known model has one")));
            }
            let count = cursor.u64("an array's length")?;
            // A string takes at least its length.
            let room = cursor.rest().len() / item_type.size().unwrap_or(8);
            let len = usize::try_from(count).ok().filter(|&len| len <= room).ok_or_else(|| {
                invalid(format!("`{shown}` claims {count} items; the rest of the file has room for at most {room}"))
            })?;
            EntryKind::Array { item_type, len }
        }
        single => EntryKind::Single(single),
    };

    let mut rest = cursor.rest();
    let value = match kind {
        EntryKind::Single(single) => take_item(single, &mut rest).ok_or_else(truncated)?,
        EntryKind::Array { item_type: ValueType::String, len } => {
            let all = rest;
            for _ in 0..len {
                take_item(ValueType::String, &mut rest).ok_or_else(truncated)?;
            }
            &all[..all.len() - rest.len()]
        }
        EntryKind::Array { item_type, len } => {
            let size = item_type.size().and_then(|size| size.checked_mul(len)).ok_or_else(truncated)?;
            let (value, after) = rest.split_at_checked(size).ok_or_else(truncated)?;
            rest = after;
            value
        }
    };
    let end = cursor.bytes.len() - rest.len();
    cursor.at = end;
    match kind {
        EntryKind::Single(ValueType::String) if std::str::from_utf8(value).is_err() => {
            return Err(invalid(format!("the string `{shown}` must be valid utf-8; it is not")));
        }
        EntryKind::Single(ValueType::Bool) | EntryKind::Array { item_type: ValueType::Bool, .. } => {
            if let Some(byte) = value.iter().find(|&&byte| byte > 1) {
                return Err(invalid(format!("a bool of `{shown}` must be 0 or 1; given {byte}")));
            }
        }
        _ => {}
    }
    Ok(Entry { key, kind, range: end - value.len()..end })
}

fn alignment(bytes: &[u8], entry: Option<&Entry>) -> Result<usize> {
    let Some(entry) = entry else { return Ok(DEFAULT_ALIGNMENT) };
    let value = match entry.kind {
        EntryKind::Single(ValueType::U32) => bytes[entry.range.clone()].first_chunk().map(|&value| u32::from_le_bytes(value)),
        EntryKind::Single(other) => {
            return Err(invalid(format!("general.alignment must be a u32; it is a {}", other.name())));
        }
        EntryKind::Array { .. } => return Err(invalid("general.alignment must be a u32; it is an array".into())),
    };
    match value {
        Some(value) if value.is_power_of_two() && value <= MAX_ALIGNMENT => Ok(value as usize),
        other => Err(invalid(format!(
            "general.alignment must be a power of two, at most {MAX_ALIGNMENT}; given {}",
            other.unwrap_or(0)
        ))),
    }
}

/// A tensor's description as it is written, before its extent is known to be good.
struct RawTensorInfo<'a> {
    name: &'a str,
    dims: Vec<u64>,
    tensor_type: TensorType,
    offset: u64,
}

fn read_tensor_info<'a>(cursor: &mut Cursor<'a>, index: usize) -> Result<RawTensorInfo<'a>> {
    let name = cursor.name("the name of a tensor", index, MAX_TENSOR_NAME)?;
    let shown = shorten(name);
    let num_dims = cursor.u32("a tensor's number of dimensions")?;
    if !(1..=MAX_DIMS).contains(&num_dims) {
        return Err(invalid(format!("the tensor `{shown}` must have 1 to {MAX_DIMS} dimensions; given {num_dims}")));
    }
    let dims = (0..num_dims).map(|_| cursor.u64("a tensor's dimensions")).collect::<Result<Vec<_>>>()?;
    if dims.contains(&0) {
        return Err(invalid(format!("every dimension of the tensor `{shown}` must be at least 1; given {dims:?}")));
    }
    let id = cursor.u32("a tensor's type")?;
    let tensor_type = TensorType::from_id(id)
        .ok_or_else(|| invalid(format!("the tensor `{shown}` has type {id}, which is unknown; convert the model again")))?;
    let offset = cursor.u64("a tensor's offset")?;
    Ok(RawTensorInfo { name, dims, tensor_type, offset })
}

/// Where the tensors' bytes lie.
struct DataSection {
    start: usize,
    len: usize,
    alignment: usize,
}

impl DataSection {
    fn locate(&self, info: RawTensorInfo<'_>) -> Result<TensorInfo> {
        let RawTensorInfo { name, dims, tensor_type, offset } = info;
        let shown = shorten(name);
        let too_large = || invalid(format!("the tensor `{shown}` of dimensions {dims:?} is larger than any memory"));
        let sizes = dims.iter().map(|&dim| usize::try_from(dim).ok()).collect::<Option<Vec<usize>>>().ok_or_else(too_large)?;
        if !sizes[0].is_multiple_of(tensor_type.block_len()) {
            return Err(invalid(format!(
                "the first dimension of the tensor `{shown}` must be a multiple of {}, the block of {}; given {}",
                tensor_type.block_len(),
                tensor_type.name(),
                sizes[0]
            )));
        }
        let rows = sizes[1..].iter().try_fold(1usize, |rows, &dim| rows.checked_mul(dim)).ok_or_else(too_large)?;
        rows.checked_mul(sizes[0]).ok_or_else(too_large)?;
        let len = tensor_type.row_bytes(sizes[0]).and_then(|row| row.checked_mul(rows)).ok_or_else(too_large)?;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        if !offset.is_multiple_of(self.alignment) {
            return Err(invalid(format!(
                "the offset of the tensor `{shown}` must be a multiple of the alignment {}; given {offset}",
                self.alignment
            )));
        }
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(invalid(format!(
                "the tensor `{shown}` takes {len} bytes from {offset}; the file has {} bytes of data: it is cut short or \
                 damaged; fetch it again",
                self.len
            )));
        }
        let start = self.start + offset;
        Ok(TensorInfo { name: name.to_owned(), tensor_type, dims: sizes, range: start..start + len, part: 0 })
    }
}

fn no_overlaps(tensors: &[TensorInfo]) -> Result<()> {
    let mut by_start: Vec<&TensorInfo> = tensors.iter().collect();
    by_start.sort_unstable_by_key(|tensor| tensor.range.start);
    match by_start.windows(2).find(|pair| pair[0].range.end > pair[1].range.start) {
        Some([first, second]) => {
            Err(invalid(format!("tensors must not overlap; `{}` and `{}` do", shorten(&first.name), shorten(&second.name))))
        }
        _ => Ok(()),
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    fn take(&mut self, len: usize, what: &str) -> Result<&'a [u8]> {
        let taken = self.rest().get(..len).ok_or_else(|| {
            invalid(format!("the file ends within {what}: it has {} bytes, and is cut short or damaged", self.bytes.len()))
        })?;
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A number of things that take at least `min_bytes` of the file each.
    fn count(&mut self, what: &str, min_bytes: usize, limit: usize) -> Result<usize> {
        let count = self.u64(what)?;
        let max = limit.min(self.bytes.len() / min_bytes);
        usize::try_from(count).ok().filter(|&count| count <= max).ok_or_else(|| {
            invalid(format!("the number of {what} must be at most {max} in a file of {} bytes; given {count}", self.bytes.len()))
        })
    }

    fn name(&mut self, what: &str, index: usize, max_len: usize) -> Result<&'a str> {
        let len = self.u64(what)?;
        let len = usize::try_from(len)
            .ok()
            .filter(|len| (1..=max_len).contains(len))
            .ok_or_else(|| invalid(format!("{what} (number {index}) must be 1 to {max_len} bytes long; given {len}")))?;
        std::str::from_utf8(self.take(len, what)?)
            .map_err(|_| invalid(format!("{what} (number {index}) must be valid utf-8; it is not")))
    }
}

fn invalid(message: String) -> Error {
    Error::Gguf(message)
}
