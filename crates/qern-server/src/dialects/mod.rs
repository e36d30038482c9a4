//! One folder per API that clients speak. Each turns its own JSON into what `generate` takes, and deltas into its own JSON.

pub(crate) mod openai;
