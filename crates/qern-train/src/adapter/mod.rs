//! Adapters as training sees them: which modules get one (`spec`), and the files that they become.

mod gguf;
mod merge;
mod peft;
mod rows;
mod spec;

pub use gguf::{GgufHeader, adapter_gguf};
pub use merge::{MergeReport, merge};
pub use peft::{BaseName, peft_config};
pub use rows::PeftRows;
pub use spec::{AdapterSpec, ModuleSpec, SavedModule};
