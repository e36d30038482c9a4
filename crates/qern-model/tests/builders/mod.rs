//! Makes small model files, well-formed or broken in one place. Used by the tests of the file formats.
#![allow(dead_code, reason = "every test program uses a part of it")]

use std::path::{Path, PathBuf};

/// A GGUF file in the making. What is not broken on purpose is consistent.
#[derive(Clone)]
pub struct Gguf {
    pub head: Vec<u8>,
    pub num_tensors: Option<u64>,
    pub num_entries: Option<u64>,
    pub entries: Vec<Vec<u8>>,
    pub tensors: Vec<Tensor>,
    pub alignment: usize,
    /// Bytes of data; enough for all tensors when not given.
    pub data_len: Option<usize>,
}

#[derive(Clone)]
pub struct Tensor {
    pub name: Vec<u8>,
    pub dims: Vec<u64>,
    pub type_id: u32,
    /// The next free place when not given.
    pub offset: Option<u64>,
    pub data: Vec<u8>,
}

impl Default for Gguf {
    fn default() -> Self {
        Self {
            head: b"GGUF\x03\x00\x00\x00".to_vec(),
            num_tensors: None,
            num_entries: None,
            entries: Vec::new(),
            tensors: Vec::new(),
            alignment: 32,
            data_len: None,
        }
    }
}

impl Gguf {
    /// An entry: its type's number and the bytes of the value.
    pub fn entry(mut self, key: &str, type_id: u32, value: &[u8]) -> Self {
        self.entries.push([&string(key)[..], &type_id.to_le_bytes(), value].concat());
        self
    }

    pub fn u32(self, key: &str, value: u32) -> Self {
        self.entry(key, 4, &value.to_le_bytes())
    }

    pub fn f32(self, key: &str, value: f32) -> Self {
        self.entry(key, 6, &value.to_le_bytes())
    }

    pub fn bool(self, key: &str, value: bool) -> Self {
        self.entry(key, 7, &[value.into()])
    }

    pub fn str(self, key: &str, value: &str) -> Self {
        self.entry(key, 8, &string(value))
    }

    pub fn strings(self, key: &str, values: &[&str]) -> Self {
        self.entry(key, 9, &array(8, values.len() as u64, &values.iter().flat_map(|value| string(value)).collect::<Vec<_>>()))
    }

    pub fn i32s(self, key: &str, values: &[i32]) -> Self {
        self.entry(
            key,
            9,
            &array(5, values.len() as u64, &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>()),
        )
    }

    /// A tensor of F32 zeros.
    pub fn zeros(self, name: &str, dims: &[u64]) -> Self {
        let data = vec![0; 4 * dims.iter().product::<u64>() as usize];
        self.tensor(name, dims, 0, data)
    }

    pub fn tensor(mut self, name: &str, dims: &[u64], type_id: u32, data: Vec<u8>) -> Self {
        self.tensors.push(Tensor { name: name.into(), dims: dims.to_vec(), type_id, offset: None, data });
        self
    }

    pub fn at(mut self, offset: u64) -> Self {
        self.tensors.last_mut().unwrap().offset = Some(offset);
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head.clone();
        bytes.extend(self.num_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        bytes.extend(self.num_entries.unwrap_or(self.entries.len() as u64).to_le_bytes());
        bytes.extend(self.entries.concat());
        let mut data = Vec::new();
        for tensor in &self.tensors {
            bytes.extend((tensor.name.len() as u64).to_le_bytes());
            bytes.extend(&tensor.name);
            bytes.extend((tensor.dims.len() as u32).to_le_bytes());
            bytes.extend(tensor.dims.iter().flat_map(|dim| dim.to_le_bytes()));
            bytes.extend(tensor.type_id.to_le_bytes());
            data.resize(data.len().next_multiple_of(self.alignment), 0);
            bytes.extend(tensor.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&tensor.data);
        }
        data.resize(self.data_len.unwrap_or(data.len()), 0);
        bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
        bytes.extend(data);
        bytes
    }
}

pub fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

pub fn array(item_type: u32, len: u64, items: &[u8]) -> Vec<u8> {
    [&item_type.to_le_bytes()[..], &len.to_le_bytes(), items].concat()
}

/// A safetensors file with this header and this many bytes of data.
pub fn safetensors(header: &str, data_len: usize) -> Vec<u8> {
    let mut bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    bytes.resize(bytes.len() + data_len, 0);
    bytes
}

/// A safetensors file of F32 zeros.
pub fn safetensors_of(tensors: &[(String, Vec<usize>)]) -> Vec<u8> {
    let mut end = 0;
    let entries: Vec<_> = tensors
        .iter()
        .map(|(name, shape)| {
            let start = end;
            end += 4 * shape.iter().product::<usize>();
            format!(r#""{name}":{{"dtype":"F32","shape":{shape:?},"data_offsets":[{start},{end}]}}"#)
        })
        .collect();
    safetensors(&format!("{{{}}}", entries.join(",")), end)
}

/// A reference model of the repository.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../reference/goldens/models").join(name)
}

/// The error's text; panics when there is none.
pub fn message<T>(result: qern_model::Result<T>) -> String {
    match result {
        Ok(_) => panic!("must be refused"),
        Err(error) => error.to_string(),
    }
}
