//! The header of one safetensors file, checked as strictly as the format allows: no gap, no overlap, no byte left over, no
//! name twice. Format: the README of `huggingface/safetensors`. Own code because the `safetensors` crate keeps the last of two
//! equal names and its errors say neither which rule nor which value.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;

use qern_kernels::WeightFormat;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::error::{Error, Result, shorten};

/// Everything before the data of a file.
#[derive(Debug)]
pub(super) struct Header {
    /// In the order of their bytes.
    pub tensors: Vec<TensorInfo>,
    pub metadata: HashMap<String, String>,
}

/// What a safetensors file says about one of its tensors. Its extent has been checked against the file.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// The name, as in `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// How a value is stored.
    pub dtype: Dtype,
    /// The dimensions, the one whose values lie side by side last: `[rows, cols]` for a matrix.
    pub shape: Vec<usize>,
    /// The bytes in the file of shard `shard`.
    pub range: Range<usize>,
    /// Which file of a sharded model holds it; 0 for a single file.
    pub shard: usize,
}

impl TensorInfo {
    /// Values that lie side by side; 1 for a scalar.
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// The product of all dimensions but the last.
    pub fn rows(&self) -> usize {
        self.shape.split_last().map_or(1, |(_, rows)| rows.iter().product())
    }
}

/// A value type of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dtype {
    name: &'static str,
    bits: usize,
}

/// `safetensors::Dtype` (0.8), with the bits of a value.
const DTYPES: [Dtype; 22] = [
    dtype("BOOL", 8),
    dtype("F4", 4),
    dtype("F6_E2M3", 6),
    dtype("F6_E3M2", 6),
    dtype("U8", 8),
    dtype("I8", 8),
    dtype("F8_E5M2", 8),
    dtype("F8_E4M3", 8),
    dtype("F8_E8M0", 8),
    dtype("F8_E4M3FNUZ", 8),
    dtype("F8_E5M2FNUZ", 8),
    dtype("I16", 16),
    dtype("U16", 16),
    dtype("F16", 16),
    dtype("BF16", 16),
    dtype("I32", 32),
    dtype("U32", 32),
    dtype("F32", 32),
    dtype("C64", 64),
    dtype("F64", 64),
    dtype("I64", 64),
    dtype("U64", 64),
];

const fn dtype(name: &'static str, bits: usize) -> Dtype {
    Dtype { name, bits }
}

impl Dtype {
    fn from_name(name: &str) -> Option<Self> {
        DTYPES.into_iter().find(|dtype| dtype.name == name)
    }

    /// The name in the file, as in `BF16`.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// The weight format with these values, if the kernels read it.
    pub fn weight_format(self) -> Option<WeightFormat> {
        [WeightFormat::F32, WeightFormat::F16, WeightFormat::BF16].into_iter().find(|format| format.name() == self.name)
    }
}

/// The reference implementation's bound.
const MAX_HEADER_BYTES: usize = 100_000_000;
const MAX_DIMS: usize = 8;
const MAX_NAME: usize = 1024;

impl Header {
    /// Reads the header of a file whose whole content is `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let file_len = bytes.len();
        let Some((len, rest)) = bytes.split_first_chunk::<8>() else {
            return Err(invalid(format!("the file must have at least 8 bytes; it has {file_len}")));
        };
        if bytes.starts_with(b"version https://git-lfs") {
            return Err(invalid("this is a git-lfs pointer; fetch the file itself".into()));
        }
        let len = u64::from_le_bytes(*len);
        let max = MAX_HEADER_BYTES.min(rest.len());
        let len = usize::try_from(len).ok().filter(|&len| len <= max).ok_or_else(|| {
            invalid(format!(
                "the header must be at most {max} bytes long in a file of {file_len} bytes; given {len}: \
                             the file is cut short, damaged or no safetensors file"
            ))
        })?;
        let (json, data) = rest.split_at(len);
        if json.first() != Some(&b'{') {
            return Err(invalid("the header must begin with `{`; it does not, so this is no safetensors file".into()));
        }
        let raw: RawHeader<'_> =
            serde_json::from_slice(json).map_err(|error| invalid(format!("the header is not valid: {error}")))?;
        let data_start = file_len - data.len();
        let mut tensors = raw.tensors.into_iter().map(|(name, raw)| locate(name, raw, data_start)).collect::<Result<Vec<_>>>()?;
        tensors.sort_by_key(|tensor| (tensor.range.start, tensor.range.end));
        contiguous(&tensors, data_start, file_len)?;
        Ok(Self { tensors, metadata: raw.metadata })
    }
}

/// The range is that of the header, moved to the file, and has the size that the shape says.
fn locate(name: String, raw: RawTensor<'_>, data_start: usize) -> Result<TensorInfo> {
    let shown = shorten(&name);
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(invalid(format!("a tensor's name must be 1 to {MAX_NAME} bytes long; given {}", name.len())));
    }
    if raw.shape.len() > MAX_DIMS {
        return Err(invalid(format!("`{shown}` must have at most {MAX_DIMS} dimensions; given {}", raw.shape.len())));
    }
    let dtype = Dtype::from_name(&raw.dtype)
        .ok_or_else(|| invalid(format!("`{shown}` has the type `{}`, which is unknown", shorten(&raw.dtype))))?;
    let too_large = || invalid(format!("`{shown}` of shape {:?} is larger than any memory", raw.shape));
    // Zeros are left out, so that a product overflows wherever they stand.
    let nonzero = raw.shape.iter().filter(|&&dim| dim != 0);
    let values = nonzero.copied().try_fold(1u64, u64::checked_mul).ok_or_else(too_large)?;
    let values = if raw.shape.contains(&0) { 0 } else { values };
    let bits = values.checked_mul(dtype.bits as u64).ok_or_else(too_large)?;
    let [start, end] = raw.data_offsets;
    if !bits.is_multiple_of(8) || end.checked_sub(start) != Some(bits / 8) {
        return Err(invalid(format!(
            "`{shown}` of shape {:?} and type {} must take {} bytes; its offsets are {start} to {end}",
            raw.shape,
            dtype.name,
            bits.div_ceil(8)
        )));
    }
    let in_file = |offset: u64| usize::try_from(offset).ok().and_then(|offset| offset.checked_add(data_start));
    let range = in_file(start).ok_or_else(too_large)?..in_file(end).ok_or_else(too_large)?;
    let shape = raw.shape.iter().map(|&dim| usize::try_from(dim).ok()).collect::<Option<Vec<_>>>().ok_or_else(too_large)?;
    Ok(TensorInfo { name, dtype, shape, range, shard: 0 })
}

fn contiguous(tensors: &[TensorInfo], data_start: usize, file_len: usize) -> Result<()> {
    let mut expected = data_start;
    for tensor in tensors {
        if tensor.range.start != expected {
            let what = if tensor.range.start < expected { "overlaps the one before it" } else { "leaves a gap before it" };
            return Err(invalid(format!(
                "tensors must follow each other without gaps; `{}` at offset {} {what}",
                shorten(&tensor.name),
                tensor.range.start - data_start
            )));
        }
        expected = tensor.range.end;
    }
    if expected != file_len {
        return Err(invalid(format!(
            "the file must have {} bytes of data by its header; it has {}: it is cut short or damaged; fetch it again",
            expected - data_start,
            file_len - data_start
        )));
    }
    Ok(())
}

/// The header as it is written.
struct RawHeader<'a> {
    tensors: Vec<(String, RawTensor<'a>)>,
    metadata: HashMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTensor<'a> {
    #[serde(borrow)]
    dtype: std::borrow::Cow<'a, str>,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl<'de> Deserialize<'de> for RawHeader<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut header = RawHeader { tensors: Vec::new(), metadata: HashMap::new() };
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !names.insert(name.clone()) {
                return Err(M::Error::custom(format!("`{}` is listed twice", shorten(&name))));
            }
            if name == "__metadata__" {
                header.metadata = map.next_value()?;
            } else {
                header.tensors.push((name, map.next_value()?));
            }
        }
        Ok(header)
    }
}

fn invalid(message: String) -> Error {
    Error::Safetensors(message)
}
