//! Adapters as training sees them: which modules get one (`spec`), and the files that they become.

mod spec;

pub use spec::{AdapterSpec, ModuleSpec, SavedModule};
